"""Predictions on disk: written as they are made, read line by line, failures kept apart. Scores nothing.

A line is a JSON object with `id`, `task` and `text`; `stopped`, `audio_s` and `seconds` if known. A line whose `text`
is null is a failure (`error` says why): it is counted, and never scored as an empty answer.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.errors import ConfigError, InputError
from thaitool.files import disk_full_is_explained
from thaitool.records import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that was asked and has no answer: unreadable audio, a time-out, a refusal."""

    id: str
    task: str
    reason: str


@dataclass(frozen=True)
class Answers:
    """What a predictions file holds, each list in the order of the file."""

    predictions: list[Prediction]
    failures: list[Failure]


def read_answers(path: Path, ids: Iterable[str] = ()) -> Answers:
    """Every line of a predictions file. A BOM and CRLF line ends are accepted; blank lines mean nothing.

    An id that is among `ids` is the object given there: a million ids twice are 60 MB.

    Raises:
        InputError: it cannot be read, is not UTF-8, or a line is not JSON or lacks a field; file and line are named.
    """
    failures: list[Failure] = []
    same = {item: item for item in ids}
    few: dict[str, str] = {}  # tasks and intents: one object each for a million rows
    said: tuple[list[Any], ...] = ([], [], [], [], [], [])
    try:
        for number, line in _lines(path):
            row = _parsed(path, number, line)
            task = few.setdefault(row["task"], row["task"])
            if row["text"] is None:
                reason = row.get("error") or "no reason given"
                failures.append(Failure(row["id"], task, str(reason)))
                continue
            values = (
                same.get(row["id"], row["id"]),
                task,
                few.setdefault(row["text"], row["text"]) if task == "ic" else row["text"],
                bool(row.get("stopped", True)),
                row.get("audio_s", 0.0),
                row.get("seconds", 0.0),
            )
            for column, value in zip(said, values, strict=True):
                column.append(value)
    except OSError as error:
        raise InputError(
            f"{path} must be a JSONL file of predictions, but cannot be read: {error.strerror or error}."
        ) from error
    # All at once, not between their texts: of a million, 80 MB are given back when they are no longer needed.
    return Answers([Prediction(*values) for values in zip(*said, strict=True)], failures)


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file; as `read_answers`, without the failures."""
    return read_answers(path).predictions


def append(path: Path, predictions: Sequence[Prediction], failures: Sequence[Failure]) -> None:
    """Adds lines to a predictions file; when this returns they survive a power cut."""
    rows: list[dict[str, Any]] = [asdict(p) for p in predictions]
    rows += [{"id": f.id, "task": f.task, "text": None, "error": f.reason} for f in failures]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # Backslashreplace writes a lone surrogate (an id from a file name that is not UTF-8) as its JSON escape.
    with disk_full_is_explained(path), path.open("ab") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


def reopen(path: Path) -> Answers:
    """What an earlier run wrote; a last line that was cut off by its end is removed from the file."""
    if not path.exists():
        return Answers([], [])
    with path.open("rb+") as file:
        end = 0
        for line in file:
            if line.endswith(b"\n"):
                end += len(line)
        file.truncate(end)
    return read_answers(path)


def named_files(named: Sequence[str], option: str) -> dict[str, Path]:
    """Files by name from texts `NAME=PATH`.

    Raises:
        ConfigError: a text is not of that form, a name is given twice, or there is no such file.
    """
    found: dict[str, Path] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise ConfigError(
                f"{option} must be NAME=PATH, with another name for each file, but is {text!r}."
            )
        if not Path(path).is_file():
            raise ConfigError(f"{option} {text}: {path} must be a file, but is not.")
        found[name] = Path(path)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes are cut at \n only: an answer may hold a character that str.splitlines takes for the end of a line.
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if number == 1 and line.startswith(_UTF16):
                raise InputError(
                    f"{path} must be UTF-8, but begins like UTF-16; convert it with iconv -f UTF-16 -t UTF-8."
                )
            if not line.strip():
                continue
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number} must be UTF-8, but has the byte 0x{line[error.start]:02x} at position"
                    f" {error.start}. Thai in TIS-620 or Windows-874? Convert it with iconv -f CP874 -t UTF-8; where"
                    " only some lines are of another encoding, repair what wrote them."
                ) from error


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}:{number} must be a JSON object, but is not: {error}.") from error
    fields: dict[str, Any] = row if isinstance(row, dict) else {}
    for name in ("id", "task", "text"):
        is_failure = name == "text" and fields.get(name, "") is None
        if not isinstance(fields.get(name), str) and not is_failure:
            raise InputError(
                f"{path}:{number} must have the text field {name!r}, but it is missing or no text."
            )
    numbers = [fields.get("audio_s", 0), fields.get("seconds", 0)]
    if not all(isinstance(n, int | float) for n in numbers):
        raise InputError(
            f"{path}:{number} must have numbers in 'audio_s' and 'seconds', but has {numbers}."
        )
    return fields
