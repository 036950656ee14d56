"""The CSV files that raters send back, checked against the key of the pack. Scores nothing.

A file has a line for each clip of its rater's page, in the order of the page, and a last line with the CRC-32 of
all before it. The sum shows that nothing was changed by accident (a spreadsheet that saved it anew, half a download),
not that nobody meant to.
"""

from __future__ import annotations

import csv
import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.listening.key import Clip, Key

HEADER = ("pack", "rater", "clip", "naturalness", "tones", "transcription")
TONES = ("", "yes", "no", "unsure")
#: What a rater types who understood nothing.
NOTHING_HEARD = "-"


@dataclass(frozen=True, slots=True)
class Rating:
    """What one rater said about one clip."""

    rater: str
    clip: Clip
    naturalness: int | None
    """1 to 5; None where it was left out."""
    tones: str
    """`yes`, `no` or `unsure`; empty where it was not asked or left out."""
    transcription: str | None
    """What was heard, empty for nothing; None where it was not asked or left out."""

    @property
    def is_whole(self) -> bool:
        """Whether everything that the page asks about this clip has an answer."""
        told = bool(self.tones) if self.clip.shown else self.transcription is not None
        return self.naturalness is not None and told


def read_ratings(paths: Sequence[Path], key: Key) -> list[Rating]:
    """The ratings of all files, one for each clip of each rater, whether or not it was answered.

    Raises:
        InputError: files that are not of this pack, were changed, or come twice; the message lists them all.
    """
    found: dict[str, list[Rating]] = {}
    refused: list[str] = []
    for path in paths:
        try:
            ratings = _read(path, key)
        except InputError as error:
            refused.append(f"{path}: {error}")
            continue
        rater = ratings[0].rater
        if rater in found:
            refused.append(f"{path}: it is a second file of {rater}; keep one of them.")
        found[rater] = ratings
    if refused:
        listed = "\n".join(f"  - {reason}" for reason in refused)
        raise InputError(
            f"{len(refused)} of {len(paths)} files of ratings cannot be used:\n{listed}"
        )
    return [rating for ratings in found.values() for rating in ratings]


def _read(path: Path, key: Key) -> list[Rating]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError("it is not UTF-8; send the file as the page saved it.") from error
    rows = _whole_rows(text)
    packs, raters = {row[0] for row in rows}, {row[1] for row in rows}
    if packs != {key.pack}:
        named = ", ".join(sorted(packs))
        raise InputError(
            f"it is of pack {named}, but the key is of {key.pack}; it belongs elsewhere."
        )
    if len(raters) != 1 or not raters <= key.orders.keys():
        named = ", ".join(sorted(raters))
        raise InputError(f"it is of {named}, but the raters are {', '.join(key.orders)}.")
    (rater,) = raters
    order = key.orders[rater]
    if [row[2] for row in rows] != list(order):
        raise InputError(
            f"its {len(rows)} clips are not the {len(order)} of the page of {rater}, in their order."
        )
    return [_rating(rater, key.clips[order[row[2]]], row) for row in rows]


def _whole_rows(text: str) -> list[list[str]]:
    """The rows of clips, once the last line has confirmed all others."""
    # Mail programs change line ends; that changes no rating.
    body, _, last = text.replace("\r\n", "\n").rstrip("\n").rpartition("\n")
    body += "\n"
    end = last.split(",")
    sum_now = f"{zlib.crc32(body.encode('utf-8')):08x}"
    if last.startswith(("end;", "end\t")):
        raise InputError(
            "it was saved anew by a spreadsheet, with other separators; send the file as the page saved it."
        )
    if end[0] != "end" or len(end) < 3:
        raise InputError("its last line is missing, so that it may be cut off; save it again.")
    if end[2].strip() != sum_now:
        raise InputError(
            f"it was changed after the page saved it (its sum is {sum_now}, not {end[2].strip()}); send the file as the"
            " page saved it, not as a spreadsheet did."
        )
    try:
        header, *rows = csv.reader(io.StringIO(body), strict=True)
    except csv.Error as error:
        raise InputError(f"it is not CSV: {error}.") from error
    if tuple(header) != HEADER or not rows or any(len(row) != len(HEADER) for row in rows):
        raise InputError(f"its columns are not {', '.join(HEADER)}, or it has no clips.")
    return rows


def _rating(rater: str, clip: Clip, row: Sequence[str]) -> Rating:
    naturalness, tones, heard = row[3:]
    if naturalness not in {"", *"12345"} or tones not in TONES:
        raise InputError(
            f"clip {row[2]} has {naturalness!r} and {tones!r}, not 1 to 5 and yes, no or unsure."
        )
    said = None if clip.shown or not heard else "" if heard == NOTHING_HEARD else heard
    return Rating(rater, clip, int(naturalness) if naturalness else None, tones, said)
