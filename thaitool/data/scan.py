"""Finds the utterances of directories, sound files, manifests and every listed form that `formats` knows.

Reads headers, not samples. What cannot be used is returned as `Rejected` rows, never dropped without a line; files
without the suffix of a sound file are no recordings, and have none.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from thaitool.audio.headers import EXTENSIONS, MIN_DURATION_S
from thaitool.data import formats
from thaitool.data.columns import blocks, find_twice
from thaitool.data.duplicates import find_duplicates
from thaitool.data.manifest import (
    BLOCK_ROWS,
    SCHEMA,
    Manifest,
    check_share,
    open_manifest,
    record_batch,
    require_unique_ids,
)
from thaitool.data.measure import measured
from thaitool.data.walk import Found, walk
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray


@dataclass
class _Ledger:
    """What the scan has met so far, besides the rows themselves."""

    seen: int = 0
    """Files and listed items, usable or not."""
    rejected: list[Rejected] = field(default_factory=list)
    keys: list[NDArray[np.int64]] = field(default_factory=list)
    """Content keys of the rows, block by block."""
    walked: list[int] = field(default_factory=list)
    """Positions of the sources that are sound files or directories of them."""
    links: bool = False
    """Whether a sound file was reached by a symbolic link."""


def scan(
    sources: Sequence[Path],
    *,
    split: str | None = None,
    max_rejected_share: float = 0.1,
    duplicates: Literal["drop", "keep"] = "keep",
    min_s: float = MIN_DURATION_S,
    workers: int = 1,
    into: Path | None = None,
) -> tuple[Manifest, list[Rejected]]:
    """Finds the utterances of directories, sound files, manifests and lists, and probes their headers.

    A file that is reached twice (by a link, or below two sources) is one. Rows of a manifest, and rows of parquet
    files that state their duration, are taken at their word: they are neither probed nor compared with others.

    Args:
        sources: Any mix; directories of sound files are walked in sorted order. `Utterance.part` is the position here.
        split: Of sources that have splits, keep this one.
        max_rejected_share: Share of unusable files above which the scan gives up; duplicates do not count.
        duplicates: "drop" rejects recordings whose content an earlier one has, with the same text if there is one.
        min_s: Shorter recordings are rejected.
        workers: Processes that read headers. The result is the same for any number.
        into: A directory whose disk takes the rows instead of memory (0.3 kB each), in a file without a name that goes
            with the manifest.

    Raises:
        InputError: a source does not exist, holds no audio, or is malformed; or an id occurs twice.
        QuarantineError: more than `max_rejected_share` of the files are unusable.
        EnvironmentProblem: a worker was killed, or the disk is full.
    """
    _require_sources(sources)
    ledger = _Ledger()
    batches = _all_batches(sources, ledger, split, min_s, workers)
    manifest = Manifest(_collected(batches, into))
    manifest = _without_repeated_files(manifest, sources, ledger)
    if duplicates == "drop":
        manifest = _without_duplicates(manifest, ledger)
    if ledger.seen != len(manifest) + len(ledger.rejected):
        raise RuntimeError(
            f"A scan must account for every file, but met {ledger.seen} and kept {len(manifest)} and rejected"
            f" {len(ledger.rejected)}. This is a mistake in thaitool; please report it."
        )
    n_double = sum(r.reason == "duplicate" for r in ledger.rejected)
    check_share(ledger.rejected, ledger.seen - n_double, max_rejected_share)
    require_unique_ids(manifest)
    return manifest, ledger.rejected


def _require_sources(sources: Sequence[Path]) -> None:
    first: dict[Path, Path] = {}
    for source in sources:
        if not source.exists():
            raise InputError(
                f"{source} must be a directory, sound file or manifest, but does not exist."
            )
        if not (source.is_dir() or source.is_file()):
            raise InputError(f"{source} must be a directory or a file, but is a pipe or a device.")
        same = first.setdefault(source.resolve(), source)
        if same is not source:
            raise InputError(f"Every source may be named once, but {same} and {source} are one.")


def _collected(batches: Iterator[pa.RecordBatch], into: Path | None) -> pa.Table:
    if into is None:
        return pa.Table.from_batches(batches, SCHEMA)
    with disk_full_is_explained(into), tempfile.TemporaryFile(dir=into) as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(rows)).read_all()


def _all_batches(
    sources: Sequence[Path], ledger: _Ledger, split: str | None, min_s: float, workers: int
) -> Iterator[pa.RecordBatch]:
    # Ids are paths below the folder that all sources share, so that a/01.wav and b/01.wav stay two recordings.
    root = os.path.commonpath([_folder(s) for s in sources]) if sources else ""
    for part, source in enumerate(sources):
        before = ledger.seen
        kind = formats.recognise(source)
        if kind == formats.MANIFEST:
            yield from _manifest_batches(source, part, ledger, split, min_s)
            continue
        if kind is None:
            ledger.walked.append(part)
            found = _recordings(source, root, ledger)
        else:
            found = formats.read(source, kind=kind, split=split, prefix=_prefix(source, root))
        yield from _measured_batches(_counted(found, ledger), part, ledger, min_s, workers)
        if ledger.seen == before:
            raise InputError(
                f"{source} must hold audio ({', '.join(sorted(EXTENSIONS))}) or Thai-SUP shards, tars, parquet files"
                " or lists of audio, but none was found."
            )


def _counted(
    found: Iterable[Utterance | Rejected], ledger: _Ledger
) -> Iterator[Utterance | Rejected]:
    for entry in found:
        ledger.seen += 1
        yield entry


def _folder(source: Path) -> str:
    return str((source if source.is_dir() else source.parent).resolve())


def _prefix(source: Path, root: str) -> str:
    """Before ids that are paths within a source: its folder below the one that all sources share."""
    below = _folder(source)[len(root) :].lstrip("/")
    return f"{below}/" if below else ""


def _recordings(source: Path, root: str, ledger: _Ledger) -> Iterator[Utterance | Rejected]:
    """The sound files of a directory, or one sound file; durations are not known yet."""
    folder, prefix = _folder(source), _prefix(source, root)
    here = [Found(source.name, source.is_symlink())]
    for entry in walk(folder) if source.is_dir() else here:
        if isinstance(entry, Rejected):
            yield entry
            continue
        path = f"{folder}/{entry.name}"
        if entry.is_link:
            ledger.links = True
            try:
                Path(path).stat()
            except OSError as error:
                yield Rejected(path, "unreadable", f"a link: {error.strerror or error}")
                continue
            path = os.path.realpath(path)
        name = prefix + entry.name
        yield Utterance(name, AudioRef(path), math.nan, 0, source=folder, source_id=name)


def _measured_batches(
    found: Iterator[Utterance | Rejected], part: int, ledger: _Ledger, min_s: float, workers: int
) -> Iterator[pa.RecordBatch]:
    """Record batches of some `BLOCK_ROWS` rows, and the rest into the ledger."""
    waiting: list[pa.RecordBatch] = []
    for usable, columns in measured(found, min_s, workers):
        ledger.rejected += columns.rejected
        ledger.keys.append(np.array(columns.key, np.int64))
        known: dict[str, Sequence[Any]] = {
            "duration_s": columns.duration_s,
            "sample_rate_hz": columns.sample_rate_hz,
            "part": [part] * len(usable),
        }
        waiting.append(record_batch(usable, known))
        if sum(batch.num_rows for batch in waiting) >= BLOCK_ROWS:
            yield _in_one_piece(waiting)
            waiting = []
    yield _in_one_piece(waiting)


def _in_one_piece(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.concat_batches(batches) if batches else record_batch([])


def _manifest_batches(
    source: Path, part: int, ledger: _Ledger, split: str | None, min_s: float
) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest, which was probed when it was made."""
    opened = open_manifest(source)
    if split is not None:
        splits = opened.column("split").to_pylist()
        opened = opened.select(np.array([s in {None, split} for s in splits], dtype=bool))
    ledger.seen += len(opened)
    is_short = opened.duration_s < min_s
    for k in np.flatnonzero(is_short).tolist():
        detail = f"{opened.duration_s[k]:.3f} s is under {min_s:g} s"
        ledger.rejected.append(Rejected(opened[k].place, "too_short", detail))
    opened = opened.select(~is_short) if is_short.any() else opened
    ledger.keys.append(np.zeros(len(opened), np.int64))
    place = SCHEMA.get_field_index("part")
    for block in blocks(opened.table, opened.rows, BLOCK_ROWS):
        parts = pa.array(np.full(block.num_rows, part, np.int16))
        yield from block.set_column(place, SCHEMA.field(place), parts).to_batches()


