"""Going back to a sound checkpoint after a collapse, so that a kill at any moment changes nothing.

Three steps, each whole or absent: the decision is written down; the files of what came after are set aside; the
decision is marked as done. A resumed run finishes what it finds begun. Judges nothing and loads nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from thaitool.files import write_json

if TYPE_CHECKING:
    from thaitool.training.run_dir import RunDir
    from thaitool.training.watch import Finding

ROLLBACKS = "rollbacks.json"
#: On the learning rate, each time (research: restore the last good checkpoint, rate x 0.5).
FACTOR = 0.5


@dataclass(frozen=True)
class Rollback:
    """One return to an older checkpoint."""

    number: int
    kind: str
    sentence: str
    numbers: dict[str, float]
    found_at: int
    onset: int
    to: int
    """Update of the checkpoint that training goes on from."""
    factor: float
    """On the learning rate from there on, times those of earlier rollbacks."""
    done: bool


def read_rollbacks(run: RunDir) -> list[Rollback]:
    """All rollbacks of a run, oldest first."""
    file = run.path / ROLLBACKS
    if not file.exists():
        return []
    return [Rollback(**entry) for entry in json.loads(file.read_text("utf-8"))]


def roll_back(run: RunDir, finding: Finding, found_at: int, to: int) -> None:
    """Makes `to` the newest checkpoint of a run; what came after it is kept in `metrics-rolled-back-<n>.jsonl`."""
    entries = read_rollbacks(run)
    entry = Rollback(
        number=len(entries) + 1,
        kind=finding.kind,
        sentence=finding.sentence,
        numbers=finding.numbers,
        found_at=found_at,
        onset=finding.onset,
        to=to,
        factor=FACTOR,
        done=False,
    )
    _write(run, [*entries, entry])
    finish_rollback(run)


def finish_rollback(run: RunDir) -> None:
    """Sets aside what a rollback that was decided leaves behind, if that is not done yet."""
    entries = read_rollbacks(run)
    if not entries or entries[-1].done:
        return
    last = entries[-1]
    run.set_aside_after(last.to, f"metrics-rolled-back-{last.number}.jsonl")
    _write(run, [*entries[:-1], replace(last, done=True)])


def _write(run: RunDir, entries: list[Rollback]) -> None:
    listing: list[dict[str, Any]] = [asdict(entry) for entry in entries]
    write_json(run.path / ROLLBACKS, listing)
