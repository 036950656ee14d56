"""The spoken form as a whole: nothing unread is left, once is enough, entities are found again."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.text.latin import latin_words
from thaitool.text.numbers import integer_words, number_words
from thaitool.text.phonemes import syllables
from thaitool.text.spoken import spoken_form, spoken_spans
from thaitool.text.traced import moved, rewrite, traced

_PIECES = (
    "กา", "บ้าน", "เด็ก", "ๆ", " ", " ", "ม.ค.", "กทม.", "พ.ศ.", "น.", "บาท", "฿", "%", "กม.", "ดร.", "ฯลฯ", "0",
    "1", "25", "2567",
    "1,250.50", ".", ",", "-", "/", ":", "(", ")", "+", "=", "@", "#", "GPS", "iPhone", "a", "km", "x", "²",
    "½", "๓", "😂", "…", "°C",
)  # fmt: skip
_texts = st.lists(st.sampled_from(_PIECES), max_size=9).map("".join)


@given(_texts)
@settings(max_examples=300, deadline=None)
def test_what_is_left_is_thai_and_reading_it_again_changes_nothing(text: str) -> None:
    once = spoken_form(text)
    # A ๆ with nothing before it repeats nothing, and the phonemes refuse it.
    assert re.fullmatch("[ก-ฮะ-ฺเ-ๅ็-๎ ๆ]*", once), once
    assert once == " ".join(once.split())
    assert spoken_form(once) == once


@given(_texts, st.lists(st.integers(0, 60), min_size=4, max_size=4))
@settings(max_examples=300, deadline=None)
def test_spans_stay_in_the_text_and_in_order(text: str, cuts: list[int]) -> None:
    a, b, c, d = (min(cut, len(text)) for cut in sorted(cuts))
    spoken = spoken_spans(text, [(a, b), (c, d)])
    assert spoken.text == spoken_form(text)
    (first_start, first_end), (second_start, second_end) = spoken.spans
    assert 0 <= first_start <= first_end <= len(spoken.text)
    assert first_start <= second_start <= second_end <= len(spoken.text)
    assert first_end <= second_end


@given(_texts)
@settings(max_examples=100, deadline=None)
def test_the_whole_text_becomes_the_whole_spoken_text(text: str) -> None:
    spoken = spoken_spans(text, [(0, len(text))])
    if text:
        assert spoken.spans == ((0, len(spoken.text)),)


@pytest.mark.parametrize(
    ("marked", "entities"),
    [
        ("นัด[ดร.สมชาย]ที่[กทม.]วันนี้", ("ดอกเตอร์สมชาย", "กรุงเทพมหานคร")),
        ("ราคา [1,250 บาท] ที่ [Central]", ("หนึ่งพันสองร้อยห้าสิบบาท", "เซ็นทรัล")),
        (
            "วันที่ [5 ม.ค. 2567] เวลา [19.30 น.]",
            ("ห้า มกราคม สองพันห้าร้อยหกสิบเจ็ด", "สิบเก้านาฬิกาสามสิบนาที"),
        ),
        ("เปิด [ต่าง ๆ] และ[เด็ก]ๆ", ("ต่างต่าง", "เด็ก")),
        # A reading that covers more than the entity is covered whole; a part of it is found apart.
        ("จ่าย ฿[20]", ("ยี่สิบบาท",)),
        ("วัดได้ [30]°C", ("สามสิบ",)),
        ("[3] กม.", ("สาม",)),
        ("รัก[😂]เธอ", ("",)),
    ],
)
def test_entities_are_found_again(marked: str, entities: tuple[str, ...]) -> None:
    text, spans = re.sub(r"[\[\]]", "", marked), list[tuple[int, int]]()
    for found in re.finditer(r"\[(.*?)\]", marked):
        start = found.start() - 2 * len(spans)
        spans.append((start, start + len(found[1])))
    spoken = spoken_spans(text, spans)
    assert tuple(spoken.text[start:end] for start, end in spoken.spans) == entities


def test_a_long_text_costs_time_by_its_length() -> None:
    text = "กาบ้านเด็กมา" * 4000
    assert spoken_form(text + ".") == text


def test_letters_remember_where_they_came_from() -> None:
    text = rewrite(traced("a-b-c"), re.compile("-(b)"), lambda _: (("xyz", 1),))
    assert text.text == "axyz-c"
    assert (text.starts, text.ends) == ((0, 2, 2, 2, 3, 4), (1, 3, 3, 3, 4, 5))
    text = rewrite(text, re.compile("yz"), lambda _: "")
    assert text.text == "ax-c"
    assert moved(text, [(1, 3), (1, 2), (4, 5)]) == ((1, 2), (1, 1), (3, 4))


def test_integers_agree_with_pythainlp() -> None:
    from pythainlp.util import num_to_thaiword

    dice = random.Random(1)  # noqa: S311 not a secret
    numbers = [*range(120), *(dice.randrange(10 ** dice.randrange(1, 13)) for _ in range(500))]
    for number in numbers:
        assert integer_words(number) == num_to_thaiword(number), number


def test_faults_of_pythainlp_are_not_ours() -> None:
    """`num_to_thaiword` takes no decimals, `maiyamok` repeats the last token only."""
    from pythainlp.util import num_to_thaiword

    with pytest.raises(ValueError, match=r".*"):
        num_to_thaiword(3.14)
    assert number_words("3.14") == "สามจุดหนึ่งสี่"
    assert spoken_form("ทีละคน ๆ") == "ทีละคนทีละคน"
    assert spoken_form("เด็กๆๆๆ") == "เด็กเด็ก"


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzéñ", min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_any_latin_word_becomes_thai_letters_that_can_be_read(word: str) -> None:
    thai = latin_words(word)
    assert re.fullmatch("[ก-ฮะ-ฺเ-ๅ็-๎]+", thai), (word, thai)
    assert syllables(thai)


@pytest.mark.parametrize(
    ("word", "thai"),
    [("GPS", "จีพีเอส"), ("gps", "จีพีเอส"), ("time", "ไทม์"), ("Phuket", "ฟูเค็ต"), ("café", "คาเฟ"),
     ("Google", "กูเกิล"), ("promotions", "โพรโมชั่น")],
)  # fmt: skip
def test_latin_words(word: str, thai: str) -> None:
    assert latin_words(word) == thai
