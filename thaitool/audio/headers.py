"""What a sound file says about itself, read from its first bytes. Decodes no samples.

WAV and FLAC are parsed here, by content and not by name, in one open, read and close; whatever is unusual in them, and
every other format, goes to libsndfile. A WAV that ends early is found here, because its header says how long it is; a
FLAC, Opus or MP3 that ends early is found when it is decoded (OGG and Opus also by their last page).
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Shorter clips carry no syllable, and wav2vec 2.0's convolutions need 400 samples for one frame.
MIN_DURATION_S = 0.1
#: More samples than any coder packs into a byte (FLAC of silence: some 6,000); a header that promises more lies.
MAX_FRAMES_PER_BYTE = 10_000
EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})
#: One page: it costs what 64 bytes cost, and holds the chunks that recorders put before the samples.
HEAD_BYTES = 4096

#: Chunks that may stand before the samples and that libsndfile steps over whatever they hold ("LIST" needs 4 bytes).
_HARMLESS_CHUNKS = frozenset(
    {b"FLLR", b"ID3 ", b"JUNK", b"LIST", b"PAD ", b"bext", b"cue ", b"iXML", b"id3 "}
)
#: Chunks that we or libsndfile read, with the bytes that they must have.
_SMALLEST = {b"LIST": 4, b"PEAK": 16, b"data": 0, b"ds64": 24, b"fact": 4, b"fmt ": 16}
#: Sizes that programs write when they cannot go back to fill in the true one: ffmpeg, arecord, sox.
_UNKNOWN_SIZES = frozenset({0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000})
#: The last 14 bytes of the GUID in WAVE_FORMAT_EXTENSIBLE; the first two are the format tag.
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
#: Bytes of the longest page of Ogg (RFC 3533, section 6): header, 255 lengths, as many segments of 255 bytes.
_LONGEST_PAGE = 27 + 255 + 255 * 255
_WRONG_SIZE = re.compile(r"^\s*(\S{3,4}) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_WRONG_COUNT = re.compile(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)")


class BadAudio(InputError):
    """A recording that cannot be used; `reason` is one of the words that `quarantine.jsonl` counts by."""

    def __init__(self, item: str, reason: str, detail: str) -> None:
        super().__init__(f"{item}: {reason}: {detail}")
        self.item, self.reason, self.detail = item, reason, detail


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a sound file promises."""

    frames: int
    sample_rate_hz: int
    channels: int
    md5: bytes = b""
    """FLAC: MD5 of the samples; empty where the file does not say."""

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class _Format:
    sample_rate_hz: int
    channels: int
    block: int
    """Bytes of one frame: one sample of every channel."""


def probe(path: Path) -> Header:
    """`read_header`, for a recording that must be long enough to use.

    Raises:
        BadAudio: unreadable, empty, truncated, bad_length or too_short.
        OSError: there is no such file, or it may not be read.
    """
    header = read_header(str(path))
    if header.duration_s < MIN_DURATION_S:
        detail = f"{header.duration_s:.3f} s is under {MIN_DURATION_S} s"
        raise BadAudio(str(path), "too_short", detail)
    return header


def read_header(path: str) -> Header:
    """The header of a file.

    Raises:
        BadAudio: unreadable, empty, truncated or bad_length.
        OSError: there is no such file, or it may not be read.
    """
    head, n_bytes = read_head(path)
    return parse_header(head, n_bytes, path) or ask_libsndfile(path, n_bytes, path)


def read_head(path: str) -> tuple[bytes, int]:
    """The first bytes of a file, and how many it has.

    Raises:
        BadAudio: it is empty, or no regular file.
        OSError: there is no such file, or it may not be read.
    """
    # Non-blocking: opening a named pipe would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadAudio(path, "unreadable", "it is not a regular file")
        if status.st_size == 0:
            raise BadAudio(path, "empty", "the file has 0 bytes")
        return os.read(descriptor, HEAD_BYTES), status.st_size
    finally:
        os.close(descriptor)


