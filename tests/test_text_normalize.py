"""thai-v1: pairs that must become equal, pairs that must not, and laws over random text."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import text as golden
from thaitool.text import normalize as rules
from thaitool.text.normalize import (
    NORMALIZER,
    TONE_MARKS,
    canonical,
    compact,
    normalize,
    normalizer_sha256,
    remove_spaces,
)

# Code points are written out where the two sides look the same in print.
SAME = {
    "nikhahit + aa": ("ส\u0e4d\u0e32นัก", "ส\u0e33นัก"),
    "tone, nikhahit, aa": ("น\u0e49\u0e4d\u0e32", "น\u0e49\u0e33"),
    "nikhahit, tone, aa": ("น\u0e4d\u0e49\u0e32", "น\u0e49\u0e33"),
    "sara am, tone": ("น\u0e33\u0e49", "น\u0e49\u0e33"),
    "two sara e": ("เเม่", "แม่"),
    "tone before above vowel": ("ท\u0e48\u0e35", "ท\u0e35\u0e48"),
    "tone before below vowel": ("ผ\u0e39\u0e49", "ผ\u0e49\u0e39"),
    "tone before mai han akat": ("ฝร\u0e31\u0e48ง", "ฝร\u0e48\u0e31ง"),
    "silencing sign before vowel": ("สิทธ\u0e4c\u0e34", "สิทธ\u0e34\u0e4c"),
    "tone after sara aa": ("กา\u0e48", "ก\u0e48า"),
    "lakkhangyao for sara aa": ("มๅ", "มา"),
    "zero-width space": ("สวัสดี\u200bครับ", "สวัสดีครับ"),
    "byte order mark": ("\ufeffไป", "ไป"),
    "marks parted by zero-width": ("ท\u0e48\u200b\u0e35", "ท\u0e35\u0e48"),
    "Thai digits": ("ทั้ง๓หลัง", "ทั้ง3หลัง"),
    "Latin case": ("ไป BTS", "ไป bts"),
    "quotes and stops": ("“ไปไหน?” เขาถาม…", "ไปไหน เขาถาม"),
    "thousands": ("1,000 บาท", "1000 บาท"),
    "last full stop": ("พ.ศ. 2500.", "พศ 2500"),
    "spaces": ("  ไป \t\u00a0 บ้าน\n", "ไป บ้าน"),
    "order exposes sara am": ("ก\u0e4d\u0e38\u0e32", "กุ\u0e33"),
    "punctuation hides sara ae": ("เ!เม่", "แม่"),
    "composed Latin": ("cafe\u0301", "caf\u00e9"),
}
DIFFERENT = {
    "tone pair": ("ข่าว", "ข้าว"),
    "tone or none": ("ขาว", "ข่าว"),
    "vowel length": ("กิน", "กีน"),
    "silenced or not": ("จันทร์", "จันทร"),
    "repetition is heard": ("เด็ก", "เด็กๆ"),
    "decimal point": ("3.5", "35"),
    "repeated vowel is a loop": ("นานาาา", "นานา"),
    "repeated tone mark": ("น้้ำ", "น้ำ"),
    "percent is read": ("50%", "50"),
    "sara ai": ("ไใ", "ใไ"),
    "rue": ("ฤๅ", "ฤา"),
    "phrase space": ("ไป บ้าน", "ไปบ้าน"),
}


@pytest.mark.parametrize(("left", "right"), SAME.values(), ids=SAME.keys())
def test_same_text_typed_differently(left: str, right: str) -> None:
    assert left != right
    assert normalize(left) == normalize(right)


@pytest.mark.parametrize(("left", "right"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_words_stay_different(left: str, right: str) -> None:
    assert normalize(left) != normalize(right)


@pytest.mark.parametrize("row", golden.ROWS, ids=lambda row: f"{row[0]}-{row[2]!a}")
def test_golden_form(row: golden.Row) -> None:
    assert normalize(row[2]) == row[3]


def test_exact_forms() -> None:
    assert normalize("“น\u0e4d\u0e49\u0e32เเข็ง” ๑๒.๕ กก., OK!") == "น้ำแข็ง 12.5 กก ok"
    assert compact("ไป  บ้าน. 5. 10") == "ไปบ้าน510"
    assert remove_spaces(" ก\u00a0ข\n ค ") == "กขค"
    assert normalize("") == ""
    assert normalize("?!…") == ""


def test_canonical_keeps_case_digits_punctuation_and_spaces() -> None:
    assert canonical("ไป  “BTS” ๓.") == "ไป  “BTS” ๓."
    assert canonical("น\u0e4d\u0e32") == "น\u0e33"


def test_space_removal_may_expose_spelling_that_is_then_folded() -> None:
    assert compact("เ เม่") == "แม่"
    assert compact("ท\u0e48 \u0e35") == "ท\u0e35\u0e48"


def test_agrees_with_pythainlp_where_both_have_a_rule() -> None:
    """The library's order and sara am rules; not its deletion of repeats."""
    from pythainlp.util import normalize as library  # type: ignore[import-untyped,unused-ignore]

    for name in ("nikhahit + aa", "tone, nikhahit, aa", "nikhahit, tone, aa", "two sara e"):
        assert canonical(SAME[name][0]) == library(SAME[name][0])
    for name in ("tone before above vowel", "tone after sara aa", "lakkhangyao for sara aa"):
        assert canonical(SAME[name][0]) == library(SAME[name][0])


