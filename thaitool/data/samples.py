"""Which recordings of two sets hold the same samples, whatever their files are called and coded as without loss.

Finds no other recordings of the same speech, and no lossy copies: their samples differ.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, opened_sound
from thaitool.audio.headers import BadAudio, parse_header
from thaitool.data.duplicates import head_of
from thaitool.data.loader import load_audio
from thaitool.data.shards import read_audio
from thaitool.files import disk_full_is_explained

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance

CACHE = "sample_hashes.jsonl"
#: Recordings whose samples are hashed, of either set; of more, so many are taken evenly.
MOST_HASHED = 20_000
_BLOCK_FRAMES = 1 << 20


@dataclass(frozen=True)
class SameSamples:
    """What was compared, and what is the same."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    """(row of the one set, first row of the other with its samples)."""
    candidates: int = 0
    """Rows of both sets that have the length of a row of the other."""
    hashed: int = 0
    """How many of these were compared."""
    unreadable: int = 0
    """How many of these could not be read."""


def same_samples(
    one: Manifest, other: Manifest, *, most: int = MOST_HASHED, cache: Path | None = None
) -> SameSamples:
    """Rows of `one` whose samples a row of `other` has, too.

    Only rows of one length, to the sample, are looked into, and of those with FLAC only the header, which has the hash.

    Args:
        one, other: The sets; the first is the smaller one.
        most: Rows of either set that are looked into; of more, every n-th.
        cache: Directory in which hashes are kept, by place, size and time of change; None keeps none.
    """
    lengths = [np.rint(m.duration_s * SAMPLE_RATE_HZ).astype(np.int64) for m in (one, other)]
    rows = [
        np.flatnonzero(np.isin(lengths[0], lengths[1])),
        np.flatnonzero(np.isin(lengths[1], lengths[0])),
    ]
    looked = [_evenly(r, most) for r in rows]
    known = _Hashes(cache)
    hashes: list[dict[bytes, list[int]]] = []
    unreadable = 0
    for manifest, chosen in zip((one, other), looked, strict=True):
        found: dict[bytes, list[int]] = {}
        for row in chosen.tolist():
            digest = known.of(manifest[row])
            if digest is None:
                unreadable += 1
            else:
                found.setdefault(digest, []).append(row)
        hashes.append(found)
    known.keep()
    pairs = [
        (row, hashes[1][digest][0])
        for digest, mine in hashes[0].items()
        if digest in hashes[1]
        for row in mine
    ]
    return SameSamples(sorted(pairs), sum(map(len, rows)), sum(map(len, looked)), unreadable)


def samples_digest(utterance: Utterance) -> bytes:
    """16 bytes that two utterances share if their samples are the same: in 16 bits at their own rate, or, of a stretch
    of a recording, at 16 kHz. FLAC of more than 16 bits is known by the hash of its own samples, and so by no copy in
    another format.

    Raises:
        BadAudio: it cannot be decoded.
        OSError: it cannot be read.
    """
    ref = utterance.audio
    if utterance.start_s or utterance.end_s is not None:
        samples = np.rint(load_audio(utterance) * 32768).clip(-32768, 32767).astype("<i2")
        return hashlib.md5(b"stretch" + samples.tobytes(), usedforsecurity=False).digest()
    head, n_bytes = head_of(ref)
    header = parse_header(head, n_bytes, str(ref))
    if header is not None and header.md5:
        return header.md5  # of FLAC: of its samples, as below
    md5 = hashlib.md5(usedforsecurity=False)
    source = ref.path if ref.row is None else read_audio(ref)
    with opened_sound(source, str(ref), offset=ref.offset, n_bytes=ref.n_bytes) as file:
        for block in file.blocks(_BLOCK_FRAMES, dtype="int16"):
            md5.update(block.astype("<i2").tobytes())
    return md5.digest()


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


class _Hashes:
    """Hashes by what an utterance is and when its file was changed; None of what cannot be read."""

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / CACHE
        self.known: dict[str, str] = {}
        self.grew = False
        if self.file is not None and self.file.exists():
            # Not the last line if a kill cut it short.
            whole = self.file.read_text("utf-8").rpartition("\n")[0]
            self.known = dict(json.loads(line) for line in whole.splitlines())

    def of(self, utterance: Utterance) -> bytes | None:
        try:
            if self.file is None:
                return samples_digest(utterance)
            status = Path(utterance.audio.path).stat()
            key = f"{utterance.place} {status.st_size} {status.st_mtime_ns}"
            if key not in self.known:
                self.known[key] = samples_digest(utterance).hex()
                self.grew = True
            return bytes.fromhex(self.known[key])
        except (BadAudio, OSError):
            return None  # counted by the caller; what is trained on is quarantined when it is met

    def keep(self) -> None:
        if self.file is None or not self.grew:
            return
        with disk_full_is_explained(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: behind half a line of a killed run another one would be unreadable, too.
            temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
            lines = (json.dumps(pair) + "\n" for pair in self.known.items())
            temporary.write_text("".join(lines), "utf-8")
            temporary.replace(self.file)
