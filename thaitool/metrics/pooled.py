"""Metrics of a whole test set that are no ratio of two sums: macro-F1 and chrF, with intervals and for comparisons.

They count no text themselves; `intents` and `chrf` make them, and each says how a redrawn test set is valued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thaitool.metrics.intervals import (
    NO_WIDTH,
    Cluster,
    are_several,
    cluster_kinds,
    item_weights,
    percentile_interval,
)
from thaitool.metrics.join import same_length
from thaitool.records import Score

Table = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """One metric of N items that only exists for all of them together."""

    name: str
    table: Table
    """[N, M] What is counted of each item."""
    value: Callable[[Table, npt.NDArray[np.int64]], Floats]
    """The table and [R, N] how often each item stands in each of R test sets, to [R] values."""
    parts: float = 1
    """What the value is a mean of; it becomes the denominator of the `Score`, 0 where there is no value."""
    note: str = ""
    higher_is_better: bool = True

    def __len__(self) -> int:
        return len(self.table)


def whole_value(pooled: Pooled) -> float | None:
    """The metric on the test set as it is; None where nothing was counted."""
    if not len(pooled) or not pooled.parts:
        return None
    return float(pooled.value(pooled.table, np.ones((1, len(pooled)), dtype=np.int64))[0])


def pooled_score(pooled: Pooled, clusters: Sequence[Cluster], *, draws: int, seed: int) -> Score:
    """The `Score` with its 95 % interval; the numerator is the value times `parts`.

    Raises:
        InputError: the metric and `clusters` differ in length.
    """
    same_length(items=range(len(pooled)), clusters=clusters)
    value = whole_value(pooled)
    if value is None:
        return Score(pooled.name, 0, 0, note=pooled.note)
    low = high = None
    note = pooled.note
    if are_several(clusters):
        (values,) = redrawn([pooled], cluster_kinds(clusters), draws, seed)
        low, high = percentile_interval(values) or (None, None)
        if low is not None and low == high:
            note = "; ".join(part for part in (note, NO_WIDTH) if part)
    return Score(pooled.name, value * pooled.parts, pooled.parts, low, high, note)


def redrawn(
    systems: Sequence[Pooled], kinds: Sequence[npt.NDArray[np.int64]], draws: int, seed: int
) -> list[Floats]:
    """[draws] values of each system; all see the same redrawn test sets, and row i of all is one item."""
    found: list[list[Floats]] = [[] for _ in systems]
    for weights in item_weights(kinds, draws, seed):
        for values, system in zip(found, systems, strict=True):
            values.append(system.value(system.table, weights))
    return [np.concatenate(values) for values in found]
