"""Distributions of numbers over rows, in fixed bins: memory does not grow with rows. Draws nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from thaitool.reports.synth.contents import Measure, VoiceSpread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scale:
    """Bins of one measure."""

    unit: str
    low: float
    high: float
    width: float


#: What is shown, by the names of the provenance's `gates`; the first three are measured here where a gate did not.
SCALES = {
    "duration_s": Scale("s", 0, 60, 0.05),
    "chars_per_s": Scale("characters of the spoken form per s", 0, 50, 0.1),
    "syllables_per_s": Scale("syllables per s, without silent edges", 0, 20, 0.05),
    "level_dbfs": Scale("dB of full scale, RMS of the active part", -90, 0, 0.25),
    "peak_dbfs": Scale("dB of full scale", -90, 0, 0.25),
    "clipped_share": Scale("share of samples", 0, 1, 0.001),
    "silence_share": Scale("share of the clip", 0, 1, 0.005),
    "lead_s": Scale("s of silence before the speech", 0, 10, 0.01),
    "tail_s": Scale("s of silence after the speech", 0, 10, 0.01),
    "asr_cer": Scale("character error rate of the round trip", 0, 2, 0.005),
    "asr_entity_cer": Scale("character error rate within entities", 0, 2, 0.005),
    "mos": Scale("predicted MOS", 1, 5, 0.01),
}
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
#: Bars of a histogram, at most; the finer bins are for the quantiles.
MOST_BARS = 60


@dataclass
class Spread:
    """Counts in bins, in all and for each voice."""

    scale: Scale
    count: int = 0
    total: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    voices: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, values: Sequence[float], voices: Sequence[str]) -> None:
        """Counts finite values, one of each voice of the same place."""
        numbers = np.asarray(values, np.float64)
        if not len(numbers):
            return
        self.count += len(numbers)
        self.total += float(numbers.sum())
        self.minimum = min(self.minimum, float(numbers.min()))
        self.maximum = max(self.maximum, float(numbers.max()))
        bins = self.bins_of(numbers)
        names = np.asarray(voices)
        for name in set(voices):
            counts = np.bincount(bins[names == name], minlength=self.n_bins)
            self.voices[name] = self.voices.get(name, np.zeros(self.n_bins, np.int64)) + counts

    @property
    def n_bins(self) -> int:
        """How many there are."""
        return round((self.scale.high - self.scale.low) / self.scale.width)

    def bins_of(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """The bin of each value; values beyond the scale are in the outermost ones."""
        # A value on an edge is in the bin above, also where division falls just short of it.
        places = np.floor((values - self.scale.low) / self.scale.width + 1e-9)
        return np.clip(places, 0, self.n_bins - 1).astype(np.int64)

    def measure(self, name: str) -> Measure:
        """The distribution; there must be values."""
        counts = np.sum(list(self.voices.values()), axis=0)
        voices = tuple(
            VoiceSpread(voice, int(own.sum()), *(self._quantile(own, p) for p in (5, 50, 95)))
            for voice, own in sorted(self.voices.items())
        )
        low, width, bars = self._bars(counts)
        return Measure(
            name,
            self.scale.unit,
            self.count,
            round(self.total / self.count, 6),
            self.minimum,
            self.maximum,
            {f"p{p}": self._quantile(counts, p) for p in QUANTILES},
            low,
            width,
            bars,
            voices,
        )

    def _quantile(self, counts: NDArray[np.int64], percent: float) -> float:
        """The middle of the bin of the value that `percent` of the values do not exceed; never beyond the extremes."""
        rank = max(1, int(np.ceil(percent / 100 * counts.sum())))
        place = int(np.searchsorted(np.cumsum(counts), rank))
        middle = self.scale.low + (place + 0.5) * self.scale.width
        return round(min(self.maximum, max(self.minimum, middle)), 6)

    def _bars(self, counts: NDArray[np.int64]) -> tuple[float, float, tuple[int, ...]]:
        """Where the first bar begins, how wide each is, and how many values it has; empty ends are left out."""
        there = np.flatnonzero(counts)
        first, last = int(there[0]), int(there[-1])
        merged = -(-(last - first + 1) // MOST_BARS)
        first -= first % merged
        cut = counts[first : last + 1]
        padded = np.pad(cut, (0, -len(cut) % merged)).reshape(-1, merged).sum(axis=1)
        low = round(self.scale.low + first * self.scale.width, 6)
        return low, round(merged * self.scale.width, 6), tuple(padded.tolist())
