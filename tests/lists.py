"""Lists of recordings for the tests of their readers: sounds to list, lists to write, what was read from them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from thaitool.data.formats import read
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


def write_sounds(folder: Path, tone: Tone) -> Path:
    """`a.wav` 1.0 s mono, `b.flac` 2.0 s mono, `s.wav` 0.5 s stereo."""
    folder.mkdir()
    soundfile.write(folder / "a.wav", tone(1.0), 16_000)
    soundfile.write(folder / "b.flac", tone(2.0), 16_000)
    soundfile.write(folder / "s.wav", np.stack([tone(0.5)] * 2, 1), 16_000)
    return folder


def write(path: Path, *lines: str) -> Path:
    """A text file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def objects(path: Path, *rows: object) -> Path:
    """A file of JSON lines."""
    return write(path, *(json.dumps(row, ensure_ascii=False) for row in rows))


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """An uncompressed tar."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def split_up(source: Path) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Utterances, and item and reason of what was set aside."""
    found = list(read(source))
    utterances = [u for u in found if isinstance(u, Utterance)]
    return utterances, [(r.item, r.reason) for r in found if isinstance(r, Rejected)]
