"""A blind listening pack of a data set, and the scores of what raters send back. Makes no speech."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.data.manifest import Manifest, open_manifest
from thaitool.data.scan import scan
from thaitool.errors import ConfigError, InputError
from thaitool.files import writing_directory
from thaitool.listening.key import key_path, read_key, write_key
from thaitool.listening.pack import Wanted, make_pack
from thaitool.listening.page import page_html
from thaitool.listening.ratings import read_ratings
from thaitool.listening.result import result_json, write_result
from thaitool.listening.scoring import Heard, score_ratings
from thaitool.metrics.intervals import DRAWS
from thaitool.records import SPLITS, Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.listening.key import Key
    from thaitool.listening.pack import Pack


@dataclass(frozen=True)
class Packed:
    """What `pack` made."""

    out: Path
    """The directory that raters get: one page each."""
    key: Path
    """What they must not see."""
    pack: str
    pages: tuple[str, ...]
    clips: int
    minutes: float
    """Of speech on one page."""
    largest_mb: float
    """Size of the largest page."""
    set_aside: int
    """Recordings of the data and the anchors that cannot be used; `thaitool scan` says why."""


@dataclass(frozen=True)
class Listened:
    """What `score` found."""

    heard: Heard
    key: Key
    created: str
    files: tuple[Path, ...]

    def to_json(self) -> str:
        """The text of report.json."""
        return result_json(self.heard, self.key, created=self.created)


def pack(
    data: Path,
    out: Path,
    *,
    items: int = 200,
    raters: int = 3,
    anchors: Path | None = None,
    anchor_items: int = 20,
    canaries: int = 12,
    written_share: float = 0.25,
    split: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Packed:
    """Writes a page for each rater into `out`, and the key beside it.

    Args:
        data: Thai-SUP directory, or anything else that `eval` reads.
        out: A new directory.
        items: Clips of `data`, spread over tasks, voices and durations.
        raters: Pages; each has all clips.
        anchors: Recordings of people with texts, hidden among the others; None leaves them out.
        anchor_items: How many of them.
        canaries: Clips of `data` that are spoilt in a known way; 4 kinds take turns.
        written_share: Share of clips that raters write down.
        split: Of `data`; None takes all.
        seed: Decides everything random.
        progress: How progress is shown.

    Raises:
        ConfigError: a number makes no pack, or the split has another name.
        InputError: `out` or a key exists, or there is too little data.
    """
    wanted = Wanted(items, anchor_items if anchors else 0, canaries, raters, written_share)
    _check(wanted, split)
    key_file = key_path(out)
    taken = [path for path in (out, key_file) if path.exists()]
    if taken:
        raise InputError(f"{taken[0]} must be new, but exists; choose another --out or delete it.")
    listed, set_aside = _listed(data)
    real, lost = (None, 0) if anchors is None else _listed(anchors)
    with progress("listen: clips", items + canaries + wanted.anchors) as advance:
        made = make_pack(
            listed,
            real,
            wanted,
            name=data.resolve().name,
            split=split,
            seed=seed,
            advance=advance,
        )
    return _write(made, out, key_file, set_aside + lost)


def _write(made: Pack, out: Path, key_file: Path, set_aside: int) -> Packed:
    sizes = []
    with writing_directory(out) as folder:
        for rater, clips in made.pages.items():
            page = page_html(made.key.pack, rater, clips).encode("utf-8")
            (folder / f"{rater}.html").write_bytes(page)
            sizes.append(len(page))
        write_key(made.key, key_file)  # first: a pack without its key is worth nothing
    seconds = sum(clip.duration_s for clip in made.key.clips.values())
    return Packed(
        out,
        key_file,
        made.key.pack,
        tuple(f"{rater}.html" for rater in made.pages),
        len(made.key.clips),
        round(seconds / 60, 1),
        round(max(sizes) / 1e6, 1),
        set_aside,
    )


def score(
    pack_dir: Path,
    files: Sequence[Path],
    *,
    key: Path | None = None,
    out: Path | None = None,
    exclude_failed: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Listened:
    """Scores the files of ratings, and writes report.json, .md and .html into `out`, if there is one.

    Args:
        pack_dir: The directory that `pack` wrote; only its name is needed, to find the key.
        files: What raters sent.
        key: Where the key lies, if not beside the directory.
        out: Directory of the report.
        exclude_failed: Whether raters who fail the spoilt clips are left out.
        draws, seed: Of the intervals.

    Raises:
        InputError: the key or a file is not what it must be.
    """
    found = read_key(key or key_path(pack_dir))
    ratings = read_ratings(files, found)
    heard = score_ratings(ratings, found, exclude_failed=exclude_failed, draws=draws, seed=seed)
    created = time.strftime("%Y-%m-%d %H:%M:%S %z")
    written = () if out is None else write_result(heard, found, out, created=created)
    return Listened(heard, found, created, written)


def _check(wanted: Wanted, split: str | None) -> None:
    problems = [
        f"{name} must be {least} at least, but is {value}"
        for name, value, least in (
            ("--items", wanted.items, 1),
            ("--raters", wanted.raters, 1),
            ("--anchor-items", wanted.anchors, 0),
            ("--canaries", wanted.canaries, 0),
        )
        if value < least
    ]
    if not 0 <= wanted.written_share <= 1:
        problems.append(f"--written-share must be from 0 to 1, but is {wanted.written_share:g}")
    if split not in {None, *SPLITS}:
        problems.append(f"--split must be one of {', '.join(SPLITS)}, but is {split!r}")
    if problems:
        raise ConfigError("; ".join(problems) + ".")


def _listed(data: Path) -> tuple[Manifest, int]:
    """The rows, and how many recordings were set aside."""
    if data.suffix == ".arrow":
        return open_manifest(data), 0
    manifest, rejected = scan([data])
    return manifest, len(rejected)
