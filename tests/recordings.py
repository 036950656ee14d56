"""Recordings for tests of the scan, and short forms of what it answers. No test logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from thaitool.data.manifest import Manifest
from thaitool.records import Rejected

if TYPE_CHECKING:
    from tests.conftest import Tone


def write_good(folder: Path, tone: Tone, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(0.3 + 0.1 * number), 16_000)


def ids(manifest: Manifest) -> list[str]:
    return [manifest[i].id for i in range(len(manifest))]


def reasons(rejected: list[Rejected]) -> dict[str, str]:
    return {Path(r.item).name: r.reason for r in rejected}