def test_rules_are_pinned_to_their_name() -> None:
    """Whoever changes a rule table gives the normaliser a new name and pins the new digest here."""
    assert (NORMALIZER, normalizer_sha256()) == (
        "thai-v1",
        "d2c7128b1c6941f83505c23b5935cef462d6e588e9319ded9664924dac52b79a",
    )


# Dense in what the rules touch, so that random text meets them in odd orders.
_TRICKY = st.text(
    alphabet=st.one_of(
        st.sampled_from("กนทเแโฤๅะาำ\u0e31\u0e34\u0e35\u0e38\u0e39\u0e3a\u0e47\u0e48\u0e49\u0e4a"),
        st.sampled_from("\u0e4b\u0e4c\u0e4d\u0e4e๑๒3. ,:\u200b\ufeff\u0301\u0323AสΣİ\n"),
        st.characters(codec="utf-8"),
    ),
    max_size=14,
)

_DENSE = st.text(alphabet="กเ\u0e32\u0e33\u0e38\u0e34\u0e48\u0e4c\u0e4d5.! ", max_size=7)


_CONSONANT = st.sampled_from("กขคงจชดตทนบปพมยรลวสหอ")
_TONE = st.sampled_from(["", "\u0e48", "\u0e49", "\u0e4a", "\u0e4b"])
_ABOVE_OR_BELOW = st.sampled_from([*"\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39"])
_FINAL = st.sampled_from(["", *"กงดนบมยว"])
# Syllables as a Thai keyboard and Unicode order them: vowel in front, consonant, vowel above or
# below, tone, vowel behind, final.
_SYLLABLE = st.one_of(
    st.tuples(st.sampled_from("เแโไใ"), _CONSONANT, _TONE, _FINAL),
    st.tuples(_CONSONANT, _ABOVE_OR_BELOW, _TONE, _FINAL),
    st.tuples(_CONSONANT, _TONE, st.sampled_from("ะาำอ"), _FINAL),
    st.tuples(st.just("เ"), _CONSONANT, st.sampled_from("\u0e34\u0e35\u0e37\u0e47"), _TONE, _FINAL),
    st.tuples(_CONSONANT, _CONSONANT, st.just("\u0e4c")),
).map("".join)


def _tones(text: str) -> list[str]:
    return [char for char in text if char in TONE_MARKS]


@settings(derandomize=True, max_examples=1500, deadline=None)
@given(st.one_of(_TRICKY, _DENSE))
def test_idempotent(text: str) -> None:
    for function in (canonical, normalize, compact):
        once = function(text)
        assert function(once) == once


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(st.one_of(_TRICKY, _DENSE))
def test_never_changes_a_tone_mark(text: str) -> None:
    assert _tones(normalize(text)) == _tones(compact(text)) == _tones(text)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.one_of(_TRICKY, _DENSE))
def test_never_deletes_a_thai_mark(text: str) -> None:
    """Only nikhahit may go, and only into a sara am."""
    before = [c for c in text if "\u0e00" <= c <= "\u0e7f" and unicodedata.category(c) == "Mn"]
    after = [c for c in normalize(text) if "\u0e00" <= c <= "\u0e7f"]
    marks_after = sum(unicodedata.category(c) == "Mn" for c in after)
    new_sara_am = after.count("\u0e33") - text.count("\u0e33")
    assert marks_after + new_sara_am == len(before)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(_TRICKY)
def test_unicode_form_of_the_input_does_not_matter(text: str) -> None:
    assert normalize(unicodedata.normalize("NFD", text)) == normalize(text)


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(st.lists(_SYLLABLE, max_size=8).map("".join))
def test_valid_syllables_are_left_as_they_are(text: str) -> None:
    """No tone mark, vowel or letter of correctly typed Thai changes."""
    assert canonical(text) == normalize(text) == compact(text) == text


@settings(derandomize=True, max_examples=500, deadline=None)
@given(_CONSONANT, st.permutations(["\u0e34", "\u0e48", "\u0e4c"]))
def test_marks_typed_in_any_order_are_the_same(consonant: str, marks: list[str]) -> None:
    assert canonical(consonant + "".join(marks)) == consonant + "\u0e34\u0e48\u0e4c"


def _by_the_tables(text: str) -> str:
    """thai-v1 as its tables say, one character table at a time, without any shortcut."""
    zero_width = str.maketrans("", "", rules._ZERO_WIDTH)
    digits = str.maketrans(rules._THAI_DIGITS, "0123456789")
    while True:
        before = text
        text = unicodedata.normalize("NFC", text.translate(zero_width))
        for pattern, new in rules._SPELLING:
            text = re.sub(pattern, new, text)
        runs = "[" + "".join(rules._MARK_ORDER) + "]+"
        text = re.sub(runs, lambda run: "".join(sorted(run[0], key=rules._RANK.__getitem__)), text)
        if text != before:
            continue
        text = re.sub(rules._FULL_STOP, "", text.translate(digits))
        text = " ".join(text.translate(str.maketrans("", "", rules._PUNCTUATION)).lower().split())
        if text == before:
            return text


@settings(derandomize=True, max_examples=3000, deadline=None)
@given(st.one_of(_TRICKY, _DENSE))
def test_shortcuts_change_nothing(text: str) -> None:
    assert normalize(text) == _by_the_tables(text)
