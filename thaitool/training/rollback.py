"""Going back to a sound checkpoint after a collapse, so that a kill at any moment changes nothing.

Three steps, each whole or absent: the decision is written down; the files of what came after are set aside; the
decision is marked as done. A resumed run finishes what it finds begun. Judges no metrics and loads nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from thaitool.errors import TrainingFailed
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


def place_to_return(run: RunDir, finding: Finding, allowed: int) -> int:
    """Update of the checkpoint to go back to; `allowed` is how often a run may.

    Raises:
        TrainingFailed: it may no more, or has no checkpoint from before the finding.
    """
    so_far = read_rollbacks(run)
    to = run.newest_before(finding.onset)
    if so_far and to is not None and to <= so_far[-1].to:
        # Nothing sound was reached since: the last place was on its way to the collapse already.
        older = run.newest_before(so_far[-1].to)
        to = to if older is None else older
    if to is not None and len(so_far) < allowed:
        return to
    told = [finding.sentence]
    if so_far:
        told += [f"The run was rolled back {len(so_far)} times before, each time to half the rate."]
    if to is not None:
        told += [f"checkpoint-{to} in {run.path} is from before."]
    raise TrainingFailed(" ".join([*told, finding.advice]))


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
