"""How far the words of drawn clips begin from where they truly begin, beside a uniform split. Aligns nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.models.align_shown import ShownAlignment, Span


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Mean absolute errors over the words of some clips that begin where a token begins, without the first of each."""

    path_ms: float
    uniform_ms: float
    """Of a clip divided evenly among its characters."""
    late_ms: float
    """Median of how much later a word begins on the path than it is said; below 0: earlier.

    Encoders whose convolutions are padded on the left, as those of w2v-BERT, have such a lag.
    """
    shifted_ms: float
    """Of the path with this lag taken off, a single number from the same words."""
    count: int


def boundary_errors(alignments: Sequence[ShownAlignment]) -> Boundaries | None:
    """Errors of clips whose words are their text; None if there is no word to compare."""
    late, of_uniform = [], []
    for one in alignments:
        places = word_places(one.text, one.words)
        begins = dict(zip(_starts(one.pieces), one.pieces, strict=True))
        for place, word in list(zip(places, one.words, strict=True))[1:]:
            if place in begins:
                late.append(1000 * (begins[place].start_s - word.start_s))
                uniform = one.duration_s * place / len(_bare(one.text))
                of_uniform.append(1000 * abs(uniform - word.start_s))
    if not late:
        return None
    lag = median(late)
    return Boundaries(
        path_ms=fmean(map(abs, late)),
        uniform_ms=fmean(of_uniform),
        late_ms=lag,
        shifted_ms=fmean(abs(x - lag) for x in late),
        count=len(late),
    )


def word_places(text: str, words: Sequence[Span]) -> list[int]:
    """Where each word begins in the text without its spaces; none if the words are not the text."""
    if not words or "".join(_bare(word.text) for word in words) != _bare(text):
        return [-1] * len(words)
    return _starts(words)


def _starts(spans: Sequence[Span]) -> list[int]:
    lengths = [len(_bare(span.text)) for span in spans]
    return list(accumulate(lengths[:-1], initial=0)) if spans else []


def _bare(text: str) -> str:
    return "".join(text.split())
