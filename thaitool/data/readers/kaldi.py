"""Kaldi's data directory: wav.scp, and segments, text, utt2spk, utt2dur if they are there. Runs no commands.

A relative path starts at the data directory or, as in Kaldi, at the working directory: at the one of them that holds
the first relative path.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.data.readers.lines import (
    Paths,
    Problems,
    folder_of,
    parsed_seconds,
    shown,
    text_lines,
)
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

WAV_SCP = "wav.scp"
#: `file.ark:1234`: a recording inside a Kaldi archive.
_IN_ARCHIVE = re.compile(r".+\.ark:\d+")


def read_kaldi(source: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of a data directory, or the recordings of a wav.scp given by itself.

    Raises:
        InputError: a line is malformed or names an unknown recording, an id occurs twice in a file, none of the texts
            belongs to an utterance, or no listed file exists.
    """
    listed = source / WAV_SCP if source.is_dir() else source
    paths = Paths(listed, (folder_of(listed), Path.cwd()))
    # A wav.scp given by itself stands alone.
    folder = listed.parent if source.is_dir() else None
    text, speaker, duration = (_Lookup(folder, name) for name in ("text", "utt2spk", "utt2dur"))
    rows = _recordings(listed, paths)
    if folder and (folder / "segments").exists():
        rows = _segments(folder / "segments", _by_id(rows, listed))
    for name, found in rows:
        if isinstance(found, Rejected):
            yield found
            continue
        place, recording, start, end = found
        stretch = math.nan if end is None else end - start
        yield Utterance(
            id=name,
            audio=AudioRef(place),
            duration_s=duration.seconds(name) if math.isnan(stretch) else stretch,
            sample_rate_hz=0,
            start_s=start,
            end_s=end,
            text=text.get(name),
            speaker=speaker.get(name),
            source=str(source),
            source_id=recording,
        )
    for lookup in (text, speaker, duration):
        lookup.check()
    paths.check()


#: Path of the recording, its id, start, end (None: to the end); or why it cannot be used.
_Found = tuple[str, str, float, float | None] | Rejected


def _recordings(listed: Path, paths: Paths) -> Iterator[tuple[str, _Found]]:
    """Recording ids and files, in the order of wav.scp."""
    problems = Problems(listed, "a Kaldi wav.scp (lines of `id path`)")
    for number, line in text_lines(listed):
        name, written = _two(line)
        if not written:
            problems.add(number, f"{shown(line)} is no id and path")
        elif written.endswith("|") or written.startswith("|"):
            detail = f"{written}: commands are not run; write the recording to a file"
            yield name, Rejected(f"{listed}:{number}", "command", detail)
        elif _IN_ARCHIVE.fullmatch(written):
            detail = f"{written}: Kaldi archives are not read; copy the recordings to files"
            yield name, Rejected(f"{listed}:{number}", "archive", detail)
        else:
            place = paths.find(written, number)
            yield name, place if isinstance(place, Rejected) else (place, name, 0.0, None)
    problems.check()


def _by_id(rows: Iterator[tuple[str, _Found]], listed: Path) -> dict[str, _Found]:
    recordings: dict[str, _Found] = {}
    for name, found in rows:
        if name in recordings:
            raise InputError(
                f"{listed} must list every recording once, but {shown(name)} occurs twice."
            )
        recordings[name] = found
    return recordings


def _segments(path: Path, recordings: dict[str, _Found]) -> Iterator[tuple[str, _Found]]:
    """Utterance ids and stretches, in the order of the file `segments`."""
    problems = Problems(path, "Kaldi segments (lines of `utterance recording start end`)")
    for number, line in text_lines(path):
        fields = line.split()
        if len(fields) != 4:
            problems.add(number, f"{len(fields)} fields, not 4")
            continue
        name, recording, first, last = fields
        start = parsed_seconds(first)
        # Kaldi writes -1 for "to the end".
        to_the_end = last in {"-1", "-1.0"}
        end = None if to_the_end else parsed_seconds(last)
        if start is None or (end is None and not to_the_end) or (end is not None and end <= start):
            problems.add(number, f"no start and later end in seconds, but {first} and {last}")
        elif recording not in recordings:
            problems.add(number, f"recording {shown(recording)} is not in {WAV_SCP}")
        else:
            found = recordings[recording]
            if isinstance(found, Rejected):
                yield name, Rejected(f"{path}:{number}", found.reason, found.detail)
            else:
                yield name, (found[0], recording, start, end)
    problems.check()


def _two(line: str) -> tuple[str, str]:
    name, _, rest = line.strip().partition(" ")
    if "\t" in name:
        name, _, rest = line.strip().partition("\t")
    return name, rest.strip()


class _Lookup:
    """Values of `id value` lines by id. Kaldi sorts all files of a directory alike, so one line is kept at a time;
    lines that come before they are asked for are kept until then."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.path = folder / name if folder else None
        self._lines = text_lines(self.path) if self.path and self.path.exists() else iter(())
        self._waiting: dict[str, str] = {}
        self._found = 0
        self._problems = Problems(self.path or Path(name), f"Kaldi's {name} (lines of `id value`)")

    def get(self, name: str) -> str | None:
        if name in self._waiting:
            self._found += 1
            return self._waiting.pop(name) or None
        for number, line in self._lines:
            key, value = _two(line)
            if key == name:
                self._found += 1
                return value or None
            if key in self._waiting:
                self._problems.add(number, f"{shown(key)} occurs twice")
            self._waiting[key] = value
        return None

    def seconds(self, name: str) -> float:
        value = self.get(name)
        number = math.nan if value is None else parsed_seconds(value)
        if number is None:
            raise InputError(
                f"{self.path} must hold seconds, but {shown(name)} has {shown(value)}."
            )
        return number

    def check(self) -> None:
        """Raises `InputError` if an id occurred twice, or the file is about other utterances altogether."""
        self._problems.check()
        if self._waiting and not self._found:
            raise InputError(
                f"{self.path} must be about the utterances of this directory, but none of its ids is; the first is"
                f" {shown(next(iter(self._waiting)))}."
            )
