"""NeMo's JSONL manifest: `audio_filepath`, and optionally `offset`, `duration`, `text`, `speaker`. Keeps no other keys.

A relative `audio_filepath` starts at the manifest's folder, as in NeMo.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thaitool.data.readers.lines import (
    Paths,
    Problems,
    folder_of,
    json_objects,
    optional_text,
    seconds,
    shown,
)
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORM = "a NeMo manifest (JSON objects with audio_filepath, one per line)"


def is_nemo(row: dict[str, Any]) -> bool:
    """Whether an object is a line of such a manifest."""
    return "audio_filepath" in row


def read_nemo(path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of one manifest; an id is the path as written, with the stretch if it is not the whole file.

    Raises:
        InputError: a line is malformed, the manifest belongs to tars, or no listed file exists.
    """
    problems = Problems(path, FORM)
    paths = Paths(path, (folder_of(path),))
    for number, row in json_objects(problems):
        if "shard_id" in row:
            raise InputError(
                f"{path} must name sound files, but line {number} names a member of a tar (it has a shard_id). Name"
                " the directory of the tars instead of the manifest."
            )
        wrong = _wrong(row)
        if wrong:
            problems.add(number, wrong)
            continue
        place = paths.find(row["audio_filepath"], number)
        yield place if isinstance(place, Rejected) else _utterance(path, place, row)
    problems.check()
    paths.check()


def _wrong(row: dict[str, Any]) -> str | None:
    """What keeps a line from being used, in words."""
    if not isinstance(row.get("audio_filepath"), str) or not row["audio_filepath"]:
        return f"audio_filepath must be a path, but is {shown(row.get('audio_filepath'))}"
    for key in ("offset", "duration"):
        if row.get(key) is not None and seconds(row[key]) is None:
            return f"{key} must be seconds of at least 0, but is {shown(row[key])}"
    for key in ("text", "speaker"):
        wrong = optional_text(row, key)[1]
        if wrong:
            return wrong
    return None


def _utterance(path: Path, place: str, row: dict[str, Any]) -> Utterance:
    written: str = row["audio_filepath"]
    offset, duration = seconds(row.get("offset")), seconds(row.get("duration"))
    # Without an offset, NeMo reads the whole file, and `duration` only says how long that is.
    end = offset + duration if offset is not None and duration is not None else None
    name = written
    if offset is not None:
        until = "" if end is None else round(1000 * end)
        name = f"{written}@{round(1000 * offset)}-{until}"
    return Utterance(
        id=name,
        audio=AudioRef(place),
        duration_s=math.nan if duration is None else duration,
        sample_rate_hz=0,
        start_s=offset or 0.0,
        end_s=end,
        text=row.get("text"),
        speaker=row.get("speaker"),
        source=str(path),
        source_id=written,
    )
