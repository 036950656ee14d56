"""Decoding: what every format must give, and the reason that every kind of broken recording must get."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode, encode_flac, normalise, resample
from thaitool.audio.headers import EXTENSIONS, BadAudio, probe
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


def write_long(path: Path, seconds: float, rate_hz: int, channels: int, **how: str) -> None:
    """A rising tone in noise that swells, written in pieces: libsndfile's Vorbis crashes on long ones."""
    rng = np.random.default_rng(0)
    n = round(seconds * rate_hz)
    t = np.arange(n) / rate_hz
    noise = 0.2 * rng.standard_normal(n) * (1 + np.sin(7 * t)) / 2
    samples = (0.2 * np.sin(2 * np.pi * (200 + 50 * t) * t) + noise).astype("f4")
    how.setdefault("format", path.suffix[1:].upper())
    with soundfile.SoundFile(path, "w", rate_hz, channels, **how) as file:
        for at in range(0, n, 8_000):
            file.write(np.stack([samples[at : at + 8_000]] * channels, 1))


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


def test_the_name_of_a_file_means_nothing(tmp_path: Path, tone: Tone) -> None:
    for name in ("a.raw", "a.mp3", "a"):  # soundfile would take .raw for samples without a header
        path = tmp_path / name
        path.write_bytes(written(tone(0.5), "flac"))
        assert len(decode(str(path), name)) == 8_000


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(BadAudio, match="unreadable: it is not a regular file"):
        decode(str(tmp_path / "a.wav"), "a.wav")


def test_a_disk_that_fails_is_asked_twice(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaitool.audio.decode.RETRY_AFTER_S", 0.0)
    path = tmp_path / "a.bin"
    path.write_bytes(b"\0" * 9 + written(tone(0.5), "flac"))
    expected = decode(str(path), "a", offset=9)
    read, failures = os.preadv, [0]

    def failing(*args: Any) -> int:
        failures[0] -= 1
        if failures[0] == 1:
            raise OSError(5, "Input/output error")
        return read(*args)

    monkeypatch.setattr(os, "preadv", failing)
    failures[0] = 3  # the second read, inside libsndfile, which would take it for the end
    np.testing.assert_array_equal(decode(str(path), "a", offset=9), expected)

    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(BadAudio, match="unreadable: Input/output error"):
        decode(str(path), "a", offset=9)


def test_a_rate_without_a_common_divisor_is_refused(tmp_path: Path, tone: Tone) -> None:
    """Its filter would have 700 million coefficients; a broken header must not take the memory for that."""
    (tmp_path / "a.wav").write_bytes(written(tone(0.5, 44_101), "wav", 44_101))
    with pytest.raises(BadAudio, match="bad_rate: its rate of 44101 Hz has too little in common"):
        decode(str(tmp_path / "a.wav"), "a")


def test_a_mix_of_channels_is_their_mean(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (16_000, 5)).astype("f4")
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    found = decode(str(tmp_path / "a.wav"), "a")
    np.testing.assert_allclose(found, samples.mean(axis=1), atol=1e-6)


#: Enough of each to hit headers, pages and frames.
CUTS = 40


@pytest.mark.parametrize(("suffix", "rate_hz", "channels", "how"), FORMATS)
def test_cut_anywhere_it_is_bad_audio_or_right(
    tmp_path: Path, suffix: str, rate_hz: int, channels: int, how: dict[str, str]
) -> None:
    path = tmp_path / f"a{suffix}"
    write_long(path, 2.0, rate_hz, channels, **how)
    content, whole = path.read_bytes(), decode(str(path), "a")
    rng = np.random.default_rng(len(content))
    outcomes = set()
    for size in [1, 4, 43, 44, 45, *rng.integers(1, len(content), CUTS).tolist()]:
        path.write_bytes(content[:size])
        for source in (str(path), content[:size]):
            try:
                found = decode(source, "a")
            except BadAudio as bad:
                outcomes.add(bad.reason)
                continue
            outcomes.add("right")
            # What is there is right but for its end, where a coder overlaps with what is not.
            n = min(len(found), len(whole)) - 2_000
            if n > 0:
                np.testing.assert_allclose(found[:n], whole[:n], rtol=0, atol=0.02)
    assert outcomes <= {"right", "empty", "unreadable", "truncated", "too_short", "bad_length"}
    assert len(outcomes) > (suffix != ".flac")
    if suffix in {".wav", ".flac"}:
        assert "right" not in outcomes


@pytest.mark.parametrize(("suffix", "rate_hz", "channels", "how"), FORMATS)
def test_bytes_that_flip_never_crash_or_hang(
    tmp_path: Path, suffix: str, rate_hz: int, channels: int, how: dict[str, str]
) -> None:
    path = tmp_path / f"a{suffix}"
    write_long(path, 1.0, rate_hz, channels, **how)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for attempt in range(CUTS):
        damaged = bytearray(content)
        within = 100 if attempt % 2 else len(content)  # half of them in the header
        for place in rng.integers(0, min(within, len(content)), 3).tolist():
            damaged[place] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            found = decode(str(path), "a", start_s=0.2, end_s=0.9)
        except BadAudio:
            continue
        assert np.isfinite(found).all()
        assert 1_600 <= len(found) <= 11_200


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
    row = np.full(9_000, 7, np.float32)
    normalise(tone(0.5), out=row[:8_000])
    np.testing.assert_array_equal(row[:8_000], normalise(tone(0.5)))
    assert set(row[8_000:].tolist()) == {7.0}


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
