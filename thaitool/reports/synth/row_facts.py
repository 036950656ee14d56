"""What the provenance of a data set says of its rows, joined with the shards: sounds, rates, voices, licences.

Reads in batches. Keeps a few bytes for each row and some hundred for each source item; rows without provenance are
counted.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import InputError
from thaitool.reports.synth.coverage import Sounds
from thaitool.reports.synth.draws import name_hash
from thaitool.reports.synth.shard_rows import read_batches, require_shards
from thaitool.reports.synth.spread import SCALES, Spread
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thaitool.reports.synth.shard_rows import RowArrays

COLUMNS = (
    *("data_id", "source_id", "source_corpus", "source_licence", "text_en", "text_spoken"),
    *("voice", "phonemes", "trainable", "gates", "effects"),
)
_REQUIRED = [
    *("data_id", "source_id", "source_corpus", "source_licence", "text_spoken", "voice"),
    "trainable",
]
#: Voices whose distributions are kept apart; those that come later are one.
MOST_VOICES = 200
OTHERS = "(others)"
#: Rows kept from either end of the speaking rate.
EXTREMES = 2


#: (speaking rate or its negative, minus the number of the row, its place in the shards, its provenance); no two rows
#: have one number, so that no two provenances are ever compared.
Extreme = tuple[float, int, int, dict[str, Any]]


@dataclass
class RowFacts:
    """Everything that is counted in the provenance."""

    rows: RowArrays
    splits: list[str]
    sounds: Sounds
    known: int = 0
    """Rows of the shards with provenance."""
    orphans: int = 0
    """Rows of the provenance without a row of their own in the shards."""
    voices: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows by voice and split."""
    voice_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    licences: Counter[tuple[str, str]] = field(default_factory=Counter)
    licence_seconds: dict[tuple[str, str], float] = field(
        default_factory=lambda: defaultdict(float)
    )
    licence_sources: dict[tuple[str, str], set[int]] = field(
        default_factory=lambda: defaultdict(set)
    )
    split_sources: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    trainable: Counter[str] = field(default_factory=Counter)
    spreads: dict[str, Spread] = field(default_factory=dict)
    fastest: list[Extreme] = field(default_factory=list)
    slowest: list[Extreme] = field(default_factory=list)
    wanted: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Provenance of rows that may become examples, by id; the values are filled in."""

    def __post_init__(self) -> None:
        self._order = np.argsort(self.rows.ids, kind="stable")
        self._sorted = self.rows.ids[self._order]
        # How many rows of each id are told of, kept where the first of them stands.
        self._told = np.zeros(len(self._order), np.int32)
        self._kept_apart: set[str] = set()

    def take(self, batch: list[dict[str, Any]]) -> None:
        """Counts some rows of the provenance.

        Raises:
            InputError: a row has no data_id, or its gates are not a JSON object.
        """
        values: dict[str, list[float]] = defaultdict(list)
        voices: dict[str, list[str]] = defaultdict(list)
        for row in batch:
            if row["data_id"] is None:
                raise InputError(
                    "Every row of the provenance must have a data_id, but one has none; make the data set again."
                )
            place = self._place(row["data_id"])
            if place is None:
                self.orphans += 1
                continue
            voice = row["voice"] or ""
            apart = self._apart(voice)
            for name, value in self._count(row, place, voice).items():
                values[name].append(value)
                voices[name].append(apart)
        for name, numbers in values.items():
            self.spreads.setdefault(name, Spread(SCALES[name])).add(numbers, voices[name])

    def _count(self, row: dict[str, Any], place: int, voice: str) -> dict[str, float]:
        """Counts a row; returns its measures."""
        self.known += 1
        split, seconds = self.splits[self.rows.splits[place]], float(self.rows.seconds[place])
        self.voices[voice, split] += 1
        self.voice_seconds[voice] += seconds
        corpus = (row["source_corpus"] or "", row["source_licence"] or "")
        self.licences[corpus] += 1
        self.licence_seconds[corpus] += seconds
        if row["source_id"] is not None:
            source = name_hash(f"{corpus[0]}/{row['source_id']}")
            self.licence_sources[corpus].add(source)
            self.split_sources[split].add(source)
        self.trainable[{True: "yes", False: "no"}.get(row["trainable"], "unknown")] += 1
        if row["data_id"] in self.wanted:
            self.wanted[row["data_id"]] = row
        spoken = row.get("text_spoken") or ""
        reading = self.sounds.add(spoken)
        measures = {"duration_s": seconds}
        if seconds > 0:
            measures["chars_per_s"] = len(spoken.replace(" ", "")) / seconds
        measures |= measured(row.get("gates") or "")
        # As the gate counts characters: without the silence on either side.
        speech_s = seconds - measures.get("lead_s", 0.0) - measures.get("tail_s", 0.0)
        if speech_s > 0:
            measures["syllables_per_s"] = reading.syllables / speech_s
        rate = measures.get("chars_per_s", 0.0)
        _keep(self.fastest, (rate, -self.known, place, row))
        _keep(self.slowest, (-rate, -self.known, place, row))
        return measures

    def _place(self, data_id: str) -> int | None:
        """The row of an id; of several with one id, one that no provenance has told of yet."""
        name = np.uint64(name_hash(data_id))
        first = int(np.searchsorted(self._sorted, name))
        if first == len(self._sorted):
            return None
        found = first + int(self._told[first])
        if found == len(self._sorted) or self._sorted[found] != name:
            return None
        self._told[first] += 1
        return int(self._order[found])

    def _apart(self, voice: str) -> str:
        if voice not in self._kept_apart:
            if len(self._kept_apart) == MOST_VOICES:
                return OTHERS
            self._kept_apart.add(voice)
        return voice


def measured(gates: str) -> dict[str, float]:
    """The numbers of a provenance's `gates` that a report knows how to show.

    Raises:
        InputError: it is not a JSON object.
    """
    if not gates:
        return {}
    try:
        found = json.loads(gates)
    except ValueError as error:
        raise InputError(
            f"The gates of a row must be a JSON object of numbers, but are {gates!r}: {error}."
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"The gates of a row must be a JSON object of numbers, but are {gates!r}.")
    return {
        name: float(value)
        for name, value in found.items()
        if name in SCALES and isinstance(value, int | float) and math.isfinite(value)
    }


def provenance_files(root: Path) -> list[Path]:
    """The parts of the provenance of a data set, by name; none for a published one."""
    return sorted((root / "provenance").glob("*.parquet"))


def provenance_batches(root: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of the provenance; for a data set without one, its texts as provenance that knows nothing else.

    Raises:
        InputError: a file is damaged, or lacks a column.
    """
    files = provenance_files(root)
    for path in files:
        yield from read_batches(path, COLUMNS, _REQUIRED)
    if files:
        return
    nothing = dict.fromkeys(_REQUIRED)
    for path in require_shards(root):
        for batch in read_batches(path, ("data_id", "text"), ["data_id", "text"]):
            yield [
                nothing | {"data_id": row["data_id"], "text_spoken": spoken_form(row["text"] or "")}
                for row in batch
            ]


def _keep(heap: list[Extreme], item: Extreme) -> None:
    """Keeps the `EXTREMES` largest."""
    if len(heap) < EXTREMES:
        heapq.heappush(heap, item)
    elif item > heap[0]:
        heapq.heapreplace(heap, item)
