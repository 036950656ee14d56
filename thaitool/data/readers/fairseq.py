"""fairseq's TSV: a root directory on the first line, then `path<TAB>frames`. Reads no labels beside it (.ltr, .wrd)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.data.readers.lines import (
    Paths,
    Problems,
    folder_of,
    parsed_count,
    shown,
    text_lines,
)
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORM = "a fairseq TSV (a root directory, then lines of `path<TAB>frames`)"
#: fairseq counts frames of 16 kHz recordings and refuses any other rate.
_RATE_HZ = 16_000


def is_fairseq(lines: list[str]) -> bool:
    """Whether the first lines are a root without a tab, and a path with a number."""
    if len(lines) < 2 or "\t" in lines[0]:
        return False
    path, tab, frames = lines[1].partition("\t")
    return bool(path and tab and frames.strip().isdecimal())


def read_fairseq(path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of one TSV; ids are the paths as written.

    Raises:
        InputError: a line is malformed, or no listed file exists.
    """
    lines = text_lines(path)
    number, root = next(lines, (0, ""))
    if number != 1:
        raise InputError(f"{path} must be {FORM}, but has no root on line 1.")
    problems = Problems(path, FORM)
    paths = Paths(path, (folder_of(path) / root.strip(),))
    for number, line in lines:
        written, tab, frames = line.partition("\t")
        n_frames = parsed_count(frames)
        if not (written and tab) or n_frames is None:
            problems.add(number, f"{shown(line)} is no path, tab and number of frames")
            continue
        place = paths.find(written, number)
        if isinstance(place, Rejected):
            yield place
            continue
        yield Utterance(
            id=written,
            audio=AudioRef(place),
            duration_s=n_frames / _RATE_HZ,
            sample_rate_hz=0,
            source=str(path),
            source_id=written,
        )
    problems.check()
    paths.check()
