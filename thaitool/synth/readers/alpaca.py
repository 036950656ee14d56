"""Alpaca rows, JSON Lines or one JSON array: `instruction`, `input`, `output`, and labels where they are known.

Optional keys: `id`, `intent`, `entities` (list of {type, text}), `rephrase`, `licence`, `corpus`; others are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.synth.jsonrows import JsonObject, text_field
from thaitool.synth.sources import SourceRow, Span, content_id, find_span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thaitool.synth.readers.reading import Found, Given


def read_alpaca(
    records: Iterator[tuple[str, JsonObject]], given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each good record; an empty `output` is no answer, and no mistake."""
    problems = found.problems
    for place, record in records:
        known = len(problems)
        instruction = text_field(record, "instruction", place, problems)
        added = text_field(record, "input", place, problems, required=False)
        output = text_field(
            record, "output", place, problems, required=record.get("output") is None
        )
        intent = text_field(record, "intent", place, problems, required=False)
        text = f"{instruction.strip()} {added.strip()}".strip()
        row = SourceRow(
            source_id=text_field(record, "id", place, problems, required=False)
            or content_id(text, intent),
            corpus=text_field(record, "corpus", place, problems, required=False),
            licence=text_field(record, "licence", place, problems, required=False),
            text=text,
            intent=intent or None,
            entities=_entities(record.get("entities"), text, place, given, found),
            rephrase=text_field(record, "rephrase", place, problems, required=False),
            output=output.strip(),
            language=given.language,
            has_names=record.get("entities") is not None,
        )
        if len(problems) == known:
            yield place, row


def _entities(value: object, text: str, place: str, given: Given, found: Found) -> tuple[Span, ...]:
    if value is None:
        return ()
    problems = found.problems
    if not isinstance(value, list):
        problems.append(f"{place}: field 'entities' must be a list, not {type(value).__name__}")
        return ()
    spans: list[Span] = []
    taken: list[Span] = []
    for index, item in enumerate(value):
        where = f"{place}: field 'entities[{index}]'"
        if not isinstance(item, dict):
            problems.append(f"{where} must be an object with type and text")
            continue
        span = named_span(item.get("type"), item.get("text"), text, taken, where, given, found)
        if span is not None:
            spans.append(span)
    return tuple(sorted(spans, key=lambda span: span.start))


def named_span(
    name: object,
    surface: object,
    text: str,
    taken: list[Span],
    where: str,
    given: Given,
    found: Found,
) -> Span | None:
    """The first free place of `surface` in `text`, which is taken then; None for a mistake, and for what is no name."""
    if not isinstance(name, str) or not name:
        found.problems.append(f"{where}: type must be a non-empty string, not {name!r}")
        return None
    if name not in given.entity_types:
        found.unknown_type(name, where)
        return None
    kind = given.entity_types[name]
    if not isinstance(surface, str) or not surface.strip():
        found.problems.append(f"{where}: text must be a non-empty string, not {surface!r}")
        return None
    span = find_span(text, kind or name, surface.strip(), taken)
    if span is not None:
        taken.append(span)
    else:
        found.problems.append(f"{where}: text {surface!r} does not stand in the sentence {text!r}")
    return span if kind is not None else None
