"""Rewrites Thai text as it is read aloud: numbers, dates, money, Latin words and ๆ become words.

It leaves letters of other scripts as they are (the phonemes refuse them), and it does not choose
between readings by meaning: what a rule does not see is read as a plain number or letter by letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.text.numbers import number_words
from thaitool.text.spoken_rules import BARE, RULES, RULES_COLLOQUIAL
from thaitool.text.traced import join, moved, rewrite, traced

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Spoken", "number_words", "spoken_form", "spoken_spans"]

# Thai letters, vowels and marks with single spaces: nothing to rewrite.
_IS_SPOKEN = re.compile("(?:[ก-ฮะ-ฺเ-ๅ็-๎]+(?: [ก-ฮะ-ฺเ-ๅ็-๎]+)*)?")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A text as it is read aloud, and where stretches of the written one are in it."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """Half-open stretches of `text`, in the order in which they were asked for."""


def spoken_form(text: str, *, colloquial: bool = False) -> str:
    """What a person says who reads Thai `text` aloud, in Thai letters as far as it is known.

    Doing it twice changes nothing more. Spaces are kept as single ones: they are the pauses.

    Args:
        text: Thai as it is written.
        colloquial: Read times of the clock as in conversation (หนึ่งทุ่มครึ่ง), not by 24 hours.
    """
    if _IS_SPOKEN.fullmatch(text) and BARE.search(text) is None:
        return text
    for pattern, words in RULES_COLLOQUIAL if colloquial else RULES:
        text = pattern.sub(lambda match, words=words: join(match, words(match)), text)  # type: ignore[misc]
    return text


def spoken_spans(
    text: str, spans: Sequence[tuple[int, int]], *, colloquial: bool = False
) -> Spoken:
    """As `spoken_form`, with half-open `spans` of the written text (entities) carried over.

    A span covers all words that one of its letters turned into; where one reading covers more than
    the span (the sign of ฿20), so does the result. A span that is not read at all (an emoji) comes
    out empty. Spans in the order of the text stay in it.
    """
    current = traced(text)
    for pattern, words in RULES_COLLOQUIAL if colloquial else RULES:
        current = rewrite(current, pattern, words)
    return Spoken(current.text, moved(current, spans))
