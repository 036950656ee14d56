"""The Jensen-Shannon distance: a metric between 0 and 1, as scipy computes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thaitool.errors import InputError
from thaitool.metrics.divergence import jensen_shannon_distance

COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=12)


def two_lists(data: st.DataObject) -> tuple[list[int], list[int]]:
    first = data.draw(COUNTS)
    n = len(first)
    second = data.draw(st.lists(st.integers(0, 1000), min_size=n, max_size=n))
    assume(sum(first) and sum(second))
    return first, second


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_it_is_symmetric_and_between_0_and_1(data: st.DataObject) -> None:
    first, second = two_lists(data)
    distance = jensen_shannon_distance(first, second)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(jensen_shannon_distance(second, first), abs=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(COUNTS, st.integers(1, 50))
def test_equal_distributions_are_at_0_and_disjoint_ones_at_1(counts: list[int], times: int) -> None:
    assume(sum(counts))
    # Rounding of the order of 1e-16 in the divergence is 1e-8 in its root.
    assert jensen_shannon_distance(counts, [times * n for n in counts]) < 1e-7
    nothing = [0] * len(counts)
    assert jensen_shannon_distance([*counts, *nothing], [*nothing, *counts]) == pytest.approx(1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(1, 1000), min_size=5, max_size=5), min_size=3, max_size=3))
def test_no_detour_is_shorter(counts: list[list[int]]) -> None:
    a, b, c = counts
    detour = jensen_shannon_distance(a, b) + jensen_shannon_distance(b, c)
    assert jensen_shannon_distance(a, c) <= detour + 1e-9


def test_known_value() -> None:
    """(1, 0) and (1, 1): the divergence is H(3/4, 1/4) - 1/2 bits, by hand."""
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert jensen_shannon_distance([8, 0], [5, 5]) == pytest.approx(np.sqrt(entropy - 0.5))


def test_it_is_that_of_scipy() -> None:
    distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.integers(0, 9, (2, 30))
        theirs = distance.jensenshannon(first, second, base=2)
        assert jensen_shannon_distance(first, second) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 2]), ([1, 2], [-1, 5]), ([[1]], [[1]])]
)
def test_what_is_no_distribution_is_refused(first: list[int], second: list[int]) -> None:
    with pytest.raises(InputError, match="Two distributions must count"):
        jensen_shannon_distance(first, second)
