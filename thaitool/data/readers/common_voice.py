"""Common Voice's TSV: a header line with `client_id`, `path`, `sentence`; the sound lies in `clips/` beside it.

Votes, ages and accents are not kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thaitool.data.readers.lines import Paths, Problems, folder_of, text_lines
from thaitool.errors import InputError
from thaitool.records import SPLITS, AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORM = "a Common Voice TSV (a header line with client_id, path and sentence)"
_NEEDED = {"client_id", "path", "sentence"}


def is_common_voice(lines: list[str]) -> bool:
    """Whether the first line is its header."""
    return bool(lines) and set(lines[0].split("\t")) >= _NEEDED


def read_common_voice(path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of one TSV; ids are the paths as written, and train, dev, test files name the split.

    Raises:
        InputError: a line is malformed, or no listed file exists.
    """
    lines = text_lines(path)
    header = next(lines, (0, ""))[1].split("\t")
    if not set(header) >= _NEEDED:
        raise InputError(f"{path} must be {FORM}, but its header is {', '.join(header)}.")
    problems = Problems(path, FORM)
    paths = Paths(path, (folder_of(path) / "clips",))
    for number, line in lines:
        values = line.split("\t")
        if len(values) != len(header):
            problems.add(number, f"{len(values)} columns where the header has {len(header)}")
            continue
        row = dict(zip(header, values, strict=True))
        place = paths.find(row["path"], number)
        if isinstance(place, Rejected):
            yield place
            continue
        yield Utterance(
            id=row["path"],
            audio=AudioRef(place),
            duration_s=math.nan,
            sample_rate_hz=0,
            text=row["sentence"] or None,
            speaker=row["client_id"] or None,
            split=path.stem if path.stem in SPLITS else None,
            source=str(path),
            source_id=row["path"],
        )
    problems.check()
    paths.check()
