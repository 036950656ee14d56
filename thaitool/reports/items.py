"""The items of a test set from the columns of a manifest: which are asked, what is right, and by what to slice them.

Opens no audio and scores nothing. Columns, not a Python object per row, wherever all rows pass through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.data.manifest import SCHEMA, Manifest
from thaitool.errors import ConfigError, InputError
from thaitool.records import PUBLISHED_TASKS, Reference
from thaitool.reports.report import Confusion, Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from thaitool.metrics.intents import IntentOutcomes
    from thaitool.metrics.tasks import TaskScores

#: Name of the slice by duration, and its lower bounds in seconds.
LENGTH = "length"
LENGTHS_S = (0.0, 1.0, 2.0, 4.0, 6.0, 10.0, 15.0, 30.0)
#: Rows of one slice; the values with the fewest items share one more.
MOST_VALUES = 50
_BLOCK_ROWS = 1 << 16
#: What an item that lacks the field is listed under.
NOTHING = "(none)"
#: Fields that differ for every item, or say where bytes lie.
_NO_SLICE = {"id", "path", "row", "offset", "n_bytes", "start_s", "end_s", "text", "context"}


def slice_fields() -> list[str]:
    """The names that `slice` takes."""
    return [LENGTH, *(name for name in SCHEMA.names if name not in _NO_SLICE | {"duration_s"})]


def rows_of_task(manifest: Manifest, task: str) -> NDArray[np.bool_]:
    """Which rows are of a task, shape (len(manifest),); a row without one is a transcription."""
    return _equal(pc.fill_null(manifest.column("task"), "asr"), task)


def rows_of_split(manifest: Manifest, split: str) -> NDArray[np.bool_]:
    """Which rows are of a split, shape (len(manifest),); a row without one belongs to every one."""
    return _equal(pc.fill_null(manifest.column("split"), split), split)


def tasks_asked(manifest: Manifest, task: str, split: str) -> tuple[str, ...]:
    """The tasks of `--task`. `slu` has `qa` behind the published tasks where the split has rows of it, so that a report
    of published data stays what it was."""
    if task != "slu":
        return (task,)
    has_answers = rows_of_task(manifest, "qa") & rows_of_split(manifest, split)
    return (*PUBLISHED_TASKS, "qa") if has_answers.any() else PUBLISHED_TASKS


def _equal(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(column, value).to_numpy(), dtype=bool)


def label_names(manifest: Manifest, task: str = "ic") -> tuple[str, ...]:
    """Every label of a task, of all splits: one that the test lacks may still be answered."""
    labels = manifest.column("label").filter(pa.array(rows_of_task(manifest, task)))
    return tuple(sorted(name for name in pc.unique(labels).to_pylist() if name is not None))


def select(
    manifest: Manifest, tasks: Sequence[str], *, split: str, limit: int | None, where: Path
) -> Manifest:
    """The rows of `split` (a row without a split belongs to every one), task by task, `limit` of each, spread evenly.

    Raises:
        InputError: a task has no row.
    """
    in_split = rows_of_split(manifest, split)
    chosen: list[NDArray[np.int64]] = []
    for task in tasks:
        rows = np.flatnonzero(rows_of_task(manifest, task) & in_split)
        if not len(rows):
            raise InputError(f"{where} must have {split} rows of task {task}, but has none.")
        if limit is not None and limit < len(rows):
            # Evenly over the shard, which is ordered by source: a prefix would hold one intent only.
            rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
        chosen.append(rows)
    rows = np.concatenate(chosen)
    if np.array_equal(rows, np.arange(len(manifest))):
        return manifest  # columns of a selection are copies: of a million rows, tens of MB each
    return Manifest(manifest.table, rows if manifest.rows is None else manifest.rows[rows])


def references(manifest: Manifest, spoken: Collection[str] = ("asr",)) -> list[Reference]:
    """What is right for each row: its label; for one of the tasks `spoken` without one, its text.

    Raises:
        InputError: a row has neither.
    """
    found: list[Reference] = []
    rows = np.arange(manifest.table.num_rows) if manifest.rows is None else manifest.rows
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = Manifest(manifest.table, rows[start : start + _BLOCK_ROWS])
        names = ("id", "task", "label", "text", "source_id", "speaker")
        columns = [_texts(block.column(name)) for name in names]
        for item, task, label, text, source, speaker in zip(*columns, strict=True):
            right = text if label is None and (task or "asr") in spoken else label
            if item is None or right is None:
                raise InputError(
                    f"Row {item!r} must have a label to be scored against (or a text, for a transcription), but has"
                    " none. Choose another task, or data with labels."
                )
            own = source is None or source == item  # then one object, not two of a million
            found.append(
                Reference(item, task or "asr", right, item if own else source, speaker or "unknown")
            )
    pa.default_memory_pool().release_unused()  # of a million rows, 70 MB that Arrow would keep
    return found


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """The values, equal ones as one object: speakers, sources and intents are few, and rows may be a million."""
    codes = column.combine_chunks().dictionary_encode()
    values: list[str | None] = codes.dictionary.to_pylist()
    indices = codes.indices.to_numpy(zero_copy_only=False)
    if codes.null_count:
        values.append(None)
        indices = np.where(np.isnan(indices), len(values) - 1, indices).astype(np.int64)
    return [values[k] for k in indices.tolist()]


def read_keywords(path: Path) -> tuple[str, ...]:
    """Words, one a line; a BOM, CRLF and blank lines are accepted.

    Raises:
        InputError: the file cannot be read as UTF-8, or has no word.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be a list of words in UTF-8, one a line, but cannot be read: {error}."
        ) from error
    words = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise InputError(f"{path} must be a list of words, one a line, but has none.")
    return words