def _without_repeated_files(
    manifest: Manifest, sources: Sequence[Path], ledger: _Ledger
) -> Manifest:
    folders = sorted(_folder(sources[part]) + "/" for part in ledger.walked)
    overlap = any(b.startswith(a) for a, b in itertools.pairwise(folders))
    if not (overlap or ledger.links):
        return manifest  # a walk meets every file once
    rows = np.flatnonzero(np.isin(manifest.part, ledger.walked))
    pairs = find_twice(Manifest(manifest.table, rows).column("path"))
    rejected = [
        Rejected(
            manifest[int(rows[k])].place, "duplicate", f"the file of {manifest[int(rows[i])].id}"
        )
        for i, k in pairs
    ]
    return _without(manifest, [int(rows[k]) for _, k in pairs], rejected, ledger)


def _without_duplicates(manifest: Manifest, ledger: _Ledger) -> Manifest:
    pairs, gone = find_duplicates(manifest, np.concatenate([np.empty(0, np.int64), *ledger.keys]))
    rejected = [r for _, r in gone]
    for first, later in pairs:
        detail = f"same audio as {manifest[first].place}"
        rejected.append(Rejected(manifest[later].place, "duplicate", detail))
    rows = [row for row, _ in gone] + [later for _, later in pairs]
    return _without(manifest, rows, rejected, ledger)


def _without(
    manifest: Manifest, rows: list[int], rejected: list[Rejected], ledger: _Ledger
) -> Manifest:
    if not rows:
        return manifest
    ledger.rejected += rejected
    keep = np.ones(len(manifest), dtype=bool)
    keep[rows] = False
    ledger.keys = [np.concatenate(ledger.keys)[keep]]
    return manifest.select(keep)
