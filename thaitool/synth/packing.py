"""Rows to shards in a directory that is moved into place when it is whole; goes on from a ledger.

A shard is written under a temporary name, brought to disk, renamed, and only then entered in the ledger: one that is
not entered is written again, with the same bytes. Which rows share a shard depends on their order alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.data.shards import Provenance, ThaiSupRow, write_provenance, write_shard
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.synth.cache import canonical_json
from thaitool.synth.ledger import Ledger, Place, Shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MANIFEST = "manifest.jsonl"
#: Rows of one provenance file, which are in memory together: some kilobytes each.
PROVENANCE_ROWS = 10_000


class ShardWriter:
    """Collects rows per (task, split) and writes a shard whenever one is full."""

    def __init__(self, root: Path, shard_rows: int, ledger: Ledger) -> None:
        self._root, self._shard_rows, self._ledger = root, shard_rows, ledger
        self._waiting: dict[tuple[str, str], list[tuple[Place, ThaiSupRow, Provenance]]] = (
            defaultdict(list)
        )
        self._written = Counter((shard.task, shard.split) for shard in ledger.shards())

    def add(self, place: Place, row: ThaiSupRow, provenance: Provenance) -> None:
        """Takes the next row; rows must come in the order of their places."""
        key = (row.task_id, provenance.split)
        self._waiting[key].append((place, row, provenance))
        if len(self._waiting[key]) == self._shard_rows:
            self._write(key)

    def flush(self) -> None:
        """Writes the shards that are not full, the provenance, and the manifest of everything."""
        for key in list(self._waiting):
            self._write(key)
        rows = self._ledger.provenance()
        files = []
        for number, first in enumerate(rows):
            part = [first, *islice(rows, PROVENANCE_ROWS - 1)]
            file = f"provenance/part-{number:05d}.parquet"
            write_provenance(self._root / file, part)
            files.append({"file": file, "rows": len(part), "sha256": _sha256(self._root / file)})
        lines = [*(asdict(shard) for shard in self._ledger.shards()), *files]
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        (self._root / MANIFEST).write_text(text, "utf-8")

    def _write(self, key: tuple[str, str]) -> None:
        task, split = key
        rows = self._waiting.pop(key)
        file = f"{task}/{split}/{split}-{self._written[key]:05d}.parquet"
        path = self._root / file
        temporary = path.with_name(f".{path.name}.tmp")
        write_shard(temporary, [row for _, row, _ in rows])
        _to_disk(temporary)
        temporary.replace(path)
        _to_disk(path.parent)
        seconds = sum(row.duration_s for _, row, _ in rows)
        shard = Shard(file, task, split, len(rows), seconds, _sha256(path))
        self._ledger.add_shard(shard, [(place, provenance) for place, _, provenance in rows])
        self._written[key] += 1


def work_directory(out: Path) -> Path:
    """Where an unfinished data set lies: the ledger, and below it what will become `out`."""
    return out.with_name(f".{out.name}.work")


@contextmanager
def unfinished(
    out: Path, fingerprint: Mapping[str, Any], *, restart: bool = False
) -> Iterator[tuple[Path, Ledger]]:
    """(directory, ledger) of the data set that becomes `out` when the block succeeds, and waits when it fails.

    Args:
        out: Where the data set will be.
        fingerprint: What decides every row: plain values, by name.
        restart: Throws away what another command has left, whatever it was of.

    Raises:
        InputError: another process works on it, or what waits there is of another fingerprint.
        EnvironmentProblem: the disk is full.
    """
    work, now = work_directory(out), canonical_json(fingerprint)
    with disk_full_is_explained(out):
        ledger = Ledger(work / "ledger.sqlite", now)
        fits = ledger.fingerprint == now
        # Only now: the lock was free, so nobody works on it.
        if ledger.is_resumed and (restart or (not fits and ledger.is_empty)):
            ledger.close()
            shutil.rmtree(work)
            ledger = Ledger(work / "ledger.sqlite", now)
        if ledger.fingerprint != now:
            ledger.close()
            raise InputError(_other_settings(work, ledger.fingerprint, fingerprint))
        try:
            root = work / "data"
            root.mkdir(exist_ok=True)
            yield root, ledger
        finally:
            ledger.close()
        for path in (*root.rglob("*"), root):
            _to_disk(path)
        root.replace(out)
        _to_disk(out.parent)
        shutil.rmtree(work)


def _other_settings(work: Path, before: str, now: Mapping[str, Any]) -> str:
    wanted = _flat(json.loads(canonical_json(now)))
    try:
        known = _flat(json.loads(before))
    except (ValueError, AttributeError):
        different = ["which ones cannot be told, as another version of thaitool wrote it"]
    else:
        names = sorted({*known, *wanted})
        pairs = ((name, known.get(name, "nothing"), wanted.get(name, "nothing")) for name in names)
        different = [
            f"{name.removeprefix('config.')}: {old} before, {new} now"
            for name, old, new in pairs
            if old != new
        ]
    return "\n  - ".join(
        [f"{work} holds unfinished work of another source or other settings:", *different]
    ) + (
        "\nGo on with what it was before, choose another --out, or throw that work away: --restart."
    )


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Settings as JSON, by name; those of a section after its name and a dot."""
    flat: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{above}{name}.")
        else:
            flat[above + name] = json.dumps(inner, ensure_ascii=False)
    return flat


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a directory, would survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
