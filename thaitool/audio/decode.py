"""Sound bytes or files to float32 mono samples at 16 kHz, and back to FLAC. Resamples; does not segment or augment.

libsndfile (soundfile) decodes: WAV, FLAC, OGG, Opus and MP3 without a system package. Everything that is wrong with
a recording is a `BadAudio` with a short `reason`, because callers count and list by reason.

A stretch is cut out of the whole recording as it is at 16 kHz, but only its own samples are read: seeking is exact in
every format (MP3: to 1e-6, and only because reading starts a little earlier). What cannot seek is read from its start.
"""

from __future__ import annotations

import io
import math
import os
import stat
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from thaitool.audio.headers import MIN_DURATION_S, BadAudio, check_promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Result = TypeVar("Result")
#: The one rate inside the package: that of XLS-R, Whisper and the published Thai-SUP.
SAMPLE_RATE_HZ = 16_000
#: Peak below which a clip counts as silent: -60 dBFS.
SILENCE_PEAK = 1e-3
#: End of the name of a file without header: int16 samples, little-endian, mono, `SAMPLE_RATE_HZ` (the shard cache).
PCM16 = ".pcm16"
#: A network file system that was busy once seldom is twice.
RETRY_AFTER_S = 0.1
#: libsndfile's number for "the operating system said no".
_SYSTEM_ERROR = 2
#: What libsndfile must be told of the shard cache's files, which have no header.
_RAW = {
    "samplerate": SAMPLE_RATE_HZ,
    "channels": 1,
    "format": "RAW",
    "subtype": "PCM_16",
    "endian": "LITTLE",
}
#: What torchaudio's `Resample` is left at.
_FILTER_ZEROS, _ROLLOFF = 6, 0.99
#: MP3 frames may lie 511 bytes back; at 8 kbit/s, the lowest rate, those are half a second.
_MP3_LEAD_IN_S = 0.55
#: The longest Ogg page, 65,025 bytes, at 52 kbit/s; common encoders end a page after one second.
_OGG_LAST_PAGE_S = 10
#: Coefficients of a resampling filter, 64 MB. Rates without a common divisor, such as 44,101 Hz, would need gigabytes.
_MAX_COEFFICIENTS = 1 << 24
#: Frames that are read before they are mixed down, so that many channels cost memory for a moment only.
_BLOCK_FRAMES = 1 << 20


