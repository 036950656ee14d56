"""SLURP and MASSIVE: JSON Lines whose annotated sentence has its slots in brackets, `[date : this week]`.

SLURP has `sentence`, `sentence_annotation`; MASSIVE has `utt`, `annot_utt`, `partition`, `locale`. Both have `intent`
and `scenario`, which is put before an intent that does not begin with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from thaitool.records import Rejected
from thaitool.synth.jsonrows import JsonObject, text_field
from thaitool.synth.readers.reading import Found, Given, Place, decoded, trimmed_spans
from thaitool.synth.sources import SourceRow, content_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thaitool.synth.sources import Language

_SLOT = re.compile(r"\[([^\[\]:]+?)\s*:([^\[\]]*)\]")
_SPLITS = {"train": "train", "dev": "dev", "devel": "dev", "test": "test"}
_LANGUAGES: dict[str, Language] = {"en": "en", "th": "th"}
#: (sentence, annotated sentence, id) of each.
SLURP_KEYS = ("sentence", "sentence_annotation", "slurp_id")
MASSIVE_KEYS = ("utt", "annot_utt", "id")


def read_slurp(
    records: Iterator[tuple[str, JsonObject]], given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    """(place, row) for each good record; one whose two sentences differ by more than spaces and case is set aside."""
    for place, record in records:
        known = len(found.problems)
        row = _row(record, place, given, found)
        if row is not None and len(found.problems) == known:
            yield place, row


def _row(record: JsonObject, place: str, given: Given, found: Found) -> SourceRow | None:
    problems = found.problems
    is_massive = MASSIVE_KEYS[1] in record
    plain_key, annotated_key, id_key = MASSIVE_KEYS if is_massive else SLURP_KEYS
    annotated, _ = decoded(text_field(record, annotated_key, place, problems), place, given, found)
    plain, encoding = decoded(text_field(record, plain_key, place, problems), place, given, found)
    language = _language(record, place, given, found)
    number = record.get(id_key)
    identity = str(number) if isinstance(number, int | str) and str(number) else ""
    places = _places(annotated, plain)
    if places is None:
        detail = f"{annotated!r} is not {plain!r} with slots in brackets"
        found.rejected.append(Rejected(identity or place, "annotation_mismatch", detail))
        return None
    text, entities = trimmed_spans(plain, places, place, given, found)
    intent = text_field(record, "intent", place, problems, required=False)
    scenario = text_field(record, "scenario", place, problems, required=False)
    if scenario and intent and not intent.startswith(f"{scenario}_"):
        intent = f"{scenario}_{intent}"
    partition = text_field(record, "partition", place, problems, required=False)
    if partition and partition not in _SPLITS:
        problems.append(f"{place}: partition must be train, dev or test, not {partition!r}")
    return SourceRow(
        source_id=identity or content_id(text, intent or None),
        corpus="",
        licence="",
        text=text,
        intent=intent or None,
        entities=entities,
        encoding=encoding,
        language=language,
        split=_SPLITS.get(partition, ""),
    )


def _language(record: JsonObject, place: str, given: Given, found: Found) -> Language:
    locale = text_field(record, "locale", place, found.problems, required=False)
    language = _LANGUAGES.get(locale[:2]) if locale else given.language
    if language is None:
        found.problems.append(f"{place}: locale must be English or Thai, not {locale!r}")
        return given.language
    return language


def _places(annotated: str, plain: str) -> list[Place] | None:
    """Where the slots lie in `plain`, letter by letter; spaces and case may differ, and nothing else."""
    letters = [index for index, letter in enumerate(plain) if not letter.isspace()]
    said = ""
    places: list[Place] = []
    position = 0
    for match in _SLOT.finditer(annotated):
        said += "".join(annotated[position : match.start()].split())
        surface = "".join(match[2].split())
        first, last = len(said), len(said) + len(surface) - 1
        if not surface or last >= len(letters):
            return None
        places.append((letters[first], letters[last] + 1, match[1].strip()))
        said += surface
        position = match.end()
    said += "".join(annotated[position:].split())
    same = said.casefold() == "".join(plain.split()).casefold()
    return places if same and len(said) == len(letters) else None
