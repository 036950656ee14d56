"""Krippendorff's alpha against his worked example, and against its definition by pairs."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from thaitool.errors import InputError
from thaitool.metrics.agreement import Level, krippendorff_alpha
from thaitool.metrics.pooled import pooled_score, whole_value

#: Krippendorff (2011), section E: four observers, twelve units; a dot is a missing value.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
UNITS = [
    [int(value) - 1 for value in unit if value != "."]
    for unit in zip(*(line.split() for line in OBSERVERS), strict=True)
]
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


def by_pairs(units: list[list[int]], level: Level) -> float:
    """Observed over expected disagreement, each a mean over pairs of ratings, written out."""
    units = [unit for unit in units if len(unit) > 1]
    pooled = [value for unit in units for value in unit]
    counts = Counter(pooled)

    def distance(a: int, b: int) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return float((a - b) ** 2)
        low, high = sorted((a, b))
        between = sum(counts[g] for g in range(low, high + 1))
        return (between - (counts[low] + counts[high]) / 2) ** 2

    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)
    ) / len(pooled)
    pairs = list(permutations(pooled, 2))
    expected = sum(distance(a, b) for a, b in pairs) / len(pairs)
    return 1 - observed / expected


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_the_published_example(level: Level, published: float) -> None:
    found = whole_value(krippendorff_alpha(UNITS, 5, level=level))
    assert found == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_alpha_is_its_definition_by_pairs(level: Level) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        units = [rng.integers(0, 4, rng.integers(0, 5)).tolist() for _ in range(9)]
        units.append([0, 1])
        found = whole_value(krippendorff_alpha(units, 4, level=level))
        assert found == pytest.approx(by_pairs(units, level))


@pytest.mark.parametrize("level", LEVELS)
def test_agreement_is_1_and_chance_is_0(level: Level) -> None:
    rng = np.random.default_rng(0)
    same = [[k % 3] * 3 for k in range(30)]
    random = rng.integers(0, 3, (3000, 3)).tolist()
    assert whole_value(krippendorff_alpha(same, 3, level=level)) == 1
    assert whole_value(krippendorff_alpha(random, 3, level=level)) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("units", [[], [[1], [2]], [[2, 2], [2, 2, 2]]])
def test_where_nothing_can_disagree_there_is_no_value(units: list[list[int]]) -> None:
    alpha = krippendorff_alpha(units, 5, level="ordinal")
    score = pooled_score(alpha, [str(k) for k in range(len(units))], draws=20, seed=0)
    assert score.value is None
    assert "no value" in score.note


def test_the_interval_is_that_of_redrawn_units() -> None:
    score = pooled_score(
        krippendorff_alpha(UNITS, 5, level="interval"),
        [str(k) for k in range(len(UNITS))],
        draws=400,
        seed=0,
    )
    rng = np.random.default_rng(9)
    redrawn = [
        by_pairs([UNITS[k] for k in rng.integers(0, len(UNITS), len(UNITS))], "interval")
        for _ in range(400)
    ]
    low, high = np.percentile(redrawn, (2.5, 97.5))
    assert score.value == pytest.approx(0.849, abs=5e-4)
    assert score.low == pytest.approx(low, abs=0.08)
    assert score.high == pytest.approx(high, abs=0.03)


@pytest.mark.parametrize("rating", [5, -1])
def test_a_rating_outside_the_scale_is_refused(rating: int) -> None:
    with pytest.raises(InputError, match=f"from 0 to 4, but one is {rating}"):
        krippendorff_alpha([[0, rating]], 5, level="ordinal")
