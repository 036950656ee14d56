"""Paths to the recordings behind them: sound files, directories of them, and lists of every known form. Decodes none.

One that cannot be used is an item with its reason, in its place, and never the end of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.audio.headers import MIN_DURATION_S, BadAudio, probe
from thaitool.data import formats
from thaitool.data.manifest import open_manifest
from thaitool.data.measure import measure
from thaitool.data.walk import walk
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Recording:
    """A recording, or why it is none."""

    path: str
    utterance: Utterance | None
    problem: str = ""
    listed: bool = False
    """Whether a list named it, so that it has an id of its own."""


def recordings(paths: Iterable[Path], *, split: str | None = None) -> Iterator[Recording]:
    """The recordings of some paths, in order, with their durations.

    Args:
        paths: Sound files, directories, and lists that `data.formats` knows.
        split: Of lists that have splits, only this one.
    """
    for path in paths:
        found = False
        for entry in _entries(path, split):
            found = True
            yield entry
        if not found:
            yield Recording(str(path), None, "empty: no recordings were found in it")


def _entries(path: Path, split: str | None) -> Iterator[Recording]:
    try:
        kind = formats.recognise(path) if path.exists() else None
        if kind is None and path.is_dir():
            yield from _below(path)
        elif kind is None:
            yield _file(path)
        elif kind == formats.MANIFEST:
            manifest = open_manifest(path)
            for row in range(len(manifest)):
                utterance = manifest[row]
                if split is None or utterance.split in {None, split}:
                    yield Recording(utterance.place, utterance, listed=True)
        else:
            for item in formats.read(path, kind=kind, split=split):
                if isinstance(item, Rejected):
                    yield _rejected(item)
                else:
                    yield replace(_known(item, item.place), listed=True)
    except InputError as error:
        yield Recording(str(path), None, f"unreadable: {error}")
    except OSError as error:
        yield Recording(str(path), None, f"unreadable: {error.strerror or error}")


def _below(folder: Path) -> Iterator[Recording]:
    for entry in walk(str(folder)):
        if isinstance(entry, Rejected):
            yield _rejected(entry)
        else:
            yield _file(folder / entry.name)


def _file(path: Path) -> Recording:
    """A sound file, whatever its name; `data.measure` would refuse names that are not UTF-8, which no list can hold."""
    try:
        header = probe(path)
    except BadAudio as bad:
        return Recording(str(path), None, f"{bad.reason}: {bad.detail}")
    except OSError as error:
        return Recording(str(path), None, f"unreadable: {error.strerror or error}")
    ref = AudioRef(str(path))
    known = Utterance(path.name, ref, header.duration_s, header.sample_rate_hz)
    return Recording(str(path), known)


def _known(utterance: Utterance, path: str) -> Recording:
    """A listed recording with its duration, by its header."""
    found = measure([utterance], MIN_DURATION_S)
    if found.rejected:
        return Recording(path, None, f"{found.rejected[0].reason}: {found.rejected[0].detail}")
    duration_s, rate_hz = found.duration_s[0], found.sample_rate_hz[0]
    return Recording(path, replace(utterance, duration_s=duration_s, sample_rate_hz=rate_hz))


def _rejected(item: Rejected) -> Recording:
    return Recording(item.item, None, f"{item.reason}: {item.detail}")
