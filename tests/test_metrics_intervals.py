"""Intervals: known values, draws by cluster, coverage, and what is said when they are weak."""

from __future__ import annotations

import numpy as np
import pytest

from thaitool.errors import InputError
from thaitool.metrics import intervals
from thaitool.metrics.entities import ner_scores
from thaitool.metrics.intents import intent_accuracy, intent_outcomes, macro_f1
from thaitool.metrics.intervals import bootstrap, wilson
from thaitool.metrics.transcripts import cer


def test_wilson_known_values() -> None:
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=5e-5)
    assert wilson(0, 0) is None
    with pytest.raises(InputError, match="must be in 0"):
        wilson(11, 10)


def test_bootstrap_of_two_clusters_by_hand() -> None:
    """Draws give 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: both tails are past 2.5 %."""
    assert bootstrap([0, 1], [1, 1], ["a", "b"], 500, seed=3) == (0.0, 1.0)
    assert bootstrap([0, 1], [1, 1], ["a", "a"], 500, seed=3) is None


def test_bootstrap_is_a_function_of_its_seed() -> None:
    hits = [float(i % 3 == 0) for i in range(90)]
    ones, groups = [1.0] * 90, [str(i // 3) for i in range(90)]
    assert bootstrap(hits, ones, groups, 300, 5) == bootstrap(hits, ones, groups, 300, 5)
    alone = [str(i) for i in range(90)]
    assert bootstrap(hits, ones, alone, 300, 5) != bootstrap(hits, ones, alone, 300, 6)


def test_bootstrap_does_not_depend_on_cluster_names_or_order_within() -> None:
    hits = np.random.default_rng(0).integers(0, 2, 60).astype(float)
    groups = [f"s{i // 4:02d}" for i in range(60)]
    forward = bootstrap(list(hits), [1.0] * 60, groups, 400, 1)
    assert bootstrap(list(hits[::-1]), [1.0] * 60, groups[::-1], 400, 1) == forward


def test_variants_of_one_source_widen_the_interval() -> None:
    """40 sources of 10 identical variants carry the information of 40 items, not of 400."""
    per_source = np.random.default_rng(1).integers(0, 2, 40).astype(float)
    hits = list(np.repeat(per_source, 10))
    groups = [str(i // 10) for i in range(400)]
    clustered = bootstrap(hits, [1.0] * 400, groups, 2000, 0)
    naive = bootstrap(hits, [1.0] * 400, [str(i) for i in range(400)], 2000, 0)
    assert clustered is not None
    assert naive is not None
    ratio = (clustered[1] - clustered[0]) / (naive[1] - naive[0])
    assert ratio == pytest.approx(10**0.5, rel=0.12)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        chances = generator.beta(2, 3, size=60)
        hits = generator.random((60, 5)) < chances[:, None]
        groups = [str(i // 5) for i in range(300)]
        interval = bootstrap(list(hits.ravel().astype(float)), [1.0] * 300, groups, 400, 0)
        assert interval is not None
        covered += interval[0] <= 0.4 <= interval[1]
    assert 180 <= covered <= 198


def test_large_sets_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    hits, ones = [float(i % 2) for i in range(200)], [1.0] * 200
    groups = [str(i) for i in range(200)]
    whole = bootstrap(hits, ones, groups, 1000, 0)
    monkeypatch.setattr(intervals, "_CELLS", 1500)
    pieces = bootstrap(hits, ones, groups, 1000, 0)
    assert whole is not None
    assert pieces == pytest.approx(whole, abs=0.02)


def test_all_right_is_not_certainty() -> None:
    score = intent_accuracy(["ก"] * 10, ["ก"] * 10, ["ก", "ข"])
    assert score.value == 1
    assert (score.low, score.high) == pytest.approx((0.7225, 1), abs=5e-5)
    assert "Wilson over 10 clusters" in score.note
    one_source = intent_accuracy(["ก"] * 10, ["ก"] * 10, ["ก", "ข"], clusters=["s"] * 10)
    assert one_source.low == pytest.approx(0.2065, abs=5e-5)


def test_zero_errors_say_that_the_interval_has_no_width() -> None:
    score = cer(["กขค"] * 30, ["กขค"] * 30)
    assert (score.low, score.high) == (0, 0)
    assert "no width" in score.note
    assert "no width" in macro_f1(intent_outcomes(["ก"] * 9, ["ก"] * 9, ["ก", "ข"])).note


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="clusters 1"):
        cer(["ก", "ข"], ["ก", "ข"], clusters=["s"])
    with pytest.raises(InputError, match="clusters 1"):
        ner_scores(["{}", "{}"], ["{}", "{}"], clusters=["s"])
    with pytest.raises(InputError, match="clusters 1"):
        intent_accuracy(["ก", "ก"], ["ก", "ก"], ["ก"], clusters=["s"])
