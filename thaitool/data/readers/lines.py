"""What the readers of text formats share: numbered lines, JSON objects, mistakes by line, paths. Knows no format."""

from __future__ import annotations

import gzip
import json
import math
import os
import stat
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from thaitool.errors import InputError
from thaitool.records import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A line past this is no line of a list; it bounds the memory that a binary file without newlines can take.
LONGEST_LINE = 64 << 20
_BOM = b"\xef\xbb\xbf"
_SHOWN = 3
#: All numbers of so many digits are exact as floats. Python refuses to read those of more than 4,300.
_MOST_DIGITS = 15


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked if they are gzip.

    Raises:
        InputError: it cannot be opened or read, or its gzip data is damaged.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} must be whole gzip data, but is damaged or cut short: {error}. Fetch or make it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} must be a file that can be read, but is not: {error.strerror or error}."
        ) from error


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers (from 1) and texts of the lines that are not blank, without line ends and byte order mark.

    Raises:
        InputError: a line is not UTF-8, or too long for a line.
    """
    with opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) >= LONGEST_LINE:
                raise InputError(
                    f"{path} must be lines of text, but line {number} is longer than {LONGEST_LINE >> 20} MiB."
                )
            try:
                text = line.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                hint = "UTF-16" if line[:2] in {b"\xff\xfe", b"\xfe\xff"} else "another encoding"
                raise InputError(
                    f"{path} must be UTF-8, but line {number} is not, at byte {error.start + 1} of the line (it may be"
                    f" {hint}). Save it as UTF-8 and start again."
                ) from error
            if text and not text.isspace():
                yield number, text


@dataclass
class Problems:
    """Mistakes of one file: the first three are kept for the message, all are counted."""

    path: Path
    form: str
    """What a line must be, for the message."""
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"line {line}: {what}")

    def check(self) -> None:
        """Raises `InputError` if there were any."""
        if not self.count:
            return
        verb = "line is" if self.count == 1 else "lines are"
        more = "; ..." if self.count > _SHOWN else ""
        raise InputError(
            f"{self.path} must be {self.form}, but {self.count} {verb} not: {'; '.join(self.first)}{more}. Correct"
            " the file and start again."
        )


def json_objects(problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of `problems.path` that are JSON objects; the others become problems."""
    for number, line in text_lines(problems.path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(number, f"no JSON ({error})")
            continue
        if not isinstance(row, dict):
            problems.add(number, f"a JSON {type(row).__name__}, not an object")
        elif "\\ud" in line.lower() and not is_utf8(json.dumps(row, ensure_ascii=False)):
            problems.add(number, "half a surrogate pair, which no UTF-8 text can hold")
        else:
            yield number, row


def is_utf8(text: str) -> bool:
    """Whether a text can be written. Bytes of a file name that are not UTF-8 are lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seconds(value: object) -> float | None:
    """A finite number of seconds, at least 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def parsed_seconds(text: str) -> float | None:
    """`seconds` of a number written as text."""
    try:
        return seconds(float(text))
    except ValueError:
        return None


def parsed_count(text: str) -> int | None:
    """A whole number, at least 0, written as text; None for anything else, and for one that nobody can count to."""
    digits = text.strip()
    return int(digits) if digits.isdecimal() and len(digits) <= _MOST_DIGITS else None


def optional_text(row: dict[str, Any], key: str) -> tuple[str | None, str | None]:
    """The text at `key` (None if it is absent or null), and what is wrong with it, if anything."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value, None
    return None, f"{key} must be text, but is {shown(value)}"


def shown(value: object, limit: int = 60) -> str:
    """A value as a message shows it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


@dataclass
class Paths:
    """Turns paths as written in `listed_in` into absolute ones, and counts those that lead nowhere.

    A relative path is taken from the first of `bases` that holds the first relative path of the list (from `bases[0]`
    if none does), and all others from the same one.
    """

    listed_in: Path
    bases: tuple[Path, ...]
    found: int = 0
    missing: int = 0
    example: str = ""
    _base: Path | None = None
    _last: tuple[str, str | Rejected] | None = None

    def find(self, written: str, line: int) -> str | Rejected:
        """The absolute path, or the ledger line of an item that is no file."""
        # Lists of stretches name the same recording on many lines in a row.
        if self._last and self._last[0] == written and isinstance(self._last[1], str):
            return self._last[1]
        result = self._find(written, line)
        self._last = (written, result)
        if isinstance(result, str):
            self.found += 1
        return result

    def _find(self, written: str, line: int) -> str | Rejected:
        if "://" in written:
            detail = f"{written} is on another machine: copy it here, or mount it and name the path"
            return Rejected(f"{self.listed_in}:{line}", "remote", detail)
        place = written if written.startswith("/") else f"{self._chosen(written)}/{written}"
        if "/." in place or "//" in place:
            place = str(Path(place))
        if _is_file(place):
            return place
        self.missing += 1
        if not self.example:
            self.example = f"{shown(written, 200)} (line {line}) was looked for at {place}"
        return Rejected(f"{self.listed_in}:{line}", "missing", f"{place} is no file")

    def _chosen(self, written: str) -> Path:
        if self._base is None:
            holding = (base for base in self.bases if _is_file(f"{base}/{written}"))
            self._base = next(holding, self.bases[0])
        return self._base

    def check(self) -> None:
        """Raises `InputError` if every path was missing: then it is the list that is wrong, not the recordings."""
        if self.missing and not self.found:
            bases = " or ".join(str(base) for base in self.bases)
            raise InputError(
                f"{self.listed_in} must list files of this machine, but none of its {self.missing} exists:"
                f" {self.example}. Relative paths are taken from {bases}. Correct the paths, or move the list."
            )


def _is_file(path: str) -> bool:
    # False for a pipe too, which would hang whoever opens it. A Path would cost three times the look itself.
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):  # ValueError: a NUL character
        return False


def folder_of(path: Path) -> Path:
    """The absolute folder that holds a list, with symbolic links resolved."""
    return path.resolve().parent
