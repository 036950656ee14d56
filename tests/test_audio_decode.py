"""Decoding: what every format must give, and the reason that every kind of broken recording must get."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from thaitool.audio.decode import (
    EXTENSIONS,
    SAMPLE_RATE_HZ,
    BadAudio,
    decode,
    encode_flac,
    normalise,
    probe,
    resample,
)
from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.conftest import Tone

SHARED = Path(os.environ.get("THAITOOL_SHARED", Path(__file__).resolve().parents[2] / "shared"))

#: suffix, rate, channels, how soundfile is asked to write it
FORMATS = [
    (".wav", 16_000, 1, {}),
    (".wav", 48_000, 2, {}),
    (".wav", 96_000, 1, {"subtype": "PCM_24"}),
    (".wav", 22_050, 1, {"subtype": "FLOAT"}),
    (".wav", 8_000, 1, {"subtype": "ULAW"}),
    (".flac", 16_000, 1, {}),
    (".flac", 96_000, 2, {"subtype": "PCM_24"}),
    (".ogg", 44_100, 2, {}),
    (".opus", 48_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    (".mp3", 48_000, 2, {}),
]


@pytest.mark.parametrize(("suffix", "rate_hz", "channels", "how"), FORMATS)
def test_every_format_becomes_the_same_mono_tone(
    tmp_path: Path, tone: Tone, suffix: str, rate_hz: int, channels: int, how: dict[str, str]
) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.stack([tone(0.5, rate_hz)] * channels, 1), rate_hz, **how)
    header = probe(path)
    assert (round(header.duration_s, 1), header.sample_rate_hz) == (0.5, rate_hz)
    samples = decode(str(path), "a")
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # An MP3 holds whole frames of 1,152 samples; everything else keeps its length.
    assert abs(len(samples) - 8_000) <= (1_152 if suffix == ".mp3" else 1)
    spectrum = np.abs(np.fft.rfft(samples))
    peak_hz = spectrum.argmax() * SAMPLE_RATE_HZ / len(samples)
    assert peak_hz == pytest.approx(220, abs=3)
    assert samples[2_000:6_000].std() == pytest.approx(0.3 / np.sqrt(2), abs=0.01)
    np.testing.assert_array_equal(decode(path.read_bytes(), "a"), samples)
    assert suffix in EXTENSIONS


def written(samples: NDArray[np.float32], suffix: str, rate_hz: int = 16_000, **how: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=how.pop("format", suffix.upper()), **how)
    return buffer.getvalue()


def without_length(flac: bytes) -> bytes:
    """What an encoder that writes to a pipe leaves: STREAMINFO says 0 samples, "unknown"."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def without_last_page(ogg: bytes) -> bytes:
    return ogg[: ogg.rfind(b"OggS")]


