"""How far two distributions of counts are apart: the Jensen-Shannon distance.

It says nothing about chance; draw samples of one size from one text to learn what distance that makes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError


def jensen_shannon_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """The square root of the Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint ones.

    It is a metric (Endres and Schindelin, IEEE Trans. Inf. Theory 49(7), 2003); the divergence is Lin's (IEEE Trans.
    Inf. Theory 37(1), 1991), with base 2.

    Args:
        first: Counts of each kind, shape (V,), not negative.
        second: Counts of the same kinds, in the same order, shape (V,).

    Raises:
        InputError: the shapes differ, or one of them counts nothing, or less than nothing.
    """
    p, q = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if p.ndim != 1 or p.shape != q.shape:
        raise InputError(
            f"Two distributions must count the same kinds, but their shapes are {p.shape} and {q.shape}; give a count"
            " for each kind of either."
        )
    if not (p.sum() > 0 and q.sum() > 0 and p.min() >= 0 and q.min() >= 0):
        raise InputError(
            f"Two distributions must count something, and nothing below 0, but their sums are {p.sum():g} and"
            f" {q.sum():g}; leave out what is empty."
        )
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    bits = (_relative_bits(p, middle) + _relative_bits(q, middle)) / 2
    return float(np.sqrt(min(1.0, max(0.0, bits))))  # rounding may leave the range by 1e-16


def _relative_bits(p: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in bits; `other` is above 0 wherever `p` is."""
    there = p > 0
    return float(np.sum(p[there] * np.log2(p[there] / other[there])))
