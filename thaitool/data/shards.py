"""Sound inside parquet files: Thai-SUP's published nine-column schema with its provenance table, and any other file.

Writes and reads rows; does not decode audio. Source of the schema: the data set card of arXiv:2509.14804; layout
`{IC,NER,SR,ASR}/{train,dev,test}/{split}-00000.parquet` (and `QA`, which is not published), row groups of 100 so that
one row costs milliseconds.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROW_GROUP = 100
#: What `read_audio` keeps per process, and how much of a row group it reads at a time.
CACHE_BYTES = 256 << 20
CHUNK_BYTES = 32 << 20
SCHEMA = pa.schema(
    [
        pa.field("task_id", pa.string()),
        pa.field("task_prompt", pa.string()),
        pa.field("data_id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
        pa.field("audio_flac", pa.binary()),
        pa.field("sampling_rate", pa.int32()),
        pa.field("num_channels", pa.int32()),
        pa.field("duration_s", pa.float32()),
    ]
)
#: Columns that only Thai-SUP has; two of them make a shard, so that one that lacks a column is still refused by name.
_MARKS = {"task_id", "task_prompt", "data_id", "audio_flac"}
_NEVER_NULL = ("task_id", "data_id", "sampling_rate", "duration_s")
#: Everything but the audio: dictionary encoding pays for text, never for FLAC.
_SMALL_COLUMNS = [name for name in SCHEMA.names if name != "audio_flac"]


@dataclass(frozen=True, slots=True)
class ThaiSupRow:
    """One row of a shard; field names and order are the published ones."""

    task_id: str
    task_prompt: str
    data_id: str
    text: str
    label: str
    audio_flac: bytes
    sampling_rate: int
    num_channels: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a row comes from. Kept outside the public schema so that shards stay byte-compatible."""

    data_id: str
    source_id: str
    source_corpus: str
    source_licence: str
    split: str
    variant: int
    intent: str
    text_en: str
    text_spoken: str
    voice: str
    phonemes: str
    trainable: bool
    entities: str = ""
    """JSON list of {type, surface, start, end}; the numbers are characters of `text`, `end` exclusive."""
    gates: str = ""
    """JSON object of what was measured, by name."""
    effects: str = ""
    """JSON object of the room and the noise that were added; "" for none."""


def write_shard(path: Path, rows: Sequence[ThaiSupRow]) -> None:
    """Writes one parquet file of the published schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP,
        use_dictionary=_SMALL_COLUMNS,
        compression={name: "none" if name == "audio_flac" else "zstd" for name in SCHEMA.names},
    )


def write_provenance(path: Path, rows: Sequence[Provenance]) -> None:
    """Writes the provenance table; columns are the fields of `Provenance`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), path)


def is_thai_sup(root: Path) -> bool:
    """Whether a shard, or the first shard of a directory or of any below it, has columns of the published schema."""
    return any(len(_MARKS & set(read_parquet_schema(p).names)) >= 2 for p in shard_files(root)[:1])


