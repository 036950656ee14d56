"""Spoken form, tone errors, word errors and keywords: numbers worked by hand."""

from __future__ import annotations

import pytest

from thaitool.errors import InputError
from thaitool.metrics.keywords import keyword_scores
from thaitool.metrics.rephrase import sr_proxies
from thaitool.metrics.tasks import score_tasks
from thaitool.metrics.tones import tone_error
from thaitool.metrics.transcripts import cer, cer_spoken
from thaitool.metrics.words import MOST_ITEMS, SEGMENTERS, wer, word_sums, words
from thaitool.records import Prediction, Reference

# --- spoken form


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("มี 3 คน", "มีสามคน"),
        ("ราคา ๒๕ บาท", "ราคายี่สิบห้าบาท"),
        ("เด็ก ๆ", "เด็กเด็ก"),
        ("ลด 50%", "ลดห้าสิบเปอร์เซ็นต์"),
        ("เวลา 10:30 น.", "เวลาสิบนาฬิกาสามสิบนาที"),
    ],
)
def test_what_is_read_alike_is_alike(reference: str, prediction: str) -> None:
    assert cer(reference.split("|"), prediction.split("|")).value != 0
    assert cer_spoken([reference], [prediction]).value == 0


def test_spoken_cer_counts_characters_of_the_reading() -> None:
    score = cer_spoken(["3"], ["สี่"])
    assert (score.numerator, score.denominator) == (2, 3)  # สาม: า to ี, ม to ่


# --- tones


@pytest.mark.parametrize(
    ("reference", "prediction", "wrong", "toned", "note"),
    [
        ("ข่าว", "ข้าว", 1, 1, "0 lost, 0 added, 1 exchanged"),
        ("ข่าว", "ขาว", 1, 1, "1 lost, 0 added, 0 exchanged"),
        ("ขาว", "ข่าว", 1, 1, "0 lost, 1 added, 0 exchanged"),
        ("ข่าว", "ข่าว", 0, 1, "0 lost, 0 added, 0 exchanged"),
        ("พี่น้องบ้านนี้", "พีนองบานนี", 4, 4, "4 lost, 0 added, 0 exchanged"),
        ("น้ำ", "น\u0e4d\u0e49\u0e32", 0, 1, "0 lost, 0 added, 0 exchanged"),
        ("ไปตลาด", "ไปตลาด", 0, 0, "0 lost, 0 added, 0 exchanged"),
        ("ข้าวสวย", "ข่าวสาร", 1, 1, "0 lost, 0 added, 1 exchanged"),
        ("ข่าว", "ง้าว", 0, 0, "0 lost, 0 added, 0 exchanged"),
        ("ข่าว", "", 0, 0, "0 lost, 0 added, 0 exchanged"),
    ],
)
def test_tone_errors_by_hand(
    reference: str, prediction: str, wrong: int, toned: int, note: str
) -> None:
    """The last but one: the letter that carries the tone is another letter, so CER counts it."""
    score = tone_error([reference], [prediction])
    assert (score.numerator, score.denominator) == (wrong, toned)
    assert score.note.startswith(note)


def test_a_model_without_tones_scores_one_in_all() -> None:
    gold = ["แม่ไปร้านขายข้าว", "น้องเล่นน้ำที่บ้าน"]
    blind = ["".join(c for c in text if c not in "่้๊๋") for text in gold]
    assert tone_error(gold, blind).value == 1
    assert tone_error(gold, gold).value == 0
    assert 0 < (cer(gold, blind).value or 0) < 0.35


# --- words


def test_words_by_a_named_segmenter() -> None:
    assert words("ผมไปโรงเรียน", "newmm") == ["ผม", "ไป", "โรงเรียน"]
    score = wer(["ผมไปโรงเรียน"], ["ผมมาโรงเรียน"])
    assert (score.name, score.numerator, score.denominator) == ("wer_newmm", 1, 3)
    assert "pythainlp" in score.note
    with pytest.raises(InputError, match="one of newmm, longest, but is 'deepcut'"):
        words("ไป", "deepcut")


def test_the_instability_of_word_errors_is_shown() -> None:
    """One wrong letter moves the boundaries of other words: one character, several words."""
    gold, told = ["ตากลมนั่งตากลม"], ["ตากลมนั่งตกลม"]
    columns = word_sums(gold, told)
    assert [c.name for c in columns] == [f"wer_{s}" for s in SEGMENTERS]
    assert cer(gold, told).numerator == 1
    assert columns[0].numerators[0] / columns[0].denominators[0] > 2 * (1 / 14)
    rates = [100 * c.numerators[0] / c.denominators[0] for c in columns]
    gap = f"the segmenters are {max(rates) - min(rates):.1f} points apart"
    assert all(gap in c.note for c in columns)


