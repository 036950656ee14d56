"""The utterances a stage works on, as columns of a memory-mapped Arrow file, and the ledger of what was set aside.

Finds no audio: `scan` does.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.data.columns import blocks, differing, digest, find_twice, hashes, take
from thaitool.errors import InputError, QuarantineError
from thaitool.files import disk_full_is_explained
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from thaitool.records import Rejected

#: In the order of `Utterance`, the columns of its `AudioRef` in the place of `audio`.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("row", pa.int64()),
        ("offset", pa.int64()),
        ("n_bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("sample_rate_hz", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("trainable", pa.bool_()),
        ("part", pa.int16()),
        ("prompt", pa.string()),
        ("context", pa.string()),
    ]
)
#: What decides the order and content of training; the digest covers these, not where the files happen to lie.
DIGEST_COLUMNS = ("id", "duration_s", "start_s", "end_s", "text", "task", "label", "part")
#: Columns that the first manifests lacked. Empty ones are no part of the digest, which stays what it was.
YOUNGER_COLUMNS = ("prompt", "context")
#: Rows that are turned from Python objects into Arrow columns at a time.
BLOCK_ROWS = 100_000


@dataclass(frozen=True)
class Manifest:
    """Utterances as Arrow columns; row k becomes an `Utterance` only when asked for."""

    table: pa.Table
    rows: NDArray[np.int64] | None = None
    """Which rows of the table, and in which order; None takes all. A selection copies no column."""

    def __reduce__(self) -> tuple[type[Manifest], tuple[Any, ...]]:
        return Manifest, (self.table, self.rows)  # what is cached is not sent to other processes

    def __len__(self) -> int:
        return int(self.table.num_rows) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> Utterance:
        if not -len(self) <= index < len(self):
            raise IndexError(f"The manifest has {len(self)} rows, but row {index} was asked for.")
        row = index % len(self) if self.rows is None else int(self.rows[index])
        starts, columns = self._batches
        batch = bisect.bisect_right(starts, row) - 1
        k = row - starts[batch]
        values = [column[k].as_py() for column in columns[batch]]
        return Utterance(values[0], AudioRef(*values[1:5]), *values[5:])

    @cached_property
    def _batches(self) -> tuple[list[int], list[list[pa.Array]]]:
        """First row and columns of every record batch that holds rows."""
        starts, columns, start = [], [], 0
        for batch in self.table.to_batches():
            if batch.num_rows:
                starts.append(start)
                columns.append(batch.columns)
                start += batch.num_rows
        return starts, columns

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows of this manifest."""
        column = self.table.column(name)
        return column if self.rows is None else take(column, self.rows)

    @cached_property
    def duration_s(self) -> NDArray[np.float64]:
        """Durations, shape (len(self),)."""
        column: NDArray[np.float64] = self.column("duration_s").to_numpy()
        return column

    @cached_property
    def part(self) -> NDArray[np.int16]:
        """Which entry of `data` each row came from, shape (len(self),)."""
        column: NDArray[np.int16] = self.column("part").to_numpy()
        return column

    @property
    def hours(self) -> float:
        """Total duration."""
        return float(self.duration_s.sum()) / 3600

    def digest(self) -> str:
        """sha256 over everything that decides what is trained on and in what order."""
        filled = [n for n in YOUNGER_COLUMNS if self.table[n].null_count < self.table.num_rows]
        younger = [n for n in filled if self.column(n).null_count < len(self)]
        return digest(self.table.select([*DIGEST_COLUMNS, *younger]), self.rows)

    def select(self, keep: Sequence[bool] | NDArray[np.bool_]) -> Manifest:
        """The rows for which `keep`, shape (len(self),), is true."""
        mask = np.asarray(keep, dtype=bool)
        if mask.shape != (len(self),):
            raise ValueError(f"keep must have shape ({len(self)},), but has {mask.shape}.")
        chosen = np.flatnonzero(mask)
        return Manifest(self.table, chosen if self.rows is None else self.rows[chosen])


def from_utterances(utterances: Iterable[Utterance]) -> Manifest:
    """A manifest in memory.

    Raises:
        InputError: an id occurs twice (ids join predictions to references).
    """
    batches: list[pa.RecordBatch] = []
    block: list[Utterance] = []
    for utterance in utterances:
        block.append(utterance)
        if len(block) == BLOCK_ROWS:
            batches.append(record_batch(block))
            block = []
    batches.append(record_batch(block))
    manifest = Manifest(pa.Table.from_batches(batches, SCHEMA))
    require_unique_ids(manifest)
    return manifest


