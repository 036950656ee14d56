"""Recordings that are there twice, also under another name: which rows of a manifest have the content of earlier ones.

Compares content, not sound: the same speech in two codings is two recordings, except that FLAC carries the checksum of
its samples, so that its tags and compression do not matter. Of FLAC only those that agree in that checksum are read; of
other formats those that agree in size and in their first bytes.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from thaitool.audio.decode import opened_sound
from thaitool.audio.headers import HEAD_BYTES, BadAudio, Header, parse_header, read_head
from thaitool.data.columns import occurring_twice, take
from thaitool.data.shards import read_audio
from thaitool.records import AudioRef, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest

Result = TypeVar("Result")
#: What must agree besides the content: two stretches of a recording, or two texts, are two utterances.
_PLACE = ("start_s", "end_s", "text", "task", "label")
_BLOCK_FRAMES = 1 << 20


def is_file(ref: AudioRef) -> bool:
    """Whether the audio is a file of its own, not a part of one."""
    return ref.row is None and ref.offset is None


def content(ref: AudioRef) -> bytes:
    """All bytes of a recording that is a part of a file.

    Raises:
        BadAudio: the file ends before that part does.
        OSError: the file cannot be read.
    """
    if ref.row is not None:
        return read_audio(ref)
    return _range(ref, ref.n_bytes or 0)


def head_of(ref: AudioRef) -> tuple[bytes, int]:
    """The first bytes of a recording, and how many it has.

    Raises:
        BadAudio: there are none.
        OSError: the file cannot be read.
    """
    if is_file(ref):
        return read_head(ref.path)
    if ref.row is not None:
        whole = read_audio(ref)
        head, n_bytes = whole[:HEAD_BYTES], len(whole)
    else:
        n_bytes = ref.n_bytes or 0
        head = _range(ref, min(HEAD_BYTES, n_bytes))
    if not n_bytes:
        raise BadAudio(str(ref), "empty", "it has 0 bytes")
    return head, n_bytes


def _range(ref: AudioRef, size: int) -> bytes:
    descriptor = os.open(ref.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        there = os.fstat(descriptor).st_size
        start, n_bytes = ref.offset or 0, ref.n_bytes or 0
        if start + n_bytes > there:
            detail = f"its bytes end at {start + n_bytes}, but the file at {there}"
            raise BadAudio(str(ref), "truncated", detail)
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def content_key(header: Header, head: bytes, n_bytes: int) -> int:
    """64 bits that equal content has in common; 0 never occurs."""
    if header.md5:
        key = int.from_bytes(header.md5[:8], "little", signed=True) ^ header.frames
    else:
        key = (n_bytes << 32 ^ zlib.crc32(head)) & (2**63 - 1)
    return key or 1


def find_duplicates(
    manifest: Manifest, keys: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], list[tuple[int, Rejected]]]:
    """(first row, later row) of the same content, and rows that can no longer be read to compare them.

    Args:
        manifest: Utterances, in the order in which the first of a kind stays.
        keys: `content_key` of every row, shape (len(manifest),); rows with 0 are left alone.
    """
    pairs: list[tuple[int, int]] = []
    gone: list[tuple[int, Rejected]] = []
    for rows in _candidates(manifest, keys):
        known: dict[Header | tuple[int, bytes], list[int]] = {}
        for row, identity in _seen(_identity, manifest, rows, gone):
            known.setdefault(identity, []).append(row)
        for identity, equal in known.items():
            # Of one checksum; what agrees in size and content needs no second look.
            doubtful = isinstance(identity, Header) and len(equal) > 1
            kept = _whole_first(manifest, equal, gone) if doubtful else equal
            pairs += [(kept[0], row) for row in kept[1:]]
    return sorted(pairs, key=lambda pair: pair[1]), gone


def _seen(
    look: Callable[[AudioRef], Result],
    manifest: Manifest,
    rows: list[int],
    gone: list[tuple[int, Rejected]],
) -> Iterator[tuple[int, Result]]:
    """What `look` sees of each row; those that can no longer be read go to `gone` instead."""
    for row in rows:
        utterance = manifest[row]
        try:
            yield row, look(utterance.audio)
        except BadAudio as bad:
            gone.append((row, Rejected(utterance.place, bad.reason, bad.detail)))
        except OSError as error:
            reason = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
            detail = error.strerror or str(error)
            gone.append((row, Rejected(utterance.place, reason, detail)))


def _candidates(manifest: Manifest, keys: NDArray[np.int64]) -> Iterator[list[int]]:
    """Groups of rows, ascending, that agree in key and place."""
    rows = occurring_twice(keys)
    rows = np.sort(rows[keys[rows] != 0])
    places = [manifest.column(name) for name in _PLACE]
    combined = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), 1 << 16):
        block = rows[first : first + (1 << 16)]
        columns = [take(column, block).to_pylist() for column in places]
        combined[first : first + len(block)] = [
            hash(values) for values in zip(keys[block].tolist(), *columns, strict=True)
        ]
    again = occurring_twice(combined)
    starts = np.flatnonzero(np.diff(combined[again], prepend=combined[again][:1] + 1))
    for group in np.split(rows[again], starts[1:]) if len(again) else []:
        yield group.tolist()


def _identity(ref: AudioRef) -> Header | tuple[int, bytes]:
    """What equal content has in common and other content has not: a FLAC's header, or size and checksum."""
    head, n_bytes = head_of(ref)
    header = parse_header(head, n_bytes, str(ref))
    return header if header is not None and header.md5 else (n_bytes, _sha256(ref))


def _sha256(ref: AudioRef) -> bytes:
    if not is_file(ref):
        return hashlib.sha256(content(ref)).digest()
    with open(ref.path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").digest()


def _whole_first(
    manifest: Manifest, equal: list[int], gone: list[tuple[int, Rejected]]
) -> list[int]:
    """FLACs of one checksum in order, but if they differ nevertheless, the first that decodes to its end leads.

    The checksum in the header of a FLAC that is cut or damaged is that of the whole one, which must not be dropped for
    it.
    """
    hashes = dict(_seen(_sha256, manifest, equal, gone))
    if len(set(hashes.values())) < 2:
        return list(hashes)
    decoded = _seen(_decodes, manifest, list(hashes), gone)
    whole = next((row for row, to_its_end in decoded if to_its_end), None)
    lost = {row for row, _ in gone}
    return sorted(hashes.keys() - lost, key=lambda row: (row != whole, row))


def _decodes(ref: AudioRef) -> bool:
    source = ref.path if ref.row is None else read_audio(ref)
    try:
        with opened_sound(source, str(ref), offset=ref.offset, n_bytes=ref.n_bytes) as file:
            decoded = sum(len(block) for block in file.blocks(_BLOCK_FRAMES, dtype="int16"))
            return decoded == int(file.frames)
    except BadAudio:
        return False
