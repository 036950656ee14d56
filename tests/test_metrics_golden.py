"""Scores against answers worked by hand, and against the libraries that define the same thing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden import entities as golden_entities
from tests.golden import text as golden_text
from thaitool.errors import InputError
from thaitool.metrics.chrf import chrf, corpus_chrf
from thaitool.metrics.entities import count_entities, ner_scores
from thaitool.metrics.entity_labels import entities_of_tags, parse_entities
from thaitool.metrics.transcripts import cer
from thaitool.records import Entity, Score


def named(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def test_the_golden_sets_are_large_enough_and_without_repeats() -> None:
    assert len({row[1:3] for row in golden_text.ROWS}) >= 200
    assert len({row[1:3] for row in golden_entities.ROWS}) >= 100


@pytest.mark.parametrize("row", golden_text.ROWS, ids=lambda row: f"{row[0]}-{row[2]!a}")
def test_golden_cer(row: golden_text.Row) -> None:
    _, reference, prediction, _, edits, characters = row
    score = cer([reference], [prediction])
    assert (score.numerator, score.denominator) == (edits, characters)


@pytest.mark.parametrize("row", golden_entities.ROWS, ids=lambda row: row[0])
def test_golden_entities(row: golden_entities.Row) -> None:
    _, reference, prediction, matched, gold, predicted, same_type, distance = row
    counts = count_entities(reference, prediction)
    assert "".join(map(str, counts.matched)) == matched
    assert "".join(map(str, counts.gold)) == gold
    assert counts.invalid == (predicted == "-")
    assert "".join(map(str, counts.predicted)) == predicted.replace("-", "0000")
    assert counts.same_type == same_type
    assert counts.distance == pytest.approx(distance, abs=1e-12)


def test_entity_scores_of_the_whole_golden_set_are_the_sums_of_its_rows() -> None:
    rows = golden_entities.ROWS
    scores = named(ner_scores([row[1] for row in rows], [row[2] for row in rows], draws=20))

    def total(column: str) -> int:
        return sum(int(digit) for digit in column.replace("-", "0"))

    matched, gold, predicted = (sum(total(str(row[k])) for row in rows) for k in (3, 4, 5))
    same_type, distance = sum(row[6] for row in rows), sum(row[7] for row in rows)
    exact = sum(row[3] == row[4] == row[5] for row in rows)
    unreadable = sum(row[5] == "-" for row in rows)
    sums = {name: (score.numerator, score.denominator) for name, score in scores.items()}
    assert sums["ner_acc_all"] == (matched, gold)
    assert sums["ner_f1_micro"] == (2 * matched, gold + predicted)
    assert sums["ner_label_f1"] == (2 * same_type, gold + predicted)
    assert sums["ner_char_f1"] == pytest.approx((2 * same_type, gold + predicted + 2 * distance))
    assert sums["ner_utterance_exact"] == (exact, len(rows))
    assert sums["ner_invalid_rate"] == (unreadable, len(rows))


def test_other_entities_are_shown_from_thirty_on() -> None:
    few, enough = '{"OTH": ["กข"]}', [f'{{"OTH": ["ก{i}"]}}' for i in range(30)]
    withheld = named(ner_scores([few] * 29, [few] * 29))["ner_acc_oth"]
    assert withheld.value is None
    assert "withheld: 29 of 29, fewer than 30" in withheld.note
    assert named(ner_scores(enough, enough))["ner_acc_oth"].value == 1


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (["ก"], ["B-PER", "O"], "1 tokens and 2 tags"),
        (["ก"], ["X-PER"], "'X-PER' is not O, B-TYPE or I-TYPE"),
        (["!"], ["B-PER"], "not a text with letters or digits"),
    ],
)
def test_tags_that_cannot_be_read(tokens: list[str], tags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        entities_of_tags(tokens, tags)


def test_lines_keep_their_order_and_types() -> None:
    found = parse_entities("มะลิ\tB-PER\nไป\tO\nตรัง\tB-LOCATION\nวันนี้\tB-DATE")
    assert found == (Entity("PER", "มะลิ"), Entity("LOC", "ตรัง"), Entity("OTH", "วันนี้"))


# --- libraries

LETTERS = list("กขคงจฉabc ")


def _random_pairs(count: int) -> tuple[list[str], list[str]]:
    dice = np.random.default_rng(11)
    gold = ["".join(dice.choice(LETTERS, size=dice.integers(0, 14))) for _ in range(count)]
    told = [
        "".join(c for c in text if dice.random() > 0.3)
        + "".join(dice.choice(LETTERS, size=dice.integers(0, 3)))
        for text in gold
    ]
    return gold, told


def test_chrf_agrees_with_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="the agreement test needs sacrebleu")
    library = sacrebleu.metrics.CHRF()
    gold, told = _random_pairs(300)
    whole = library.corpus_score(told, [gold]).score
    ours = corpus_chrf(gold, told, form=str, draws=10)
    assert ours.value == pytest.approx(whole / 100, abs=1e-12)
    assert 0.3 < whole / 100 < 0.9
    for reference, prediction in zip(gold, told, strict=True):
        if reference.strip() and prediction.strip():  # of empty texts sacrebleu says 0 in all cases
            single = library.sentence_score(prediction, [reference]).score
            assert chrf(reference, prediction) == pytest.approx(single / 100, abs=1e-12)


def test_corpus_chrf_is_not_the_mean_and_has_an_interval() -> None:
    score = corpus_chrf(["กขคง", "จ"], ["กขคง", "ฉ"], draws=200)
    assert score.value == pytest.approx(0.95)  # recall and precision 4/5, 1, 1, 1 over four orders
    assert score.low is not None
    assert score.low < 0.95 <= (score.high or 0)
    assert corpus_chrf([], []).value is None


def test_entity_f1_agrees_with_seqeval_on_flat_tags() -> None:
    """Where no surface repeats within a sentence, a span and a (type, surface) are the same."""
    seqeval = pytest.importorskip("seqeval.metrics", reason="the agreement test needs seqeval")
    dice = np.random.default_rng(5)
    kinds = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    chances = [0.4, *[0.1] * 6]
    gold = [list(dice.choice(kinds, size=8, p=chances)) for _ in range(200)]
    told = [
        [tag if dice.random() > 0.25 else str(dice.choice(kinds, p=chances)) for tag in tags]
        for tags in gold
    ]
    tokens = list("กขคงจฉชซ")

    def lines(tags: list[str]) -> str:
        return "\n".join(f"{token}\t{tag}" for token, tag in zip(tokens, tags, strict=True))

    scores = named(ner_scores([*map(lines, gold)], [*map(lines, told)], draws=10))
    assert scores["ner_f1_micro"].value == pytest.approx(seqeval.f1_score(gold, told), abs=1e-12)
    recall = seqeval.recall_score(gold, told)
    assert scores["ner_acc_all"].value == pytest.approx(recall, abs=1e-12)
    by_type = seqeval.classification_report(gold, told, output_dict=True, zero_division=0)
    for kind in ("PER", "LOC", "ORG"):
        ours = scores[f"ner_acc_{kind.lower()}"].value
        assert ours == pytest.approx(by_type[kind]["recall"], abs=1e-12)
