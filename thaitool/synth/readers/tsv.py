"""Tables of sentences: multilingual_task_dialog (intent, slots, utterance), and tables whose first line names columns.

Slots are `start:end:type`, separated by commas, in characters of the utterance, `end` exclusive (Schuster et al.,
NAACL 2019). That data set marks places and times but no people, so that its sentences have no NER label. Columns that
may be named: text or utterance, and id, intent, slots, rephrase, answer, licence, corpus and split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.records import SPLITS
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
    from collections.abc import Iterator, Mapping

#: Of a file without a line of names; a fourth and a fifth column (language, tokens) are ignored.
_DIALOG = ("intent", "slots", "text")
_NAMES = frozenset(
    ("id", "intent", "slots", "text", "rephrase", "answer", "licence", "corpus", "split")
)


def is_tsv(lines: list[str]) -> bool:
    """Whether the first lines are such a table."""
    rows = [line.split("\t") for line in lines]
    if rows and _header(rows[0]) is not None:
        return True
    good = [row for row in rows if len(row) >= 3 and _slots(row[1]) is not None]
    # An empty cell is one without slots, but says nothing about the table. Bad lines are for the reader to name.
    return 2 * len(good) > len(rows) and any(row[1] for row in good)


def read_tsv(text: str, given: Given, found: Found) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each good line; quotes have no meaning."""
    names: tuple[str, ...] = ()
    for number, line in numbered_lines(text):
        if not line.strip():
            continue
        cells = line.split("\t")
        if not names:
            header = _header(cells)
            names = header or _DIALOG
            if header is not None:
                continue
        if len(cells) < len(names) or (len(cells) > len(names) and names is not _DIALOG):
            found.problems.append(
                f"line {number}: must have {len(names)} columns ({', '.join(names)}), but has {len(cells)}"
            )
            continue
        known = len(found.problems)
        has_names = names is not _DIALOG and "slots" in names
        row = _row(dict(zip(names, cells, strict=False)), f"line {number}", given, found, has_names)
        if len(found.problems) == known:
            yield f"line {number}", row


def _header(cells: list[str]) -> tuple[str, ...] | None:
    names = tuple("text" if c.strip() == "utterance" else c.strip() for c in cells)
    is_one = "text" in names and _NAMES.issuperset(names) and len(set(names)) == len(names)
    return names if is_one else None


def _row(
    cells: Mapping[str, str], place: str, given: Given, found: Found, has_names: bool
) -> SourceRow:
    raw, encoding = decoded(cells["text"], place, given, found)
    slots = _slots(cells.get("slots", ""))
    if slots is None:
        found.problems.append(
            f"{place}: slots must be start:end:type, separated by commas, not {cells['slots']!r}"
        )
    text, entities = trimmed_spans(raw, slots or [], place, given, found)
    if not text:
        found.problems.append(f"{place}: the sentence is empty")
    intent = cells.get("intent", "").strip() or None
    split = cells.get("split", "").strip()
    if split and split not in SPLITS:
        found.problems.append(f"{place}: split must be one of {', '.join(SPLITS)}, not {split!r}")
    return SourceRow(
        source_id=cells.get("id", "").strip() or content_id(text, intent),
        corpus=cells.get("corpus", "").strip(),
        licence=cells.get("licence", "").strip(),
        text=text,
        intent=intent,
        entities=entities,
        rephrase=cells.get("rephrase", "").strip(),
        output=cells.get("answer", "").strip(),
        encoding=encoding,
        language=given.language,
        split=split,
        has_names=has_names,
    )


def _slots(cell: str) -> list[Place] | None:
    """The places of a cell; None where it is none."""
    places: list[Place] = []
    for slot in filter(None, cell.split(",")):
        start, _, rest = slot.partition(":")
        end, _, name = rest.partition(":")
        if not (start.isdecimal() and end.isdecimal() and name):
            return None
        places.append((int(start), int(end), name))
    return places
