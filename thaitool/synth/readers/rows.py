"""The form for anything else, JSON Lines: one sentence with all that is known about it.

`text` is required. Optional: `id`, `lang` (en or th), `intent`, `entities` (list of {type, text} or {type, start,
end}, in characters, `end` exclusive; an empty list says that there are none), `rephrase` (the formal written form),
`answer`, `licence`, `corpus`, `split` (train, dev or test), `audio` (a sound file, relative to the list). Other keys
are mistakes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.records import SPLITS, AudioRef, Utterance
from thaitool.synth.jsonrows import JsonObject, text_field
from thaitool.synth.readers.alpaca import named_span
from thaitool.synth.readers.reading import Found, Given, trimmed_spans
from thaitool.synth.recordings import reference
from thaitool.synth.sources import SourceRow, Span, content_id

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEYS = frozenset(
    (
        *("id", "text", "lang", "intent", "entities", "rephrase", "answer"),
        *("licence", "corpus", "split", "audio"),
    )
)


def read_rows(
    records: Iterator[tuple[str, JsonObject]], folder: Path, given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each good record; `audio` starts at `folder`."""
    for place, record in records:
        known = len(found.problems)
        row = _row(record, place, folder, given, found)
        if len(found.problems) == known:
            yield place, row


def _row(record: JsonObject, place: str, folder: Path, given: Given, found: Found) -> SourceRow:
    problems = found.problems
    problems += [f"{place}: there is no field '{key}'" for key in sorted(record.keys() - _KEYS)]

    def optional(name: str) -> str:
        return text_field(record, name, place, problems, required=False).strip()

    # Not stripped before the entities are found: their offsets count every letter.
    text = text_field(record, "text", place, problems)
    rephrase, answer, intent = optional("rephrase"), optional("answer"), optional("intent")
    language, split = optional("lang") or given.language, optional("split")
    if language not in {"en", "th"}:
        problems.append(f"{place}: field 'lang' must be en or th, not {language!r}")
    if split and split not in SPLITS:
        problems.append(f"{place}: field 'split' must be one of {', '.join(SPLITS)}, not {split!r}")
    stripped, entities = _entities(record.get("entities"), text, place, given, found)
    audio = optional("audio")
    # Two recordings of one sentence are two rows.
    identity = optional("id") or content_id(
        "\n".join(filter(None, (stripped, audio))), intent or None
    )
    return SourceRow(
        source_id=identity,
        corpus=optional("corpus"),
        licence=optional("licence"),
        text=stripped,
        intent=intent or None,
        entities=entities,
        rephrase=rephrase,
        output=answer,
        language="th" if language == "th" else "en",
        audio=_audio(audio, place, folder, found) if audio else "",
        split=split,
        has_names=record.get("entities") is not None,
    )


def _entities(
    value: object, text: str, place: str, given: Given, found: Found
) -> tuple[str, tuple[Span, ...]]:
    if not isinstance(value, list | None):
        found.problems.append(
            f"{place}: field 'entities' must be a list, not {type(value).__name__}"
        )
        return text.strip(), ()
    taken: list[Span] = []
    places: list[tuple[int, int, str]] = []
    for index, item in enumerate(value or ()):
        where = f"{place}: field 'entities[{index}]'"
        if not isinstance(item, dict):
            found.problems.append(f"{where} must be an object with type, and text or start and end")
            continue
        name, start, end = item.get("type"), item.get("start"), item.get("end")
        if start is None and end is None:
            span = named_span(name, item.get("text"), text, taken, where, given, found)
            if span is not None:
                places.append((span.start, span.end, str(name)))
        elif not isinstance(name, str) or type(start) is not int or type(end) is not int:
            found.problems.append(
                f"{where}: start and end must be whole numbers, and type a string"
            )
        elif item.get("text", text[start:end]) != text[start:end]:
            found.problems.append(
                f"{where}: characters {start} to {end} are {text[start:end]!r}, not {item['text']!r}"
            )
        else:
            places.append((start, end, name))
    return trimmed_spans(text, places, place, given, found)


def _audio(name: str, place: str, folder: Path, found: Found) -> str:
    path = folder / name
    if not path.is_file():
        found.problems.append(f"{place}: field 'audio' names {path}, which is no file")
    # Its length is not known here; 0 promises nothing.
    return reference(Utterance("", AudioRef(str(path)), 0.0, 0))
