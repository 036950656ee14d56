"""Plain text, one sentence a line. Blank lines are passed over; nothing is known about a sentence but its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.synth.readers.reading import Found, Given, decoded, numbered_lines
from thaitool.synth.sources import SourceRow, content_id

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_lines(text: str, given: Given, found: Found) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each line that is not blank."""
    blank = 0
    lines = numbered_lines(text)
    for number, line in lines:
        sentence, encoding = decoded(line, f"line {number}", given, found)
        sentence = sentence.strip()
        if not sentence:
            blank += number < len(lines)  # what follows the last line end is no line
            continue
        row = SourceRow(
            source_id=content_id(sentence, None),
            corpus="",
            licence="",
            text=sentence,
            intent=None,
            entities=(),
            encoding=encoding,
            language=given.language,
            has_names=False,
        )
        yield f"line {number}", row
    if blank:
        found.notes.append(f"{blank} of {len(lines)} lines are blank")