def decode(
    source: str | bytes,
    item: str,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    offset: int | None = None,
    n_bytes: int | None = None,
) -> NDArray[np.float32]:
    """Decodes a file, or a part of one, to samples, shape (N,), mono, `SAMPLE_RATE_HZ`.

    Args:
        source: A path (`PCM16` at its end: samples without header), or the bytes of a sound file.
        item: What to call it in messages.
        start_s, end_s: The stretch to read; `end_s` is exclusive, None reads to the end.
        offset, n_bytes: Where in the file of that path the sound file (or the samples) lies; None is all of it.

    Raises:
        BadAudio: unreadable, empty, truncated, bad_length, bad_rate, too_short, silent or not_finite.
    """
    first = round(start_s * SAMPLE_RATE_HZ)
    last = None if end_s is None else max(first, round(end_s * SAMPLE_RATE_HZ))

    def read() -> NDArray[np.float32]:
        if isinstance(source, str) and source.endswith(PCM16):
            with Bytes(source, item, offset, n_bytes) as samples:
                return _read_pcm16(samples, item, first, last)
        with opened_sound(source, item, offset=offset, n_bytes=n_bytes) as file:
            return _stretch(file, item, first, last)

    mono = twice(read, item)
    place = "" if (first, last) == (0, None) else f" from {start_s:.2f} s on"
    if len(mono) < MIN_DURATION_S * SAMPLE_RATE_HZ:
        detail = f"{len(mono) / SAMPLE_RATE_HZ:.3f} s{place} is under {MIN_DURATION_S} s"
        raise BadAudio(item, "too_short", detail)
    low, high = float(mono.min()), float(mono.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadAudio(item, "not_finite", f"it contains NaN or infinite samples{place}")
    if max(-low, high) < SILENCE_PEAK:
        detail = f"the peak of its mono mix{place} is below {SILENCE_PEAK}"
        raise BadAudio(item, "silent", detail)
    return mono


def twice(read: Callable[[], Result], item: str) -> Result:
    """What `read` returns, at the second attempt if need be.

    Raises:
        BadAudio: it raised an OSError both times.
    """
    try:
        return read()
    except OSError:
        time.sleep(RETRY_AFTER_S)
    try:
        return read()
    except OSError as error:
        raise BadAudio(item, "unreadable", error.strerror or str(error)) from error


@dataclass
class _Quiet:
    """Who has turned stderr off, and where it went before."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: int = 0
    kept: int = -1


_QUIET = _Quiet()


@contextmanager
def opened_sound(
    source: str | bytes, item: str, *, offset: int | None = None, n_bytes: int | None = None
) -> Iterator[Any]:
    """A `soundfile.SoundFile` whose header promises no more than is there. What MP3s complain about is not shown.

    Args: as `decode`.

    Raises:
        BadAudio: it is unreadable, empty, truncated or bad_length, now or while the caller reads it.
        OSError: the disk, not the file, is at fault.
    """
    if isinstance(source, bytes):
        with _opened(io.BytesIO(source), len(source), {}, item) as file:
            yield file
        return
    with Bytes(source, item, offset, n_bytes) as part:
        # By its number where it is a whole file: libsndfile then reads without coming back to Python, and does not
        # judge the file by its name.
        readable = part.descriptor if part.is_whole else part
        form = _RAW if source.endswith(PCM16) else {}
        try:
            with _opened(readable, part.n_bytes, form, item) as file:
                yield file
        except BadAudio:
            part.raise_trouble()
            raise
        part.raise_trouble()


@contextmanager
def _opened(readable: Any, n_bytes: int, form: dict[str, Any], item: str) -> Iterator[Any]:
    import soundfile

    if n_bytes == 0:
        raise BadAudio(item, "empty", "it has 0 bytes")
    try:
        with soundfile.SoundFile(readable, closefd=False, **form) as file:
            check_promise(item, file.frames, n_bytes, file.extra_info)
            # mpg123 complains on stderr wherever reading starts inside a sound, and rightly decodes it all the same.
            with _no_stderr() if file.format == "MP3" else nullcontext():
                yield file
    except soundfile.LibsndfileError as error:
        if error.code == _SYSTEM_ERROR:
            raise OSError(error.error_string) from error
        raise BadAudio(item, "unreadable", error.error_string) from error


class Bytes(io.RawIOBase):
    """Some bytes of a file as a file, for libsndfile, which only knows whole ones. Reads nothing ahead."""

    def __init__(self, path: str, item: str, offset: int | None, n_bytes: int | None) -> None:
        # Non-blocking: opening a named pipe would wait for a writer for ever.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self.is_whole = offset is None
        self.offset = offset or 0
        there = max(0, status.st_size - self.offset)
        self.n_bytes = there if n_bytes is None else n_bytes
        self.trouble: OSError | None = None
        self._at = 0
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise BadAudio(item, "unreadable", "it is not a regular file")
        if self.n_bytes > there:
            self.close()
            detail = f"{self.n_bytes} bytes were there from byte {self.offset} on, {there} are now"
            raise BadAudio(item, "truncated", detail)

    def raise_trouble(self) -> None:
        """Raises what went wrong inside libsndfile's calls, which would take it for the end of the file."""
        if self.trouble is not None:
            raise self.trouble

    def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.n_bytes}[whence]
        self._at = max(0, base + to)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(0, self.n_bytes - self._at))
        try:
            place = self.offset + self._at
            read = os.preadv(self.descriptor, [memoryview(buffer)[:wanted]], place)
        except OSError as error:
            self.trouble = error
            return 0
        self._at += read
        return read


def _read_pcm16(file: Bytes, item: str, first: int, last: int | None) -> NDArray[np.float32]:
    if file.n_bytes < 2:
        raise BadAudio(item, "empty", f"it has {file.n_bytes} bytes")
    n_frames = file.n_bytes // 2
    first = min(first, n_frames)
    last = n_frames if last is None else min(last, n_frames)
    file.seek(2 * first)
    samples = np.empty(last - first, "<i2")
    view, read = samples.data.cast("B"), 0
    while read < len(view):
        got = file.readinto(view[read:])
        if not got:
            file.raise_trouble()
            raise BadAudio(item, "truncated", "the file became shorter while it was read")
        read += got
    return np.multiply(samples, np.float32(2.0**-15), dtype=np.float32)


