"""What `synth` starts from: a sentence, what is known about it, and what two sentences have in common.

It reads no files: `formats` does, with one module of `readers` for each form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thaitool.records import Rejected

Language = Literal["en", "th"]
#: What a row says about its licence when nobody said anything.
UNKNOWN_LICENCE = "unknown"

# Thai is written without spaces: a name may touch other words, but not begin or end between a consonant and its signs.
# Vowels before their consonant; vowels, tone marks and signs that belong to the consonant before.
_THAI = "\u0e00-\u0e7f"
_LEADING, _FOLLOWING = "\u0e40-\u0e44", "\u0e30-\u0e3a\u0e45\u0e47-\u0e4e"


@dataclass(frozen=True, slots=True)
class Span:
    """An entity in the text of a row: characters `start` to `end` (exclusive), which read `text`."""

    start: int
    end: int
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One sentence and what is known about it; `entities` in order, not overlapping."""

    source_id: str
    corpus: str
    licence: str
    text: str
    intent: str | None
    entities: tuple[Span, ...]
    rephrase: str = ""
    """The formal written form, in the language of the row."""
    output: str = ""
    """The answer to it, in the language of the row."""
    encoding: str = "utf-8"
    """`cesu-8` or `latin-1` if the row held bytes that are not UTF-8 and were read as that."""
    variant: int = 0
    """0 is the row as it was read; higher numbers come from `augment`."""
    language: Language = "en"
    """Of `text`, `rephrase` and `output`; a Thai row is spoken as it stands."""
    audio: str = ""
    """A recording of `text`, as `recordings.reference` writes it: it is kept, and no voice speaks this row."""
    speaker: str = ""
    """Of `audio`, where it is known."""
    split: str = ""
    """train, dev or test as the source says; "" leaves it to `split_rows`."""
    has_names: bool = True
    """Whether somebody has looked for names: without, no `entities` does not mean that there are none."""


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one source, those set aside with the reason, and what was repaired, in sentences."""

    rows: tuple[SourceRow, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    sha256: str
    """Of the file; of a directory, of the rows."""


def skeleton(text: str, entities: Sequence[Span]) -> str:
    """The sentence with `[1:PER]` for its first entity and so on: what is left is the wording.

    Case, sentence punctuation and runs of spaces do not count.
    """
    parts: list[str] = []
    position = 0
    for index, span in enumerate(entities, start=1):
        parts += [text[position : span.start], f"[{index}:{span.type}]"]
        position = span.end
    parts.append(text[position:])
    return normal_english("".join(parts))


def normal_english(text: str) -> str:
    """`text` in lower case, without sentence punctuation, with single spaces."""
    return " ".join(re.sub(r"[.,;?!\"]", " ", text).casefold().split())


def find_span(text: str, kind: str, surface: str, taken: Sequence[Span]) -> Span | None:
    """The first place of `surface` in `text` that no span of `taken` overlaps; None without one.

    Whole words only (the name "Ann" is not found inside "Announce"). In Thai, no consonant loses its vowels or signs,
    but one that follows the name may still end its last syllable.
    """
    if not surface:
        return None
    before, after = rf"(?<![{_LEADING}])", rf"(?![{_FOLLOWING}])"
    if not re.match(f"[{_THAI}]", surface):
        before = rf"(?<![^\W{_THAI}])"
    if not re.match(f"[{_THAI}]", surface[-1]):
        after = rf"(?![^\W{_THAI}])"
    for match in re.finditer(before + re.escape(surface) + after, text):
        if all(match.end() <= span.start or match.start() >= span.end for span in taken):
            return Span(match.start(), match.end(), kind, surface)
    return None


def content_id(text: str, intent: str | None) -> str:
    """The source id of a row that has none: the same sentence with the same intent has the same, in any file."""
    content = json.dumps([text, intent or None]).encode("utf-8")
    return hashlib.sha256(content).hexdigest()[:16]


def data_id_of(task: str, row: SourceRow) -> str:
    """The published id of a row for a task: the same in every data set made of the same source row and variant."""
    source = f"{row.corpus}/{row.source_id}".encode()
    digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()[:12]
    return f"{task.upper()}-{digest}-{row.variant:02d}"
