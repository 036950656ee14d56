"""What a person says: numbers, times, amounts, ๆ and punctuation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.text.spoken import number_words, spoken_form


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("๒๑ คน", "ยี่สิบเอ็ด คน"),
        ("1,250 คน", "หนึ่งพันสองร้อยห้าสิบ คน"),
        ("3.14", "สามจุดหนึ่งสี่"),
        ("0.10", "ศูนย์จุดหนึ่งศูนย์"),
        ("-5 องศา", "ลบห้า องศา"),
        ("5-10 คน", "ห้าถึงสิบ คน"),
        ("3 -5", "สาม ลบห้า"),
        ("ลด 12.5%", "ลด สิบสองจุดห้าเปอร์เซ็นต์"),
        ("฿20", "ยี่สิบบาท"),
        ("1,250.50 บาท", "หนึ่งพันสองร้อยห้าสิบบาทห้าสิบสตางค์"),
        ("0.25 บาท", "ยี่สิบห้าสตางค์"),
        ("081-234-5678", "ศูนย์แปดหนึ่งสองสามสี่ห้าหกเจ็ดแปด"),
        ("รหัส 0012", "รหัส ศูนย์ศูนย์หนึ่งสอง"),
        ("1234567890", "หนึ่งสองสามสี่ห้าหกเจ็ดแปดเก้าศูนย์"),
        ("7:30", "เจ็ดนาฬิกาสามสิบนาที"),
        ("19.00 น.", "สิบเก้านาฬิกา"),
        ("9 น.", "เก้านาฬิกา"),
        ("1.50", "หนึ่งจุดห้าศูนย์"),
    ],
)
def test_numbers_are_spoken(written: str, spoken: str) -> None:
    assert spoken_form(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("เด็กๆ", "เด็กเด็ก"),
        ("เล่น ๆ", "เล่นเล่น"),
        ("เด็กๆๆๆ", "เด็กเด็ก"),
        ("ต่าง ๆ นานา", "ต่างต่าง นานา"),
        ("ไปทีละคน ๆ", "ไปทีละคนทีละคน"),
        ("เพื่อนเด็กๆ", "เพื่อนเด็กเด็ก"),
        ("ส้ม ฯลฯ", "ส้ม และอื่นอื่น"),
        ("ๆ", "ๆ"),
    ],
)
def test_repetition_repeats_the_last_word(written: str, spoken: str) -> None:
    assert spoken_form(written) == spoken


def test_punctuation_is_dropped_and_the_unknown_is_kept() -> None:
    assert spoken_form("กรุงเทพฯ (ดี!) “มาก”…") == "กรุงเทพ ดี มาก"
    assert spoken_form("ใช้ GPS + แผนที่") == "ใช้ GPS + แผนที่"


def test_a_clock_that_does_not_exist_is_read_as_two_numbers() -> None:
    assert spoken_form("25:59") == "ยี่สิบห้า ห้าสิบเก้า"


@given(st.integers(0, 999_999_999))
@settings(max_examples=60, deadline=None)
def test_every_integer_becomes_thai_letters(number: int) -> None:
    words = number_words(str(number))
    assert re.fullmatch("[ก-๎]+", words)
    assert number_words(f"{number:,}") == words


@given(st.text(alphabet="กาบ้ๆ 0129.:,-%฿น", max_size=20))
@settings(max_examples=150, deadline=None)
def test_speaking_twice_changes_nothing_more(text: str) -> None:
    once = spoken_form(text)
    assert spoken_form(once) == once
    assert not re.search(r"\d", once)
