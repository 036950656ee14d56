"""Whether raters agree: Krippendorff's alpha, which allows missing ratings, with an interval over what was rated.

1 is full agreement, 0 what chance gives, below 0 is less than that. It does not say who is right.
Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), whose worked example a test holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.pooled import Pooled

Level = Literal["nominal", "ordinal", "interval"]
Floats = npt.NDArray[np.float64]


def krippendorff_alpha(units: Sequence[Sequence[int]], values: int, *, level: Level) -> Pooled:
    """Alpha of N units, to be redrawn unit by unit.

    Args:
        units: The ratings of each unit, 0 to `values` - 1, in any order; a unit with fewer than two counts for nothing.
        values: V, how many different ratings there are; their distance is by rank (ordinal) or number (interval).
        level: What a disagreement weighs.

    Returns:
        `alpha_{level}`; without a value where nothing can be paired, or all ratings are equal (chance is then all).

    Raises:
        InputError: a rating lies outside 0 to `values` - 1.
    """
    table = np.zeros((len(units), values * values), dtype=np.float64)
    for row, unit in zip(table, units, strict=True):
        row[:] = _coincidences(unit, values).ravel()
    found = partial(_alpha, level=level)
    whole = found(table, np.ones((1, len(units)), dtype=np.int64))[0]
    paired = sum(len(unit) > 1 for unit in units)
    note = f"{paired} units with two ratings or more"
    if not np.isfinite(whole):
        note += "; no value: nothing to pair, or all ratings equal"
    return Pooled(f"alpha_{level}", table, found, parts=float(np.isfinite(whole)), note=note)


def _coincidences(unit: Sequence[int], V: int) -> Floats:
    """[V, V] pairs of ratings of one unit, each with 1 / (ratings - 1)."""
    if outside := [rating for rating in unit if not 0 <= rating < V]:
        raise InputError(f"A rating must be from 0 to {V - 1}, but one is {outside[0]}.")
    if len(unit) < 2:
        return np.zeros((V, V))
    counts = np.bincount(np.asarray(unit, dtype=np.int64), minlength=V)
    pairs = np.outer(counts, counts) - np.diag(counts)
    return np.asarray(pairs / (len(unit) - 1), dtype=np.float64)


def _alpha(table: Floats, weights: npt.NDArray[np.int64], *, level: Level) -> Floats:
    """[R] alphas of units [N, V * V] by weights [R, N]; NaN where chance would never disagree."""
    V = round(table.shape[1] ** 0.5)
    coincidences = (weights @ table).reshape(len(weights), V, V)
    totals = coincidences.sum(axis=2)  # [R, V] how often each rating stands in a pair
    n = totals.sum(axis=1)
    distance = _distance(totals, level)
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 - (n - 1) * observed / expected, dtype=np.float64)


def _distance(totals: Floats, level: Level) -> Floats:
    """[R, V, V] squared distance of two ratings."""
    V = totals.shape[1]
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(V), (len(totals), V, V))
    # Interval: the ratings themselves. Ordinal: their mid-ranks, so that c and k differ by the ratings between them.
    place = np.arange(V)[None, :] + 0.0 * totals
    if level == "ordinal":
        place = np.cumsum(totals, axis=1) - totals / 2
    return np.asarray((place[:, :, None] - place[:, None, :]) ** 2, dtype=np.float64)
