"""A copy of the audio that costs nothing to read: int16 samples at 16 kHz, mono, many recordings to a file.

Decodes each recording once and changes nothing about it: what was 16-bit, mono and 16 kHz comes back bit for bit. Takes
32,000 bytes per second of audio, 115 GB per 1,000 hours. Every shard appears whole or not at all; what is there is not
made again, so that a build that was stopped in any way goes on where it was. Samples are known by where they lie and
how long they are: what else a manifest says of them may change and costs no new decoding, but a file that was replaced
by another of the same name and duration is not noticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset, Sampler

from thaitool.audio.decode import PCM16, SAMPLE_RATE_HZ
from thaitool.audio.headers import BadAudio
from thaitool.data.columns import digest
from thaitool.data.loader import as_rejected, in_processes, load_audio
from thaitool.data.manifest import SCHEMA, Manifest, open_manifest
from thaitool.errors import EnvironmentProblem, ThaitoolError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.records import Progress, Rejected, silent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from thaitool.records import Advance, Utterance

BYTES_PER_SECOND = 2 * SAMPLE_RATE_HZ
#: Seconds of audio that a worker decodes before it hands them over.
_JOB_S = 60.0
#: Changes when the same manifest would give other bytes.
_FORMAT = 1
_REJECTED, _LOCK = "rejected.json", "lock"
#: What decides which samples there are and which shard takes them.
_OF_SAMPLES = ("path", "row", "offset", "n_bytes", "duration_s", "start_s", "end_s")


@dataclass(frozen=True)
class Shard:
    """Rows `first` to `end` of the manifest, in `pcm`; it is whole if `index` exists."""

    first: int
    end: int
    pcm: Path
    index: Path


def build_cache(
    manifest: Manifest,
    folder: Path,
    *,
    shard_bytes: int = 1 << 30,
    workers: int = 1,
    progress: Progress = silent,
) -> tuple[Manifest, list[Rejected]]:
    """Decodes everything into `folder`, or finds it there; one folder may hold the caches of several manifests.

    Returns:
        The utterances as they lie in the cache, in the same order, and those that could not be decoded.

    Raises:
        InputError: a parquet file is damaged.
        EnvironmentProblem: the disk is too small or full, another process is building this cache, or a worker died.
    """
    samples = digest(manifest.table.select(list(_OF_SAMPLES)), manifest.rows)
    home = (folder / _key(_FORMAT, shard_bytes, samples)).resolve()
    # One for each way in which these samples were described: speaker, split and text are those of today.
    described = home / f"manifest-{_key(digest(manifest.table, manifest.rows))}.arrow"
    if not described.exists():
        with disk_full_is_explained(home):
            home.mkdir(parents=True, exist_ok=True)
            with _alone(home):
                _build(manifest, home, described, shard_bytes, workers, progress)
    rows = json.loads((home / _REJECTED).read_text("utf-8"))
    return open_manifest(described), [Rejected(*row) for row in rows]


def _key(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    # A record lock: the system drops it with the process, however that ends, and workers do not inherit it.
    with (home / _LOCK).open("a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentProblem(
                f"Another process is building the audio cache {home}; wait until it is done, then run this command"
                " again, or give this run a cache folder of its own."
            ) from error
        yield


def _build(
    manifest: Manifest,
    home: Path,
    described: Path,
    shard_bytes: int,
    workers: int,
    progress: Progress,
) -> None:
    shards = _shards(manifest, home, shard_bytes)
    missing = [s for s in shards if not _is_whole(s)]
    _require_space(manifest, home, missing)
    done = len(manifest) - sum(s.end - s.first for s in missing)
    with progress("cache", len(manifest), done) as advance:
        pieces = in_processes(
            _Decoding(), _Pieces(manifest, missing), workers=workers if missing else 0
        )
        for shard in missing:
            _write_shard(shard, pieces, advance)
    _write_manifest(manifest, home, described, shards)


def _shards(manifest: Manifest, home: Path, shard_bytes: int) -> list[Shard]:
    # By the manifest's durations, so that shard k holds the same rows whatever of them can be decoded.
    number = (np.cumsum(manifest.duration_s) * BYTES_PER_SECOND // shard_bytes).astype(np.int64)
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(manifest)]
    names = [f"shard-{k:06}" for k in range(len(starts) - 1)]
    return [
        Shard(first, end, home / f"{name}{PCM16}", home / f"{name}.json")
        for (first, end), name in zip(pairwise(starts), names, strict=True)
        if end > first
    ]


def _is_whole(shard: Shard) -> bool:
    if not shard.index.exists():
        return False
    index = json.loads(shard.index.read_text("utf-8"))
    return shard.pcm.exists() and shard.pcm.stat().st_size == sum(index["n_bytes"])


def _require_space(manifest: Manifest, home: Path, missing: list[Shard]) -> None:
    seconds = sum(float(manifest.duration_s[s.first : s.end].sum()) for s in missing)
    needed, free = int(seconds * BYTES_PER_SECOND), shutil.disk_usage(home).free
    if needed > free:
        raise EnvironmentProblem(
            f"The audio cache {home} needs {needed / 1e9:.1f} GB more ({seconds / 3600:.1f} hours at 32 kB a second),"
            f" but its disk has {free / 1e9:.1f} GB free; free some space, choose another folder, or train without"
            " a cache."
        )


#: Consecutive utterances of one shard.
_Piece = list["Utterance"]
#: For each of them its samples, shape (N,), int16, or why there are none.
_Decoded = list["NDArray[np.int16] | Rejected"]


class _Pieces(Sampler[_Piece]):
    """What the workers are told, in order; a piece never spans two shards."""

    def __init__(self, manifest: Manifest, shards: list[Shard]) -> None:
        self.manifest, self.shards = manifest, shards

    def __iter__(self) -> Iterator[_Piece]:
        for shard in self.shards:
            piece: _Piece = []
            seconds = 0.0
            for row in range(shard.first, shard.end):
                piece.append(self.manifest[row])
                seconds += piece[-1].duration_s
                if seconds >= _JOB_S or row + 1 == shard.end:
                    yield piece
                    piece, seconds = [], 0.0


class _Decoding(Dataset["_Decoded | ThaitoolError"]):
    def __getitem__(self, piece: _Piece) -> _Decoded | ThaitoolError:
        decoded: _Decoded = []
        for utterance in piece:
            try:
                decoded.append(to_int16(load_audio(utterance)))
            except BadAudio as bad:
                decoded.append(as_rejected(utterance, bad))
            except ThaitoolError as error:
                return error
            except Exception as error:
                error.add_note(f"This happened with {utterance.audio}.")
                raise
        return decoded


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Rounds samples, shape (N,), to 16 bits; what came from 16 bits is what it was. Louder than full scale is cut."""
    scaled = np.rint(samples * np.float32(2**15))
    rounded: NDArray[np.int16] = scaled.clip(-(2**15), 2**15 - 1, out=scaled).astype("<i2")
    return rounded


