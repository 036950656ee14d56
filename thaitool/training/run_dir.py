"""A run directory: who made it (`run.json`), what it did (`metrics.jsonl`), its checkpoints, and what resumes.

Everything appears under its final name only when whole: written beside it first, then renamed. Knows no model.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.config import dump
from thaitool.data.manifest import (
    Manifest,
    append_quarantine,
    describe_difference,
    open_manifest,
    write_manifest,
)
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.models.hub import locate
from thaitool.records import Rejected
from thaitool.training.ranks import on_main_first, world_size

if TYPE_CHECKING:
    from accelerate import Accelerator

RUN = "run.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
LOCK = ".lock"
MANIFEST = "manifest.arrow"
#: Keys of `train` that do not change what is computed: helpers, what is kept and shown, when to give up; and
#: accumulation, of which only its product with the number of processes counts.
NOT_COMPUTED = {
    "workers",
    "keep",
    "max_rejected_share",
    "trackers",
    "nonfinite_skips",
    "accumulation",
}
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

    @contextmanager
    def alone(self, *, main: bool) -> Iterator[None]:
        """Keeps other runs out while this one works: a killed launcher leaves its processes behind, and two runs that
        write the same files would spoil them.

        Raises:
            InputError: another process has the directory.
        """
        if not main:
            yield
            return
        # A record lock: the system drops it with the process, however that ends, and workers do not inherit it.
        with (self.path / LOCK).open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InputError(
                    f"{self.path} is in use by {holder}; wait until it ends, or end it"
                    " (processes outlive a launcher that was killed)."
                ) from error
            except OSError as error:
                if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise
                warnings.warn(
                    f"The file system of {self.path} has no locks, so nothing keeps a second run out.",
                    stacklevel=2,
                )
            with disk_full_is_explained(self.path / LOCK):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n")
                file.flush()
            yield

    def point(self, link: str, update: int) -> None:
        """Makes `best` or `last` name a checkpoint."""
        temporary = self.path / f".{link}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"checkpoint-{update}")
        temporary.replace(self.path / link)

    def prune(self, keep: int, sound_before: int | None = None) -> None:
        """Deletes all but the newest `keep` checkpoints, the best one, and the newest one before `sound_before`."""
        best = self.path / "best"
        protected = {best.resolve()} if best.exists() else set()
        if sound_before is not None:
            older = [path.resolve() for u, path in self.checkpoints() if u < sound_before]
            protected |= set(older[-1:])
        for _, path in self.checkpoints()[:-keep]:
            if path.resolve() not in protected:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        # By another name first: a run that is killed now must not take the rest for a checkpoint.
        doomed = path.with_name(f".{path.name}.tmp")
        if doomed.exists():
            shutil.rmtree(doomed)
        path.rename(doomed)
        shutil.rmtree(doomed)

    def newest_before(self, update: int) -> int | None:
        """Update of the newest checkpoint that is older than `update`."""
        return max((u for u, _ in self.checkpoints() if u < update), default=None)

    def set_aside_after(self, update: int, file: str) -> None:
        """Moves the metrics after an update to `file` and deletes the checkpoints; may be cut short and done again."""
        rows = self.metrics()
        kept = self.path / file
        if not kept.exists():
            _write_rows(kept, [row for row in rows if row["update"] > update])
        _write_rows(self.path / METRICS, [row for row in rows if row["update"] <= update])
        for number, path in self.checkpoints():
            if number > update:
                self._delete(path)

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
        _write_rows(self.path / METRICS, rows)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with disk_full_is_explained(path):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(path)


def open_run(
    path: Path,
    fingerprint: dict[str, Any],
    config_yaml: str,
    *,
    explain: Mapping[str, Callable[[], str]] | None = None,
) -> RunDir:
    """Claims `path` for a run, or returns to it if it is the same run. For one process alone (`on_main_first`).

    Args:
        path: The run directory.
        fingerprint: What must be equal for a run to be the same: configuration, data, base weights.
        config_yaml: The complete configuration, kept as `config.yaml`.
        explain: More to say about a key of the fingerprint that differs.

    Raises:
        InputError: `path` holds another run or other files; the differences are listed.
    """
    file = path / RUN
    fingerprint = json.loads(json.dumps(fingerprint, default=str))
    if file.is_file():
        known = json.loads(file.read_text("utf-8"))["fingerprint"]
        if known != fingerprint:
            lines = _differences(known, fingerprint)
            lines += [
                say() for key, say in (explain or {}).items() if known.get(key) != fingerprint[key]
            ]
            listing = "\n".join(f"  - {line}" for line in lines)
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
) -> RunDir:
    """Claims `config.out` for a stage and writes down what it starts from: configuration, manifest, quarantine.

    For one process alone; `claim` sees to that.

    Args:
        config: The stage's configuration.
        stage: Its key in recipes.
        manifest: What is trained on.
        inputs: Name to sha256 of the weights that training starts from.
        paths: Keys of the configuration that only say where something lies.
        rejected: What the scan set aside.

    Raises:
        InputError: `config.out` holds another run.
    """
    settings = config.model_dump(
        mode="json", exclude={**dict.fromkeys(paths, True), "train": NOT_COMPUTED}
    )
    # Two processes with one micro-batch each make the same updates as one process with two.
    per_update = config.train.accumulation * world_size()
    fingerprint = {
        "config": settings,
        "manifest": manifest.digest(),
        "micro_batches_per_update": per_update,
        **inputs,
    }
    kept = config.out / MANIFEST
    explain: dict[str, Callable[[], str]] = {
        "micro_batches_per_update": lambda: (
            f"micro-batches per update are train.accumulation ({config.train.accumulation}) times the number of"
            f" processes ({world_size()})"
        )
    }
    if kept.exists():
        explain["manifest"] = lambda: describe_difference(open_manifest(kept), manifest)
    run = open_run(config.out, fingerprint, dump(config, stage), explain=explain)
    write_manifest(manifest, kept)
    append_quarantine(run.quarantine, rejected)
    return run


def claim(accelerator: Accelerator, config: Any, stage: str, **given: Any) -> RunDir:
    """`begin` in the first process; the others wait, as they would find a directory that is half claimed."""
    on_main_first(accelerator, lambda: begin(config, stage, **given))
    return RunDir(config.out)


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
