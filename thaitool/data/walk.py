"""The sound files below a directory, in sorted order, as they are met. Opens none of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.audio.headers import EXTENSIONS
from thaitool.records import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Found:
    """A directory entry: its path below the root, with `/`, and whether it is a symbolic link."""

    name: str
    is_link: bool


def walk(root: str, suffixes: frozenset[str] = EXTENSIONS) -> Iterator[Found | Rejected]:
    """Entries with one of the suffixes, sorted by the parts of their paths; directories that cannot be listed.

    Links to directories are not followed, so that a loop of links cannot trap the walk. Only the names in the
    directories between the root and the current one are held in memory.
    """
    stack = [_listing(root, "", suffixes)]
    while stack:
        if not stack[-1]:
            stack.pop()
            continue
        entry = stack[-1].pop()
        if isinstance(entry, str):
            stack.append(_listing(root, entry, suffixes))
        else:
            yield entry


def _listing(root: str, folder: str, suffixes: frozenset[str]) -> list[Found | Rejected | str]:
    """What a directory holds, last first: directories as plain strings."""
    path = f"{root}/{folder}" if folder else root
    prefix = f"{folder}/" if folder else ""
    names: list[tuple[str, Found | str]] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if entry.is_dir(follow_symlinks=False):
                    names.append((name, prefix + name))
                elif name[max(name.rfind("."), 1) :].lower() in suffixes:
                    names.append((name, Found(prefix + name, entry.is_symlink())))
    except OSError as error:
        reason = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
        return [Rejected(path, reason, error.strerror or str(error))]
    names.sort(key=lambda pair: pair[0], reverse=True)
    return [found for _, found in names]
