"""What the readers of sources share: what is given, what is found, exact spans, stray bytes. Knows no form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thaitool.synth.jsonrows import undecoded
from thaitool.synth.sources import Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thaitool.records import Rejected
    from thaitool.synth.sources import Language

#: (start, end, exclusive, foreign type) of a name in a sentence, in characters.
Place = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of a source."""

    language: Language
    entity_types: Mapping[str, str | None]
    """Foreign type -> one of `ENTITY_TYPES`, or None for what is no name."""
    token_column: int = 1
    tag_column: int = -1


@dataclass(slots=True)
class Found:
    """What a reader notes besides rows."""

    problems: list[str] = field(default_factory=list)
    """Mistakes that stop the reading, each with its place."""
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unknown_types: dict[str, list[str]] = field(default_factory=dict)
    """Places of each type that no table knows."""

    def unknown_type(self, name: str, where: str) -> None:
        """Notes one."""
        self.unknown_types.setdefault(name, []).append(where)

    def check_types(self) -> None:
        """Makes a problem of the types that no table knows, all of them at once."""
        if self.unknown_types:
            listed = ", ".join(
                f"{name!r} ({len(places)}, first in {places[0]})"
                for name, places in sorted(self.unknown_types.items())
            )
            # First, so that it is among those which are shown.
            self.problems.insert(
                0,
                f"unknown entity types: {listed}; say in entity_types what they are (PER, LOC, ORG, OTH or null)",
            )


def trimmed_spans(
    text: str, places: Sequence[Place], where: str, given: Given, found: Found
) -> tuple[str, tuple[Span, ...]]:
    """`text` without spaces at its ends, and the names in it, without spaces at theirs, in order.

    Types become ours; what is no name, or only spaces, is left out. Places outside the text or within each other are
    problems.
    """
    spans: list[Span] = []
    shift = len(text) - len(text.lstrip())
    last_end = 0
    for start, end, name in sorted(places):
        if not 0 <= start < end <= len(text):
            found.problems.append(
                f"{where}: characters {start} to {end} of a sentence of {len(text)} are no place in it"
            )
            continue
        if start < last_end:
            found.problems.append(
                f"{where}: the span at characters {start} to {end} overlaps the one before, which ends at {last_end}"
            )
            continue
        last_end = end
        if name not in given.entity_types:
            found.unknown_type(name, where)
            continue
        kind, surface = given.entity_types[name], text[start:end].strip()
        if kind is not None and surface:
            begin = start + len(text[start:end]) - len(text[start:end].lstrip()) - shift
            spans.append(Span(begin, begin + len(surface), kind, surface))
    return text.strip(), tuple(spans)


def decoded(text: str, where: str, given: Given, found: Found) -> tuple[str, str]:
    """The text of `read_text` with its stray bytes read, and the encoding that they are in.

    English: CESU-8 or else Latin-1. Thai has no second encoding that could be told from them.
    """
    if not undecoded(text):
        return text, "utf-8"
    if given.language == "th":
        found.problems.append(
            f"{where}: is not UTF-8 text (Thai files may be in TIS-620); save the file as UTF-8"
        )
        return text, "utf-8"
    return _repaired(text, where, found)


def _repaired(text: str, where: str, found: Found) -> tuple[str, str]:
    try:
        # CESU-8 writes an emoji as two three-byte surrogates; UTF-16 puts the two together.
        halves = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
        return halves.encode("utf-16", "surrogatepass").decode("utf-16"), "cesu-8"
    except UnicodeDecodeError:
        table = {ord(stray): ord(stray) - 0xDC00 for stray in undecoded(text)}
    # 0x80 to 0x9F are control codes in Latin-1, so such bytes belong to some other encoding.
    if any(byte < 0xA0 for byte in table.values()):
        found.problems.append(f"{where} is neither UTF-8 nor CESU-8 nor Latin-1")
    return text.translate(table), "latin-1"


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, blank ones too, without line ends; only "\\n" and "\\r\\n" end a line."""
    # str.splitlines would also split at U+2028 and U+0085, which sentences may hold.
    return [(n, line.removesuffix("\r")) for n, line in enumerate(text.split("\n"), start=1)]