def with_nan(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    out = samples.copy()
    out[100] = np.nan
    return out


BAD: dict[str, tuple[str, str, Callable[[NDArray[np.float32]], bytes]]] = {
    "empty": ("wav", "empty", lambda _: b""),
    "text": ("wav", "unreadable", lambda _: b"this is not a recording\n" * 20),
    "garbage": ("mp3", "unreadable", lambda _: bytes(range(256)) * 8),
    "cut wav": ("wav", "truncated", lambda x: written(x, "wav")[:-9_000]),
    "wav header alone": ("wav", "truncated", lambda x: written(x, "wav")[:44]),
    "cut flac": ("flac", "unreadable", lambda x: written(x, "flac")[:-9_000]),
    "ogg cut in the middle": ("ogg", "truncated", lambda x: written(x, "ogg")[:-700]),
    "ogg cut in its last page": ("ogg", "truncated", lambda x: written(x, "ogg")[:-30]),
    "ogg without its last page": (
        "ogg",
        "truncated",
        lambda x: without_last_page(written(x, "ogg")),
    ),
    "cut mp3": ("mp3", "truncated", lambda x: written(x, "mp3")[: -len(x) // 20]),
    "flac from a pipe": ("flac", "bad_length", lambda x: without_length(written(x, "flac"))),
    "0.01 s": ("wav", "too_short", lambda x: written(x[:160], "wav")),
    "no samples": ("wav", "too_short", lambda x: written(x[:0], "wav")),
    "silent": ("wav", "silent", lambda x: written(0 * x, "wav")),
    "channels cancel": ("wav", "silent", lambda x: written(np.stack([x, -x], 1), "wav")),
    "nan": ("wav", "not_finite", lambda x: written(with_nan(x), "wav", subtype="FLOAT")),
    "inf": ("wav", "not_finite", lambda x: written(x / np.float32(0), "wav", subtype="FLOAT")),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_every_broken_recording_is_bad_audio_with_its_reason(
    tmp_path: Path, tone: Tone, kind: str
) -> None:
    suffix, reason, make = BAD[kind]
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(make(tone(1.0)))
    with pytest.raises(BadAudio) as caught:
        probe(path)
        decode(str(path), str(path))
    assert caught.value.reason == reason
    assert caught.value.item == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.detail
    assert isinstance(caught.value, InputError)


#: What a scan finds without decoding; the rest takes the samples.
HEADER_TELLS = {"empty", "unreadable", "truncated", "bad_length", "too_short"}


@pytest.mark.parametrize("kind", [k for k, (_, reason, _) in BAD.items() if reason in HEADER_TELLS])
def test_a_scan_finds_it_by_the_header_where_the_header_tells(
    tmp_path: Path, tone: Tone, kind: str
) -> None:
    suffix, reason, make = BAD[kind]
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(make(tone(1.0)))
    if kind in {"cut flac", "cut mp3"}:
        # Their headers stay whole; the samples are missing.
        assert probe(path).duration_s == 1.0
        return
    with pytest.raises(BadAudio) as caught:
        probe(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "kind", ["empty", "text", "cut wav", "cut flac", "cut mp3", "flac from a pipe"]
)
def test_bytes_of_a_shard_are_judged_without_a_header_scan(tone: Tone, kind: str) -> None:
    _, reason, make = BAD[kind]
    with pytest.raises(BadAudio) as caught:
        decode(make(tone(1.0)), "shard#7")
    assert (caught.value.item, caught.value.reason) == ("shard#7", reason)


def test_a_missing_file_is_bad_audio_to_the_decoder(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match="unreadable: No such file"):
        decode(str(tmp_path / "gone.wav"), "gone.wav")
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "gone.wav")


def test_a_file_name_need_not_be_utf8(tmp_path: Path, tone: Tone) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav"))
    path.write_bytes(written(tone(0.5), "wav"))
    assert probe(path).duration_s == 0.5
    assert len(decode(str(path), "odd name")) == 8_000


def test_a_stretch_is_half_open_and_stays_inside_the_file(tmp_path: Path, tone: Tone) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(written(tone(1.0), "wav", subtype="FLOAT"))
    whole = decode(str(path), "a")
    np.testing.assert_array_equal(
        decode(str(path), "a", start_s=0.25, end_s=0.5), whole[4_000:8_000]
    )
    np.testing.assert_array_equal(decode(str(path), "a", start_s=0.75), whole[12_000:])
    np.testing.assert_array_equal(decode(str(path), "a", start_s=0.5, end_s=9.0), whole[8_000:])
    for start_s, end_s in ((0.5, 0.2), (2.0, 3.0), (0.5, 0.5)):
        with pytest.raises(BadAudio) as caught:
            decode(str(path), "a", start_s=start_s, end_s=end_s)
        assert caught.value.reason == "too_short"


def test_flac_round_trip_keeps_16_bits(tone: Tone) -> None:
    samples = tone(0.5)
    flac = encode_flac(samples)
    assert flac.startswith(b"fLaC")
    np.testing.assert_allclose(decode(flac, "a"), samples, atol=1.0 / 2**15)


def test_resampling_does_not_fold_what_the_new_rate_cannot_hold(tone: Tone) -> None:
    samples = tone(0.5)
    assert resample(samples, SAMPLE_RATE_HZ) is samples
    # What lies above 8 kHz must vanish rather than fold down to 6 kHz.
    t = np.arange(24_000) / 48_000
    too_high = np.sin(2 * np.pi * 10_000 * t).astype(np.float32)
    assert np.abs(resample(too_high, 48_000)[200:-200]).max() < 0.02


def test_normalise_gives_zero_mean_and_unit_variance(tone: Tone) -> None:
    out = normalise(0.01 * tone(0.5) + np.float32(0.2))
    assert out.dtype == np.float32
    assert float(out.mean()) == pytest.approx(0, abs=1e-4)
    assert float(out.std()) == pytest.approx(1, abs=0.02)
    assert np.isfinite(normalise(np.zeros(100, np.float32))).all()


REAL = [("thai_alphabet", "*.mp3", 184), ("thai_common_voice", "*.wav", 2), ("an4", "*.flac", 948)]


@pytest.mark.parametrize(("folder", "pattern", "count"), REAL)
def test_real_recordings(folder: str, pattern: str, count: int) -> None:
    root = SHARED / "data" / "speech" / folder
    files = sorted(root.rglob(pattern))
    if not files:
        pytest.skip(f"{root} is absent")
    assert len(files) == count
    for path in files[:: max(1, count // 5)]:
        samples = decode(str(path), path.name)
        assert len(samples) / SAMPLE_RATE_HZ == pytest.approx(probe(path).duration_s, abs=0.1)
        assert np.abs(samples).max() > 0.01