def _write_shard(shard: Shard, pieces: Iterator[_Decoded], advance: Advance) -> None:
    sizes: list[int] = []
    rejected: list[tuple[str, str, str]] = []
    temporary = shard.pcm.with_name(f".{shard.pcm.name}.tmp")
    with temporary.open("wb") as file:
        while len(sizes) < shard.end - shard.first:
            decoded = next(pieces)
            for samples in decoded:
                if isinstance(samples, Rejected):
                    rejected.append((samples.item, samples.reason, samples.detail))
                    sizes.append(0)
                else:
                    file.write(samples.tobytes())
                    sizes.append(samples.nbytes)
            advance(len(decoded))
        file.flush()
        os.fsync(
            file.fileno()
        )  # or a power cut could leave the index of a shard without its samples
    temporary.replace(shard.pcm)
    write_json(shard.index, {"n_bytes": sizes, "rejected": rejected})


def _write_manifest(manifest: Manifest, home: Path, described: Path, shards: list[Shard]) -> None:
    rejected: list[tuple[str, str, str]] = []
    temporary = described.with_name(f".{described.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for shard in shards:
            index = json.loads(shard.index.read_text("utf-8"))
            rejected += index["rejected"]
            sizes = np.array(index["n_bytes"], np.int64)
            writer.write_table(_block(manifest, shard, sizes))
    write_json(home / _REJECTED, rejected)
    temporary.replace(described)


def _block(manifest: Manifest, shard: Shard, sizes: NDArray[np.int64]) -> pa.Table:
    """The rows of a shard that hold samples, as they lie in it."""
    rows = np.arange(shard.first, shard.end)
    kept = sizes > 0
    there = Manifest(manifest.table, rows if manifest.rows is None else manifest.rows[rows])
    there = there.select(kept)
    n = len(there)
    changed = {
        "path": pa.array([str(shard.pcm)] * n, pa.string()),
        "row": pa.nulls(n, pa.int64()),
        "offset": pa.array((np.cumsum(sizes) - sizes)[kept]),
        "n_bytes": pa.array(sizes[kept]),
        "duration_s": pa.array(sizes[kept] / BYTES_PER_SECOND),
        "sample_rate_hz": pa.array(np.full(n, SAMPLE_RATE_HZ, np.int32)),
        "start_s": pa.array(np.zeros(n)),
        "end_s": pa.nulls(n, pa.float64()),
    }
    columns = [
        changed[name] if name in changed else there.column(name).combine_chunks()
        for name in SCHEMA.names
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
