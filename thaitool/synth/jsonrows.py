"""Reads JSON records together with their place in the file, and gathers what is wrong with them.

It knows nothing about what the records mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from thaitool.errors import InputError

#: A file with a systematic mistake would otherwise print one sentence per row.
SHOWN_PROBLEMS = 20

JsonObject = dict[str, object]


def read_text(path: Path) -> str:
    """The file as UTF-8 text; a byte that is not UTF-8 stays visible as a lone surrogate (PEP 383).

    Raises:
        InputError: the file is absent, cannot be read, or is no text in UTF-8 or a code of single bytes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}. Give the path of a readable file."
        ) from error
    if b"\0" in content:
        raise InputError(
            f"{path} holds zero bytes, so it is no UTF-8 text (UTF-16?). Save it as UTF-8."
        )
    return content.decode("utf-8-sig", errors="surrogateescape")


def undecoded(text: str) -> str:
    """The characters of `text` that stand for bytes which were not UTF-8, once each, in order."""
    return "".join(dict.fromkeys(c for c in text if "\udc80" <= c <= "\udcff"))


def lines_of_objects(text: str, problems: list[str]) -> Iterator[tuple[str, JsonObject]]:
    """(place, object) for each non-empty line of JSON Lines; what is not an object is a problem."""
    # Only "\n": str.splitlines would also split at U+2028, which may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{place}: not JSON ({error.msg}, column {error.colno})")
            continue
        yield from _checked_object(place, value, problems)


def array_of_objects(text: str, problems: list[str]) -> Iterator[tuple[str, JsonObject]]:
    """(place, object) for each element of the one JSON array in `text`, with its line number."""
    decoder = json.JSONDecoder()
    position = _skip(text, text.index("[") + 1, " \t\r\n")
    line, counted = 1, 0
    while position < len(text) and text[position] != "]":
        line += text.count("\n", counted, position)
        counted = position
        value, position = decoder.raw_decode(text, position)
        yield from _checked_object(f"line {line}", value, problems)
        position = _skip(text, position, " \t\r\n,")


def text_field(
    record: JsonObject, name: str, place: str, problems: list[str], *, required: bool = True
) -> str:
    """The string under `name`, "" when it is optional and absent; anything else is a problem."""
    value = record.get(name)
    if value is None and not required:
        return ""
    if value is None:
        problems.append(f"{place}: field '{name}' is missing")
    elif not isinstance(value, str):
        problems.append(f"{place}: field '{name}' must be a string, not {type(value).__name__}")
    elif required and not value.strip():
        problems.append(f"{place}: field '{name}' is empty")
    else:
        return value
    return ""


def raise_problems(path: Path, problems: list[str], remedy: str) -> None:
    """Does nothing without problems.

    Raises:
        InputError: names the file, up to `SHOWN_PROBLEMS` of its problems, and the `remedy`.
    """
    if not problems:
        return
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    hidden = len(problems) - SHOWN_PROBLEMS
    more = f"\n  and {hidden} more" if hidden > 0 else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise InputError(f"{path} has {count}:\n{shown}{more}\n{remedy}")


def _checked_object(
    place: str, value: object, problems: list[str]
) -> Iterator[tuple[str, JsonObject]]:
    if isinstance(value, dict):
        yield place, value
    else:
        problems.append(f"{place}: must be a JSON object, not {type(value).__name__}")


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