def read_parquet_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file, from its footer."""
    with parquet_errors_name(path):
        return pq.read_schema(path)


def shard_files(root: Path) -> list[Path]:
    """The shards under a directory by path, or the one that `root` is.

    Raises:
        InputError: a folder cannot be read.
    """
    if root.is_file():
        return [root]

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} must be readable, as it may hold shards, but: {error.strerror}."
        ) from error

    found = (Path(folder, n) for folder, _, names in os.walk(root, onerror=refuse) for n in names)
    return sorted(p for p in found if p.match("*-[0-9]*.parquet") and p.parent.name != "provenance")


def read_thai_sup(root: Path, *, split: str | None = None) -> list[Utterance]:
    """All of `iterate_thai_sup` in a list."""
    return list(iterate_thai_sup(root, split=split))


def iterate_thai_sup(root: Path, *, split: str | None = None) -> Iterator[Utterance]:
    """Utterances of the shards under `root`, without touching their audio; one shard's rows are in memory at a time.

    Args:
        root: A Thai-SUP directory, or one shard.
        split: Keep one of train, dev, test (the name of the shard's folder); None keeps all.

    Raises:
        InputError: no shards; or a shard is damaged, or lacks a column or value of the published schema.
    """
    shards = [p for p in shard_files(root) if split is None or p.parent.name == split]
    if not shards:
        wanted = "" if split is None else f" of split {split!r}"
        raise InputError(f"{root} must hold Thai-SUP parquet shards{wanted}, but none was found.")
    provenance = _read_provenance(root)
    for shard in shards:
        yield from _read_shard(shard, provenance)


@contextmanager
def parquet_errors_name(path: Path | str) -> Iterator[None]:
    """Turns errors of pyarrow into sentences that name the file."""
    # pyarrow raises ArrowInvalid or OSError, and names the file in neither; damaged text is no UTF-8.
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()).rstrip(".:")
        raise InputError(
            f"{path} must be a whole parquet file, but could not be read: {reason}. Fetch or make it again."
        ) from error


def _read_provenance(root: Path) -> dict[str, Provenance]:
    # A task or split folder or a shard may be given instead of the root; the provenance lies above it.
    for folder in (root, *root.parents[:3]):
        files = sorted((folder / "provenance").glob("*.parquet"))
        if files:
            rows = (row for file in files for row in _read_provenance_file(file))
            return {row["data_id"]: Provenance(**row) for row in rows}
    return {}


def _read_provenance_file(file: Path) -> list[dict[str, Any]]:
    # Columns with a default are younger than the first data sets.
    required = [f.name for f in fields(Provenance) if f.default is MISSING]
    there = read_parquet_schema(file).names
    younger = [f.name for f in fields(Provenance) if f.name in there and f.name not in required]
    rows: list[dict[str, Any]] = _read_columns(file, required + younger, required).to_pylist()
    return rows


def _read_columns(path: Path, names: list[str], required: list[str]) -> pa.Table:
    with parquet_errors_name(path):
        missing = [n for n in required if n not in pq.read_schema(path).names]
        if missing:
            raise InputError(
                f"{path} must have the Thai-SUP columns, but lacks {', '.join(missing)}."
            )
        return pq.read_table(path, columns=names)


def _read_shard(shard: Path, provenance: dict[str, Provenance]) -> Iterator[Utterance]:
    table = _read_columns(shard, _SMALL_COLUMNS, SCHEMA.names)
    empty = [n for n in _NEVER_NULL if table.column(n).null_count]
    if empty:
        raise InputError(
            f"{shard} must have a value in every row of {', '.join(empty)}, but some are null."
        )
    with parquet_errors_name(shard):
        rows = table.to_pylist()
    for index, row in enumerate(rows):
        known = provenance.get(row["data_id"])
        yield Utterance(
            id=row["data_id"],
            audio=AudioRef(str(shard), index),
            duration_s=row["duration_s"],
            sample_rate_hz=row["sampling_rate"],
            text=row["text"],
            task=row["task_id"].lower(),
            label=row["label"],
            speaker=known.voice if known else None,
            split=shard.parent.name,
            source=known.source_corpus if known else None,
            source_id=known.source_id if known else row["data_id"],
            licence=known.source_licence if known else None,
            trainable=known.trainable if known else True,
        )


@dataclass(frozen=True)
class AudioColumn:
    """Where a parquet file keeps its sound."""

    name: str
    bytes_path: str
    """The column to read: `name`, or `name.bytes` for a struct as the Hugging Face Audio feature writes it."""
    path_path: str | None
    """`name.path` of such a struct: the file's name, or where it lies if its bytes were not embedded."""


def audio_column(schema: pa.Schema, path: Path | str) -> AudioColumn:
    """The one column of sound.

    Raises:
        InputError: there is none, or there are several.
    """
    found = [column for field in schema if (column := _as_audio(field)) is not None]
    # A struct of bytes is the Audio feature; other binary columns beside it (an image, a thumbnail) are not sound.
    found = [column for column in found if column.bytes_path != column.name] or found
    if len(found) > 1:
        found = [column for column in found if "audio" in column.name.lower()] or found
    if len(found) != 1:
        raise InputError(
            f"{path} must have one column of embedded sound (binary, or a struct with `bytes`), but"
            f" {len(found)} of its columns can be that: {', '.join(schema.names)}. Name one column of sound `audio`,"
            " and no other so."
        )
    return found[0]


def _as_audio(field: pa.Field) -> AudioColumn | None:
    if _is_binary(field.type):
        return AudioColumn(field.name, field.name, None)
    if not pa.types.is_struct(field.type):
        return None
    names = [child.name for child in field.type]
    if "bytes" not in names or not _is_binary(field.type.field("bytes").type):
        return None
    place = f"{field.name}.path" if "path" in names else None
    return AudioColumn(field.name, f"{field.name}.bytes", place)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class _Opened:
    """One open parquet file: which rows its row groups hold, and how many of them are read at a time."""

    def __init__(self, path: str) -> None:
        with parquet_errors_name(path):
            self.file = pq.ParquetFile(path, memory_map=True)
            self.column = audio_column(self.file.schema_arrow, path)
            groups = [self.file.metadata.row_group(g) for g in range(self.file.num_row_groups)]
        rows = [group.num_rows for group in groups]
        self.first_row = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        index = [c.path for c in self.file.schema].index(self.column.bytes_path)
        sizes = [group.column(index).total_uncompressed_size for group in groups]
        self.chunk_rows = [
            max(1, CHUNK_BYTES * n // max(1, s)) for n, s in zip(rows, sizes, strict=True)
        ]


@lru_cache(maxsize=64)
def _opened(path: str) -> _Opened:
    return _Opened(path)


class _Chunks:
    """Chunks of rows read lately, `CACHE_BYTES` of them, as batches revisit them.

    A row group may be larger than memory. It is read front to back in chunks, and the reader waits where it stopped, so
    that reading in order costs one pass. (Parquet unpacks a page at a time: a file whose packed or dictionary-coded
    pages hold a whole row group takes the memory of one.)
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[str, int, int], pa.ChunkedArray] = OrderedDict()
        self.n_bytes = 0
        self._reading: tuple[str, int] | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0
        self._lock = threading.Lock()

    def clear(self) -> None:
        self.kept.clear()
        self.n_bytes, self._reading, self._batches = 0, None, iter(())

    def get(self, path: str, group: int, chunk: int) -> pa.ChunkedArray:
        key = (path, group, chunk)
        with self._lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
            try:
                with parquet_errors_name(path):
                    audio = self._read(path, group, chunk)
            except BaseException:
                self._reading = None  # the reader stopped at an unknown place
                raise
            self.kept[key] = audio
            self.n_bytes += audio.nbytes
            while self.n_bytes > CACHE_BYTES and len(self.kept) > 1:
                self.n_bytes -= self.kept.popitem(last=False)[1].nbytes
            return audio

    def _read(self, path: str, group: int, chunk: int) -> pa.ChunkedArray:
        opened = _opened(path)
        rows, column = opened.chunk_rows[group], opened.column
        if self._reading != (path, group) or self._next > chunk:
            self._batches = opened.file.iter_batches(
                rows, row_groups=[group], columns=[column.bytes_path], use_threads=False
            )
            self._reading, self._next = (path, group), 0
        n_rows = int(opened.first_row[group + 1] - opened.first_row[group])
        while True:
            audio = self._take(min(rows, n_rows - self._next * rows), column)
            self._next += 1
            if self._next > chunk:
                return audio

    def _take(self, rows: int, column: AudioColumn) -> pa.ChunkedArray:
        # pyarrow may return less than asked for, where its own arrays are full.
        parts: list[pa.Array] = []
        while sum(map(len, parts)) < rows:
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid("a row group ends before its last row")
            array = batch.column(column.name)
            parts.append(
                pc.struct_field(array, "bytes") if column.name != column.bytes_path else array
            )
        return pa.chunked_array(parts)


_chunks = _Chunks()


def clear_cache() -> None:
    """Forgets the files and rows that `read_audio` keeps."""
    _opened.cache_clear()
    _chunks.clear()


def read_audio(ref: AudioRef) -> bytes:
    """The bytes of one sound embedded in a parquet file; none if the row is null.

    Rows read lately are kept (`CACHE_BYTES`). Reading rows in order is one pass over the file. A row group that is
    larger than `CHUNK_BYTES` is read from its start to the row: cheap in order, dear at random.

    Raises:
        InputError: the file is damaged, has no column of sound, or has no such row.
    """
    if ref.row is None:
        raise InputError(f"{ref} names no row of a parquet file.")
    opened = _opened(ref.path)
    n_rows = int(opened.first_row[-1])
    if not 0 <= ref.row < n_rows:
        raise InputError(f"{ref.path} has {n_rows} rows, but row {ref.row} was asked for.")
    group = int(np.searchsorted(opened.first_row, ref.row, side="right")) - 1
    chunk, row = divmod(ref.row - int(opened.first_row[group]), opened.chunk_rows[group])
    # A null is no bytes: the decoder calls both empty.
    audio: bytes | None = _chunks.get(ref.path, group, chunk)[row].as_py()
    return audio or b""
