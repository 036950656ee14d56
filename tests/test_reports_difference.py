"""Marked differences: nothing is lost, no mark is parted from its base, and what scores ignore is not marked."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaitool.reports.difference import LONGEST, Piece, difference, grapheme_clusters
from thaitool.text.normalize import canonical, compact

THAI = st.text(st.sampled_from("กขคนมยรลวสหอฤเแโใไะาิีึืุู็่้๊๋์ัํำฯๆ๑2aA .\u200b\u0e4d"), max_size=30)


@pytest.mark.parametrize(
    ("text", "clusters"),
    [
        ("น้ำ", ["น้ำ"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("เก้าอี้", ["เ", "ก้", "า", "อี้"]),
        ("กตัญญู", ["ก", "ตั", "ญ", "ญู"]),
        (" ่ก", [" ", "่", "ก"]),
        ("", []),
    ],
)
def test_clusters_are_what_a_reader_sees(text: str, clusters: list[str]) -> None:
    assert grapheme_clusters(text) == clusters


def test_a_wrong_tone_marks_the_whole_character() -> None:
    wanted, given_ = difference("กินข้าวแล้ว", "กินข่าวแล้ว")
    assert wanted == [Piece("same", "กิน"), Piece("changed", "ข้"), Piece("same", "าวแล้ว")]
    assert given_ == [Piece("same", "กิน"), Piece("changed", "ข่"), Piece("same", "าวแล้ว")]


def test_missing_and_added_characters() -> None:
    assert difference("ไปบ้าน", "ไป") == (
        [Piece("same", "ไป"), Piece("only", "บ้าน")],
        [Piece("same", "ไป")],
    )
    assert difference("", "ครับ") == ([], [Piece("only", "ครับ")])


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("น้ำ", "น\u0e49\u0e4d\u0e32"),  # sara am in two forms
        ("ไป บ้าน", "ไปบ้าน"),
        ("OK ค่ะ", "ok, ค่ะ"),
        ("๓ คน", "3คน"),
        ("แม่", "เเม่"),
    ],
)
def test_what_scores_ignore_is_not_marked(reference: str, hypothesis: str) -> None:
    assert all(
        piece.kind == "same" for pieces in difference(reference, hypothesis) for piece in pieces
    )


@given(THAI, THAI)
def test_pieces_are_the_texts_and_start_with_a_base(reference: str, hypothesis: str) -> None:
    for text, pieces in zip(
        (reference, hypothesis), difference(reference, hypothesis), strict=True
    ):
        assert "".join(piece.text for piece in pieces) == canonical(text)
        for before, piece in pairwise(pieces):
            assert before.kind != piece.kind
            first = piece.text[0]
            parted = unicodedata.category(first).startswith("M") or first == "\u0e33"
            assert not parted or before.text[-1].isspace()
    same = difference(reference, reference)
    assert all(piece.kind == "same" for pieces in same for piece in pieces)


@given(THAI, THAI)
def test_texts_that_differ_in_the_score_are_marked(reference: str, hypothesis: str) -> None:
    pieces = [piece for side in difference(reference, hypothesis) for piece in side]
    if all(piece.kind == "same" for piece in pieces):
        kept = [
            "".join(map(compact, grapheme_clusters(canonical(t)))) for t in (reference, hypothesis)
        ]
        assert kept[0] == kept[1]


def test_a_very_long_pair_is_shown_without_marks() -> None:
    text = "ก" * (LONGEST + 1)
    assert difference(text, "ข") == ([Piece("same", text)], [Piece("same", "ข")])
