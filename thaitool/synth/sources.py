"""Reads English sources: alpaca rows (JSON Lines or a JSON array) and SNIPS intent files.

It does not translate, split or invent; a row that cannot be right stops the reading.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from thaitool.errors import InputError
from thaitool.records import ENTITY_TYPES, Rejected
from thaitool.synth.jsonrows import (
    JsonObject,
    array_of_objects,
    lines_of_objects,
    raise_problems,
    read_text,
    text_field,
    undecoded,
)

#: What a row says about its licence when nobody said anything.
UNKNOWN_LICENCE = "unknown"

#: SNIPS slot -> entity type; None where the slot holds no name (times, numbers, kinds of things).
SNIPS_SLOTS: Mapping[str, str | None] = MappingProxyType(
    {
        **dict.fromkeys(("artist",), "PER"),
        **dict.fromkeys(("city", "country", "state", "geographic_poi", "poi"), "LOC"),
        **dict.fromkeys(("restaurant_name", "location_name", "service"), "ORG"),
        **dict.fromkeys(
            (
                *("album", "entity_name", "movie_name", "object_name", "playlist"),
                *("served_dish", "track"),
            ),
            "OTH",
        ),
        **dict.fromkeys(
            (
                *("best_rating", "condition_description", "condition_temperature", "cuisine"),
                *("current_location", "facility", "genre", "movie_type", "music_item"),
                *("object_location_type", "object_part_of_series_type", "object_select"),
                *("object_type", "party_size_description", "party_size_number"),
                *("playlist_owner", "rating_unit", "rating_value", "restaurant_type", "sort"),
                *("spatial_relation", "timeRange", "year"),
            )
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Span:
    """An entity in English text: characters `start` to `end` (exclusive), which read `text`."""

    start: int
    end: int
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One English sentence and what is known about it; `entities` in order, not overlapping."""

    source_id: str
    corpus: str
    licence: str
    text_en: str
    intent: str | None
    entities: tuple[Span, ...]
    rephrase_en: str = ""
    output: str = ""
    encoding: str = "utf-8"
    """`cesu-8` or `latin-1` if the row held bytes that are not UTF-8 and were read as that."""
    variant: int = 0
    """0 is the row as it was read; higher numbers come from `augment`."""


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one file, and the rows set aside because an earlier one has the same sentence."""

    rows: tuple[SourceRow, ...]
    rejected: tuple[Rejected, ...]


def read_source(path: Path, *, corpus: str | None = None, licence: str | None = None) -> Source:
    """Reads `path`: `.jsonl` is alpaca; `.json` is alpaca if it holds an array, SNIPS if an object.

    An alpaca row has `instruction` and `output`, and may have `input`, `id`, `intent`, `entities`
    (list of {type, text}), `rephrase`, `licence`, `corpus`; other keys are ignored. `corpus` and
    `licence` hold for rows that do not name their own. Alpaca must be UTF-8. SNIPS files hold
    rows in CESU-8 or Latin-1 among UTF-8: these are read as such and say so in `encoding`.

    Raises:
        InputError: the file is unreadable, or rows are wrong (up to 20, with line and field).
    """
    text = read_text(path)
    problems: list[str] = []
    if path.suffix == ".jsonl":
        rows = list(_alpaca_rows(lines_of_objects(text, problems), problems))
        default_corpus = path.stem
    elif path.suffix == ".json":
        kind = _parsed_kind(path, text)
        if kind is list:
            rows = list(_alpaca_rows(array_of_objects(text, problems), problems))
            default_corpus = path.stem
        else:
            rows = list(_snips_rows(json.loads(text), problems))
            default_corpus = "snips"
    else:
        raise InputError(
            f"{path} must end in .jsonl or .json, not '{path.suffix}'. "
            "Convert the source to alpaca JSON Lines."
        )
    _check_ids(rows, problems)
    raise_problems(path, problems, "Correct these rows and run again.")
    if not rows:
        raise InputError(f"{path} holds no rows. Give a source with at least one row.")
    named = (
        replace(
            row,
            corpus=row.corpus or corpus or default_corpus,
            licence=row.licence or licence or UNKNOWN_LICENCE,
        )
        for _, row in rows
    )
    return _without_repeats(tuple(named))


def skeleton(text_en: str, entities: Sequence[Span]) -> str:
    """The sentence with `[1:PER]` for its first entity and so on: what is left is the wording.

    Case, sentence punctuation and runs of spaces do not count.
    """
    parts: list[str] = []
    position = 0
    for index, span in enumerate(entities, start=1):
        parts += [text_en[position : span.start], f"[{index}:{span.type}]"]
        position = span.end
    parts.append(text_en[position:])
    return normal_english("".join(parts))


def normal_english(text: str) -> str:
    """`text` in lower case, without sentence punctuation, with single spaces."""
    return " ".join(re.sub(r"[.,;?!\"]", " ", text).casefold().split())


def _parsed_kind(path: Path, text: str) -> type:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Name a file of JSON Lines .jsonl."
        ) from error
    if not isinstance(value, list | dict):
        raise InputError(
            f"{path} must hold a JSON array (alpaca) or object (SNIPS), "
            f"not {type(value).__name__}. Give a file of one of these forms."
        )
    return type(value)


def _alpaca_rows(
    records: Iterator[tuple[str, JsonObject]], problems: list[str]
) -> Iterator[tuple[str, SourceRow]]:
    for place, record in records:
        known = len(problems)
        instruction = text_field(record, "instruction", place, problems)
        added = text_field(record, "input", place, problems, required=False)
        output = text_field(record, "output", place, problems)
        intent = text_field(record, "intent", place, problems, required=False)
        text = f"{instruction.strip()} {added.strip()}".strip()
        entities = _alpaca_entities(record.get("entities"), text, place, problems)
        row = SourceRow(
            source_id=text_field(record, "id", place, problems, required=False)
            or _content_id(text, intent),
            corpus=text_field(record, "corpus", place, problems, required=False),
            licence=text_field(record, "licence", place, problems, required=False),
            text_en=text,
            intent=intent or None,
            entities=entities,
            rephrase_en=text_field(record, "rephrase", place, problems, required=False),
            output=output,
        )
        if undecoded(text + output + row.rephrase_en):
            problems.append(f"{place}: is not UTF-8 text")
        if len(problems) == known:
            yield place, row


def _alpaca_entities(value: object, text: str, place: str, problems: list[str]) -> tuple[Span, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append(f"{place}: field 'entities' must be a list, not {type(value).__name__}")
        return ()
    spans: list[Span] = []
    for index, item in enumerate(value):
        where = f"{place}: field 'entities[{index}]'"
        if not isinstance(item, dict):
            problems.append(f"{where} must be an object with type and text")
            continue
        kind, surface = item.get("type"), item.get("text")
        if kind not in ENTITY_TYPES:
            problems.append(f"{where}: type must be one of {', '.join(ENTITY_TYPES)}, not {kind!r}")
        elif not isinstance(surface, str) or not surface.strip():
            problems.append(f"{where}: text must be a non-empty string, not {surface!r}")
        elif (span := find_span(text, kind, surface, spans)) is None:
            problems.append(f"{where}: text {surface!r} does not stand in the sentence {text!r}")
        else:
            spans.append(span)
    return tuple(sorted(spans, key=lambda span: span.start))


def find_span(text: str, kind: str, surface: str, taken: list[Span]) -> Span | None:
    """The first place of `surface` in `text` that no span of `taken` overlaps; None without one."""
    # Whole words only: the name "Ann" must not be found inside "Announce".
    for match in re.finditer(rf"(?<!\w){re.escape(surface)}(?!\w)", text):
        if all(match.end() <= span.start or match.start() >= span.end for span in taken):
            return Span(match.start(), match.end(), kind, surface)
    return None


def _snips_rows(
    intents: Mapping[str, object], problems: list[str]
) -> Iterator[tuple[str, SourceRow]]:
    for intent, items in intents.items():
        if not isinstance(items, list):
            problems.append(f"intent '{intent}': must be a list, not {type(items).__name__}")
            continue
        for index, item in enumerate(items):
            place = f"{intent}[{index}]"
            chunks = item.get("data") if isinstance(item, dict) else None
            if not isinstance(chunks, list):
                problems.append(f"{place}: field 'data' must be a list of text chunks")
                continue
            known = len(problems)
            row = _snips_row(intent, chunks, place, problems)
            if len(problems) == known:
                yield place, row


def _snips_row(intent: str, chunks: list[object], place: str, problems: list[str]) -> SourceRow:
    text, encoding = "", "utf-8"
    spans: list[Span] = []
    for index, chunk in enumerate(chunks):
        where = f"{place}.data[{index}]"
        if not isinstance(chunk, dict):
            problems.append(f"{where}: must be a JSON object, not {type(chunk).__name__}")
            continue
        raw = chunk.get("text")
        if not isinstance(raw, str):
            problems.append(f"{where}: field 'text' must be a string, not {type(raw).__name__}")
            continue
        piece, used = _repaired(raw, where, problems)
        encoding = encoding if used == "utf-8" else used
        piece = piece if text else piece.lstrip()
        slot = chunk.get("entity")
        if slot is not None and slot not in SNIPS_SLOTS:
            problems.append(f"{where}: field 'entity' is the unknown slot {slot!r}")
        kind = SNIPS_SLOTS.get(slot) if isinstance(slot, str) else None
        surface = piece.strip()
        if kind is not None and surface:
            start = len(text) + len(piece) - len(piece.lstrip())
            spans.append(Span(start, start + len(surface), kind, surface))
        text += piece
    text = text.rstrip()
    if not text:
        problems.append(f"{place}: field 'data' holds no text")
    return SourceRow(
        source_id=_content_id(text, intent),
        corpus="",
        licence="",
        text_en=text,
        intent=intent,
        entities=tuple(spans),
        encoding=encoding,
    )


def _repaired(text: str, where: str, problems: list[str]) -> tuple[str, str]:
    """The text with bytes that are not UTF-8 read as CESU-8 or else Latin-1, and which it was."""
    strays = undecoded(text)
    if not strays:
        return text, "utf-8"
    try:
        # CESU-8 writes an emoji as two three-byte surrogates; UTF-16 puts the two together.
        halves = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
        return halves.encode("utf-16", "surrogatepass").decode("utf-16"), "cesu-8"
    except UnicodeDecodeError:
        table = {ord(stray): ord(stray) - 0xDC00 for stray in strays}
    # 0x80 to 0x9F are control codes in Latin-1, so such bytes belong to some other encoding.
    if any(byte < 0xA0 for byte in table.values()):
        problems.append(f"{where}: field 'text' is neither UTF-8 nor CESU-8 nor Latin-1")
    return text.translate(table), "latin-1"


def _content_id(text: str, intent: str | None) -> str:
    content = json.dumps([text, intent or None]).encode("utf-8")
    return hashlib.sha256(content).hexdigest()[:16]


def _check_ids(rows: list[tuple[str, SourceRow]], problems: list[str]) -> None:
    first: dict[str, tuple[str, SourceRow]] = {}
    for place, row in rows:
        earlier = first.setdefault(row.source_id, (place, row))
        # The same content hash is a repeated row, which is set aside, not a mistake.
        if earlier[0] != place and row.source_id != _content_id(row.text_en, row.intent):
            problems.append(
                f"{place}: field 'id' repeats '{row.source_id}' of {earlier[0]}; ids must differ"
            )


def _without_repeats(rows: tuple[SourceRow, ...]) -> Source:
    kept: dict[str, SourceRow] = {}
    rejected: list[Rejected] = []
    for row in rows:
        key = normal_english(row.text_en)
        if key in kept:
            detail = f"the sentence of row '{kept[key].source_id}' again: {row.text_en}"
            rejected.append(Rejected(row.source_id, "duplicate_text", detail))
        else:
            kept[key] = row
    return Source(tuple(kept.values()), tuple(rejected))
