"""Comparisons of two systems, worked by hand and by simulation; clusters of two kinds at once."""

from __future__ import annotations

import numpy as np
import pytest

from thaitool.errors import InputError
from thaitool.metrics import intervals
from thaitool.metrics.chrf import chrf_pooled, corpus_chrf
from thaitool.metrics.compare import (
    NOISE,
    SAME,
    UNKNOWN,
    Comparison,
    compare,
    compare_pooled,
    holm,
    mcnemar,
)
from thaitool.metrics.intents import intent_outcomes, macro_f1_pooled
from thaitool.metrics.intervals import bootstrap, cluster_kinds, item_weights
from thaitool.metrics.paired import compare_each, compare_tasks, on_common_items
from thaitool.metrics.sums import ItemSums, item_sums, scores_of, select
from thaitool.metrics.tasks import TaskScores, score_tasks, slice_scores
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Prediction, Reference


def right(answers: list[int], name: str = "ic_accuracy") -> ItemSums:
    return item_sums(name, answers, [1.0] * len(answers))


# --- McNemar and Holm


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1), (1, 0, 1), (0, 5, 2 / 32), (1, 9, 2 * 11 / 1024), (5, 5, 1), (0, 10, 2 / 1024)],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, rel=1e-12)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_of_many_items_is_the_normal_limit() -> None:
    """b = 50,000 against 50,632: z = 632 / sqrt(100,632) = 1.9923, two-sided p .0463."""
    assert mcnemar(50_000, 50_632) == pytest.approx(0.0464, abs=3e-4)


def _plain(p: float | None, difference: float = 0.1) -> Comparison:
    low, high = (0.01, 0.2) if difference > 0 else (-0.2, -0.01)
    return Comparison(
        "m",
        0.5,
        0.5 + difference,
        difference,
        low,
        high,
        0.9,
        p,
        10,
        10,
        "better" if p else UNKNOWN,
    )


def test_holm_by_hand() -> None:
    """.01 x 4 = .04, .015 x 3 = .045, then .04 x 2 = .08, then .02 would be below: .08."""
    found = holm(
        [_plain(0.04), _plain(0.01), _plain(None), _plain(0.015), _plain(0.05)], [True] * 5
    )
    assert [c.p_holm for c in found] == [
        pytest.approx(0.08),
        pytest.approx(0.04),
        None,
        pytest.approx(0.045),
        pytest.approx(0.08),
    ]
    assert [c.verdict for c in found] == [NOISE, "better", UNKNOWN, "better", NOISE]


def test_holm_says_worse_by_the_direction_of_the_metric() -> None:
    assert holm([_plain(0.001)], [False])[0].verdict == "worse"
    assert holm([_plain(0.001, -0.1)], [False])[0].verdict == "better"


# --- compare


def test_a_clear_difference() -> None:
    found = compare(right([0] * 40 + [1] * 60), right([1] * 100), each_alone(100), seed=1)
    assert (found.a, found.b) == (0.6, 1.0)
    assert found.difference == pytest.approx(0.4)
    assert found.low is not None
    assert found.high is not None
    assert 0.28 < found.low < 0.4 < found.high < 0.52
    assert (found.only_a_right, found.only_b_right) == (0, 40)
    assert found.mcnemar_p == pytest.approx(2 / 2**40)
    assert found.probability_better == 1
    assert found.p_value == pytest.approx(2 / 2001)
    assert found.verdict == "better"


def test_the_direction_follows_the_metric() -> None:
    a = item_sums("cer", [0] * 50, [10] * 50, is_share=False, higher_is_better=False)
    b = item_sums("cer", [3] * 25 + [2] * 25, [10] * 50, is_share=False, higher_is_better=False)
    found = compare(a, b, each_alone(50))
    assert found.difference == 0.25
    assert found.verdict == "worse"
    assert found.probability_better == 0
    assert found.mcnemar_p is None
    back = compare(b, a, each_alone(50))
    assert (back.verdict, back.difference) == ("better", -0.25)
    assert (back.low, back.high) == (-(found.high or 0), -(found.low or 0))


def test_exchanged_answers_are_noise_although_every_item_differs() -> None:
    found = compare(right([0, 1] * 30), right([1, 0] * 30), each_alone(60))
    assert found.difference == 0
    assert found.mcnemar_p == 1
    assert found.verdict == NOISE


