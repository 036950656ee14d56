"""Numbered brackets round the names of a sentence, which must come through every rewriting one to one.

`[1|Ann Lee]` is the first name. Brackets survive translation better than tags do, and the number says which name it is
when the order changes (EasyProject: Chen et al., Findings of ACL 2023). Whether the words are right is not looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.synth.sources import Span

_MARKED = re.compile(r"\[(\d{1,3})\|([^\[\]|]*)\]")
#: Signs of the sentence itself that would be taken for ours.
_OWN = str.maketrans("[]|", "()/")


@dataclass(frozen=True, slots=True)
class Marked:
    """A sentence without markers, and where each name lies in it, in order of occurrence."""

    text: str
    spans: tuple[tuple[int, int, int], ...]
    """(number of the name, from 0; start; end, exclusive) in characters of `text`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Why markers are not one to one: a reason code, and a sentence."""

    reason: str
    sentence: str


def mark(text: str, spans: Sequence[Span]) -> str:
    """`text` with a bracket round each span, numbered from 1 in order."""
    parts: list[str] = []
    position = 0
    for number, span in enumerate(spans, start=1):
        parts += [
            text[position : span.start].translate(_OWN),
            f"[{number}|{span.text.translate(_OWN)}]",
        ]
        position = span.end
    parts.append(text[position:].translate(_OWN))
    return "".join(parts)


def unmark(text: str, count: int) -> Marked | Broken:
    """Takes the markers out of a rewritten sentence that must have those numbered 1 to `count`, each once.

    Returns:
        The sentence and its names; or `Broken` with `markers_broken` (half a marker is left), `markers_lost`,
        `markers_doubled`, `markers_foreign` (a number that was not there) or `markers_empty`.
    """
    plain, spans = "", []
    position = 0
    for match in _MARKED.finditer(text):
        plain += text[position : match.start()]
        surface = match[2].strip()
        spans.append((int(match[1]) - 1, len(plain), len(plain) + len(surface)))
        plain += surface
        position = match.end()
    plain += text[position:]
    numbers = [number for number, _, _ in spans]
    if re.search(r"[\[\]|]", plain):
        return Broken("markers_broken", f"brackets are left over: {text!r}")
    if missing := sorted(set(range(count)) - set(numbers)):
        return Broken("markers_lost", f"bracket {missing[0] + 1} is missing in {text!r}")
    if foreign := sorted(set(numbers) - set(range(count))):
        return Broken("markers_foreign", f"bracket {foreign[0] + 1} was not in the sentence")
    if len(numbers) > count:
        return Broken("markers_doubled", f"a bracket occurs more than once in {text!r}")
    if empty := [number for number, start, end in spans if start == end]:
        return Broken("markers_empty", f"bracket {empty[0] + 1} holds no name in {text!r}")
    return _trimmed(plain, spans)


def find_once(text: str, surfaces: Sequence[str]) -> Marked | Broken:
    """Finds each surface in `text` as it stands, where it occurs exactly once and overlaps no other.

    Returns:
        The sentence and its names; or `Broken` with `span_not_found` or `span_ambiguous`.
    """
    spans: list[tuple[int, int, int]] = []
    for number, surface in enumerate(surfaces):
        found = text.count(surface) if surface.strip() else 0
        if not found:
            return Broken("span_not_found", f"name {number + 1}, {surface!r}, is not in {text!r}")
        start = text.find(surface)
        if found > 1 or any(start < e and s < start + len(surface) for _, s, e in spans):
            return Broken("span_ambiguous", f"{surface!r} has no place of its own in {text!r}")
        spans.append((number, start, start + len(surface)))
    return Marked(text, tuple(sorted(spans, key=lambda span: span[1])))


def _trimmed(text: str, spans: list[tuple[int, int, int]]) -> Marked:
    before = len(text) - len(text.lstrip())
    return Marked(text.strip(), tuple((n, s - before, e - before) for n, s, e in spans))
