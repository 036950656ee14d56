"""Reading a part: a stretch of any format is that of the whole to the sample, and costs no more than it must."""

from __future__ import annotations

import os
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.test_audio_decode import write_long, written
from thaitool.audio.decode import decode
from thaitool.audio.headers import BadAudio, probe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tone

#: suffix, rate, channels, how; what a seek could get wrong in each.
SEEKS = [
    (".wav", 16_000, 1, {}),
    (".wav", 96_000, 2, {"subtype": "PCM_24"}),
    (".wav", 8_000, 1, {"subtype": "ULAW"}),
    (".wav", 16_000, 1, {"subtype": "IMA_ADPCM"}),
    (".wav", 8_000, 1, {"subtype": "GSM610"}),  # cannot seek
    (".flac", 16_000, 1, {}),
    (".flac", 96_000, 2, {"subtype": "PCM_24"}),
    (".flac", 22_050, 1, {}),
    (".flac", 44_056, 1, {}),  # little in common with 16 kHz
    (".ogg", 16_000, 1, {}),
    (".ogg", 44_100, 2, {}),  # libvorbis is off by some samples in the last page
    (".opus", 48_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    (".opus", 16_000, 1, {"format": "OGG", "subtype": "OPUS"}),
    (".mp3", 16_000, 1, {}),
    (".mp3", 24_000, 1, {}),  # mpg123 lacks bits of the frames before
    (".mp3", 44_100, 2, {}),
    (".mp3", 8_000, 1, {}),
]


@pytest.mark.parametrize(("suffix", "rate_hz", "channels", "how"), SEEKS)
def test_a_stretch_is_cut_from_the_whole_to_the_sample(
    tmp_path: Path,
    suffix: str,
    rate_hz: int,
    channels: int,
    how: dict[str, str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / f"a{suffix}"
    write_long(path, 12.0, rate_hz, channels, **how)
    whole = decode(str(path), "a")
    n = len(whole)
    rng = np.random.default_rng(1)
    starts = [0, 1, n - 1_700, n - 2_500, n - 6_000, *rng.integers(0, n - 1_700, 15).tolist()]
    for first in starts:
        last = min(n, first + int(rng.integers(1_700, 32_000)))
        found = decode(str(path), "a", start_s=first / 16_000, end_s=last / 16_000)
        assert len(found) == last - first
        np.testing.assert_allclose(found, whole[first:last], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        decode(path.read_bytes(), "a", start_s=11.0), whole[11 * 16_000 :], rtol=0, atol=1e-6
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".mp3", ".flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_long_files_are_read_in_blocks_and_come_out_the_same(
    tmp_path: Path, suffix: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an MP3 libsndfile would give something else at each joint."""
    path = tmp_path / f"a{suffix}"
    write_long(path, 12.0, 24_000, channels)
    whole = decode(str(path), "a")
    monkeypatch.setattr("thaitool.audio.decode._BLOCK_FRAMES", 5_000)
    np.testing.assert_allclose(decode(str(path), "a"), whole, rtol=0, atol=1e-6)


def test_without_its_lead_in_an_mp3_would_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, libsndfile has learnt to seek in MP3, and the lead-in can go."""
    write_long(tmp_path / "a.mp3", 12.0, 24_000, 1)
    path = str(tmp_path / "a.mp3")
    whole = decode(path, "a")
    monkeypatch.setattr("thaitool.audio.decode._MP3_LEAD_IN_S", 0.0)
    firsts = np.random.default_rng(0).integers(1_000, len(whole) - 4_000, 60).tolist()
    errors = [
        np.abs(decode(path, "a", start_s=f / 16_000, end_s=f / 16_000 + 0.2) - whole[f : f + 3_200])
        for f in firsts
    ]
    assert max(e.max() for e in errors) > 1e-3


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_window_of_a_long_file_reads_little(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".wav":  # six hours, nearly all of them a hole in the file
        rate_hz, n = 16_000, 6 * 3_600 * 16_000
        write_long(path, 1.0, rate_hz, 1)
        head = bytearray(path.read_bytes())
        head[4:8] = (36 + 2 * n).to_bytes(4, "little")
        head[40:44] = (2 * n).to_bytes(4, "little")
        path.write_bytes(head)
        os.truncate(path, 44 + 2 * n)
        with path.open("r+b") as file:
            file.seek(44 + 2 * 5 * 3_600 * rate_hz)
            file.write((np.arange(40_000) % 20_000).astype("<i2").tobytes())
        start_s = 5 * 3_600
    else:
        write_long(path, 240.0, 16_000, 1)
        start_s = 200
    assert probe(path).duration_s == pytest.approx(6 * 3_600 if suffix == ".wav" else 240, abs=0.1)
    decode(str(path), "a", start_s=start_s, end_s=start_s + 2)
    tracemalloc.start()
    samples = decode(str(path), "a", start_s=start_s, end_s=start_s + 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 32_000
    assert peak < 12 * 64_000 * 2  # at most the lead-in beside the window


def test_a_part_of_a_file_is_a_file(tmp_path: Path, tone: Tone) -> None:
    path = tmp_path / "a.tar"
    for suffix in ("wav", "flac", "ogg", "mp3"):
        inner = written(tone(1.0), suffix)
        path.write_bytes(b"\0" * 512 + inner + written(tone(0.3), "wav"))
        whole = decode(inner, "a")
        np.testing.assert_array_equal(decode(str(path), "a", offset=512, n_bytes=len(inner)), whole)
        np.testing.assert_allclose(
            decode(str(path), "a", offset=512, n_bytes=len(inner), start_s=0.4, end_s=0.8),
            whole[6_400:12_800],
            rtol=0,
            atol=1e-6,
        )
    with pytest.raises(BadAudio, match="truncated: 9000000 bytes were there from byte 512 on"):
        decode(str(path), "a", offset=512, n_bytes=9_000_000)
    with pytest.raises(BadAudio, match="truncated"):
        decode(str(path), "a", offset=9_000_000, n_bytes=100)
    with pytest.raises(BadAudio, match="empty"):
        decode(str(path), "a", offset=512, n_bytes=0)


def test_samples_without_a_header(tmp_path: Path, tone: Tone) -> None:
    samples = np.rint(tone(1.0) * 2**15).astype("<i2")
    path = tmp_path / "a.pcm16"
    path.write_bytes(samples.tobytes())
    exact = samples.astype(np.float32) / np.float32(2**15)
    np.testing.assert_array_equal(decode(str(path), "a"), exact)
    np.testing.assert_array_equal(
        decode(str(path), "a", offset=3_200, n_bytes=16_000, start_s=0.1, end_s=0.3),
        exact[1_600 + 1_600 : 1_600 + 4_800],
    )
    (tmp_path / "none.pcm16").write_bytes(b"")
    for name, kind in (("none.pcm16", "empty"), ("gone.pcm16", "unreadable")):
        with pytest.raises(BadAudio) as caught:
            decode(str(tmp_path / name), "a")
        assert caught.value.reason == kind
