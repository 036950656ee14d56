"""Run directories of `align`, and of `finetune` after it, as values for a report. Opens no model and no audio.

Everything comes from the files of a run, so that a run that was stopped can be looked at, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from thaitool.errors import InputError
from thaitool.models.align_judge import alarms
from thaitool.models.align_shown import FOLDER, read_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.models.align_shown import Shown
    from thaitool.records import Score

#: What a run spends, as its metrics call it.
COSTS = (
    *("flops", "train_s", "processor_s", "peak_rss_bytes", "peak_cuda_bytes"),
    *("utterances", "audio_s"),
)
_STAGES = ("align", "finetune")
#: Of files that somebody else wrote, or that were cut short.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration)


@dataclass(frozen=True)
class RunRecord:
    """One run, as its directory tells it."""

    name: str
    """Of its directory; with those above where two would be alike."""
    path: Path
    stage: str
    method: str
    """Of `align`; empty for `finetune`."""
    llm_sha256: str
    seed: int
    planned: int
    """Updates."""
    updates: int
    """Updates that are done, by the last line of its metrics."""
    best: int | None
    """Update of its best checkpoint; None without one."""
    rows: list[dict[str, Any]]
    """Its metrics, oldest first."""
    metrics: dict[str, float]
    """The last evaluation."""
    cost: dict[str, float]
    """Up to the last evaluation, by `COSTS`; what a run of an older version did not record is missing."""
    notes: tuple[str, ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    model: Path | None = None
    """The run that `finetune` started from."""
    shown: Shown | None = None
    scores: tuple[Score, ...] = field(default=())
    """Of an evaluation report that was given for it: CER."""


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs of some directories, with names that tell them apart.

    Raises:
        InputError: one is no run of `align` or `finetune`, or a file of it is damaged, or one is named twice.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise InputError("Each run must be named once: " + ", ".join(map(str, paths)) + ".")
    return [_read(_name(path, resolved), path) for path in resolved]


def _name(path: Path, others: Sequence[Path]) -> str:
    """As many of the last parts of a path as tell it from the others."""
    parts = path.parts
    for n in range(1, len(parts)):
        if sum(other.parts[-n:] == parts[-n:] for other in others) == 1:
            return "/".join(parts[-n:])
    return str(path)


def is_run(path: Path) -> bool:
    """Whether a directory is one that a training stage works in."""
    return (path / "run.json").is_file() and (path / "config.yaml").is_file()


def _read(name: str, path: Path) -> RunRecord:
    if not is_run(path):
        raise InputError(
            f"{path} must be the directory of a run, but has no run.json and config.yaml."
        )
    try:
        config = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
        kept = json.loads((path / "run.json").read_text("utf-8"))
        stage = next((s for s in _STAGES if s in config), next(iter(config)))
        rows = _rows(path / "metrics.jsonl")
        result = path / "result.json"
        done = json.loads(result.read_text("utf-8")) if result.exists() else None
        if stage in _STAGES:
            return _record(name, path, stage, config[stage], kept, rows, done)
    except (*_DAMAGE, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read as a run ({type(error).__name__}: {error}); leave it out."
        ) from error
    raise InputError(
        f"{path} is a run of {stage}; a report compares runs of align, and of finetune after them."
    )


def _record(
    name: str,
    path: Path,
    stage: str,
    settings: dict[str, Any],
    kept: dict[str, Any],
    rows: list[dict[str, Any]],
    done: dict[str, Any] | None,
) -> RunRecord:
    metrics = _last_evaluation(rows)
    untrained = stage == "align" and settings["method"] == "none"
    cost = {k: row[k] for row in rows for k in COSTS if k in row and "utterances" in row}
    return RunRecord(
        name,
        path,
        stage,
        settings.get("method", ""),
        kept["fingerprint"].get("llm") or "",
        settings["train"]["seed"],
        0 if untrained else settings["train"]["updates"],
        max((row["update"] for row in rows), default=0),
        _best(path / "best"),
        rows,
        metrics,
        {"flops": 0.0} if untrained else cost,
        _notes(stage, metrics, done),
        {k: v for k, v in settings.items() if k != "train"} | {"train": settings["train"]},
        kept["versions"],
        Path(settings["model"]) if stage == "finetune" else None,
        read_shown(path / FOLDER),
    )


def _best(link: Path) -> int | None:
    number = link.resolve().name.removeprefix("checkpoint-") if link.is_symlink() else ""
    return int(number) if number.isdigit() else None


def _rows(file: Path) -> list[dict[str, Any]]:
    """Lines of metrics, without one that a kill cut short."""
    whole = file.read_text("utf-8").rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def _last_evaluation(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    judged = [row for row in rows if any(name.startswith("eval_") for name in row)]
    last = judged[-1] if judged else {}
    return {
        name.removeprefix("eval_"): value
        for name, value in last.items()
        if name.startswith("eval_")
    }


def _notes(stage: str, metrics: dict[str, float], done: dict[str, Any] | None) -> tuple[str, ...]:
    if done is not None:
        return tuple(done.get("notes", ()))
    told = ["The run has not come to its planned end; what follows is what it did so far."]
    return (*told, *(alarms(metrics) if stage == "align" and metrics else ()))


def values(run: RunRecord, name: str, by: str = "update") -> tuple[tuple[float, float], ...]:
    """(x, value) of a held-out metric at each evaluation; `by` is `update` or one of `COSTS`."""
    found: dict[float, float] = {}
    for row in run.rows:
        if f"eval_{name}" in row and by in row:
            found[float(row[by])] = float(row[f"eval_{name}"])
    return tuple(sorted(found.items()))