def slice_codes(manifest: Manifest, field: str) -> tuple[list[str], NDArray[np.int64]]:
    """The values of a field, or the buckets of duration, as text, and which of them each row has, shape (len(self),).

    Raises:
        ConfigError: there is no such field.
    """
    if field == LENGTH:
        ends = [f" to {end:g} s" for end in LENGTHS_S[1:]] + [" s and more"]
        names = [f"{low:g}{end}" for low, end in zip(LENGTHS_S, ends, strict=True)]
        return names, (np.digitize(manifest.duration_s, LENGTHS_S) - 1).astype(np.int64)
    if field not in slice_fields():
        raise ConfigError(
            f"A slice must be by one of {', '.join(slice_fields())}, but {field!r} was asked for."
        )
    column = pc.cast(manifest.column(field), pa.string())
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    names = [name or NOTHING for name in encoded.dictionary.to_pylist()]
    place: dict[str, int] = {}  # null and "" are one value
    first = np.array([place.setdefault(name, k) for k, name in enumerate(names)], np.int64)
    codes = first[encoded.indices.to_numpy()]
    del column, encoded
    pa.default_memory_pool().release_unused()  # of a million rows, 60 MB that Arrow would keep
    return names, codes


def slice_values(manifest: Manifest, field: str) -> list[str]:
    """The value of a field, or the bucket of duration, of each row, as text; raises as `slice_codes`."""
    names, codes = slice_codes(manifest, field)
    return [names[k] for k in codes.tolist()]


def slices(
    manifest: Manifest, field: str, score: Callable[[NDArray[np.int64]], tuple[TaskScores, ...]]
) -> list[Slice]:
    """The scores of each value of `field`. `score` takes the numbers of the rows of a slice.

    Lengths come in order, other values by name; the rarest share a row when there are more than `MOST_VALUES`.
    """
    names, codes = slice_codes(manifest, field)
    counts = np.bincount(codes, minlength=len(names))
    # Of equally frequent values, the one that comes first stays.
    often = sorted(np.flatnonzero(counts).tolist(), key=lambda k: -counts[k])
    kept = often[:MOST_VALUES]
    kept.sort(key=None if field == LENGTH else names.__getitem__)
    groups = [(names[k], np.flatnonzero(codes == k)) for k in kept]
    if len(often) > len(kept):
        rest = np.flatnonzero(~np.isin(codes, kept))
        groups.append((f"({len(often) - len(kept)} others)", rest))
    return [Slice(field, value, score(rows)) for value, rows in groups]


def confusion(outcomes: IntentOutcomes) -> Confusion:
    """Counts by right and answered intent; only intents that occur on either side have a row and a column."""
    seen = sorted({*outcomes.references, *outcomes.predictions} - {-1})
    place = {number: k for k, number in enumerate(seen)} | {-1: len(seen)}
    table = np.zeros((len(seen), len(seen) + 1), dtype=np.int64)
    pairs = zip(outcomes.references, outcomes.predictions, strict=True)
    for right, told in pairs:
        table[place[right], place[told]] += 1
    names = tuple(outcomes.names[number] for number in seen)
    return Confusion(names, tuple(tuple(row) for row in table.tolist()))