def record_batch(
    utterances: Sequence[Utterance], known: Mapping[str, Sequence[Any]] | None = None
) -> pa.RecordBatch:
    """The columns of some utterances; `known` replaces what they say."""
    columns: dict[str, Sequence[Any]] = {}
    for name in SCHEMA.names:
        if known is not None and name in known:
            columns[name] = known[name]
        elif name in {"path", "row", "offset", "n_bytes"}:
            columns[name] = [getattr(u.audio, name) for u in utterances]
        else:
            columns[name] = [getattr(u, name) for u in utterances]
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def require_unique_ids(manifest: Manifest) -> None:
    """Raises `InputError` if an id occurs twice."""
    again = find_twice(manifest.column("id"))
    if again:
        first, second = (manifest[i] for i in again[0])
        raise InputError(
            f"Utterance ids must be unique, but {first.id!r} occurs twice ({first.audio} and {second.audio};"
            f" {len(again)} such rows); is the same data named twice?"
        )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes an Arrow IPC file through a temporary name."""
    temporary = path.with_suffix(".tmp")
    with disk_full_is_explained(path):
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for block in blocks(manifest.table, manifest.rows, BLOCK_ROWS):
                writer.write_table(block)
        temporary.replace(path)


def open_manifest(path: Path) -> Manifest:
    """Opens a manifest by memory map: millions of rows cost no Python objects.

    Raises:
        InputError: it is missing, damaged, or another kind of Arrow file.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} must be a thaitool manifest (Arrow), but is not: {error}."
        ) from error
    if table.schema.equals(pa.schema([f for f in SCHEMA if f.name not in YOUNGER_COLUMNS])):
        table = _with_empty_columns(table)
    if not table.schema.equals(SCHEMA):
        raise InputError(
            f"{path} must be a thaitool manifest with the columns {', '.join(SCHEMA.names)}, but has"
            f" {', '.join(table.schema.names)}. Scan the audio again to write a new one."
        )
    return Manifest(table)


def _with_empty_columns(table: pa.Table) -> pa.Table:
    """A manifest of an earlier version with the columns that it lacks, all null. They take the memory of one batch."""
    sizes = [batch.num_rows for batch in table.to_batches()]
    nulls = pa.nulls(max(sizes, default=0), pa.string())
    column = pa.chunked_array([nulls.slice(0, size) for size in sizes], pa.string())
    for name in YOUNGER_COLUMNS:
        table = table.append_column(SCHEMA.field(name), column)
    return table


def describe_difference(old: Manifest, new: Manifest) -> str:
    """One or two sentences on what differs in the things that the digest covers, with up to three examples each."""
    old_ids, new_ids = hashes(old.column("id")), hashes(new.column("id"))
    added = new.select(~np.isin(new_ids, old_ids))
    removed = old.select(~np.isin(old_ids, new_ids))
    kept = np.flatnonzero(np.isin(new_ids, old_ids))
    order = np.argsort(old_ids)
    partner = order[np.searchsorted(old_ids[order], new_ids[kept])] if len(kept) else kept
    changes: dict[int, list[str]] = {}
    for name in (*DIGEST_COLUMNS[1:], *YOUNGER_COLUMNS):
        before, after = take(old.column(name), partner), take(new.column(name), kept)
        for k in np.flatnonzero(differing(before, after)).tolist():
            was, now = before[k].as_py(), after[k].as_py()
            changes.setdefault(k, []).append(f"{name} {was!r}, now {now!r}")
    shown = [f"{new[int(kept[k])].id}: {'; '.join(changes[k])}" for k in sorted(changes)[:3]]
    sentences = [
        f"The manifest had {len(old)} rows ({old.hours:.2f} h) and has {len(new)} rows ({new.hours:.2f} h) now:"
        f" {_counted(len(added), 'added', _ids(added))},"
        f" {_counted(len(removed), 'removed', _ids(removed))},"
        f" {_counted(len(changes), 'changed', shown)}."
    ]
    if not (len(added) or len(removed)) and (np.diff(partner) < 0).any():
        sentences.append("The rows come in another order.")
    return " ".join(sentences)


