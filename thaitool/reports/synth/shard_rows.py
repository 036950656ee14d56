"""What the shards of a data set say, read once in batches without their sound: rows, hours, labels, repeated texts.

Keeps 21 bytes for each row and nothing else that grows with them.
"""

from __future__ import annotations

import heapq
import json
import math
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from thaitool.data.shards import SCHEMA, parquet_errors_name, shard_files
from thaitool.errors import InputError
from thaitool.records import ENTITY_KEYS_TH, Advance
from thaitool.reports.synth.draws import draw, name_hash
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BATCH_ROWS = 4096
#: Rows of each task and split that examples are chosen from.
CANDIDATES = 24
_COLUMNS = ["task_id", "data_id", "text", "label", "duration_s"]


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A row that may become an example; those with the smallest draws do."""

    draw: int
    id: str
    path: str
    row: int
    task: str
    split: str
    text: str
    label: str
    duration_s: float


@dataclass
class ShardRows:
    """Everything that is counted in the shards."""

    seed: int
    tasks: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    labels: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By task, split and label: intents, and types of entities."""
    empty: Counter[str] = field(default_factory=Counter)
    same_as_text: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    files: list[tuple[str, int]] = field(default_factory=list)
    """Each shard, and the number of rows before it."""
    drawn: dict[tuple[str, str], list[tuple[int, Candidate]]] = field(default_factory=dict)
    _ids: array[int] = field(default_factory=lambda: array("Q"))
    _texts: array[int] = field(default_factory=lambda: array("Q"))
    _seconds: array[float] = field(default_factory=lambda: array("f"))
    _parts: array[int] = field(default_factory=lambda: array("B"))

    def add(self, path: str, number: int, split: str, row: dict[str, Any]) -> None:
        """Counts row `number` of a shard."""
        task, text, label = row["task_id"], row["text"] or "", row["label"] or ""
        key = (task, split)
        self.rows[key] += 1
        self.seconds[key] += row["duration_s"]
        self._ids.append(name_hash(row["data_id"]))
        self._texts.append(name_hash(compact(text)))
        self._seconds.append(row["duration_s"])
        self._parts.append(16 * _number(self.tasks, task) + _number(self.splits, split))
        self.empty[task] += not label
        self.same_as_text[task] += label == text
        self._count_label(task, split, label)
        candidate = Candidate(
            draw(self.seed, row["data_id"]),
            *(row["data_id"], path, number, task, split, text, label, row["duration_s"]),
        )
        heap = self.drawn.setdefault(key, [])
        if len(heap) < CANDIDATES:
            heapq.heappush(heap, (-candidate.draw, candidate))
        else:
            heapq.heappushpop(heap, (-candidate.draw, candidate))

    def _count_label(self, task: str, split: str, label: str) -> None:
        if task == "IC":
            self.labels[task, split, label] += 1
        elif task == "NER":
            counts = entity_counts(label)
            if counts is None:
                self.unreadable[task] += 1
                return
            for name, count in counts.items():
                self.labels[task, split, name] += count

    def candidates(self) -> list[Candidate]:
        """Of each task and split, in the order of their draws."""
        return [
            candidate
            for key in sorted(self.drawn)
            for _, candidate in sorted(self.drawn[key], key=lambda pair: -pair[0])
        ]

    def at(self, place: int) -> Candidate:
        """The row at a place, read again from its shard."""
        path, first = next(file for file in reversed(self.files) if file[1] <= place)
        with parquet_errors_name(path):
            (row,) = pq.read_table(path, columns=_COLUMNS).slice(place - first, 1).to_pylist()
        split = Path(path).parent.name
        task, text, label = row["task_id"], row["text"] or "", row["label"] or ""
        return Candidate(
            draw(self.seed, row["data_id"]),
            *(row["data_id"], path, place - first, task, split, text, label, row["duration_s"]),
        )

    def arrays(self) -> RowArrays:
        """What is kept of each row; nothing may be added afterwards."""
        parts = np.frombuffer(self._parts, np.uint8)
        return RowArrays(
            np.frombuffer(self._ids, np.uint64),
            np.frombuffer(self._texts, np.uint64),
            np.frombuffer(self._seconds, np.float32),
            parts // 16,
            parts % 16,
        )


@dataclass(frozen=True)
class RowArrays:
    """One entry for each row of the shards, in the order in which they were read; all of shape (rows,)."""

    ids: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    """Hashes of texts in `thai-v1` without spaces."""
    seconds: NDArray[np.float32]
    tasks: NDArray[np.uint8]
    splits: NDArray[np.uint8]


def entity_counts(label: str) -> dict[str, int] | None:
    """How many surfaces of each type a NER label has; None if it is not the published JSON object."""
    try:
        value = json.loads(label)
    except ValueError:
        return None
    if not isinstance(value, dict) or set(value) - set(ENTITY_KEYS_TH.values()):
        return None
    if not all(isinstance(surfaces, list) for surfaces in value.values()):
        return None
    return {name: len(value.get(key, [])) for name, key in ENTITY_KEYS_TH.items()}


def require_shards(root: Path) -> list[Path]:
    """The shards under a data set, by path.

    Raises:
        InputError: there are none.
    """
    found = shard_files(root)
    if not found:
        raise InputError(
            f"{root} must be a directory of Thai-SUP shards (TASK/split/split-00000.parquet), but holds none; give the"
            " directory that synth wrote."
        )
    return found


def read_shards(root: Path, seed: int, advance: Advance) -> ShardRows:
    """The counts of all shards; `advance` is told of each.

    Raises:
        InputError: there are no shards, or one is damaged or lacks a column or value of the published schema.
    """
    counts = ShardRows(seed)
    for path in require_shards(root):
        split, number = path.parent.name, 0
        counts.files.append((str(path), counts.rows.total()))
        for batch in read_batches(path, _COLUMNS, SCHEMA.names):
            for row in batch:
                if None in (row["task_id"], row["data_id"], row["duration_s"]):
                    raise InputError(
                        f"{path} must have a task_id, data_id and duration_s in every row, but row {number} lacks one."
                    )
                if not 0 <= row["duration_s"] < math.inf:
                    raise InputError(
                        f"{path} must have durations in seconds, but that of row {number} is {row['duration_s']}."
                    )
                counts.add(str(path), number, split, row)
                number += 1
        advance()
    return counts


def read_batches(
    path: Path, wanted: Sequence[str], required: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the columns that are there, some thousand at a time.

    Raises:
        InputError: the file is damaged, or lacks a required column.
    """
    with parquet_errors_name(path):
        file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(f"{path} must have the Thai-SUP columns, but lacks {', '.join(missing)}.")
    columns = [name for name in wanted if name in names]
    batches = file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)
    while True:
        with parquet_errors_name(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch.to_pylist()


def _number(names: list[str], name: str) -> int:
    """The place of a name; at most 16 tasks and splits are told apart."""
    if name not in names:
        if len(names) == 16:
            raise InputError(
                f"A data set has at most 16 tasks and 16 splits, but {name!r} is one more; give one data set at a time."
            )
        names.append(name)
    return names.index(name)
