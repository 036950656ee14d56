"""A run directory: who made it (`run.json`), what it did (`metrics.jsonl`), its checkpoints, and what resumes.

Everything appears under its final name only when whole: written beside it first, then renamed. Knows no model.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from thaitool.config import dump
from thaitool.data.manifest import Manifest, append_quarantine, write_manifest
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.models.hub import locate
from thaitool.records import Rejected

RUN = "run.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
_PACKAGES = ("thaitool", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class RunDir:
    """A directory that belongs to one run, told apart by its fingerprint."""

    path: Path

    @property
    def quarantine(self) -> Path:
        """The ledger of recordings that could not be used."""
        return self.path / "quarantine.jsonl"

    @property
    def finished(self) -> bool:
        """Whether the run came to its planned end."""
        return (self.path / RESULT).is_file()

    @property
    def last_update(self) -> int:
        """Update of the newest checkpoint; 0 without one."""
        return max((update for update, _ in self.checkpoints()), default=0)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(update, path), oldest first."""
        found = [(int(p.name.split("-")[1]), p) for p in self.path.glob("checkpoint-*")]
        return sorted(found)

    def checkpoint(self, update: int) -> Path:
        """Where the checkpoint of an update lies."""
        return self.path / f"checkpoint-{update}"

    def point(self, link: str, update: int) -> None:
        """Makes `best` or `last` name a checkpoint."""
        temporary = self.path / f".{link}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"checkpoint-{update}")
        temporary.replace(self.path / link)

    def prune(self, keep: int) -> None:
        """Deletes all but the newest `keep` checkpoints and the best one."""
        best = self.path / "best"
        protected = best.resolve() if best.exists() else None
        for _, path in self.checkpoints()[:-keep]:
            if path.resolve() != protected:
                shutil.rmtree(path)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        with disk_full_is_explained(self.path / METRICS), (self.path / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of `metrics.jsonl`, without one that a full disk or a kill cut short."""
        file = self.path / METRICS
        whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def forget_after(self, update: int) -> None:
        """Drops what a killed run left: half a checkpoint, metrics of updates that are about to be made again."""
        for half in self.path.glob(".checkpoint-*.tmp"):
            shutil.rmtree(half)
        rows = [row for row in self.metrics() if row["update"] <= update]
        temporary = self.path / f".{METRICS}.tmp"
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(self.path / METRICS)


def open_run(
    path: Path, fingerprint: dict[str, Any], config_yaml: str, *, main: bool = True
) -> RunDir:
    """Claims `path` for a run, or returns to it if it is the same run.

    Args:
        path: The run directory.
        fingerprint: What must be equal for a run to be the same: configuration, data, base weights.
        config_yaml: The complete configuration, kept as `config.yaml`.
        main: Whether this process writes (rank 0).

    Raises:
        InputError: `path` holds another run or other files; the differences are listed.
    """
    file = path / RUN
    fingerprint = json.loads(json.dumps(fingerprint, default=str))
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))["fingerprint"]
        if known != fingerprint:
            listing = "\n".join(f"  - {line}" for line in _differences(known, fingerprint))
            raise InputError(
                f"{path} holds another run, and a run is never continued with different settings or data:\n{listing}\n"
                "Choose another --out, or delete the directory."
            )
        return RunDir(path)
    # A run killed while it claimed the directory has left at most a temporary file.
    if path.exists() and not (path.is_dir() and all(p.suffix == ".tmp" for p in path.iterdir())):
        raise InputError(
            f"{path} must be new or the directory of the same run, but holds other files."
        )
    if main:
        with disk_full_is_explained(path):
            path.mkdir(parents=True, exist_ok=True)
        machine = {
            "python": platform.python_version(),
            "machine": platform.platform(),
            "cores": os.cpu_count(),
        }
        versions = {name: version(name) for name in _PACKAGES}
        # First of all files: from here on the directory belongs to this run.
        write_json(file, {"fingerprint": fingerprint, "versions": versions, "machine": machine})
        with disk_full_is_explained(path):
            (path / "config.yaml").write_text(config_yaml, "utf-8")
    return RunDir(path)


def begin(
    config: Any,
    stage: str,
    *,
    manifest: Manifest,
    inputs: dict[str, str | None],
    paths: Sequence[str],
    rejected: list[Rejected],
    main: bool,
) -> RunDir:
    """Claims `config.out` for a stage and writes down what it starts from: configuration, manifest, quarantine.

    Args:
        config: The stage's configuration.
        stage: Its key in recipes.
        manifest: What is trained on.
        inputs: Name to sha256 of the weights that training starts from.
        paths: Keys of the configuration that only say where something lies.
        rejected: What the scan set aside.
        main: Whether this process writes (rank 0).

    Raises:
        InputError: `config.out` holds another run.
    """
    # Where things lie (their content is hashed), how many helpers decode and when to give up do not change what is
    # computed; everything else does.
    settings = config.model_dump(
        mode="json",
        exclude={**dict.fromkeys(paths, True), "train": {"workers", "keep", "max_rejected_share"}},
    )
    fingerprint = {"config": settings, "manifest": manifest.digest(), **inputs}
    run = open_run(config.out, fingerprint, dump(config, stage), main=main)
    if main:
        write_manifest(manifest, run.path / "manifest.arrow")
        append_quarantine(run.quarantine, rejected)
    return run


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: the run has {a!r}, now {b!r}")
    return lines


def resolve(path: Path) -> Path:
    """The checkpoint that a run directory stands for: `best`, else `last`, else the directory (or hub model) itself.

    Raises:
        InputError: nothing is there, or the run has not written a checkpoint yet.
    """
    path = locate(path)
    if (path / RUN).exists() and not (path / RESULT).exists():
        raise InputError(
            f"{path} is a run that has not come to its end; run its command again, or name one of its checkpoints."
        )
    for link in ("best", "last"):
        if (path / link).exists():
            return (path / link).resolve()
    if (path / RUN).exists():
        raise InputError(f"{path} is a run without a checkpoint yet; let it finish or resume it.")
    return path
