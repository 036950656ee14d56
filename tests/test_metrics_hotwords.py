"""Hotword lists: words found, words invented, and that one list for all items scores as keywords do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaitool.errors import InputError
from thaitool.metrics.hotwords import hotword_scores, hotword_sums
from thaitool.metrics.keywords import keyword_sums
from thaitool.metrics.tasks import score_tasks
from thaitool.records import Prediction, Reference


def rates(reference: str, prediction: str, words: list[str]) -> tuple[float, float, float, float]:
    """Found, said, false, others of one item."""
    hits, false = hotword_sums([reference], [prediction], [words])
    return (
        float(hits.numerators[0]),
        float(hits.denominators[0]),
        float(false.numerators[0]),
        float(false.denominators[0]),
    )


@pytest.mark.parametrize(
    ("reference", "prediction", "words", "expected"),
    [
        ("ไปหาสมชาย", "ไปหาสมชาย", ["สมชาย", "สมศรี"], (1, 1, 0, 1)),
        ("ไปหาสมชาย", "ไปหาสมศรี", ["สมชาย", "สมศรี"], (0, 1, 1, 1)),
        # Written twice is false once, and more often than said is not found more often.
        ("ไปหาสมชาย", "สมศรีสมศรีสมชายสมชาย", ["สมชาย", "สมศรี"], (1, 1, 1, 1)),
        ("สมชายสมชาย", "สมชาย", ["สมชาย"], (1, 2, 0, 0)),
        # Spaces and the two ways to write sara am play no part; a longer word is not its beginning.
        ("ท่าน\u0e4d\u0e32 ชัย", "ท่านำชัย", ["ท่านำชัย", "นำ"], (1, 1, 0, 1)),
        ("กรุงเทพมหานคร", "กรุงเทพ", ["กรุงเทพ", "กรุงเทพมหานคร"], (0, 1, 1, 1)),
        ("ก", "ข", [], (0, 0, 0, 0)),
        ("ก", "ข", ["", " "], (0, 0, 0, 0)),
    ],
)
def test_by_hand(
    reference: str, prediction: str, words: list[str], expected: tuple[float, ...]
) -> None:
    assert rates(reference, prediction, words) == expected


WORD = st.text("กขคา", min_size=1, max_size=3).filter(lambda w: w[0] != "า")
TEXTS = st.lists(st.text("กขคา ", max_size=12), min_size=3, max_size=3)


@given(TEXTS, TEXTS, st.lists(WORD, min_size=1, max_size=5, unique=True))
def test_one_list_for_all_is_found_as_keywords_are(
    gold: list[str], told: list[str], words: list[str]
) -> None:
    ours = hotword_sums(gold, told, [words] * 3)[0]
    theirs = keyword_sums(gold, told, words)[0]
    assert np.array_equal(ours.numerators, theirs.numerators)
    assert np.array_equal(ours.denominators, theirs.denominators)


def test_scores_have_intervals_and_say_how_long_lists_are() -> None:
    hits, false = hotword_scores(
        ["ไปหาสมชาย", "พบมานี"], ["ไปหาสมชาย", "พบปิติ"], [["สมชาย", "ปิติ"], ["มานี", "ปิติ"]], draws=50
    )
    assert (hits.name, hits.value, false.name, false.value) == (
        *("hotword_hit_rate", 0.5),
        *("hotword_false_rate", 0.5),
    )
    assert hits.note.startswith("lists of 2 words on average")
    with pytest.raises(InputError, match="equally long"):
        hotword_scores(["ก"], ["ก"], [])


def score(task: str, gold: list[str], told: list[str], **more: Any) -> dict[str, float | None]:
    references = [Reference(f"u{k}", task, text, f"s{k}", "p") for k, text in enumerate(gold)]
    answers = [Prediction(f"u{k}", task, text) for k, text in enumerate(told)]
    (found,) = score_tasks(references, answers, draws=20, **more)
    assert found.task == task
    assert [c.name for c in found.columns] == [
        s.name for s in found.scores if s.name in {c.name for c in found.columns}
    ]
    return {s.name: s.value for s in found.scores}


def test_a_task_of_ones_own_is_scored_as_the_one_it_names() -> None:
    gold, told = ["ดี", "ร้าย", "ดี"], ["ดี", "ดี", "อื่น"]
    labels = {"mood": ["ดี", "ร้าย"]}
    own = score("mood", gold, told, kinds={"mood": "ic"}, labels=labels)
    assert own == score("ic", gold, told, closed_set=["ดี", "ร้าย"])
    assert own["ic_accuracy"] == pytest.approx(1 / 3)
    assert score("title", gold, told, kinds={"title": "asr"}) == score("asr", gold, told)
    with pytest.raises(InputError, match="closed set"):
        score("mood", gold, told, kinds={"mood": "ic"})
    with pytest.raises(InputError, match=r"References have tasks \['mood'\]"):
        score("mood", gold, told)


def test_lists_add_two_scores_to_tasks_of_text() -> None:
    gold, told = ["ไปหาสมชาย", "พบมานี"], ["ไปหาสมชาย", "พบปิติ"]
    lists = {"u0": ["สมชาย"], "u1": ["มานี", "ปิติ"]}
    found = score("asr", gold, told, hotwords=lists)
    assert (found["hotword_hit_rate"], found["hotword_false_rate"]) == (0.5, 1.0)
    plain = score("asr", gold, told)
    assert {**plain, **found} == found
    assert "hotword_hit_rate" not in plain
    intents = score("ic", ["ก"], ["ก"], closed_set=["ก", "ข"], hotwords={"u0": ["ก"]})
    assert "hotword_hit_rate" not in intents
