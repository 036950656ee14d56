"""Numbered brackets round names: what comes through one to one, and every way to break them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaitool.synth.markers import Broken, Marked, find_once, mark, unmark
from thaitool.synth.sources import Span

TEXT = "Call Ann Lee in Nan, [Ann]!"
SPANS = (Span(5, 12, "PER", "Ann Lee"), Span(16, 19, "LOC", "Nan"))


def test_names_are_bracketed_and_found_again() -> None:
    marked = mark(TEXT, SPANS)
    assert marked == "Call [1|Ann Lee] in [2|Nan], (Ann)!"
    assert unmark(marked, 2) == Marked("Call Ann Lee in Nan, (Ann)!", ((0, 5, 12), (1, 16, 19)))
    # In another order, with other words, in another language.
    found = unmark(" ที่[2| น่าน ]โทรหา [1|แอน ลี]ที ", 2)
    assert isinstance(found, Marked)
    assert found.text == "ที่น่านโทรหา แอน ลีที"
    assert [(n, found.text[s:e]) for n, s, e in found.spans] == [(1, "น่าน"), (0, "แอน ลี")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("โทรหาแอนที่[2|น่าน]", "markers_lost"),
        ("โทรหา[1|แอน]ที่[2|น่าน]กับ[1|แอน]", "markers_doubled"),
        ("โทรหา[1|แอน]ที่[2|น่าน]กับ[3|นก]", "markers_foreign"),
        ("โทรหา[0|แอน]ที่[1|น่าน]กับ[2|นก]", "markers_foreign"),
        ("โทรหา[1|แอน]ที่[2| ]", "markers_empty"),
        ("โทรหา[1|แอน]ที่[2|น่าน", "markers_broken"),
        ("โทรหา[1|แอน]ที่[2|น่าน] [ครับ]", "markers_broken"),
        ("โทรหา[1|แอน [2|น่าน]]", "markers_broken"),
        ("โทรหา[1:แอน]ที่[2|น่าน]", "markers_broken"),
    ],
)
def test_markers_that_are_not_one_to_one_are_refused(text: str, reason: str) -> None:
    found = unmark(text, 2)
    assert isinstance(found, Broken)
    assert found.reason == reason


def test_names_are_found_without_markers_only_where_there_is_no_doubt() -> None:
    found = find_once("ไปน่านกับแอน", ["แอน", "น่าน"])
    assert found == Marked("ไปน่านกับแอน", ((1, 2, 6), (0, 9, 12)))
    for surfaces, reason in (
        (["แอน", "แพร่"], "span_not_found"),
        (["แอน", ""], "span_not_found"),
        (["แอน", "แอน"], "span_ambiguous"),
        (["น่าน", "น่าน"], "span_ambiguous"),
        (["ไปน่าน", "น่านกับ"], "span_ambiguous"),
    ):
        broken = find_once("ไปน่านกับแอน", surfaces)
        assert isinstance(broken, Broken)
        assert broken.reason == reason
    twice = find_once("แอนโทรหาแอน", ["แอน"])
    assert isinstance(twice, Broken)
    assert twice.reason == "span_ambiguous"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(min_size=1, max_size=6)), max_size=5))
def test_marking_is_undone_for_any_text(parts: list[tuple[str, str]]) -> None:
    text, spans = "", []
    for between, drawn in parts:
        text += between
        name = drawn.strip() or "x"
        spans.append(Span(len(text), len(text) + len(name), "PER", name))
        text += name
    found = unmark(mark(text, spans), len(spans))
    assert isinstance(found, Marked)
    plain = text.translate(str.maketrans("[]|", "()/"))
    assert found.text == plain.strip()
    surfaces = [found.text[s:e] for _, s, e in found.spans]
    assert surfaces == [s.text.translate(str.maketrans("[]|", "()/")) for s in spans]
