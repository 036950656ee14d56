"""A text under rewriting that remembers which letters of the original each letter came from.

It does not know what is rewritten, or why (that is `thaitool.text.spoken`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence

#: What a match becomes: words for the whole of it, or words with the group each comes from, in the
#: order of the groups; None leaves the match as it is.
Pieces = str | tuple[tuple[str, int], ...] | None


@dataclass(frozen=True, slots=True)
class Traced:
    """A text and, for each of its letters, the half-open stretch of the original it stands for.

    Both stretches' ends rise with the position, so that what stood earlier stays earlier.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def traced(text: str) -> Traced:
    """An untouched text: every letter stands for itself."""
    return Traced(text, tuple(range(len(text))), tuple(range(1, len(text) + 1)))


def rewrite(
    traced_text: Traced, pattern: re.Pattern[str], words: Callable[[re.Match[str]], Pieces]
) -> Traced:
    """All matches of `pattern` replaced by `words`; unlike `re.sub`, with the letters' origins."""
    text, starts, ends = traced_text.text, traced_text.starts, traced_text.ends
    out: list[str] = []
    out_starts: list[int] = []
    out_ends: list[int] = []
    at = 0
    for match in pattern.finditer(text):
        pieces = words(match)
        if pieces is None:
            continue
        out.append(text[at : match.start()])
        out_starts += starts[at : match.start()]
        out_ends += ends[at : match.start()]
        for piece, group in ((pieces, 0),) if isinstance(pieces, str) else pieces:
            first, last = match.span(group)
            out.append(piece)
            # A zero-width match stands between two letters.
            is_empty = first == last
            origin = (ends[first - 1] if first else 0) if is_empty else starts[first]
            out_starts += [origin] * len(piece)
            out_ends += [origin if is_empty else ends[last - 1]] * len(piece)
        at = match.end()
    if not out:
        return traced_text
    return Traced("".join(out) + text[at:], (*out_starts, *starts[at:]), (*out_ends, *ends[at:]))


def join(match: re.Match[str], pieces: Pieces) -> str:
    """The words without their origins, for `re.sub`."""
    if pieces is None:
        return match[0]
    return pieces if isinstance(pieces, str) else "".join(words for words, _ in pieces)


def moved(traced_text: Traced, spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Where half-open stretches of the original are now, without spaces at their edges.

    A stretch of which nothing is left is empty, at the place where it would stand.
    """
    text, starts, ends = traced_text.text, traced_text.starts, traced_text.ends
    out = []
    for start, end in spans:
        inside = [k for k in range(len(text)) if starts[k] < end and ends[k] > start]
        inside = [k for k in inside if not text[k].isspace()]
        if inside:
            out.append((inside[0], inside[-1] + 1))
        else:
            here = sum(ends[k] <= start for k in range(len(text)))
            out.append((here, here))
    return tuple(out)
