"""Whether two systems differ on the same items: paired intervals, McNemar's test, Holm's correction.

It says nothing about other test sets or other training seeds, and never compares different items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.intervals import (
    DRAWS,
    FEW_CLUSTERS,
    Cluster,
    cluster_kinds,
    percentile_interval,
    ratios,
    resampled,
)
from thaitool.metrics.join import same_length
from thaitool.metrics.pooled import Pooled, redrawn, whole_value
from thaitool.metrics.sums import ItemSums

#: Differences with a larger p value are called noise.
ALPHA = 0.05
BETTER, WORSE, NOISE, SAME, UNKNOWN = (
    "better",
    "worse",
    "within noise",
    "the same on every item",
    "cannot be told",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of system b against system a on the same items. `difference` is b minus a."""

    name: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    """Lower end of the 95 % interval of the difference; both systems redrawn together."""
    high: float | None
    probability_better: float | None
    """Share of the draws in which b is better than a, ties counted half."""
    p_value: float | None
    """Two-sided, of no difference: of the bootstrap; for accuracies the larger of that and McNemar's."""
    items: int
    clusters: int
    verdict: str
    """b is `better`, `worse`, `within noise`, `the same on every item`, or it `cannot be told`."""
    mcnemar_p: float | None = None
    """Exact, two-sided. It takes items for independent; None for what is not right or wrong by item."""
    only_a_right: int | None = None
    only_b_right: int | None = None
    p_holm: float | None = None
    """`p_value` corrected for the number of comparisons made together; None before `holm`."""
    note: str = ""


def compare(
    a: ItemSums,
    b: ItemSums,
    clusters: Sequence[Cluster],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "",
) -> Comparison:
    """System b against a by one metric; row i of both is the same item.

    Raises:
        InputError: the metrics, their lengths or their counted items differ.
    """
    _same_metric((a.name, a.is_share, a.higher_is_better), (b.name, b.is_share, b.higher_is_better))
    same_length(a=range(len(a)), b=range(len(b)), clusters=clusters)
    only_a, only_b = _discordant(a, b)
    kinds = cluster_kinds(clusters)
    whole = Comparison(
        name or a.name, _rate(a), _rate(b), None, None, None, None, None,
        items=int(np.count_nonzero((a.denominators != 0) | (b.denominators != 0))),
        clusters=_fewest(kinds), verdict=UNKNOWN, only_a_right=only_a, only_b_right=only_b,
        mcnemar_p=None if only_a is None or only_b is None else mcnemar(only_a, only_b),
    )  # fmt: skip
    is_same = np.array_equal(a.numerators, b.numerators) and np.array_equal(
        a.denominators, b.denominators
    )

    def moved() -> npt.NDArray[np.float64]:
        columns = [a.numerators, a.denominators, b.numerators, b.denominators]
        sums = resampled(columns, kinds, draws, seed)
        return ratios(sums[:, 2:]) - ratios(sums[:, :2])

    return _compared(whole, is_same, moved, a.higher_is_better)


