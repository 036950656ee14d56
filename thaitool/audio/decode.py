"""Sound bytes or files to float32 mono samples at 16 kHz, and back to FLAC. Resamples; does not segment or augment.

libsndfile (soundfile) decodes: WAV, FLAC, OGG, Opus and MP3 without a system package. Everything that is wrong with
a recording is a `BadAudio` with a short `reason`, because callers count and list by reason.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The one rate inside the package: that of XLS-R, Whisper and the published Thai-SUP.
SAMPLE_RATE_HZ = 16_000
#: Shorter clips carry no syllable, and wav2vec 2.0's convolutions need 400 samples for one frame.
MIN_DURATION_S = 0.1
#: Peak below which a clip counts as silent: -60 dBFS.
SILENCE_PEAK = 1e-3
#: More samples than any coder packs into a byte (FLAC of silence: some 6,000); a header that promises more lies.
MAX_FRAMES_PER_BYTE = 10_000
EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})


class BadAudio(InputError):
    """A recording that cannot be used; `reason` is one of the words that `quarantine.jsonl` counts by."""

    def __init__(self, item: str, reason: str, detail: str) -> None:
        super().__init__(f"{item}: {reason}: {detail}")
        self.item, self.reason, self.detail = item, reason, detail


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a sound file promises."""

    duration_s: float
    sample_rate_hz: int


def probe(path: Path) -> Header:
    """Reads the header only.

    Raises:
        BadAudio: unreadable, empty, truncated, bad_length or too_short.
        OSError: there is no such file, or it may not be read.
    """
    import soundfile

    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise BadAudio(str(path), "empty", "the file has 0 bytes")
    try:
        # As bytes: soundfile would refuse a file name that is not UTF-8.
        info = soundfile.info(os.fsencode(path))
    except soundfile.LibsndfileError as error:
        raise BadAudio(str(path), "unreadable", error.error_string) from error
    _check_promise(str(path), info.frames, n_bytes, info.extra_info)
    if info.format == "OGG" and not _ogg_is_whole(path):
        raise BadAudio(str(path), "truncated", "its last OGG page is missing or cut")
    duration_s = info.frames / info.samplerate
    if duration_s < MIN_DURATION_S:
        raise BadAudio(str(path), "too_short", f"{duration_s:.3f} s is under {MIN_DURATION_S} s")
    return Header(duration_s, int(info.samplerate))


def _check_promise(item: str, frames: int, n_bytes: int, log: str) -> None:
    # libsndfile quietly believes a WAV or OGG that ends early; only its log tells.
    if "(should be" in log or "ended unexpectedly" in log:
        raise BadAudio(item, "truncated", "the file ends before its header says it does")
    if frames > MAX_FRAMES_PER_BYTE * n_bytes:
        raise BadAudio(
            item,
            "bad_length",
            f"its header promises {frames} samples in {n_bytes} bytes (a FLAC written to a pipe does not know its"
            " length: write it to a file)",
        )


def _ogg_is_whole(path: Path) -> bool:
    """Whether the last page is complete and marked as the end of its stream (RFC 3533, section 6)."""
    longest_page = 27 + 255 + 255 * 255
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - longest_page))
        tail = file.read()
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    is_last = bool(page[5] & 0x04)
    return is_last and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def decode(
    source: str | bytes, item: str, *, start_s: float = 0.0, end_s: float | None = None
) -> NDArray[np.float32]:
    """Decodes a file path or encoded bytes to samples, shape (N,), mono, `SAMPLE_RATE_HZ`.

    Args:
        source: A path, or the bytes of a sound file.
        item: What to call it in messages.
        start_s, end_s: The stretch to read; `end_s` is exclusive, None reads to the end.

    Raises:
        BadAudio: unreadable, empty, truncated, bad_length, too_short, silent or not_finite.
    """
    import soundfile

    try:
        n_bytes = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if n_bytes == 0:
            raise BadAudio(item, "empty", "it has 0 bytes")
        opened = io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)
        with soundfile.SoundFile(opened) as file:
            _check_promise(item, file.frames, n_bytes, file.extra_info)
            rate_hz = int(file.samplerate)
            first = min(round(start_s * rate_hz), file.frames)
            # libsndfile takes a negative count for "to the end".
            stop = file.frames if end_s is None else min(file.frames, round(end_s * rate_hz))
            last = max(first, stop)
            file.seek(first)
            samples: NDArray[np.float32] = file.read(last - first, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:  # LibsndfileError is a RuntimeError
        detail = getattr(error, "error_string", None) or getattr(error, "strerror", None)
        raise BadAudio(item, "unreadable", detail or str(error)) from error
    # A lossy coder may be a frame off its header; a file cut in transfer is off by much more.
    if len(samples) < 0.98 * (last - first) - 0.1 * rate_hz:
        detail = f"{len(samples)} of {last - first} samples could be decoded"
        raise BadAudio(item, "truncated", detail)
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BadAudio(item, "not_finite", "it contains NaN or infinite samples")
    if len(mono) < MIN_DURATION_S * rate_hz:
        detail = f"{len(mono) / rate_hz:.3f} s is under {MIN_DURATION_S} s"
        raise BadAudio(item, "too_short", detail)
    if float(np.abs(mono).max()) < SILENCE_PEAK:
        raise BadAudio(item, "silent", f"the peak of its mono mix is below {SILENCE_PEAK}")
    return resample(mono, rate_hz)


def resample(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Brings samples, shape (N,), from `rate_hz` to `SAMPLE_RATE_HZ` with a windowed-sinc filter (torchaudio)."""
    if rate_hz == SAMPLE_RATE_HZ:
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

    return Resample(rate_hz, SAMPLE_RATE_HZ)


def encode_flac(samples: NDArray[np.float32]) -> bytes:
    """16-bit FLAC of mono samples, shape (N,), in [-1, 1] at `SAMPLE_RATE_HZ`; the form that Thai-SUP shards hold."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero mean, unit variance over the clip, shape (N,), as wav2vec 2.0 expects (`do_normalize` in transformers)."""
    centred = samples - samples.mean()
    scaled: NDArray[Any] = centred / np.sqrt(np.square(centred).mean() + 1e-7)
    return scaled.astype(np.float32)