def _ids(manifest: Manifest) -> list[str]:
    return [manifest[i].id for i in range(min(3, len(manifest)))]


def _counted(count: int, what: str, examples: Sequence[str]) -> str:
    if not count:
        return f"0 {what}"
    dots = ", ..." if count > len(examples) else ""
    return f"{count} {what} ({', '.join(examples)}{dots})"


def unusable(rejected: Iterable[Rejected]) -> list[Rejected]:
    """Those of what was set aside that are bad recordings; a duplicate or a pause is none."""
    return [r for r in rejected if r.reason not in {"duplicate", "pause"}]


def by_reason(rejected: Sequence[Rejected]) -> str:
    """For messages: a line for each reason, the commonest first, with its count and its first item."""
    first = {r.reason: r for r in reversed(rejected)}
    return "\n".join(
        f"  - {n} {reason}, e.g. {first[reason].item}: {first[reason].detail}"
        for reason, n in Counter(r.reason for r in rejected).most_common()
    )


def check_share(rejected: Sequence[Rejected], total: int, limit: float) -> None:
    """Raises `QuarantineError` when more than `limit` of `total` items are `unusable`."""
    bad = unusable(rejected)
    if total and len(bad) / total > limit:
        kinds = ", ".join(sorted({r.reason for r in bad}))
        raise QuarantineError(
            f"{len(bad)} of {total} recordings are unusable ({kinds}), more than the allowed share of"
            f" {limit:g}; the first is {bad[0].item}: {bad[0].detail}. Repair or remove them (`thaitool scan` lists"
            " all in its ledger), or raise max_rejected_share.",
            rejected,
        )


def require_trainable(manifest: Manifest, *, allowed: bool) -> None:
    """Raises `InputError` if rows are marked unfit for training and that was not allowed by name."""
    marked = len(manifest) - int(pc.sum(manifest.column("trainable"), min_count=0).as_py())
    if marked and not allowed:
        raise InputError(
            f"{marked} of {len(manifest)} rows are marked trainable: false (embedded voices: fit to test with, not"
            " to train a model for people). Use other voices, or pass --set allow_untrainable=true."
        )


@dataclass
class _Ledger:
    """What of a ledger file has been read: up to which byte, and the items listed there."""

    inode: int
    end: int
    items: set[str]


#: By path: a run appends thousands of times to one ledger, and must not read it again every time.
_ledgers: dict[str, _Ledger] = {}


def append_quarantine(path: Path, rejected: Iterable[Rejected]) -> None:
    """Appends lines to `quarantine.jsonl`, one JSON object each; no item is listed twice."""
    rejected = list(rejected)
    if not rejected:
        return
    with disk_full_is_explained(path), path.open("ab+") as file:
        _wait_for_turn(file)
        known = _read_on(path, file).items
        fresh: dict[str, bytes] = {}
        for r in rejected:
            if r.item not in known and r.item not in fresh:
                row = {"item": r.item, "reason": r.reason, "detail": r.detail}
                # Backslashreplace writes a lone surrogate (a file name that is not UTF-8) as its JSON escape.
                text = json.dumps(row, ensure_ascii=False) + "\n"
                fresh[r.item] = text.encode("utf-8", "backslashreplace")
        file.write(b"".join(fresh.values()))


def _wait_for_turn(file: BinaryIO) -> None:
    """All processes of a run append to one ledger. The lock goes when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems are mounted without locks; there an item may be listed twice.
        if error.errno not in {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}:
            raise


def _read_on(path: Path, file: BinaryIO) -> _Ledger:
    """What the ledger lists, reading only what was added since the last call. Another file of the same name is new."""
    inode = os.fstat(file.fileno()).st_ino
    size = file.seek(0, os.SEEK_END)
    ledger = _ledgers.get(str(path))
    if ledger is None or ledger.inode != inode or ledger.end > size:
        ledger = _ledgers[str(path)] = _Ledger(inode, 0, set())
    file.seek(ledger.end)
    # Not splitlines(): a file name may hold a character that it takes for the end of a line.
    *whole, half = file.read().split(b"\n")
    ledger.items.update(json.loads(line)["item"] for line in whole if line)
    ledger.end = size - len(half)
    if half:
        # A writer was killed in the middle of a line; its item is listed again when it is met again.
        file.truncate(ledger.end)
    return ledger
