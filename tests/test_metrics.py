"""Metrics: numbers worked by hand, agreement with jiwer, intervals that cover, strict joins."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jiwer
import numpy as np
import pytest

from thaitool.errors import InputError
from thaitool.metrics.entities import count_entities, ner_scores, parse_entities
from thaitool.metrics.intents import (
    chance,
    intent_accuracy,
    intent_outcomes,
    invalid_rate,
    macro_f1,
)
from thaitool.metrics.join import Pair, join
from thaitool.metrics.monitors import collapse_monitors
from thaitool.metrics.rephrase import chrf, sr_proxies
from thaitool.metrics.tasks import TaskScores, score_tasks
from thaitool.metrics.transcripts import cer, cer_raw, cer_with_spaces
from thaitool.records import Entity, Prediction, Reference, Score


def named(scores: Sequence[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def reference(item: str, task: str, text: str, source: str | None = None) -> Reference:
    return Reference(item, task, text, source or item, "speaker")


# --- transcripts


def test_cer_by_hand() -> None:
    score = cer(["ขาว", "กินข้าว"], ["ข้าว", "กินข่าว"])
    assert (score.numerator, score.denominator, score.value) == (2, 10, 0.2)
    assert score.low is not None
    assert score.high is not None
    assert score.low <= 0.2 <= score.high


def test_cer_is_corpus_level_not_a_mean_of_rates() -> None:
    assert cer(["ก", "กขคงจฉชซฌ"], ["ฮ", "กขคงจฉชซฌ"]).value == 0.1


def test_cer_forgives_typing_and_spaces_only() -> None:
    typed = ["น\u0e4d\u0e49\u0e32 เเข็ง ๓ ก้อน!"]
    right = ["น้ำแข็ง3ก้อน"]
    assert cer(right, typed).value == 0
    assert cer_with_spaces(right, typed).numerator == 3
    assert cer_raw(right, typed).numerator > 3
    assert cer(["ข่าว"], ["ข้าว"]).value == 0.25


def test_cer_over_one_and_empty_predictions() -> None:
    assert cer(["กข"], ["คงจฉช"]).value == 2.5
    empty = cer(["กข", "คงจ"], ["", ""])
    assert (empty.numerator, empty.denominator) == (5, 5)


def test_empty_references_are_left_out_and_counted() -> None:
    score = cer(["กข", "", "...", "คง"], ["กข", "ยาว", "", "คฮ"])
    assert (score.numerator, score.denominator) == (1, 4)
    assert "2 empty references left out (1 got text)" in score.note
    nothing = cer([""], ["ก"])
    assert nothing.value is None
    assert nothing.low is None


def test_cer_agrees_with_jiwer_on_latin_text() -> None:
    dice = np.random.default_rng(7)
    texts = [
        " ".join("".join(dice.choice(list("abcde"), size=4)) for _ in range(5)) for _ in range(60)
    ]
    heard = ["".join(c for c in text if dice.random() > 0.2) + "x" for text in texts]
    heard = [" ".join(text.split()) for text in heard]
    spaced = cer_with_spaces(texts, heard, draws=10)
    assert spaced.value == pytest.approx(jiwer.cer(texts, heard), abs=1e-12)
    bare = [text.replace(" ", "") for text in texts], [text.replace(" ", "") for text in heard]
    assert cer(texts, heard, draws=10).value == pytest.approx(jiwer.cer(*bare), abs=1e-12)


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(InputError, match="references 2, predictions 1"):
        cer(["ก", "ข"], ["ก"])


# --- intents


def test_intents_by_hand() -> None:
    outcomes = intent_outcomes(["ก", "ก", "ข"], ["ก", "ข", "ข"], ["ก", "ข", "ค"])
    f1 = macro_f1(outcomes)
    assert f1.numerator == pytest.approx(4 / 3)
    assert f1.denominator == 2
    assert [score.value for score in chance(outcomes)] == pytest.approx([1 / 3, 2 / 3])
    assert intent_accuracy(["ก", "ก", "ข"], ["ก", "ข", "ข"], ["ก", "ข"]).value == 2 / 3


def test_answers_outside_the_set_are_wrong_and_invalid() -> None:
    outcomes = intent_outcomes(["ก", "ข", "ก", "ข"], [" ก!", "", "กก", "ก"], ["ก", "ข"])
    assert outcomes.correct == (True, False, False, False)
    assert invalid_rate(outcomes).value == 0.5


def test_constant_answer_scores_the_majority_share() -> None:
    gold = ["ก"] * 6 + ["ข"] * 4
    outcomes = intent_outcomes(gold, ["ก"] * 10, ["ก", "ข"])
    assert intent_accuracy(gold, ["ก"] * 10, ["ก", "ข"]).value == chance(outcomes)[1].value == 0.6
    assert macro_f1(outcomes).value == pytest.approx((2 * 6 / 16) / 2)


@pytest.mark.parametrize(
    ("closed_set", "message"),
    [
        ([], "0 names that give 0 forms"),
        (["ก", "ก "], "2 names that give 1 forms"),
        (["ก", "?"], "different, non-empty names"),
        (["ข"], r"1 reference labels are not in the closed set of 1 intents: \['ก'\]"),
    ],
)
def test_closed_set_is_checked(closed_set: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        intent_accuracy(["ก"], ["ก"], closed_set)


# --- entities

PER, LOC, OTH = Entity("PER", "สมชาย"), Entity("LOC", "ชลบุรี"), Entity("OTH", "แกงส้ม")
READABLE = {
    '{"บุคคล": ["สมชาย"], "สถานที่": ["ชลบุรี"], "องค์กร": [], "อื่นๆ": ["แกงส้ม"]}': (PER, LOC, OTH),
    '{"PER": ["สมชาย"], "MISC": ["แกงส้ม"]}': (PER, OTH),
    '{"บุคคล": ["สมชาย"], "บุคคล": ["สมชาย"]}': (PER, PER),
    '[{"type": "per", "text": "สมชาย"}, {"surface": "ชลบุรี", "type": "LOC"}]': (PER, LOC),
    '[["PER", "สมชาย"], "LOC: ชลบุรี"]': (PER, LOC),
    "PER: สมชาย\n\n สถานที่ : ชลบุรี \nDATE: แกงส้ม": (PER, LOC, OTH),
    "{}": (),
    "[]": (),
    '{"บุคคล": [], "สถานที่": []}': (),
}
UNREADABLE = [
    "",
    "  \n",
    "ไม่มี",
    "สวัสดี: ครับ",
    '{"PER": ["สมชาย"',
    '{"PER": "สมชาย"}',
    '{"PER": [1]}',
    '{"PER": [""]}',
    '{"PER": ["!"]}',
    '{"PER": {"LOC": ["x"]}}',
    '[{"text": "สมชาย"}]',
    '[["PER"]]',
    "[null]",
    "PER:",
    "[" * 100_000,
]


@pytest.mark.parametrize(("label", "entities"), READABLE.items())
def test_readable_labels(label: str, entities: tuple[Entity, ...]) -> None:
    assert parse_entities(label) == entities


@pytest.mark.parametrize("label", UNREADABLE, ids=lambda label: label[:20] or "empty")
def test_unreadable_labels(label: str) -> None:
    with pytest.raises(InputError, match="Entities cannot be read from") as caught:
        parse_entities(label)
    assert len(str(caught.value)) < 500
    assert count_entities("{}", label).invalid


def entities(**surfaces: list[str]) -> str:
    return json.dumps(surfaces, ensure_ascii=False)


def test_ner_by_hand() -> None:
    gold = [entities(PER=["สมชาย", "สมชาย"], LOC=["ชลบุรี"]), entities(OTH=["ก"]), "{}", "{}"]
    told = [entities(PER=["สม ชาย"], ORG=["ชลบุรี"]), entities(OTH=["ก"]), "{}", "ไม่รู้"]
    scores = named(ner_scores(gold, told))
    sums = {name: (score.numerator, score.denominator) for name, score in scores.items()}
    assert sums == {
        "ner_acc_all": (2, 4),
        "ner_acc_per": (1, 2),
        "ner_acc_loc": (0, 1),
        "ner_acc_org": (0, 0),
        "ner_acc_oth": (0, 0),  # withheld
        "ner_f1_micro": (4, 7),
        "ner_utterance_exact": (2, 4),
        "ner_invalid_rate": (1, 4),
        "ner_label_f1": (4, 7),
        "ner_char_f1": (4, 7),
    }
    assert "withheld: 1 of 1, fewer than 30; 1 predicted" in scores["ner_acc_oth"].note
    assert scores["ner_acc_org"].value is None
    assert scores["ner_acc_org"].low is None
    assert "1 predicted" in scores["ner_acc_org"].note


def test_ner_repeats_do_not_match_one_gold_entity_twice() -> None:
    scores = named(ner_scores([entities(PER=["ก"])], [entities(PER=["ก", "ก", "ก"])]))
    assert scores["ner_acc_all"].value == 1
    assert scores["ner_f1_micro"].value == 0.5
    assert scores["ner_utterance_exact"].value == 0


def test_unreadable_reference_is_an_error_not_a_count() -> None:
    with pytest.raises(InputError, match="Entities cannot be read"):
        ner_scores(["ไม่มี"], ["{}"])


# --- rephrasing


def test_chrf_by_hand() -> None:
    assert chrf("กขค", "กข") == pytest.approx(5 * (7 / 12) / (4 + 7 / 12))
    assert chrf("กขคงจฉช", "กขค งจฉช!") == 1
    assert chrf("กข", "คง") == 0
    assert chrf("", "") == 1
    assert chrf("ก", "") == chrf("", "ก") == 0


def test_sr_proxies_and_their_names() -> None:
    scores = sr_proxies(["กข", "คง", "จฉ"], ["กข", "คฮ", "จฉ"], spoken=["ก ข", "คง", None])
    assert [score.name for score in scores] == [
        "sr_proxy_chrf",
        "sr_proxy_cer",
        "sr_proxy_copy_rate",
        "sr_proxy_number_retention",
    ]
    copied = scores[2]
    assert (copied.numerator, copied.denominator) == (1, 2)
    assert "1 items without a transcript left out" in copied.note
    assert scores[1].value == 1 / 6
    assert sr_proxies(["ก"], ["ก"])[2].value is None


# --- monitors


def monitors_of(gold: list[str], told: list[str], stopped: bool = True) -> dict[str, Score]:
    return named(
        collapse_monitors(
            [
                Pair(reference(str(i), "asr", g), Prediction(str(i), "asr", t, stopped=stopped))
                for i, (g, t) in enumerate(zip(gold, told, strict=True))
            ]
        )
    )


def test_monitors_of_a_constant_answer() -> None:
    found = monitors_of(["กก", "ขขข", "คคค", "งงงง"], ["ก", "ก", "ก", "ก"])
    assert found["distinct_share"].value == 0.25
    assert found["top_share"].value == 1
    assert found["length_ratio"].value == 4 / 12
    assert found["stop_rate"].value == 1
    assert found["distinct_share"].note == "references 100.0 %"


def test_monitors_of_a_loop_and_of_silence() -> None:
    looping = monitors_of(["กขค"], ["กขคง" * 5], stopped=False)
    assert looping["repeated_ngram_rate"].numerator == 9
    assert looping["repeated_ngram_rate"].denominator == 13
    assert looping["stop_rate"].value == 0
    silent = monitors_of(["กขค", "ก"], ["", " ? "])
    assert silent["empty_share"].value == 1
    assert silent["repeated_ngram_rate"].value is None


# --- join and the entry of the eval stage


def test_join_pairs_by_id_and_task_whatever_the_order() -> None:
    references = [reference("a", "asr", "1"), reference("a", "ic", "2"), reference("b", "asr", "3")]
    predictions = [
        Prediction("b", "asr", "3"),
        Prediction("a", "ic", "2"),
        Prediction("a", "asr", "1"),
    ]
    pairs = join(references, predictions)
    assert [pair.reference for pair in pairs] == references
    assert all(pair.reference.text == pair.prediction.text for pair in pairs)


def test_join_tells_all_trouble_at_once() -> None:
    references = [reference(f"r{i}", "asr", "ก") for i in range(7)] + [reference("r0", "asr", "ก")]
    predictions = [Prediction("x", "asr", ""), Prediction("r0", "asr", "")] * 2
    with pytest.raises(InputError) as caught:
        join(references, predictions)
    message = str(caught.value)
    assert "1 references occur more than once: r0 (asr)" in message
    assert "2 predictions occur more than once: x (asr), r0 (asr)" in message
    assert (
        "6 references have no prediction: r1 (asr), r2 (asr), r3 (asr), r4 (asr), r5 (asr), ..."
        in message
    )
    assert "1 predictions have no reference: x (asr)" in message


REFERENCES = (
    [reference(f"a{i}", "asr", "ไปบ้านกัน", f"s{i // 2}") for i in range(4)]
    + [reference(f"i{i}", "ic", ("โทรออก", "เปิดเพลง")[i % 2], f"s{i // 2}") for i in range(4)]
    + [reference(f"n{i}", "ner", entities(PER=["สมชาย"]), f"s{i // 2}") for i in range(4)]
    + [reference(f"r{i}", "sr", "กรุณาเปิดไฟ", f"s{i // 2}") for i in range(4)]
)
INTENTS = ("โทรออก", "เปิดเพลง", "ตั้งปลุก")


def scored(answers: Sequence[Prediction]) -> dict[str, TaskScores]:
    results = score_tasks(REFERENCES, answers, closed_set=INTENTS, seed=1, draws=200)
    assert [result.task for result in results] == ["asr", "ic", "ner", "sr"]
    return {result.task: result for result in results}


def test_perfect_predictions() -> None:
    results = scored([Prediction(r.id, r.task, r.text) for r in reversed(REFERENCES)])
    assert results["asr"].scores[0].value == 0
    assert results["ic"].scores[0].value == 1
    assert results["ner"].scores[0].value == 1
    assert results["sr"].scores[0].value == 1
    assert all(item.error == 0 for result in results.values() for item in result.items)
    for task in ("asr", "ic", "ner", "sr"):
        headline = results[task].scores[0]
        assert headline.low is not None
        assert headline.high is not None


def test_one_answer_to_everything() -> None:
    results = scored([Prediction(r.id, r.task, "เปิดเพลง") for r in REFERENCES])
    intents = named(results["ic"].scores)
    assert intents["ic_accuracy"].value == intents["ic_majority_share"].value == 0.5
    assert intents["ic_chance"].value == 1 / 3
    assert named(results["ner"].scores)["ner_invalid_rate"].value == 1
    assert named(results["ic"].monitors)["top_share"].value == 1
    assert [item.error for item in results["ic"].items] == [1, 0, 1, 0]


def test_empty_predictions() -> None:
    results = scored([Prediction(r.id, r.task, "", stopped=False) for r in REFERENCES])
    assert results["asr"].scores[0].value == 1
    assert results["ic"].scores[0].value == 0
    assert named(results["ic"].scores)["ic_invalid_rate"].value == 1
    assert results["ner"].scores[0].value == 0
    assert results["sr"].scores[0].value == 0
    for result in results.values():
        assert named(result.monitors)["empty_share"].value == 1
        assert named(result.monitors)["stop_rate"].value == 0


def test_copy_rate_needs_transcripts() -> None:
    references = [reference("a", "sr", "กข"), reference("b", "sr", "คง")]
    predictions = [Prediction("a", "sr", "จฉ"), Prediction("b", "sr", "คง")]
    (result,) = score_tasks(references, predictions, spoken={"a": "จ ฉ", "b": "ซซ"}, draws=50)
    copied = named(result.scores)["sr_proxy_copy_rate"]
    assert (copied.numerator, copied.denominator) == (1, 2)


def test_clusters_may_be_speakers() -> None:
    references = [Reference(str(i), "asr", "กขคง", str(i), f"p{i % 2}") for i in range(40)]
    predictions = [Prediction(str(i), "asr", "กขคง" if i % 2 else "กข") for i in range(40)]
    by_source = score_tasks(references, predictions, cluster_by="source_id", draws=300)[0].scores[0]
    by_speaker = score_tasks(references, predictions, cluster_by="speaker", draws=300)[0].scores[0]
    assert (by_speaker.low, by_speaker.high) == (0.0, 0.5)
    assert by_source.low is not None
    assert by_source.low > 0.1
    assert "only 2 clusters" in by_speaker.note


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "nothing to score"),
        ([reference("a", "mt", "x")], r"tasks \['mt'\]; the tasks are asr, ic, ner, sr"),
        ([Reference("a", "asr", "x", "", "p")], "1 references have no source_id"),
        ([reference("a", "ic", "x")], "closed set of intent names; none was given"),
    ],
)
def test_what_cannot_be_scored_is_said(references: list[Reference], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_tasks(references, [Prediction(r.id, r.task, "x") for r in references])
