"""A metric item by item: the sums behind a `Score`, which slices and comparisons take apart again.

It scores no text; the metrics make these, and `scores_of` adds them up with their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from thaitool.metrics.intervals import (
    DRAWS,
    FEW_CLUSTERS,
    NO_WIDTH,
    Cluster,
    cluster_kinds,
    percentile_interval,
    ratios,
    resampled,
    wilson,
)
from thaitool.metrics.join import same_length
from thaitool.records import Score


@dataclass(frozen=True, slots=True, eq=False)
class ItemSums:
    """One metric on N items: sum(numerators) / sum(denominators) is its rate.

    An item whose denominator is 0 was not counted (an empty reference, no entity of this type).
    """

    name: str
    numerators: npt.NDArray[np.floating]
    """[N]"""
    denominators: npt.NDArray[np.floating]
    """[N]"""
    note: str = ""
    is_share: bool = True
    """Whether it is a share of trials, 0 to 1. Error rates are not: CER may pass 1."""
    higher_is_better: bool = True
    least: float = 0
    """With a smaller sum of denominators the rate is withheld, and the note gives the counts."""

    def __len__(self) -> int:
        return len(self.numerators)


def item_sums(
    name: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    note: str = "",
    is_share: bool = True,
    higher_is_better: bool = True,
    least: float = 0,
) -> ItemSums:
    """`ItemSums` from any sequences of numbers.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(numerators=numerators, denominators=denominators)
    tops, bottoms = _column(numerators), _column(denominators)
    return ItemSums(name, tops, bottoms, note, is_share, higher_is_better, least)


def _column(values: Sequence[float]) -> npt.NDArray[np.floating]:
    """In single precision where nothing is lost, as with counts: half the memory."""
    wide = np.asarray(values, dtype=np.float64)
    narrow = wide.astype(np.float32)
    return narrow if np.array_equal(wide, narrow) else wide


def select(column: ItemSums, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> ItemSums:
    """The same metric on some of the items: a slice. The note is of the whole set, and goes."""
    return replace(
        column, numerators=column.numerators[rows], denominators=column.denominators[rows], note=""
    )


def scores_of(
    columns: Sequence[ItemSums], clusters: Sequence[Cluster], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Score, ...]:
    """A `Score` with its 95 % interval for each column; all are redrawn together, once.

    When a share is 0 or 1 in every cluster, all draws agree and the bootstrap has no width; the
    interval is then Wilson's, with the clusters that counted as trials. Rates that are no shares
    (CER may pass 1) keep the empty width. The note says when an interval is weaker than it looks.

    Raises:
        InputError: a column and `clusters` differ in length.
    """
    for column in columns:
        same_length(items=range(len(column)), clusters=clusters)
    return scores_by(columns, cluster_kinds(clusters), draws=draws, seed=seed)


def scores_by(
    columns: Sequence[ItemSums],
    kinds: Sequence[npt.NDArray[np.int64]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """As `scores_of`, with the clusters as `cluster_kinds` gives them."""
    if not columns:
        return ()
    sums = None
    if any(kind.max(initial=0) > 0 for kind in kinds):  # one cluster shows no spread
        both = [part for c in columns for part in (c.numerators, c.denominators)]
        sums = resampled(both, kinds, draws, seed)
    return tuple(
        _score(column, None if sums is None else sums[:, 2 * k : 2 * k + 2], kinds)
        for k, column in enumerate(columns)
    )


def _score(
    column: ItemSums,
    sums: npt.NDArray[np.float64] | None,
    kinds: Sequence[npt.NDArray[np.int64]],
) -> Score:
    numerator, denominator = _total(column.numerators), _total(column.denominators)
    notes = [column.note] if column.note else []
    if 0 < denominator < column.least:
        notes.insert(0, f"withheld: {numerator:g} of {denominator:g}, fewer than {column.least:g}")
        return Score(column.name, 0, 0, note="; ".join(notes))
    interval = None if sums is None else percentile_interval(ratios(sums))
    counted = column.denominators != 0
    counting = min(int(np.count_nonzero(np.bincount(kind[counted]))) for kind in kinds)
    if denominator and column.is_share and numerator in {0.0, denominator}:
        interval = wilson(counting if numerator else 0, counting)
        notes.append(f"interval: Wilson over {counting} clusters, all alike")
    elif denominator and counting < FEW_CLUSTERS:
        notes.append(f"only {counting} clusters: the interval is too narrow")
    if denominator and interval and interval[0] == interval[1]:
        notes.append(NO_WIDTH)
    low, high = interval if interval and denominator else (None, None)
    return Score(column.name, numerator, denominator, low, high, "; ".join(notes))


def _total(column: npt.NDArray[np.floating]) -> float:
    return math.fsum(map(float, column))