def test_the_same_answers_are_said_to_be_the_same() -> None:
    found = compare(right([0, 1, 1]), right([0, 1, 1]), each_alone(3))
    assert (found.verdict, found.difference, found.p_value) == (SAME, 0, 1)


def test_pairing_finds_what_separate_intervals_do_not() -> None:
    """One item in ten improves and none gets worse; the two intervals overlap widely."""
    a, b = right(([0] * 5 + [1] * 5) * 20), right(([0] * 4 + [1] * 6) * 20)
    alone = each_alone(200)
    one, two = scores_of([a], alone)[0], scores_of([b], alone)[0]
    assert (one.high or 0) > (two.low or 1)
    assert compare(a, b, alone).verdict == "better"


def test_clusters_are_drawn_whole() -> None:
    """Two hundred items, but the difference comes from two of ten source items."""
    a = right([0] * 200)
    b = right([1] * 40 + [0] * 160)
    assert compare(a, b, each_alone(200)).verdict == "better"
    clustered = compare(a, b, [str(i // 20) for i in range(200)])
    assert clustered.verdict == NOISE
    assert "only 10 clusters" in clustered.note


def test_one_cluster_cannot_tell() -> None:
    found = compare(right([0, 0]), right([1, 1]), ["s", "s"])
    assert found.verdict == UNKNOWN
    assert found.low is None
    assert "share one cluster" in found.note


def test_false_alarms_are_about_five_in_a_hundred() -> None:
    dice = np.random.default_rng(8)
    alarms = 0
    for _ in range(300):
        chances = np.repeat(dice.beta(2, 2, size=60), 3)
        a, b = (right(list((dice.random(180) < chances).astype(int))) for _ in range(2))
        groups = [str(i // 3) for i in range(180)]
        alarms += compare(a, b, groups, draws=400).verdict not in {NOISE, SAME}
    assert alarms <= 24  # .05 of 300 is 15, and 24 is its 99th percentile


def test_other_metrics_and_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="these are ic_accuracy and other"):
        compare(right([1]), right([1], "other"), ["s"])
    with pytest.raises(InputError, match="a 1, b 2, clusters 1"):
        compare(right([1]), right([1, 0]), ["s"])


def test_too_little_is_not_compared() -> None:
    few = item_sums("ner_acc_oth", [1.0], [1.0], least=30)
    found = compare(few, few, ["s"])
    assert (found.a, found.verdict) == (None, UNKNOWN)


# --- metrics of whole test sets


def test_macro_f1_is_redrawn_as_a_test_set_of_the_same_items() -> None:
    """Brute force: the items of each draw listed as often as they were drawn, and scored from the start."""
    dice = np.random.default_rng(4)
    names = ["ก", "ข", "ค"]
    gold = [names[k] for k in dice.integers(3, size=40)]
    a, b = ([*names, "นอก"] for _ in range(2))
    told = [[c[k] for k in dice.integers(4, size=40)] for c in (a, b)]
    groups = [str(k // 4) for k in range(40)]
    one, two = (macro_f1_pooled(intent_outcomes(gold, t, names)) for t in told)
    found = compare_pooled(one, two, groups, draws=30, seed=9)
    moved = []
    for weights in item_weights(cluster_kinds(groups), 30, 9):
        for row in weights.tolist():
            rates = []
            for answers in told:
                listed = [k for k, times in enumerate(row) for _ in range(times)]
                f1 = []
                for name in names:
                    right = sum(gold[k] == answers[k] == name for k in listed)
                    both = sum((gold[k] == name) + (answers[k] == name) for k in listed)
                    f1.append(2 * right / both if both else 0.0)
                rates.append(sum(f1) / 3)
            moved.append(rates[1] - rates[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(moved, (2.5, 97.5))))
    assert found.difference == pytest.approx((found.b or 0) - (found.a or 0))
    assert (found.items, found.clusters, found.verdict) == (40, 10, NOISE)


def test_corpus_chrf_of_paired_systems() -> None:
    gold = [f"วันนี้อากาศดีมาก {k}" for k in range(60)]
    worse = [text[:-4] for text in gold]
    groups = each_alone(60)
    a, b = chrf_pooled(gold, worse), chrf_pooled(gold, gold)
    found = compare_pooled(a, b, groups, draws=200)
    assert found.a == corpus_chrf(gold, worse, draws=1).value
    assert (found.b, found.verdict) == (1, "better")
    assert compare_pooled(b, b, groups).verdict == SAME
    assert compare_pooled(a, b, ["s"] * 60).verdict == UNKNOWN
    nothing = chrf_pooled([], [])
    assert compare_pooled(nothing, nothing, []).verdict == UNKNOWN
    with pytest.raises(InputError, match="these are chrf and other"):
        compare_pooled(a, chrf_pooled(gold, gold, name="other"), groups)


def test_many_cells_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(1)
    column = item_sums("m", dice.integers(9, size=50).tolist(), [9.0] * 50)
    groups = [(f"s{k}", f"p{k % 25}") for k in range(50)]
    usual = scores_of([column], groups, draws=50)
    monkeypatch.setattr(intervals, "_MOST_CELLS", 10)
    assert scores_of([column], groups, draws=50) == usual


# --- tasks


def test_tasks_are_paired_by_id_and_corrected_together() -> None:
    references = [
        *(Reference(f"i{i}", "ic", "กข"[i % 2], f"s{i}", f"p{i % 40}") for i in range(120)),
        *(Reference(f"a{i}", "asr", "กขคง", f"s{i}", f"p{i % 40}") for i in range(120)),
    ]
    one = [Prediction(r.id, r.task, "ก" if r.task == "ic" else "กขค") for r in references]
    two = [Prediction(r.id, r.task, r.text) for r in reversed(references)]
    a, b = (score_tasks(references, p, closed_set=["ก", "ข"], draws=300) for p in (one, two))
    found = compare_tasks(a, b, draws=500)
    assert [task.task for task in found] == ["asr", "ic"]
    heads = [task.comparisons[0] for task in found]
    assert [head.name for head in heads] == ["cer", "ic_accuracy"]
    assert [head.verdict for head in heads] == ["better", "better"]
    assert [head.difference for head in heads] == [-0.25, 0.5]
    assert all(head.p_holm == pytest.approx(2 * (head.p_value or 0)) for head in heads)
    assert all(c.p_holm is None for task in found for c in task.comparisons[1:])


def test_several_systems_are_corrected_together_on_the_items_that_both_answered() -> None:
    references = [Reference(f"i{k}", "ic", "กข"[k % 2], f"s{k}", f"s{k}") for k in range(80)]

    def answered(count: int, wrong: int) -> tuple[TaskScores, ...]:
        told = [
            Prediction(r.id, "ic", "ค" if k < wrong else r.text)
            for k, r in enumerate(references[:count])
        ]
        return score_tasks(references[:count], told, closed_set=["ก", "ข"], draws=20)

    own = answered(80, 40)
    pairs = [on_common_items(own, answered(count, 0)) for count in (80, 60)]
    assert [pair[0][0].count for pair in pairs] == [80, 60]
    (whole,), (part,) = compare_each(pairs, draws=200)
    assert [c.name for c in whole.comparisons] == ["ic_accuracy", "ic_invalid_rate", "ic_macro_f1"]
    heads = [whole.comparisons[0], part.comparisons[0]]
    assert [(c.a, c.b, c.items) for c in heads] == [(0.5, 1, 80), (1 / 3, 1, 60)]
    assert [c.p_holm for c in heads] == pytest.approx([2 * (c.p_value or 0) for c in heads])
    assert all(c.verdict == "better" for c in (*whole.comparisons, *part.comparisons))
    nothing = score_tasks(
        [Reference("x", "asr", "ก", "s", "p")], [Prediction("x", "asr", "ก")], draws=20
    )
    assert on_common_items(own, nothing) == ([], [])


def test_tasks_with_other_items_are_refused() -> None:
    def made(items: list[str], text: str = "ก") -> tuple[list[Reference], list[Prediction]]:
        refs = [Reference(i, "asr", text, i, i) for i in items]
        return refs, [Prediction(i, "asr", "ก") for i in items]

    a = score_tasks(*made(["1", "2", "3"]), draws=20)
    with pytest.raises(InputError, match="1 are only in a, 2 only in b, and 0 have another"):
        compare_tasks(a, score_tasks(*made(["1", "2", "4", "5"]), draws=20))
    with pytest.raises(InputError, match="0 are only in a, 0 only in b, and 3 have another"):
        compare_tasks(a, score_tasks(*made(["1", "2", "3"], "ข"), draws=20))
    with pytest.raises(InputError, match="share no task"):
        compare_tasks(a, ())


def test_a_slice_is_the_score_of_its_items_alone() -> None:
    references = [Reference(str(i), "asr", "กขคง", str(i), f"p{i % 25}") for i in range(60)]
    predictions = [Prediction(r.id, "asr", "กขคง"[: 2 + i % 3]) for i, r in enumerate(references)]
    whole = score_tasks(references, predictions, draws=100)[0]
    rows = np.arange(0, 60, 2)
    alone = score_tasks([references[i] for i in rows], [predictions[i] for i in rows], draws=100)[0]
    sliced = slice_scores(whole, rows, draws=100)
    assert [(s.name, s.numerator, s.denominator, s.low, s.high) for s in sliced] == [
        (s.name, s.numerator, s.denominator, s.low, s.high) for s in alone.scores
    ]
    assert select(whole.columns[0], rows).note == ""


# --- two kinds of clusters


def test_items_in_two_kinds_of_clusters_are_drawn_by_both() -> None:
    """Every speaker reads every sentence; half of the speakers fail. Sentences alone cannot see it."""
    speakers, sentences = 30, 30
    hits = [float(p % 2) for p in range(speakers) for _ in range(sentences)]
    by_sentence = [f"s{s}" for _ in range(speakers) for s in range(sentences)]
    by_both = [(f"s{s}", f"p{p}") for p in range(speakers) for s in range(sentences)]
    by_speaker = [p for _, p in by_both]
    ones = [1.0] * len(hits)

    def width(clusters: list[str] | list[tuple[str, str]]) -> float:
        low, high = bootstrap(hits, ones, clusters) or (0, 0)
        return high - low

    assert width(by_sentence) == 0
    assert width(by_both) == pytest.approx(width(by_speaker), rel=0.1)


def test_kinds_that_add_nothing_are_dropped() -> None:
    sources = [f"s{i}" for i in range(80)]
    one_speaker = [(s, "p") for s in sources]
    assert bootstrap([0, 1] * 40, [1] * 80, one_speaker) == bootstrap(
        [0, 1] * 40, [1] * 80, sources
    )
    nested = [(s, f"p{i // 2}") for i, s in enumerate(sources)]
    assert [int(kind.max()) + 1 for kind in cluster_kinds(nested)] == [40]
    few = [(s, f"p{i // 20}") for i, s in enumerate(sources)]
    assert [int(kind.max()) + 1 for kind in cluster_kinds(few)] == [80, 4]
    same = [(s, s) for s in sources]
    assert [int(kind.max()) + 1 for kind in cluster_kinds(same)] == [80]


def test_kinds_of_clusters_must_agree() -> None:
    with pytest.raises(InputError, match=r"the lengths are \[0, 2\]"):
        bootstrap([0, 1], [1, 1], ["a", ("b", "c")])


def test_interval_covers_the_truth_when_speakers_and_sentences_vary() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(150):
        hard, skilled = generator.normal(0, 1, (25, 1)), generator.normal(0, 1, (1, 25))
        values = hard + skilled + generator.normal(0, 1, (25, 25))
        pairs = [(f"s{i}", f"p{j}") for i in range(25) for j in range(25)]
        low, high = bootstrap(list(values.ravel()), [1.0] * 625, pairs, 400, 0) or (1, 1)
        covered += low <= 0 <= high
    assert 135 <= covered <= 150


def test_drawing_in_pieces_keeps_two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"s{i % 21}", f"p{i % 23}") for i in range(300)]
    hits = [float(i % 3 == 0) for i in range(300)]
    whole = bootstrap(hits, [1.0] * 300, pairs, 1000)
    monkeypatch.setattr(intervals, "_CELLS", 5000)
    assert bootstrap(hits, [1.0] * 300, pairs, 1000) == pytest.approx(whole, abs=0.02)
