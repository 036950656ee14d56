"""Retrieval, the shape of paths, wrong pairs and the words for them: hand-worked cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.models.align_judge import (
    BASELINES,
    COMPARED,
    alarms,
    beside,
    pair_up,
    path_figures,
    path_metrics,
    retrieval,
    verdict,
)


def test_retrieval_by_hand() -> None:
    # Clips 0 and 1 say the same; clip 2 finds the text of these before its own; clip 3 is right.
    texts = torch.eye(3)
    said = torch.tensor([0, 0, 1, 2])
    speech = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.3, 0.0], [0.8, 0.5, 0.0], [0.1, 0.0, 0.9]])
    found = retrieval(speech, texts, said)
    assert found["retrieval_r1"] == pytest.approx(3 / 4)
    assert found["retrieval_r5"] == found["retrieval_r10"] == 1
    assert found["retrieval_mrr"] == pytest.approx((1 + 1 + 1 / 2 + 1) / 4)
    # Text 1 is nearest to clip 2, which says it; texts 0 and 2 find theirs as well.
    assert found["text_retrieval_mrr"] == 1
    # Taken for right: clips 0 and 1 say text 2, clip 2 says text 0, clip 3 text 1.
    wrong = retrieval(speech, texts, torch.tensor([2, 2, 0, 1]))
    # As near counts as nearer: clip 3 is as far from text 1 as any other, and clips 0 to 2 likewise from theirs.
    assert wrong["retrieval_r1"] == 1 / 4
    assert wrong["retrieval_mrr"] == pytest.approx((1 / 3 + 1 / 3 + 1 + 1 / 3) / 4)
    # Two clips are nearer to text 0 than clip 2, all others to text 1 than clip 3 (or as near), two to text 2.
    assert wrong["text_retrieval_mrr"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 3) / 3)


def test_retrieval_without_discrimination_is_no_success() -> None:
    collapsed = torch.ones(5, 4)
    found = retrieval(collapsed, collapsed, torch.arange(5))
    assert found["retrieval_r1"] == found["text_retrieval_r1"] == 0.0
    assert found["retrieval_r5"] == 1.0
    assert found["retrieval_mrr"] == pytest.approx(1 / 5)


def test_a_space_without_numbers_finds_nothing() -> None:
    broken = torch.full((5, 4), float("nan"))
    found = retrieval(broken, torch.ones(5, 4), torch.arange(5))
    assert found["retrieval_r1"] == found["text_retrieval_r1"] == 0.0
    assert found["retrieval_mrr"] == pytest.approx(1 / 5)


def test_transcripts_that_nobody_says_are_not_asked_for() -> None:
    found = retrieval(torch.eye(3)[:1], torch.eye(3), torch.tensor([0]))
    assert found["text_retrieval_r1"] == 1.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("กขคงจ"), min_size=1, max_size=30),
    st.integers(0, 3),
)
def test_wrong_pairs_are_wrong_and_repeatable(texts: list[str], seed: int) -> None:
    seconds = [0.5 + 0.1 * (7 * i % 11) for i in range(len(texts))]
    pairs = pair_up(texts, seconds, seed)
    assert [pairs.texts[int(t)] for t in pairs.said] == texts
    assert len(set(pairs.texts)) == len(pairs.texts) == len(set(texts))
    if len(set(texts)) == 1:
        assert not pairs.wrong
        return
    assert tuple(pairs.wrong) == BASELINES
    for wrong in pairs.wrong.values():
        assert bool((wrong != pairs.said).all())
    again = pair_up(texts, seconds, seed)
    assert all(torch.equal(pairs.wrong[b], again.wrong[b]) for b in BASELINES)


def test_shuffled_audio_comes_from_neighbours_in_length() -> None:
    seconds = [1.0, 9.0, 2.0, 8.0, 3.0]
    wrong = pair_up(list("กขคงจ"), seconds, 0).wrong["shuffled_audio"]
    # By length: 0, 2, 4, 3, 1, and round again.
    assert wrong.tolist() == [2, 0, 4, 1, 3]


def figures(
    speech: torch.Tensor, frames: list[int], chosen: list[list[int]]
) -> list[dict[str, float]]:
    """Of texts 0 (tokens a, b) and 1 (tokens c, d), in four dimensions."""
    text = torch.eye(4).view(2, 2, 4)
    found = path_figures(
        *(speech, text, torch.tensor(frames), torch.tensor([2, 2]), torch.tensor(chosen)),
        speech_mean=torch.zeros(4),
        text_mean=torch.zeros(4),
    )
    return path_metrics(found)


def test_path_figures_by_hand() -> None:
    a, b, _, _ = torch.eye(4)
    even = torch.stack([a, a, b, b])  # two frames each
    late = torch.stack([a, a, a, b])  # three and one
    own, other = figures(torch.stack([even, late]), [4, 4], [[0, 1], [0, 1]])
    assert own["one_frame_share"] == 1 / 4
    assert own["largest_share"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert own["path_cost"] == pytest.approx(0.0, abs=1e-6)
    # Middles of tokens are 1/4 and 3/4, those of frames 1/8, 3/8, 5/8, 7/8: the even path is off by 1/8 everywhere.
    assert own["diagonal_drift"] == pytest.approx((1 / 8 + (1 / 8 + 1 / 8 + 3 / 8 + 1 / 8) / 4) / 2)
    assert other["path_cost"] == pytest.approx(1.0)


def test_padding_is_in_no_path_figure() -> None:
    a, b, _, _ = torch.eye(4)
    short = torch.stack([a, b, b, torch.full((4,), float("nan"))])
    full = torch.stack([a, a, b, b])
    together = figures(torch.stack([full, short]), [4, 3], [[0], [0]])[0]
    alone = [figures(x[None], [n], [[0]])[0] for x, n in ((full, 4), (short[:3], 3))]
    for name, value in together.items():
        assert value == pytest.approx((alone[0][name] + alone[1][name]) / 2, abs=1e-6)


GOOD = {
    "one_frame_share": 0.1,
    "largest_share": 0.12,
    "retrieval_r1": 0.9,
    "transcripts": 100.0,
    "frames_per_token": 6.0,
    "tokens_per_text": 12.0,
    "diagonal_drift": 0.05,
    "diagonal_drift_random_pair": 0.2,
    "probe_cer": 0.4,
    "probe_cer_random_pair": 0.95,
    "blank_share": 0.7,
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"one_frame_share": 0.6}, "The path has collapsed: 60% of the tokens"),
        ({"largest_share": 0.5}, "the longest token takes 50% of a path. Use method: dtw with"),
        # Half the path is much for one of twelve tokens, and nothing for one of two.
        ({"largest_share": 0.5, "tokens_per_text": 2.0}, None),
        ({"one_frame_share": 0.6, "frames_per_token": 1.5}, "Tokens have 1.5 frames on average"),
        ({"retrieval_r1": 0.015}, "Speech does not find its transcript: R@1 1.5%, chance is 1.0%"),
        # Of two transcripts chance finds half: nine in ten is success, two in three is not.
        ({"retrieval_r1": 0.9, "transcripts": 2.0}, None),
        ({"retrieval_r1": 0.66, "transcripts": 2.0}, "R@1 66.0%, chance is 50.0%"),
        ({"diagonal_drift": 0.3}, "further from the straight line (0.30) than those of random"),
        ({"probe_cer": 0.93}, "Frames do not hold what was said"),
        ({"blank_share": 0.99}, "CTC says nothing: 99.0% of the frames are blank"),
    ],
)
def test_alarms(changes: dict[str, float], said: str | None) -> None:
    found = alarms({**GOOD, **changes})
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize(
    ("share", "r1", "begins"),
    [
        (0.6, 0.9, "COLLAPSED or not aligned: one-frame tokens 60%, retrieval R@1 90%"),
        (0.05, 0.15, "COLLAPSED or not aligned"),  # chance is 10 %: below twice that
        (0.3, 0.9, "partly aligned"),
        (0.15, 0.9, "aligned: one-frame tokens 15%, retrieval R@1 90% (chance 10.0%)"),
    ],
)
def test_verdicts(share: float, r1: float, begins: str) -> None:
    metrics = {"one_frame_share": share, "retrieval_r1": r1, "transcripts": 10.0}
    metrics["frames_per_token"] = 6.0
    assert verdict(metrics).startswith(begins)
    assert "probe" not in verdict(metrics)
    assert "probe CER 40%" in verdict({**GOOD, **metrics})


def test_verdict_and_alarm_agree_where_tokens_have_few_frames() -> None:
    few = {**GOOD, "one_frame_share": 0.6, "frames_per_token": 1.5}
    assert verdict(few).startswith("not to be told, as tokens have too few frames")


def test_one_transcript_is_no_failure_to_find_it() -> None:
    one = {**GOOD, "retrieval_r1": 1.0, "transcripts": 1.0}
    assert verdict(one).startswith("aligned")
    assert not alarms(one)


def test_wrong_pairs_stand_beside_the_true_ones() -> None:
    metrics = {"retrieval_mrr": 0.5, "transcripts": 4.0}
    metrics |= {f"retrieval_mrr_{b}": 0.25 for b in BASELINES}
    assert "retrieval_mrr" in COMPARED
    assert beside(metrics) == [
        ("retrieval_mrr", "0.5000  (random pair 0.2500, shuffled audio 0.2500)"),
        ("transcripts", "4.0000"),
    ]
