"""What a checkpoint comes from: its run, the runs before it, their data and base models, from what runs wrote down.

Trains nothing and guesses nothing: a run that is not where it was is reported as lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from thaitool.data.manifest import open_manifest
from thaitool.models.checkpoint import FRONT_END
from thaitool.models.hub import fetched, hub_source
from thaitool.models.recogniser import is_recogniser
from thaitool.models.whole import is_whole
from thaitool.training.run_dir import MANIFEST, RUN

if TYPE_CHECKING:
    from pathlib import Path

#: Key of a stage's configuration that names the model it started from.
_BEFORE = {"finetune": "model", "align": "encoder", "pretrain": "init", "recognise": "encoder"}
#: Rows that agree in these are one line.
_KINDS = ("source", "task", "licence", "trainable")
_LICENCE = re.compile(r"^license:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


@dataclass(frozen=True)
class DataUsed:
    """Rows of one source, task and licence."""

    source: str
    task: str
    licence: str
    trainable: bool
    rows: int
    hours: float


@dataclass(frozen=True)
class Ancestor:
    """One run of a model's past, or the base model at its beginning."""

    stage: str
    """The run's stage; "base" for a model that no run of ours made."""
    path: Path
    data: tuple[DataUsed, ...] = ()
    config: dict[str, Any] | None = None


def lineage(checkpoint: Path) -> tuple[list[Ancestor], list[str]]:
    """The runs behind a checkpoint, latest first, ending with the base encoder if there is one.

    Returns:
        The ancestors, and in sentences what could not be looked up.
    """
    found: list[Ancestor] = []
    lost: list[str] = []
    seen: set[Path] = set()
    path: Path | None = checkpoint
    while path is not None and path not in seen:
        seen.add(path)
        run = _run_of(path)
        if run is None:
            if not path.exists():
                lost.append(f"{path.name} is not where it was, so what it was made of is unknown.")
            elif _is_ours(path):
                lost.append(
                    f"{path.name} is not in the directory of its run, so what it was trained on is unknown."
                )
            else:
                found.append(Ancestor("base", path))
            break
        stage, config = _configuration(run)
        if not (run / MANIFEST).is_file():
            lost.append(f"{run.name} ({stage}) has no manifest, so its data is unknown.")
        found.append(Ancestor(stage, run, _data_of(run), config))
        before = config.get(_BEFORE.get(stage, ""))
        path = None if before is None else _place(type(checkpoint)(before))
    return found, lost


def _place(before: Path) -> Path:
    """Where a model that a run names lies: as it says, or in the hub's cache."""
    return before if before.exists() else fetched(before) or before


def _is_ours(path: Path) -> bool:
    """Whether a directory is a trained model of ours, which has a past, rather than a base model."""
    return (path / FRONT_END).is_file() or is_whole(path) or is_recogniser(path)


def _run_of(path: Path) -> Path | None:
    for place in (path, path.parent):
        if (place / RUN).is_file():
            return place
    return None


def _configuration(run: Path) -> tuple[str, dict[str, Any]]:
    loaded = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    stage, config = next(iter(loaded.items()))
    return str(stage), dict(config)


def _data_of(run: Path) -> tuple[DataUsed, ...]:
    file = run / MANIFEST
    if not file.is_file():
        return ()
    manifest = open_manifest(file)
    table = pa.table({name: manifest.column(name) for name in (*_KINDS, "duration_s")})
    sums = table.group_by(list(_KINDS)).aggregate([("duration_s", "count"), ("duration_s", "sum")])
    found = [
        DataUsed(
            row["source"] or "",
            row["task"] or "",
            row["licence"] or "",
            bool(row["trainable"]),
            row["duration_s_count"],
            row["duration_s_sum"] / 3600,
        )
        for row in sums.to_pylist()
    ]
    return tuple(sorted(found, key=lambda used: (used.source, used.task, used.licence)))


def licence_of(model: Path) -> str:
    """The licence in the front matter of a model directory's README.md; "" if it says none."""
    card = model / "README.md"
    if not card.is_file():
        return ""
    text = card.read_text("utf-8", errors="replace")
    front = text.split("\n---", maxsplit=1)[0] if text.startswith("---") else ""
    found = _LICENCE.search(front)
    return "" if found is None else found[1]


def name_of(model: Path) -> tuple[str, str]:
    """(name to print, hub id or ""): with the revision where it lies in the hub's cache, else the directory's name."""
    source = hub_source(model)
    return (model.name, "") if source is None else (f"{source[0]}@{source[1]}", source[0])
