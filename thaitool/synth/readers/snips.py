"""SNIPS: one JSON object of intents, each with sentences in chunks, of which some are slots.

Some of the published files hold rows in CESU-8 or Latin-1 among UTF-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.synth.readers.reading import Found, Given, Place, decoded, trimmed_spans
from thaitool.synth.sources import SourceRow, content_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read_snips(
    intents: Mapping[str, object], given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each good sentence."""
    for intent, items in intents.items():
        if not isinstance(items, list):
            found.problems.append(f"intent '{intent}': must be a list, not {type(items).__name__}")
            continue
        for index, item in enumerate(items):
            place = f"{intent}[{index}]"
            chunks = item.get("data") if isinstance(item, dict) else None
            if not isinstance(chunks, list):
                found.problems.append(f"{place}: field 'data' must be a list of text chunks")
                continue
            known = len(found.problems)
            row = _row(intent, chunks, place, given, found)
            if len(found.problems) == known:
                yield place, row


def _row(intent: str, chunks: list[object], place: str, given: Given, found: Found) -> SourceRow:
    text, encoding = "", "utf-8"
    places: list[Place] = []
    for index, chunk in enumerate(chunks):
        where = f"{place}.data[{index}]"
        if not isinstance(chunk, dict):
            found.problems.append(f"{where}: must be a JSON object, not {type(chunk).__name__}")
            continue
        raw = chunk.get("text")
        if not isinstance(raw, str):
            found.problems.append(
                f"{where}: field 'text' must be a string, not {type(raw).__name__}"
            )
            continue
        piece, used = decoded(raw, f"{where}: field 'text'", given, found)
        encoding = encoding if used == "utf-8" else used
        slot = chunk.get("entity")
        if isinstance(slot, str) and piece:
            places.append((len(text), len(text) + len(piece), slot))
        text += piece
    text, entities = trimmed_spans(text, places, place, given, found)
    if not text:
        found.problems.append(f"{place}: field 'data' holds no text")
    return SourceRow(
        source_id=content_id(text, intent),
        corpus="",
        licence="",
        text=text,
        intent=intent,
        entities=entities,
        encoding=encoding,
        language=given.language,
    )
