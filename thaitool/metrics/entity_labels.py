"""Reads named entities from a label or an answer, in each of the forms that data and models use.

It counts nothing and repairs nothing: what is in none of the forms is unreadable, and said so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeGuard

from thaitool.errors import InputError
from thaitool.records import ENTITY_KEYS_TH, ENTITY_TYPES, Entity
from thaitool.text.normalize import compact

_ALIASES = {
    **{name: name for name in ENTITY_TYPES},
    **{thai: name for name, thai in ENTITY_KEYS_TH.items()},
    "PERSON": "PER",
    "LOCATION": "LOC",
    "ORGANIZATION": "ORG",
    "OTHER": "OTH",
}
# "TYPE: text": a tag in capitals or a Thai key, so that a sentence with a colon is no entity.
_LINE = re.compile(
    rf"\s*([A-Z][A-Z_]*|{'|'.join(ENTITY_KEYS_TH.values())})\s*:\s*(.*\S)\s*", re.DOTALL
)
_SURFACE_KEYS = ("text", "surface")
_TAG = re.compile("O|[BI]-(.+)")
# A token may be empty or a space, if a tab follows it.
_TAGGED_LINE = re.compile(r"(?:(.*)\t|(.*\S) +)(O|[BI]-\S+)\s*")


def parse_entities(label: str) -> tuple[Entity, ...]:
    """Entities of a label or of a model's answer, in order of occurrence.

    Accepted: the published JSON object {"บุคคล": [..], "สถานที่": [..], "องค์กร": [..], "อื่นๆ": [..]}
    (or PER, LOC, ORG, OTH as keys; a key may be absent or repeated), a JSON list of
    {"type": .., "text": ..} objects, of [type, text] pairs or of "TYPE: text" strings, and plain
    lines "TYPE: text". Also BIO: lines "token TAG", a JSON list of [token, tag] pairs, or
    {"tokens": [..], "tags": [..]}; see `entities_of_tags`. Types other than PER, LOC and ORG
    (MISC, DATE, ...) become OTH. No entities is `{}`, `[]` or empty lists; an empty text is not an
    answer.

    Raises:
        InputError: the text is in none of these forms, or a surface is empty.
    """
    label = label.replace("\ufeff", "")  # a byte order mark is white space to no one
    stripped = label.strip()
    if stripped[:1] in {"{", "["}:
        try:
            # Pairs, not a dict: a looping model repeats keys, and a dict would keep the last only.
            value = json.loads(stripped, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as problem:
            raise _unreadable(label, f"broken JSON ({problem})") from problem
        found = (
            _from_object(label, value) if isinstance(value, _Pairs) else _from_list(label, value)
        )
    else:
        found = _from_lines(label, [line for line in label.splitlines() if line.strip()])
    return tuple(found)


def entities_of_tags(tokens: Sequence[str], tags: Sequence[str]) -> tuple[Entity, ...]:
    """Entities of BIO tags (IOB2), their tokens joined without spaces.

    An I- tag that continues nothing, or another type, begins an entity, as in CoNLL's scorer.

    Raises:
        InputError: the lists differ in length, a tag is not O, B-TYPE or I-TYPE, or the tokens of
            an entity are empty.
    """
    shown = " ".join(f"{token}/{tag}" for token, tag in zip(tokens, tags, strict=False))
    if len(tokens) != len(tags):
        raise _unreadable(shown, f"there are {len(tokens)} tokens and {len(tags)} tags")
    spans: list[tuple[str, list[str]]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=True):
        match = _TAG.fullmatch(tag)
        if match is None:
            raise _unreadable(shown, f"{tag!r} is not O, B-TYPE or I-TYPE")
        if match[1] is None:
            before = "O"
            continue
        if tag.startswith("B") or match[1] != before:
            spans.append((match[1], []))
        spans[-1][1].append(token)
        before = match[1]
    return tuple(_entity(shown, kind, "".join(parts)) for kind, parts in spans)


class _Pairs(list[tuple[str, object]]):
    """A JSON object with its keys as written, doubled ones too."""


def _from_object(label: str, pairs: _Pairs) -> list[Entity]:
    if [key for key, _ in pairs] == ["tokens", "tags"]:
        return list(entities_of_tags(*(_texts(label, key, value) for key, value in pairs)))
    found: list[Entity] = []
    for key, surfaces in pairs:
        if isinstance(surfaces, _Pairs) or not isinstance(surfaces, list):
            raise _unreadable(label, f"the value of {key!r} is not a list")
        found += [_entity(label, key, surface) for surface in surfaces]
    return found


def _texts(label: str, key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _unreadable(label, f"the value of {key!r} is not a list of texts")
    return value


def _from_list(label: str, items: Sequence[object]) -> list[Entity]:
    tagged = [item for item in items if _is_tagged(item)]
    if tagged and len(tagged) == len(items):
        return list(entities_of_tags([str(t[0]) for t in tagged], [str(t[1]) for t in tagged]))
    found: list[Entity] = []
    for item in items:
        if isinstance(item, str):
            found.append(_from_line(label, item))
        elif isinstance(item, _Pairs):
            fields = dict(item)
            surface = next((fields[key] for key in _SURFACE_KEYS if key in fields), None)
            found.append(_entity(label, fields.get("type"), surface))
        elif isinstance(item, list) and len(item) == 2:
            found.append(_entity(label, item[0], item[1]))
        else:
            raise _unreadable(label, f"{item!r} is no entity")
    return found


def _is_tagged(item: object) -> TypeGuard[list[str]]:
    """Whether this is [token, tag]; [type, text] with a text such as "O" is not, by its type."""
    return (
        isinstance(item, list)
        and not isinstance(item, _Pairs)
        and len(item) == 2
        and all(isinstance(part, str) for part in item)
        and _TAG.fullmatch(item[1]) is not None
        and item[0].strip().upper() not in _ALIASES
    )


def _from_lines(label: str, lines: Sequence[str]) -> list[Entity]:
    if not lines:
        raise _unreadable(label, "nothing there; no entities is written {}")
    tagged = [_TAGGED_LINE.fullmatch(line) for line in lines]
    if all(tagged) and not all(_LINE.fullmatch(line) for line in lines):
        parts = [(match[1] or match[2] or "", match[3]) for match in tagged if match]
        return list(entities_of_tags([token for token, _ in parts], [tag for _, tag in parts]))
    return [_from_line(label, line) for line in lines]


def _from_line(label: str, line: str) -> Entity:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _unreadable(label, f"{line!r} is not of the form TYPE: text")
    return _entity(label, match[1], match[2])


def _entity(label: str, kind: object, surface: object) -> Entity:
    if not isinstance(kind, str) or not kind.strip():
        raise _unreadable(label, f"an entity's type is {kind!r}, not a name")
    if not isinstance(surface, str) or not compact(surface):
        raise _unreadable(label, f"a surface is {surface!r}, not a text with letters or digits")
    return Entity(_ALIASES.get(kind.strip(), _ALIASES.get(kind.strip().upper(), "OTH")), surface)


def _unreadable(label: str, why: str) -> InputError:
    shown = label if len(label) <= 120 else label[:120] + "..."
    return InputError(
        f"Entities cannot be read from {shown!r}: {why}. Write a JSON object from type to a list "
        'of surfaces, or lines "TYPE: text".'
    )
