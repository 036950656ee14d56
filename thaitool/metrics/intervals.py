"""95 % intervals: clustered percentile bootstrap for ratios of sums, and Wilson's for shares.

It says how far the number would move with other test items of the same kind; not with other
training seeds, and not with other voices or domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.join import same_length
from thaitool.records import Score

DRAWS = 2000
_PERCENTILES = (2.5, 97.5)
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_CELLS = 4_000_000  # cluster counts held at once: 32 MB, whatever the size of the test set
_FEW_CLUSTERS = 20
#: Note of a score whose interval is a point: the sample cannot show how sure it is.
NO_WIDTH = "all draws alike: the interval has no width"


def resampled_sums(
    values: npt.ArrayLike, clusters: Sequence[str], draws: int, seed: int
) -> npt.NDArray[np.float64]:
    """Column sums [draws, K] of `values` [N, K] over test sets redrawn cluster by cluster.

    The N items fall into C clusters (variants of one source item, or one speaker); each draw takes
    C clusters with replacement, whole, because items of a cluster are not independent.
    """
    table = np.asarray(values, dtype=np.float64)
    if draws < 1:
        raise InputError(f"The bootstrap needs at least 1 draw; draws is {draws}.")
    same_length(values=range(len(table)), clusters=clusters)
    names, index = np.unique(np.asarray(clusters, dtype=np.str_), return_inverse=True)
    C = len(names)
    per_cluster = np.zeros((C, table.shape[1]))
    np.add.at(per_cluster, index, table)
    generator = np.random.default_rng(seed)
    sums = np.empty((draws, table.shape[1]))
    step = max(1, _CELLS // max(C, 1))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        taken = generator.integers(0, C, size=(rows, C))
        taken += np.arange(rows)[:, None] * C
        counts = np.bincount(taken.ravel(), minlength=rows * C).reshape(rows, C)
        sums[start : start + rows] = counts @ per_cluster
    return sums


def percentile_interval(rates: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of the finite entries; None without any."""
    finite = rates[np.isfinite(rates)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high)


def bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of sum(numerators) / sum(denominators), resampled by cluster.

    None with fewer than two clusters: one source item says nothing about others.

    Raises:
        InputError: the three lists differ in length, or `draws` is below 1.
    """
    same_length(numerators=numerators, denominators=denominators, clusters=clusters)
    if len(set(clusters)) < 2:
        return None
    values = np.column_stack([np.asarray(numerators, float), np.asarray(denominators, float)])
    sums = resampled_sums(values, clusters, draws, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentile_interval(sums[:, 0] / sums[:, 1])


def wilson(successes: float, trials: float) -> tuple[float, float] | None:
    """Wilson's 95 % score interval of a share of independent trials; None without trials.

    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if trials <= 0:
        return None
    if not 0 <= successes <= trials:
        raise InputError(f"Successes must be in 0..{trials}, the trials; they are {successes}.")
    share, z2 = successes / trials, _Z * _Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def ratio_score(
    name: str,
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[str],
    *,
    draws: int,
    seed: int,
    note: str = "",
    is_share: bool = True,
) -> Score:
    """A `Score` with its interval; the note says when the interval is weaker than it looks.

    When a share is 0 or 1 in every cluster, all draws agree and the bootstrap has no width; the
    interval is then Wilson's, with the clusters that counted as trials. `is_share` is False for
    rates that are not shares of trials (CER may pass 1); those keep the empty width.
    """
    numerator, denominator = math.fsum(numerators), math.fsum(denominators)
    notes = [note] if note else []
    interval = bootstrap(numerators, denominators, clusters, draws, seed)
    counting = {c for c, size in zip(clusters, denominators, strict=True) if size}
    if denominator and is_share and numerator in {0.0, denominator}:
        full = 1 if numerator else 0
        interval = wilson(full * len(counting), len(counting))
        notes.append(f"interval: Wilson over {len(counting)} clusters, all alike")
    elif denominator and len(counting) < _FEW_CLUSTERS:
        notes.append(f"only {len(counting)} clusters: the interval is too narrow")
    if denominator and interval and interval[0] == interval[1]:
        notes.append(NO_WIDTH)
    low, high = interval if interval and denominator else (None, None)
    return Score(name, numerator, denominator, low, high, "; ".join(notes))