def test_of_large_sets_some_items_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_ITEMS, "longest", 3)
    gold = ["ไปบ้าน", "ไปตลาด", "ไปวัด", "ไปทะเล", "ไปป่า"]
    told = ["ไปบ้าน", "มาตลาด", "มาวัด", "มาทะเล", "มาป่า"]
    newmm, longest = word_sums(gold, told)
    assert list(newmm.numerators) == [0, 1, 1, 1, 1]
    assert list(longest.numerators) == [0, 0, 1, 0, 1]
    assert list(longest.denominators) == [2, 0, 2, 0, 2]
    assert "3 of 5 items, spread evenly; secondary: the segmenters are 0.0 points" in longest.note


def test_two_segmenters_cut_the_same_text_differently() -> None:
    text = "มาตามนัดหมายกำหนดการ"
    assert "".join(words(text, "newmm")) == "".join(words(text, "longest")) == text


# --- keywords


def test_keywords_by_hand() -> None:
    gold = ["คุณสมชายไปกรุงเทพ", "สมชายโทรหาสมหญิง", "ไม่มีใคร"]
    told = ["คุณสมชายไปกรุงเทบ", "สมชายโทรหาสมชาย", "มีสมหญิง"]
    hit, precision = keyword_scores(gold, told, ["สมชาย", "สมหญิง", "กรุงเทพ", "เชียงใหม่"])
    assert (hit.numerator, hit.denominator) == (2, 4)
    assert (precision.numerator, precision.denominator) == (2, 4)
    assert hit.note.startswith("3 of 4 keywords are said")


@pytest.mark.parametrize(
    ("text", "keywords", "said"),
    [
        ("กรุงเทพมหานคร", ["กรุงเทพ", "กรุงเทพมหานคร"], 1),
        ("กรุงเทพมหานคร", ["กรุงเทพ"], 1),
        ("สมาคม", ["สม"], 0),
        ("คุณสมไปแล้ว", ["สม"], 1),
        ("น\u0e4d\u0e49\u0e32หวาน", ["น้ำหวาน"], 1),
        ("มะลิ มะลิ มะลิ", ["มะลิ"], 3),
        ("ใช้ LINE อยู่", ["line"], 1),
        ("ข้าว", ["ข่าว"], 0),
    ],
)
def test_where_keywords_are_found(text: str, keywords: list[str], said: int) -> None:
    assert keyword_scores([text], [""], keywords)[0].denominator == said


def test_the_longest_keyword_counts_where_several_start() -> None:
    hit, _ = keyword_scores(["กรุงเทพมหานคร"], ["กรุงเทพ"], ["กรุงเทพ", "กรุงเทพมหานคร"])
    assert (hit.numerator, hit.denominator) == (0, 1)


@pytest.mark.parametrize("keywords", [[], ["ก", "ก "], ["!"]])
def test_lists_of_keywords_are_checked(keywords: list[str]) -> None:
    with pytest.raises(InputError, match="different and not empty"):
        keyword_scores(["ก"], ["ก"], keywords)


# --- the entry of the eval stage


def test_transcription_reports_every_rate() -> None:
    references = [Reference(str(i), "asr", "แม่มี 3 บาท", f"s{i}", "p") for i in range(3)]
    predictions = [Prediction(r.id, "asr", "แมมีสามบาท") for r in references]
    (result,) = score_tasks(references, predictions, keywords=["บาท"], draws=20)
    sums = {s.name: (s.numerator, s.denominator) for s in result.scores}
    assert list(sums) == [
        "cer",
        "cer_with_spaces",
        "cer_raw",
        "cer_spoken",
        "tone_error",
        "wer_newmm",
        "wer_longest",
        "keyword_hit_rate",
        "keyword_precision",
    ]
    assert sums["cer"] == (12, 27)  # แม่มี3บาท: ่ lost, 3 is three letters: 4 of 9
    assert sums["cer_spoken"] == (3, 33)
    assert sums["tone_error"] == (3, 3)
    assert sums["keyword_hit_rate"] == (3, 3)


# --- numbers in a rephrasing


@pytest.mark.parametrize(
    ("reference", "prediction", "kept", "numbers"),
    [
        ("ซื้อส้ม 3 กิโล", "ซื้อส้มสามกิโล", 1, 1),
        ("ซื้อส้ม ๓ กิโล", "ซื้อส้ม 3 กิโล", 1, 1),
        ("ซื้อส้ม 3 กิโล", "ซื้อส้ม 4 กิโล", 0, 1),
        ("3 คน 3 วัน", "3 คน", 1, 2),
        ("1,500 บาท", "1500 บาท", 1, 1),
        ("3 คน", "3 คน 3 วัน", 1, 1),
        ("13 คน", "3 คน", 0, 1),
        ("ไปตลาด", "3", 0, 0),
    ],
)
def test_numbers_kept(reference: str, prediction: str, kept: int, numbers: int) -> None:
    score = sr_proxies([reference], [prediction])[3]
    assert score.name == "sr_proxy_number_retention"
    assert (score.numerator, score.denominator) == (kept, numbers)