def compare_pooled(
    a: Pooled,
    b: Pooled,
    clusters: Sequence[Cluster],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """As `compare`, of a metric that only exists for all items together; each draw values both anew.

    Raises:
        InputError: the metrics or their lengths differ.
    """
    _same_metric((a.name,), (b.name,))
    same_length(a=range(len(a)), b=range(len(b)), clusters=clusters)
    kinds = cluster_kinds(clusters)
    whole = Comparison(
        a.name, whole_value(a), whole_value(b), None, None, None, None, None,
        items=len(a), clusters=_fewest(kinds), verdict=UNKNOWN,
    )  # fmt: skip

    def moved() -> npt.NDArray[np.float64]:
        of_a, of_b = redrawn([a, b], kinds, draws, seed)
        return of_b - of_a

    return _compared(whole, np.array_equal(a.table, b.table), moved, a.higher_is_better)


def _compared(
    whole: Comparison,
    is_same: bool,
    moved: Callable[[], npt.NDArray[np.float64]],
    higher_is_better: bool,
) -> Comparison:
    """`whole` with its difference, and what the draws of the difference, `moved`, say about it."""
    if whole.a is None or whole.b is None:
        return replace(whole, note="nothing, or too little, was counted for one of the two")
    whole = replace(whole, difference=whole.b - whole.a)
    if is_same:
        return replace(whole, verdict=SAME, p_value=1.0, probability_better=0.5, low=0.0, high=0.0)
    if whole.clusters < 2:
        return replace(
            whole, note="all items share one cluster: nothing says how far it would move"
        )
    drawn = moved()
    interval = percentile_interval(drawn)
    if interval is None:
        return replace(whole, note="no draw counted anything for both")
    finite = drawn[np.isfinite(drawn)] * (1 if higher_is_better else -1)
    ties = float((finite == 0).mean())
    chance = float((finite > 0).mean()) + ties / 2
    few = whole.clusters < FEW_CLUSTERS
    found = replace(
        whole, low=interval[0], high=interval[1], probability_better=chance,
        p_value=max(_bootstrap_p(finite), whole.mcnemar_p or 0.0),
        note=f"only {whole.clusters} clusters: the interval is too narrow" if few else "",
    )  # fmt: skip
    return replace(found, verdict=_verdict(found, higher_is_better, found.p_value))


def holm(
    comparisons: Sequence[Comparison], higher_is_better: Sequence[bool]
) -> tuple[Comparison, ...]:
    """The comparisons with `p_holm`, and verdicts by it: the chance of one false alarm among all
    of them stays below 5 %. Comparisons without a p value are passed over.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(comparisons=comparisons, higher_is_better=higher_is_better)
    order = sorted((c.p_value, i) for i, c in enumerate(comparisons) if c.p_value is not None)
    result = list(comparisons)
    corrected = 0.0
    for rank, (p, i) in enumerate(order):
        corrected = max(corrected, min(1.0, (len(order) - rank) * p))
        found = replace(result[i], p_holm=corrected)
        if found.verdict != SAME:
            found = replace(found, verdict=_verdict(found, higher_is_better[i], corrected))
        result[i] = found
    return tuple(result)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p value that a and b are right equally often, from the items on which only
    one of them is right.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157; binomial tail, not the chi-square.
    """
    total = only_a + only_b
    if total == 0:
        return 1.0
    log_half = total * math.log(0.5) + math.lgamma(total + 1)
    tail = math.fsum(
        math.exp(log_half - math.lgamma(k + 1) - math.lgamma(total - k + 1))
        for k in range(min(only_a, only_b) + 1)
    )
    return min(1.0, 2 * tail)


def _same_metric(a: tuple[object, ...], b: tuple[object, ...]) -> None:
    if a != b:
        raise InputError(
            f"Only the same metric of two systems can be compared; these are {a[0]} and {b[0]}."
        )


def _fewest(kinds: Sequence[npt.NDArray[np.int64]]) -> int:
    """Clusters of the kind that has the fewest."""
    return min(int(kind.max(initial=-1)) + 1 for kind in kinds)


def _rate(column: ItemSums) -> float | None:
    whole = math.fsum(map(float, column.denominators))
    return (
        math.fsum(map(float, column.numerators)) / whole
        if whole and whole >= column.least
        else None
    )


def _discordant(a: ItemSums, b: ItemSums) -> tuple[int | None, int | None]:
    """Items on which only a, and only b, is right; None where items are not right or wrong."""
    for column in (a, b):
        ones = (column.denominators == 1).all() and np.isin(column.numerators, (0, 1)).all()
        if not column.is_share or not ones:
            return None, None
    right = (1.0, 0.0) if a.higher_is_better else (0.0, 1.0)
    only_a = (a.numerators == right[0]) & (b.numerators == right[1])
    only_b = (a.numerators == right[1]) & (b.numerators == right[0])
    return int(only_a.sum()), int(only_b.sum())


def _bootstrap_p(gains: npt.NDArray[np.float64]) -> float:
    """Two-sided p value from draws of the difference; never 0, as no number of draws shows that."""
    below = (1 + np.count_nonzero(gains <= 0)) / (1 + len(gains))
    above = (1 + np.count_nonzero(gains >= 0)) / (1 + len(gains))
    return float(min(1.0, 2 * min(below, above)))


def _verdict(found: Comparison, higher_is_better: bool, p: float | None) -> str:
    if found.difference is None or found.low is None or found.high is None or p is None:
        return UNKNOWN
    if p > ALPHA or found.low <= 0 <= found.high:
        return NOISE
    return BETTER if (found.difference > 0) == higher_is_better else WORSE
