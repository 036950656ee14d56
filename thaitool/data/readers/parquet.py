"""Parquet files with embedded sound: the Hugging Face Audio feature, or a binary column. Reads no sound here.

A row whose bytes were not embedded refers to the file at its path, taken from the parquet file's folder.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from thaitool.data.readers.fields import DURATION_S, ID, RATE_HZ, SPEAKER, TEXT
from thaitool.data.readers.lines import Paths, folder_of, seconds
from thaitool.data.shards import AudioColumn, audio_column, parquet_errors_name
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: `train-00000-of-00010.parquet`, as the Hugging Face hub names its files.
_SPLIT = re.compile(r"(train|dev|validation|valid|test)(?=[-._]|$)")
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}
#: Rows whose text columns are in memory at a time.
_ROWS = 10_000


def read_parquet(
    files: Sequence[Path], root: Path, prefix: str = ""
) -> Iterator[Utterance | Rejected]:
    """The utterances of some files.

    An id is the row's own where those of the file differ, or else `prefix`, the file's path below `root` and the row's
    number (FLEURS numbers sentences, and several people read each).

    Raises:
        InputError: a file is damaged, or has no column of sound; or no file exists that rows refer to by path.
    """
    for path in files:
        with parquet_errors_name(path):
            yield from _read_file(path, prefix + path.relative_to(root).as_posix())


def split_of(path: Path) -> str | None:
    """The split that a file's name starts with, or else that its folder is called."""
    for name in (path.name, path.parent.name):
        match = _SPLIT.match(name)
        if match:
            return _SPLITS[match[1]]
    return None


def _read_file(path: Path, name: str) -> Iterator[Utterance | Rejected]:
    file = pq.ParquetFile(path, memory_map=True)
    audio = audio_column(file.schema_arrow, path)
    keys = {
        key: next((n for n in names if n in file.schema_arrow.names), None)
        for key, names in _COLUMNS.items()
    }
    if keys["id"] and not _differ(file, keys["id"]):
        keys["id"] = None
    columns = [n for n in (*keys.values(), audio.path_path) if n is not None]
    place, split = str(path.resolve()), split_of(path)
    paths = Paths(path, (folder_of(path),))
    number = n_embedded = 0
    for group in range(file.num_row_groups):
        embedded = _embedded(file, group, audio)
        for rows in _small_columns(file, group, columns):
            for row in rows:
                values = {key: row.get(n) if n else None for key, n in keys.items()}
                ref: AudioRef | Rejected = AudioRef(place, number)
                if next(embedded):
                    n_embedded += 1
                else:
                    written = (row.get(audio.name) or {}).get("path") if audio.path_path else None
                    ref = _outside(path, written, number, paths)
                if isinstance(ref, Rejected):
                    yield ref
                else:
                    yield _utterance(ref, values, f"{name}#{number}", split, str(path))
                number += 1
    if not n_embedded:
        paths.check()


_COLUMNS = {"id": ID, "text": TEXT, "speaker": SPEAKER, "duration": DURATION_S, "rate": RATE_HZ}


def _differ(file: pq.ParquetFile, column: str) -> bool:
    values = file.read(columns=[column], use_threads=False).column(0)
    return not values.null_count and int(pc.count_distinct(values).as_py()) == len(values)


def _small_columns(
    file: pq.ParquetFile, group: int, columns: list[str]
) -> Iterator[list[dict[str, Any]]]:
    if not columns:
        yield [{}] * file.metadata.row_group(group).num_rows
        return
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
        yield batch.to_pylist()


def _embedded(file: pq.ParquetFile, group: int, audio: AudioColumn) -> Iterator[bool]:
    """Whether each row of a row group has bytes. The bytes are only read if the footer cannot tell."""
    index = [c.path for c in file.schema].index(audio.bytes_path)
    column = file.metadata.row_group(group).column(index)
    n_rows = file.metadata.row_group(group).num_rows
    nulls = column.statistics.null_count if column.is_stats_set and column.statistics else None
    if nulls in {0, n_rows}:
        for _ in range(n_rows):
            yield nulls == 0
        return
    for batch in file.iter_batches(
        16, row_groups=[group], columns=[audio.bytes_path], use_threads=False
    ):
        array = batch.column(audio.name)
        if audio.bytes_path != audio.name:
            array = pc.struct_field(array, "bytes")
        yield from array.is_valid().to_pylist()


def _outside(path: Path, written: object, number: int, paths: Paths) -> AudioRef | Rejected:
    if not isinstance(written, str) or not written:
        return Rejected(f"{path}#{number}", "empty", "the row holds no sound and names no file")
    found = paths.find(written, number)
    return found if isinstance(found, Rejected) else AudioRef(found)


def _utterance(
    ref: AudioRef, values: dict[str, Any], name: str, split: str | None, source: str
) -> Utterance:
    own = values["id"]
    duration = seconds(values["duration"])
    rate = values["rate"]
    speaker = values["speaker"]
    return Utterance(
        id=name if own is None else str(own),
        audio=ref,
        duration_s=math.nan if duration is None else duration,
        sample_rate_hz=rate if isinstance(rate, int) else 0,
        text=values["text"] if isinstance(values["text"], str) else None,
        speaker=None if speaker is None else str(speaker),
        split=split,
        source=source,
        source_id=name if own is None else str(own),
    )
