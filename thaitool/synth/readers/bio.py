"""Named entities in columns, one token a line: CoNLL, WikiGold, ThaiNER, WikiANN; IOB1, IOB2, BIOES and BILOU.

A blank line or `-DOCSTART-` ends a sentence. Columns are separated by tabs where a line has one, else by spaces. What
begins and ends an entity is as in `conlleval` (Tjong Kim Sang and De Meulder, CoNLL 2003), which reads all schemes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from thaitool.records import Rejected
from thaitool.synth.readers.joining import join_english, join_thai
from thaitool.synth.readers.reading import (
    Found,
    Given,
    Place,
    decoded,
    numbered_lines,
    trimmed_spans,
)
from thaitool.synth.sources import SourceRow, content_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TAG = re.compile(r"([BIESLUM])[-_](.+)")
#: First letters that begin, and that end, an entity whatever stands beside them.
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")
_Line = tuple[int, str, str]
"""(number, token, tag)."""


def read_bio(text: str, given: Given, found: Found) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each sentence; entities that go on without having begun are counted in a note."""
    yield from _rows(_sentences(text, given, found), given, found)


def read_wikiann(text: str, given: Given, found: Found) -> Iterator[tuple[str, SourceRow]]:
    """The same where each token begins with its language, as in `th:กรุงเทพ`."""
    plain: list[list[_Line]] = []
    for sentence in _sentences(text, given, found):
        kept: list[_Line] = []
        for number, token, tag in sentence:
            language, colon, word = token.partition(":")
            if not colon or language != given.language:
                found.problems.append(
                    f"line {number}: the token {token!r} must begin with '{given.language}:', the source's language"
                )
            kept.append((number, word, tag))
        plain.append(kept)
    yield from _rows(plain, given, found)


def _sentences(text: str, given: Given, found: Found) -> list[list[_Line]]:
    sentences: list[list[_Line]] = [[]]
    width = 0
    for number, line in numbered_lines(text):
        if not line.strip() or line.startswith("-DOCSTART-"):
            sentences.append([])
            continue
        # Only at these: a token may hold other spaces.
        columns = line.split("\t") if "\t" in line else [c for c in line.split(" ") if c]
        try:
            token, tag = columns[_at(given.token_column)], columns[_at(given.tag_column)].strip()
        except IndexError:
            token, tag = "", ""
        if len(columns) < 2 or (tag != "O" and not _TAG.fullmatch(tag)):
            if not line.startswith("# "):  # comments of CoNLL-U; the token # has a tag
                found.problems.append(
                    f"line {number}: must be columns with a token and a tag such as O or B-PER, not {line[:60]!r}"
                )
            continue
        width = width or len(columns)
        if len(columns) != width:  # else the rest of a token with spaces would be lost
            found.problems.append(
                f"line {number}: must have {width} columns, as the first, not {len(columns)}: {line[:60]!r}"
            )
            continue
        sentences[-1].append((number, token, tag))
    return [sentence for sentence in sentences if sentence]


def _at(column: int) -> int:
    """Columns are counted from 1, or from -1 at the end."""
    return column - 1 if column > 0 else column


def _rows(
    sentences: Sequence[list[_Line]], given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    begun = _begun_by_i(sentences)
    for sentence in sentences:
        known = len(found.problems)
        place = f"line {sentence[0][0]}"
        tokens, encodings = [], {"utf-8"}
        for number, token, _ in sentence:
            word, encoding = decoded(token, f"line {number}", given, found)
            tokens.append(word)
            encodings.add(encoding)
        joined, ends = (join_thai if given.language == "th" else join_english)(tokens)
        places: list[Place] = [
            (*_extent(ends, first, last), name)
            for first, last, name in entities([t for *_, t in sentence])
        ]
        text, spans = trimmed_spans(joined, places, place, given, found)
        if not text:
            found.rejected.append(Rejected(place, "empty", "the sentence has no text"))
        elif len(found.problems) == known:
            yield (
                place,
                SourceRow(
                    source_id=content_id(text, None),
                    corpus="",
                    licence="",
                    text=text,
                    intent=None,
                    entities=spans,
                    encoding=max(encodings - {"utf-8"}, default="utf-8"),
                    language=given.language,
                ),
            )
    if begun:
        shown = ", ".join(map(str, begun[:20]))
        more = ", ..." if len(begun) > 20 else ""
        found.notes.append(
            f"{len(begun)} entities go on without having begun (I without B); they begin there, as in conlleval."
            f" Lines {shown}{more}"
        )


def _extent(ends: Sequence[tuple[int, int]], first: int, last: int) -> tuple[int, int]:
    return ends[first][0], ends[last][1]


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first token, last token, type) of the entities of one sentence, in any of the schemes."""
    result: list[tuple[int, int, str]] = []
    before: tuple[str, str] | None = None
    for index, tag in enumerate(tags):
        match = _TAG.fullmatch(tag)
        if match is None:
            before = None
            continue
        letter, name = match[1], match[2]
        if _begins(letter, name, before):
            result.append((index, index, name))
        else:
            result[-1] = (result[-1][0], index, name)
        before = (letter, name)
    return result


def _begins(letter: str, name: str, before: tuple[str, str] | None) -> bool:
    return letter in _BEGINS or before is None or before[1] != name or before[0] in _ENDS


def _begun_by_i(sentences: Sequence[list[_Line]]) -> list[int]:
    """Lines where an entity begins with I, E, L or M though the scheme has a letter for its beginning.

    IOB1 has one only between two entities of one type; a file in which B stands nowhere else is IOB1.
    """
    lines: list[int] = []
    is_iob1 = True
    for sentence in sentences:
        before: tuple[str, str] | None = None
        for number, _, tag in sentence:
            match = _TAG.fullmatch(tag)
            if match is None:
                before = None
                continue
            letter, name = match[1], match[2]
            if letter not in _BEGINS and _begins(letter, name, before):
                lines.append(number)
            if letter != "I" and (letter != "B" or before is None or before[1] != name):
                is_iob1 = False
            before = (letter, name)
    return [] if is_iob1 else lines
