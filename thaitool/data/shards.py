"""Thai-SUP on disk: the published nine-column parquet schema, and a provenance table joined on `data_id`.

Writes and reads rows with embedded FLAC; does not decode audio. Source: the data set card of arXiv:2509.14804; layout
`{IC,NER,SR,ASR}/{train,dev,test}/{split}-00000.parquet`, row groups of 100 so that one row costs milliseconds.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROW_GROUP = 100
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
    """Whether a directory holds Thai-SUP shards, here or one level down (a split directory inside a task counts)."""
    return root.is_dir() and any(_shard_files(root))


def _shard_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*-[0-9]*.parquet") if p.parent.name != "provenance")


def read_thai_sup(root: Path, *, split: str | None = None) -> list[Utterance]:
    """Utterances of the shards under `root`, without touching their audio.

    Args:
        root: A Thai-SUP directory.
        split: Keep one of train, dev, test (the name of the shard's folder); None keeps all.

    Raises:
        InputError: no shards; or a shard is damaged, or lacks a column or value of the published schema.
    """
    shards = [p for p in _shard_files(root) if split is None or p.parent.name == split]
    if not shards:
        wanted = "" if split is None else f" of split {split!r}"
        raise InputError(f"{root} must hold Thai-SUP parquet shards{wanted}, but none was found.")
    provenance = _read_provenance(root)
    return [u for shard in shards for u in _read_shard(shard, provenance)]


@contextmanager
def _parquet_errors_name(path: Path | str) -> Iterator[None]:
    # pyarrow raises ArrowInvalid or OSError, and names the file in neither.
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".:")
        raise InputError(
            f"{path} must be a whole parquet file, but could not be read: {reason}. Fetch or make it again."
        ) from error


def _read_provenance(root: Path) -> dict[str, Provenance]:
    # A task or split folder may be given instead of the root; its provenance lies above it.
    for folder in (root, *root.parents[:2]):
        files = sorted((folder / "provenance").glob("*.parquet"))
        if files:
            names = [f.name for f in fields(Provenance)]
            rows = (row for f in files for row in _read_columns(f, names, names).to_pylist())
            return {row["data_id"]: Provenance(**row) for row in rows}
    return {}


def _read_columns(path: Path, names: list[str], required: list[str]) -> pa.Table:
    with _parquet_errors_name(path):
        missing = [n for n in required if n not in pq.read_schema(path).names]
        if missing:
            raise InputError(
                f"{path} must have the Thai-SUP columns, but lacks {', '.join(missing)}."
            )
        return pq.read_table(path, columns=names)


def _read_shard(shard: Path, provenance: dict[str, Provenance]) -> list[Utterance]:
    table = _read_columns(shard, _SMALL_COLUMNS, SCHEMA.names)
    empty = [n for n in _NEVER_NULL if table.column(n).null_count]
    if empty:
        raise InputError(
            f"{shard} must have a value in every row of {', '.join(empty)}, but some are null."
        )
    utterances = []
    for index, row in enumerate(table.to_pylist()):
        known = provenance.get(row["data_id"])
        utterances.append(
            Utterance(
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
        )
    return utterances


@lru_cache(maxsize=64)
def _row_group(path: str, group: int) -> list[bytes]:
    with _parquet_errors_name(path):
        table = pq.ParquetFile(path, memory_map=True).read_row_group(group, columns=["audio_flac"])
    # A null is no bytes: the decoder calls both empty.
    return [audio or b"" for audio in table.column("audio_flac").to_pylist()]


def read_audio(ref: AudioRef) -> bytes:
    """The FLAC bytes of one row. Row groups are cached (64 of 100 rows), as batches revisit them.

    Raises:
        InputError: the file is damaged, or has no such row.
    """
    if ref.row is None:
        raise InputError(f"{ref} names no row of a parquet file.")
    sizes = _group_sizes(ref.path)
    row = ref.row
    for group, size in enumerate(sizes):
        if row < size:
            return _row_group(ref.path, group)[row]
        row -= size
    raise InputError(f"{ref.path} has {sum(sizes)} rows, but row {ref.row} was asked for.")


@lru_cache(maxsize=1024)
def _group_sizes(path: str) -> tuple[int, ...]:
    with _parquet_errors_name(path):
        metadata = pq.read_metadata(path)
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
