"""GigaSpeech 2's TSV: lines of `id<TAB>text`; the sound lies in a folder beside it, in files or tars. Opens no sound.

As published (speechcolab/gigaspeech2, `data/th`): `train_raw.tsv`, `train_refined.tsv`, `dev.tsv` and `test.tsv`, and
folders `train`, `dev` and `test` of packed tars. The id `6-6279-28` is the file `train/6/6279/6-6279-28.wav`, which the
tar `train/6.tar` holds. Packed tars must be unpacked once, to files or to `.tar`: nothing can be read in place of them.
"""

from __future__ import annotations

import math
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from thaitool.audio.headers import EXTENSIONS
from thaitool.data.readers.lines import Problems, folder_of, shown, text_lines
from thaitool.errors import InputError
from thaitool.records import SPLITS, AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "a GigaSpeech 2 TSV (lines of `6-6279-28<TAB>text`)"
_LINE = re.compile(r"(\d+(?:-\d+)+)\t([^\t]*)")


def is_gigaspeech2(lines: list[str]) -> bool:
    """Whether the first line is an id of numbers and a text."""
    return bool(lines) and _LINE.fullmatch(lines[0]) is not None


def read_gigaspeech2(path: Path) -> Iterator[Utterance | Rejected]:
    """The utterances of one TSV, with the ids of the data set; the split is what its name starts with.

    Raises:
        InputError: a line is malformed, or none of the recordings is there.
    """
    split = re.split(r"[_.]", path.name, maxsplit=1)[0]
    sounds = _Sounds(folder_of(path) / split)
    problems = Problems(path, FORM)
    found = 0
    example = ""
    for number, line in text_lines(path):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.add(number, f"{shown(line)} is no id, tab and text")
            continue
        name, text = match.groups()
        place = sounds.find(name)
        if place is None:
            detail = f"{name} is neither a file below {sounds.folder} nor in a tar there"
            example = example or f"{detail} (line {number})"
            yield Rejected(f"{path}:{number}", "missing", detail)
            continue
        found += 1
        yield Utterance(
            id=name,
            audio=place,
            duration_s=math.nan,
            sample_rate_hz=0,
            text=text.strip() or None,
            split=split if split in SPLITS else None,
            source=str(path),
            source_id=name.rpartition("-")[0],  # the video that it was cut from
        )
    problems.check()
    if example and not found:
        packed = next(sounds.folder.glob("*.tar.gz"), None)
        hint = (
            f"{packed.name} and its like are packed: unpack them there (tar -xzf, or gunzip)."
            if packed
            else "Keep the TSV beside the folders train, dev and test, as it is published."
        )
        raise InputError(f"{path} must list recordings that are there: {example}. {hint}")


class _Sounds:
    """Where the recordings of a folder lie. Of tars, the index of one is held at a time: the TSVs go tar by tar."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tar: Path | None = None
        self._index: dict[str, tuple[int, int]] = {}

    def find(self, name: str) -> AudioRef | None:
        """The file of an id, or its bytes in a tar; None if it is in neither."""
        *folders, _ = name.split("-")
        file = self.folder.joinpath(*folders, f"{name}.wav")
        if file.is_file():
            return AudioRef(str(file))
        tar = self.folder / f"{folders[0]}.tar"
        if tar != self._tar:
            self._tar, self._index = tar, _index(tar) if tar.is_file() else {}
        place = self._index.get(name)
        return None if place is None else AudioRef(str(tar), offset=place[0], n_bytes=place[1])


def _index(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and size of every sound file of a tar that is whole, by its name without folder and suffix."""
    found: dict[str, tuple[int, int]] = {}
    n_bytes = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every member it has seen
                name = PurePosixPath(member.name)
                is_whole = member.isreg() and member.offset_data + member.size <= n_bytes
                if is_whole and name.suffix.lower() in EXTENSIONS:
                    found[name.stem] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        if not found:
            raise InputError(
                f"{path} must be an uncompressed tar, but is not: {error}. Fetch or unpack it again."
            ) from error
        return found  # cut short: what is behind the cut is missing, line by line
    return found
