"""95 % intervals: clustered percentile bootstrap for ratios of sums, and Wilson's for shares.

It says how far the number would move with other test items of the same kind; not with other
training seeds, and not with other voices or domains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.join import same_length

#: What an item shares with items it is not independent of: its source item, or its speaker, or both
#: as a tuple (source item, speaker), one entry per way of sharing.
Cluster: TypeAlias = str | tuple[str, ...]

DRAWS = 2000
_PERCENTILES = (2.5, 97.5)
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_CELLS = 1_000_000  # cluster counts held at once: 8 MB, whatever the size of the test set
_MOST_CELLS = 4_000_000  # sums by cluster and column held at once: 32 MB
FEW_CLUSTERS = 20
#: Note of a score whose interval is a point: the sample cannot show how sure it is.
NO_WIDTH = "all draws alike: the interval has no width"


def resampled_sums(
    values: npt.ArrayLike, clusters: Sequence[Cluster], draws: int, seed: int
) -> npt.NDArray[np.float64]:
    """Column sums [draws, K] of `values` [N, K] over test sets redrawn cluster by cluster.

    The N items fall into C clusters (variants of one source item, or one speaker); each draw takes
    C clusters with replacement, whole, because items of a cluster are not independent. Items in
    two kinds of clusters at once count as often as both were drawn: the product of the two counts
    (A. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007; conservative).
    """
    table = np.asarray(values, dtype=np.float64)
    same_length(values=range(len(table)), clusters=clusters)
    return resampled(list(table.T), cluster_kinds(clusters), draws, seed)


def resampled(
    columns: Sequence[npt.NDArray[np.floating]],
    kinds: Sequence[npt.NDArray[np.int64]],
    draws: int,
    seed: int,
) -> npt.NDArray[np.float64]:
    """As `resampled_sums`, of columns [N] each and with the clusters as `cluster_kinds` gives them."""
    cell, blocks = _cells(kinds, draws, seed)
    if (int(cell.max(initial=-1)) + 1) * len(columns) > _MOST_CELLS:
        # A million items that stand alone: sums by cell would be the columns again, 100 MB of them.
        found = (counts[:, cell].astype(np.float64) for counts in blocks)
        return np.concatenate([np.stack([w @ c for c in columns], axis=1) for w in found])
    per_cell = np.empty((int(cell.max(initial=-1)) + 1, len(columns)))
    for k, column in enumerate(columns):
        per_cell[:, k] = np.bincount(cell, weights=column, minlength=len(per_cell))
    return np.concatenate([counts @ per_cell for counts in blocks])


def item_weights(
    kinds: Sequence[npt.NDArray[np.int64]], draws: int, seed: int
) -> Iterator[npt.NDArray[np.int64]]:
    """How often each item stands in each redrawn test set, [R, N] at a time, `draws` rows in all.

    The test sets are those of `resampled` with the same kinds and seed.
    """
    cell, blocks = _cells(kinds, draws, seed)
    for counts in blocks:
        yield counts[:, cell]


def _cells(
    kinds: Sequence[npt.NDArray[np.int64]], draws: int, seed: int
) -> tuple[npt.NDArray[np.int64], Iterator[npt.NDArray[np.int64]]]:
    """[N] the cell of each item, and [R, cells] how often each is drawn, block by block.

    Items that share all their clusters are drawn together: they are one cell.
    """
    if draws < 1:
        raise InputError(f"The bootstrap needs at least 1 draw; draws is {draws}.")
    sizes = [int(kind.max(initial=-1)) + 1 for kind in kinds]
    N = len(kinds[0])
    codes: tuple[npt.NDArray[np.intp], ...] = ()
    cell = kinds[0]  # of one kind, the clusters are the cells
    if N and len(kinds) > 1:
        keys = np.ravel_multi_index(tuple(kinds), tuple(sizes))
        found, cell = np.unique(keys, return_inverse=True)
        codes = np.unravel_index(found, tuple(sizes))
    step = max(1, _CELLS // max(N, *sizes, 1))

    def blocks() -> Iterator[npt.NDArray[np.int64]]:
        generator = np.random.default_rng(seed)
        for start in range(0, draws, step):
            rows = min(step, draws - start)
            counts = _counts(generator, rows, sizes[0])
            if codes:
                counts = counts[:, codes[0]]
                for k, size in enumerate(sizes[1:], 1):
                    counts *= _counts(generator, rows, size)[:, codes[k]]
            yield counts

    return cell, blocks()


def _counts(generator: np.random.Generator, rows: int, C: int) -> npt.NDArray[np.int64]:
    """[rows, C] how often each of C clusters is among C drawn with replacement."""
    taken = generator.integers(0, C, size=(rows, C))
    taken += np.arange(rows)[:, None] * C
    return np.bincount(taken.ravel(), minlength=rows * C).reshape(rows, C)


def cluster_kinds(clusters: Sequence[Cluster]) -> list[npt.NDArray[np.int64]]:
    """The partitions that the bootstrap draws from, each as [N] numbers 0..C-1 by sorted name.

    Of several kinds, those with a single cluster are dropped (unless all are), and those inside a
    coarser one (each sentence read by one speaker) while the coarser has at least 20 clusters:
    drawn alone, fewer would make the interval too narrow.

    Raises:
        InputError: some items have more kinds of clusters than others.
    """
    if not clusters:
        return [np.zeros(0, dtype=np.int64)]
    widths = {0 if isinstance(c, str) else len(c) for c in clusters}
    if len(widths) > 1:
        raise InputError(
            "All items need the same kinds of clusters, either one name or tuples of one length; "
            f"the lengths are {sorted(widths)} (0: a name)."
        )
    if widths == {0}:
        return [_numbered(clusters, None)]
    kinds = [_numbered(clusters, k) for k in range(*widths)]
    varied = [kind for kind in kinds if kind.max() > 0] or kinds[:1]
    kept: list[npt.NDArray[np.int64]] = []
    for k, kind in enumerate(varied):
        coarser = [
            other
            for j, other in enumerate(varied)
            if j != k
            and other.max() + 1 >= FEW_CLUSTERS
            and _is_within(kind, other)
            and (j < k or not _is_within(other, kind))  # of two that are the same, keep the first
        ]
        if not coarser:
            kept.append(kind)
    return kept


def are_several(clusters: Sequence[Cluster]) -> bool:
    """Whether there are at least two clusters."""
    return any(cluster != clusters[0] for cluster in clusters)


def _numbered(clusters: Sequence[Cluster], k: int | None) -> npt.NDArray[np.int64]:
    """[N] numbers of the names, or of entry k of the tuples, in the order of the names."""
    names = (c if k is None else c[k] for c in clusters)
    # Of objects: a million ids as an array of fixed width, or as keys of a dict, cost 100 MB and more.
    table = np.fromiter(names, dtype=object, count=len(clusters))
    return np.asarray(np.unique(table, return_inverse=True)[1], dtype=np.int64)


def _is_within(fine: npt.NDArray[np.int64], coarse: npt.NDArray[np.int64]) -> bool:
    """Whether all items of a cluster of `fine` are in one cluster of `coarse`."""
    one = np.empty(int(fine.max()) + 1, dtype=np.int64)
    one[fine] = coarse  # the coarse cluster of some item of each fine one
    return bool((one[fine] == coarse).all())


def percentile_interval(rates: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of the finite entries; None without any."""
    finite = rates[np.isfinite(rates)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high)


def ratios(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[R] first column over second; not finite where a draw counted nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)


def bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float],
    clusters: Sequence[Cluster],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """95 % percentile interval of sum(numerators) / sum(denominators), resampled by cluster.

    None with fewer than two clusters: one source item says nothing about others.

    Raises:
        InputError: the three lists differ in length, or `draws` is below 1.
    """
    same_length(numerators=numerators, denominators=denominators, clusters=clusters)
    if not are_several(clusters):
        return None
    values = np.column_stack([np.asarray(numerators, float), np.asarray(denominators, float)])
    return percentile_interval(ratios(resampled_sums(values, clusters, draws, seed)))


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
    low = max(0.0, centre - half) if successes else 0.0
    high = min(1.0, centre + half) if successes < trials else 1.0
    return low, high