def parse_header(head: bytes, n_bytes: int, item: str) -> Header | None:
    """The header of a WAV or FLAC; None where libsndfile should look.

    Args:
        head: The first bytes (`HEAD_BYTES`, or all there are).
        n_bytes: Bytes of the whole file.
        item: What to call it in messages.

    Raises:
        BadAudio: truncated or bad_length.
    """
    kind = head[:4]
    if kind == b"fLaC":
        return _parse_flac(head, 0, n_bytes, item)
    if kind in {b"RIFF", b"RIFX", b"RF64"} and head[8:12] == b"WAVE":
        return _parse_wav(head, n_bytes, item)
    if kind[:3] == b"ID3" and len(head) >= 10:
        # Seven bits to a byte (ID3v2.4.0, section 6.2); bit 4 of the flags: a footer of 10 bytes follows.
        a, b, c, d = head[6:10]
        start = 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
        if head[start : start + 4] == b"fLaC":
            return _parse_flac(head, start, n_bytes, item)
    return None


def _parse_flac(head: bytes, start: int, n_bytes: int, item: str) -> Header | None:
    """STREAMINFO (RFC 9639, section 8.2), which must be the first block."""
    if (
        len(head) < start + 42
        or head[start + 4] & 0x7F
        or head[start + 5 : start + 8] != b"\0\0\x22"
    ):
        return None
    packed = int.from_bytes(head[start + 18 : start + 26], "big")
    rate, channels = packed >> 44, (packed >> 41 & 7) + 1
    bits, frames = (packed >> 36 & 31) + 1, packed & 0xFFFFFFFFF
    smallest, largest = struct.unpack_from(">HH", head, start + 8)
    if rate == 0 or bits not in {8, 16, 24} or not 16 <= smallest <= largest:
        return None
    if frames == 0 or frames > MAX_FRAMES_PER_BYTE * n_bytes:
        raise _bad_length(item, frames, n_bytes)
    md5 = head[start + 26 : start + 42]
    return Header(frames, rate, channels, md5 if any(md5) else b"")


