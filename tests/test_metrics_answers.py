"""The fifth task, spoken instruction to answer: what its measures count, and that they are called weak."""

from __future__ import annotations

import pytest

from thaitool.errors import InputError
from thaitool.metrics.answers import answer_sums
from thaitool.metrics.tasks import score_tasks
from thaitool.records import PUBLISHED_TASKS, TASKS, Prediction, Reference
from thaitool.text.prompts import task_prompt


def test_qa_is_a_task_beside_the_published_ones_with_a_prompt_of_its_own() -> None:
    assert (*PUBLISHED_TASKS, "qa") == TASKS
    prompts = [task_prompt(task) for task in TASKS]
    assert len(set(prompts)) == len(TASKS)


def test_chrf_of_an_answer_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="the agreement test needs sacrebleu")
    library = sacrebleu.metrics.CHRF()
    gold = ["ดื่มน้ำให้เพียงพอทุกวัน", "กรุงเทพมหานคร"]
    told = ["ควรดื่มน้ำทุกวัน", "เชียงใหม่"]
    chrf, exact = answer_sums(gold, told)
    others = [library.sentence_score(t, [g]).score / 100 for g, t in zip(gold, told, strict=True)]
    assert chrf.numerators.tolist() == pytest.approx(others)
    assert exact.numerators.tolist() == [0, 0]


def test_equality_is_that_of_the_normal_form_without_spaces() -> None:
    _, exact = answer_sums(["สอง คน", "น้ำ", "ใช่"], ["สองคน", "นํ้า", "ไม่ใช่"])
    assert exact.numerators.tolist() == [1, 1, 0]  # the second: nikhahit and aa for sara am
    assert "weak" in exact.note


def test_an_item_without_a_right_answer_is_in_no_rate() -> None:
    references = [Reference(i, "qa", text, i, "s") for i, text in (("a", "ใช่"), ("b", ""))]
    predictions = [Prediction("a", "qa", "ใช่"), Prediction("b", "qa", "อะไรก็ได้")]
    (result,) = score_tasks(references, predictions, draws=50)
    scores = {s.name: s for s in result.scores}
    assert [s.name for s in result.scores] == [
        "qa_proxy_chrf",
        "qa_proxy_exact",
        "qa_proxy_corpus_chrf",
    ]
    exact = scores["qa_proxy_exact"]
    assert (exact.numerator, exact.denominator) == (1, 1)
    assert "1 empty references left out" in exact.note
    assert [item.error for item in result.items] == [0, 1]


def test_lists_must_be_equally_long() -> None:
    with pytest.raises(InputError, match="equally long"):
        answer_sums(["ก"], [])