def _stretch(file: Any, item: str, first: int, last: int | None) -> NDArray[np.float32]:
    """Samples `first` to `last`, counted at `SAMPLE_RATE_HZ`, of an opened sound file."""
    rate_hz, n_frames = int(file.samplerate), int(file.frames)
    # Lengths in the smallest steps that are whole samples at both rates.
    step_hz = math.gcd(rate_hz, SAMPLE_RATE_HZ)
    step, step_out = rate_hz // step_hz, SAMPLE_RATE_HZ // step_hz
    margin = 0
    if step != step_out:
        margin = math.ceil(_FILTER_ZEROS * step / (min(step, step_out) * _ROLLOFF))
        if step_out * (step + 2 * margin) > _MAX_COEFFICIENTS:
            detail = f"its rate of {rate_hz} Hz has too little in common with {SAMPLE_RATE_HZ} Hz; convert it first"
            raise BadAudio(item, "bad_rate", detail)
    n_out = -(-n_frames * step_out // step)
    last = n_out if last is None else min(last, n_out)
    first = min(first, last)
    if first == last:
        return np.zeros(0, np.float32)
    # From a whole step on, so that the filter has the phase that it has in the whole recording.
    skipped = max(0, first * step // step_out - margin) // step
    begin = skipped * step
    end = min(n_frames, -(-last * step // step_out) + margin)
    mono = _read_mono(file, begin, end)
    # A lossy coder may be a frame off its header; a file cut in transfer is off by much more.
    if len(mono) < 0.98 * (end - begin) - 0.1 * rate_hz:
        detail = f"{len(mono)} of {end - begin} samples could be decoded"
        raise BadAudio(item, "truncated", detail)
    return resample(mono, rate_hz)[first - skipped * step_out : last - skipped * step_out]


def _read_mono(file: Any, begin: int, end: int) -> NDArray[np.float32]:
    """The mean of the channels, from frame `begin` to `end` or to where the file ends."""
    start = where_to_start(file, begin)
    if start:
        file.seek(start)
    # In one call, or what libsndfile gives at each joint of an MP3 is off where frames share their bits.
    longest = end - start if file.format == "MP3" else _BLOCK_FRAMES
    if file.channels == 1 and end - start <= longest:
        samples: NDArray[np.float32] = file.read(end - start, dtype="float32")
        return samples[begin - start :]
    mono = np.empty(end - start, np.float32)
    at = 0
    while at < len(mono):
        block = file.read(min(longest, len(mono) - at), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        # Channel by channel: numpy's mean over an axis of length 2 takes forty times as long.
        mixed = mono[at : at + len(block)]
        mixed[:] = block[:, 0]
        for channel in range(1, file.channels):
            mixed += block[:, channel]
        mixed /= np.float32(file.channels)
        at += len(block)
    return mono[begin - start : at]


def where_to_start(file: Any, frame: int) -> int:
    """From where on reading gives what it would have given from the start."""
    n_frames, rate_hz = int(file.frames), int(file.samplerate)
    if not file.seekable():  # GSM
        return 0
    if file.format == "MP3":
        # A frame may keep its bits in the frames before it, and mpg123 does not go back for them when it seeks: what
        # it gives then is off by up to the full scale until enough frames have passed.
        return max(0, frame - round(_MP3_LEAD_IN_S * rate_hz))
    if file.format == "OGG":
        # Inside the last page libvorbis counts from the wrong end where the page was cut to the length of the sound.
        return max(0, min(frame, n_frames - _OGG_LAST_PAGE_S * rate_hz))
    return frame


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Sends what C libraries print to stderr nowhere, as long as any thread is in here."""
    # The descriptor is the process's: of two threads, the second would keep what the first had put there.
    with _QUIET.lock:
        if _QUIET.threads == 0:
            _QUIET.kept = os.dup(2)
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  (Path costs more than the open)
                os.dup2(nowhere.fileno(), 2)
        _QUIET.threads += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.threads -= 1
            if _QUIET.threads == 0:
                os.dup2(_QUIET.kept, 2)
                os.close(_QUIET.kept)


def resample(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Brings samples, shape (N,), from `rate_hz` to `SAMPLE_RATE_HZ` with a windowed-sinc filter (torchaudio)."""
    if rate_hz == SAMPLE_RATE_HZ or len(samples) == 0:
        return samples
    import torch

    with torch.inference_mode():
        out: NDArray[np.float32] = _resampler(rate_hz)(torch.from_numpy(samples)).numpy()
    return out


@lru_cache(maxsize=16)
def _resampler(rate_hz: int) -> Any:
    # The transform keeps its filter; torchaudio.functional.resample would compute it for every clip, which takes most
    # of the time where the rates share a small divisor (22,050 to 16,000 Hz).
    from torchaudio.transforms import Resample

    return Resample(rate_hz, SAMPLE_RATE_HZ, lowpass_filter_width=_FILTER_ZEROS, rolloff=_ROLLOFF)


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """16-bit FLAC of mono samples, shape (N,), in [-1, 1] at `SAMPLE_RATE_HZ`; the form that Thai-SUP shards hold."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def normalise(
    samples: NDArray[np.float32], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Zero mean, unit variance over the clip, shape (N,), as wav2vec 2.0 expects (`do_normalize` in transformers).

    Args:
        samples: The clip.
        out: Where to write; None makes a new array.
    """
    # numpy's sums, not BLAS or torch: theirs depend on the number of threads, in the last bits.
    centred: NDArray[np.float32] = np.subtract(samples, samples.mean(), out=out)
    centred *= np.float32(1 / math.sqrt(float(np.square(centred).mean()) + 1e-7))
    return centred