def _parse_wav(head: bytes, n_bytes: int, item: str) -> Header | None:
    chunks = _wav_chunks(head)
    if chunks is None or b"fmt " not in chunks or (b"ds64" in chunks) != (head[:4] == b"RF64"):
        return None
    at, size = chunks[b"fmt "]
    order = ">" if head[:4] == b"RIFX" else "<"
    form = _parse_format(head[at : at + size], order)
    if form is None or chunks.get(b"PEAK", (0, 8 + 8 * form.channels))[1] != 8 + 8 * form.channels:
        return None
    at, size = chunks[b"data"]
    rest = n_bytes - at
    if size == 0 and head[at : at + 4] in _HARMLESS_CHUNKS:
        return None
    if size == 0 and rest:
        raise _bad_length(item, 0, n_bytes)
    if b"ds64" in chunks:
        size_64, frames = struct.unpack_from("<QQ", head, chunks[b"ds64"][0] + 8)
        if size != 0xFFFFFFFF or frames not in {0, size_64 // form.block}:
            return None
        size = size_64
    elif size in _UNKNOWN_SIZES and size > rest:
        size = rest
    if size > rest:
        detail = f"its header promises {size} bytes of samples, and {rest} are there"
        raise BadAudio(item, "truncated", detail)
    if size + (size & 1) < rest:
        return None  # what follows the samples may surprise libsndfile: let it look
    return Header(size // form.block, form.sample_rate_hz, form.channels)


def _wav_chunks(head: bytes) -> dict[bytes, tuple[int, int]] | None:
    """Where the chunks up to `data` start, and the sizes they claim; None if anything is unusual among them."""
    unpack = struct.Struct(">4sI" if head[:4] == b"RIFX" else "<4sI").unpack_from
    chunks: dict[bytes, tuple[int, int]] = {}
    at = 12
    while at + 8 <= len(head):
        name, size = unpack(head, at)
        at += 8
        usual = size >= _SMALLEST[name] if name in _SMALLEST else name in _HARMLESS_CHUNKS
        if name in chunks or not usual or (name == b"fact" and size != 4):
            return None
        chunks[name] = (at, size)
        if name == b"data":
            return chunks
        at += size + (size & 1)
    return None


def _parse_format(body: bytes, order: str) -> _Format | None:
    """A `fmt ` chunk; None if there is anything unusual in it."""
    if len(body) < 16:
        return None
    tag, channels, rate, _, block, bits = struct.unpack_from(order + "HHIIHH", body)
    if tag == _EXTENSIBLE:
        if len(body) < 40 or body[26:40] != _GUID_TAIL:
            return None
        valid, _, tag = struct.unpack_from(order + "HIH", body, 18)
        if valid != bits:
            return None
    usual = bits in _WIDTHS.get(tag, ()) and block == channels * bits // 8
    return (
        _Format(rate, channels, block)
        if usual and 0 < channels <= 64 and 0 < rate < 2**31
        else None
    )


def ask_libsndfile(source: str | bytes, n_bytes: int, item: str) -> Header:
    """The header of a file or of the bytes of one, as libsndfile reads it.

    Raises:
        BadAudio: unreadable, truncated or bad_length.
        OSError: there is no such file, or it may not be read.
    """
    if isinstance(source, bytes):
        return _ask(io.BytesIO(source), lambda: source[-_LONGEST_PAGE:], n_bytes, item)
    # By its number, as it is decoded: by its name libsndfile believes that what is called .mp3 is one.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        start = max(0, n_bytes - _LONGEST_PAGE)
        return _ask(descriptor, lambda: os.pread(descriptor, _LONGEST_PAGE, start), n_bytes, item)
    finally:
        os.close(descriptor)


def _ask(readable: io.BytesIO | int, tail: Callable[[], bytes], n_bytes: int, item: str) -> Header:
    import soundfile

    try:
        with soundfile.SoundFile(readable, closefd=False) as file:
            check_promise(item, file.frames, n_bytes, file.extra_info)
            if file.format == "OGG" and not _ogg_is_whole(tail()):
                raise BadAudio(item, "truncated", "its last OGG page is missing or cut")
            return Header(int(file.frames), int(file.samplerate), int(file.channels))
    except soundfile.LibsndfileError as error:
        raise BadAudio(item, "unreadable", error.error_string) from error


def check_promise(item: str, frames: int, n_bytes: int, log: str) -> None:
    """Raises `BadAudio` if libsndfile's log, or the number of bytes, contradicts the header."""
    # libsndfile quietly believes a WAV or OGG that ends early; only its log tells.
    for name, promised, there in _WRONG_SIZE.findall(log):
        # The size of the whole RIFF matters to nobody: the samples have their own.
        whole = name in {"RIFF", "RIFX", "FORM"}
        if not whole and int(promised) > int(there) and int(promised) not in _UNKNOWN_SIZES:
            detail = f"its header promises {promised} bytes of samples, and {there} are there"
            raise BadAudio(item, "truncated", detail)
    for there, promised in _WRONG_COUNT.findall(log):
        if int(promised) > int(there):
            detail = f"its header promises {promised} samples, and {there} are there"
            raise BadAudio(item, "truncated", detail)
    if "ended unexpectedly" in log:
        raise BadAudio(item, "truncated", "the file ends before its header says it does")
    if frames > MAX_FRAMES_PER_BYTE * n_bytes:
        raise _bad_length(item, frames, n_bytes)


def _bad_length(item: str, frames: int, n_bytes: int) -> BadAudio:
    detail = (
        f"its header promises {frames} samples in {n_bytes} bytes (written to a pipe, a FLAC or WAV may not know its"
        " length: write it to a file)"
    )
    return BadAudio(item, "bad_length", detail)


def _ogg_is_whole(tail: bytes) -> bool:
    """Whether the last page is complete and marked as the end of its stream (RFC 3533, section 6)."""
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    is_last = bool(page[5] & 0x04)
    return is_last and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
