"""Levels and pieces: known pauses are found, nothing loud is lost, long recordings cost no memory."""

from __future__ import annotations

import io
import os
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from thaitool.audio.decode import decode
from thaitool.audio.headers import BadAudio
from thaitool.audio.silence import (
    LONG_PAUSE_S,
    MARGIN_S,
    PAUSE_S,
    Levels,
    measure,
    pieces,
    speech_threshold,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE_HZ = 16_000


def babble(seconds: float, seed: int, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """Voiced syllables of 0.25 s without pauses: what stands for speech here, at about -20 dB."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    voice = sum(np.sin(k * phase) / k for k in range(1, 6))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    out: NDArray[np.float32] = (0.12 * voice * syllables).astype("f4")
    return out


def speech_with_gaps(
    spans_s: list[tuple[float, float]], seed: int, noise: float = 1e-3, rate_hz: int = RATE_HZ
) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Speech and gap lengths in turn to samples, and where the gaps lie."""
    parts, gaps, at = [], [], 0.0
    for k, (speech_s, gap_s) in enumerate(spans_s):
        parts += [babble(speech_s, seed + k, rate_hz), np.zeros(round(gap_s * rate_hz), "f4")]
        at += speech_s
        gaps.append((at, at + gap_s))
        at += gap_s
    samples = np.concatenate(parts)
    hiss = noise * np.random.default_rng(seed).standard_normal(len(samples))
    return (samples + hiss).astype("f4"), gaps


def wav(samples: NDArray[np.float32], rate_hz: int = RATE_HZ, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=form)
    return buffer.getvalue()


def check_pieces(levels: Levels, longest_s: float) -> list[tuple[int, int]]:
    found = pieces(levels, longest_s)
    n_frames, frame_s = len(levels.db), levels.frame_s
    longest = max(3, int(longest_s / frame_s))
    shortest = min(round(1.0 / frame_s), longest // 3)
    # Ordered, disjoint, inside the recording, within limits.
    assert all(0 <= a < b <= n_frames for a, b in found)
    assert all(b <= a for (_, b), (a, _) in pairwise(found))
    assert all(b - a <= longest for a, b in found)
    assert all(b - a >= min(shortest, n_frames) for a, b in found)
    # Every frame above the threshold is in a piece, and every piece has one.
    speech = np.maximum(levels.db, -80.0) > speech_threshold(levels)
    covered = np.zeros(n_frames, bool)
    for a, b in found:
        covered[a:b] = True
        assert speech[a:b].any()
        # No long pause inside, and no more than the margin of a pause at a border.
        loud = np.flatnonzero(speech[a:b])
        assert np.diff(loud).max(initial=1) - 1 <= round(LONG_PAUSE_S / frame_s)
        if b - a > shortest:
            assert loud[0] <= round(PAUSE_S / frame_s)
            assert b - a - 1 - loud[-1] <= round(PAUSE_S / frame_s)
    assert not (speech & ~covered).any()
    return found


@settings(max_examples=200, deadline=None, derandomize=True, print_blob=True)
@given(
    runs=st.lists(
        st.tuples(st.floats(-95, 0), st.integers(1, 700), st.floats(0, 6)), min_size=1, max_size=12
    ),
    longest_s=st.floats(0.1, 20.0),
    seed=st.integers(0, 2**31),
)
def test_pieces_of_any_levels_are_in_order_within_limits_and_hold_all_speech(
    runs: list[tuple[float, int, float]], longest_s: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    db = np.concatenate([mean + spread * rng.standard_normal(n) for mean, n, spread in runs])
    check_pieces(Levels(np.minimum(db, 0).astype("f4"), 0.02), longest_s)


@settings(max_examples=50, deadline=None, derandomize=True, print_blob=True)
@given(
    spans_s=st.lists(st.tuples(st.floats(0.5, 4.0), st.floats(0.3, 1.2)), min_size=4, max_size=12),
    noise=st.sampled_from([0.0, 1e-4, 1e-3, 5e-3]),
    seed=st.integers(0, 1000),
)
def test_cuts_fall_into_the_known_gaps(
    spans_s: list[tuple[float, float]], noise: float, seed: int
) -> None:
    samples, gaps = speech_with_gaps(spans_s, seed, noise)
    levels = measure(wav(samples), "x")
    found = check_pieces(levels, 7.0)
    if gaps[-1][0] > 7.0:
        assert len(found) > 1
    for frame in {f for piece in found for f in piece} - {0, len(levels.db)}:
        at_s = frame * levels.frame_s
        assert any(start - 0.05 <= at_s <= end + 0.05 for start, end in gaps), (at_s, gaps)


def test_cuts_are_the_cheapest_and_pieces_as_long_as_they_may_be() -> None:
    # Ten sentences of 2.5 s with pauses of 0.5 s: five fit into 15.5 s, and no more.
    samples, gaps = speech_with_gaps([(2.5, 0.5)] * 10, seed=0)
    levels = measure(wav(samples), "x")
    found = check_pieces(levels, 15.5)
    (_, first_end), (second_start, _) = found
    assert first_end == second_start
    assert gaps[4][0] < first_end * levels.frame_s < gaps[4][1]


def brute_force(costs: list[float], shortest: int, longest: int) -> float:
    best = [0.0] + [np.inf] * (len(costs) - 1)
    for j in range(1, len(costs)):
        last = 0.0 if j == len(costs) - 1 else costs[j]
        before = best[max(0, j - longest) : max(0, j - shortest + 1)]
        best[j] = min(before, default=np.inf) + last
    return best[-1]


@settings(max_examples=200, deadline=None, derandomize=True, print_blob=True)
@given(st.lists(st.integers(0, 9), min_size=12, max_size=60), st.integers(1, 3), st.integers(9, 11))
def test_the_cuts_have_the_least_sum_of_costs(
    costs: list[int], shortest: int, longest: int
) -> None:
    from thaitool.audio.silence import _bounds

    offset = 5
    padded = np.array([0] * offset + costs, float)
    bounds = _bounds(padded, offset, offset + len(costs) - 1, shortest, longest)
    assert (bounds[0], bounds[-1]) == (offset, offset + len(costs) - 1)
    assert all(shortest <= b - a <= longest for a, b in pairwise(bounds))
    total = sum(padded[b] for b in bounds[1:-1])
    assert total == brute_force([float(c) for c in costs], shortest, longest)


def test_long_pauses_and_silent_ends_are_dropped() -> None:
    samples, _ = speech_with_gaps([(3.0, 6.0), (3.0, 1.5), (3.0, 30.0)], seed=3)
    samples = np.concatenate([1e-3 * np.random.default_rng(0).standard_normal(80_000), samples])
    levels = measure(wav(samples.astype("f4")), "x")
    found = [(a * levels.frame_s, b * levels.frame_s) for a, b in check_pieces(levels, 15.0)]
    # 5 s of noise, 3 s speech, 6 s pause, 3 + 1.5 + 3 s, 30 s pause.
    assert found == [
        pytest.approx((5 - MARGIN_S, 8 + MARGIN_S), abs=0.05),
        pytest.approx((14 - MARGIN_S, 21.5 + MARGIN_S), abs=0.05),
    ]


def test_short_silence_at_the_ends_stays() -> None:
    samples, _ = speech_with_gaps([(3.0, 0.8)], seed=3)
    samples = np.concatenate([np.zeros(12_000, "f4"), samples])
    levels = measure(wav(samples), "x")
    assert check_pieces(levels, 15.0) == [(0, len(levels.db))]


def test_speech_is_relative_to_the_noise_of_the_recording() -> None:
    spans = [(2.0, 3.0)] * 5
    for noise in (0.0, 1e-4, 1e-3, 1e-2):
        samples, _ = speech_with_gaps(spans, seed=1, noise=noise)
        levels = measure(wav(samples), "x")
        assert len(check_pieces(levels, 15.0)) == 5, noise


def test_noise_alone_is_kept_whole_and_cut_evenly_enough() -> None:
    samples = 0.05 * np.random.default_rng(0).standard_normal(60 * RATE_HZ)
    levels = measure(wav(samples.astype("f4")), "x")
    found = check_pieces(levels, 15.0)
    assert (found[0][0], found[-1][1]) == (0, len(levels.db))
    assert len(found) in {4, 5}


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_any_rate_and_coder_gives_the_same_times(rate_hz: int, form: str) -> None:
    samples, _ = speech_with_gaps([(2.0, 3.0)] * 3, seed=1, rate_hz=rate_hz)
    levels = measure(wav(samples, rate_hz, form), "x")
    found = [(a * levels.frame_s, b * levels.frame_s) for a, b in pieces(levels, 15.0)]
    want = [(5 * k - (MARGIN_S if k else 0), 5 * k + 2 + MARGIN_S) for k in range(3)]
    assert len(found) == len(want)
    for got, expected in zip(found, want, strict=True):
        assert got == pytest.approx(expected, abs=0.1)


def test_levels_are_those_of_the_samples(tmp_path: Path) -> None:
    samples, _ = speech_with_gaps([(1.0, 0.5)] * 30, seed=5)
    stereo = np.stack([samples, np.zeros_like(samples)], 1)
    soundfile.write(tmp_path / "s.wav", stereo + 0.25, RATE_HZ, subtype="FLOAT")
    levels = measure(str(tmp_path / "s.wav"), "s")
    frames = (samples[: len(samples) // 320 * 320] / 2).reshape(-1, 320)
    want = 10 * np.log10(np.maximum(frames.var(axis=1), 1e-12))
    np.testing.assert_allclose(np.maximum(levels.db, -80), np.maximum(want, -80), atol=0.05)


def test_stretches_byte_ranges_and_raw_samples(tmp_path: Path) -> None:
    samples, _ = speech_with_gaps([(2.0, 1.0)] * 4, seed=7)
    content = wav(samples)
    whole = measure(content, "x")
    part = measure(content, "x", start_s=3.0, end_s=7.0)
    np.testing.assert_array_equal(part.db, whole.db[150:350])
    (tmp_path / "x.tar").write_bytes(b"j" * 777 + content + b"j" * 100)
    inside = measure(str(tmp_path / "x.tar"), "x", offset=777, n_bytes=len(content))
    np.testing.assert_array_equal(inside.db, whole.db)
    raw = np.round(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes()
    (tmp_path / "0.pcm16").write_bytes(b"\1\2" * 50 + raw)
    cached = measure(str(tmp_path / "0.pcm16"), "x", offset=100, n_bytes=len(raw), start_s=1.0)
    np.testing.assert_allclose(cached.db, whole.db[50:], atol=0.2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no sound at all", "unreadable"),
        (wav(babble(20.0, 0))[:-300_000], "truncated"),
        (wav(babble(20.0, 0), form="FLAC")[:-100_000], None),
        (wav(np.zeros(320_000, "f4")), "silent"),
    ],
)
def test_broken_recordings_say_what_is_wrong(
    tmp_path: Path, content: bytes, reason: str | None
) -> None:
    (tmp_path / "x").write_bytes(content)
    for source in (content, str(tmp_path / "x")):
        with pytest.raises(BadAudio) as caught:
            measure(source, "x")
        # Where a coder notices by itself that its data ends, its own words are as good as ours.
        assert caught.value.reason in ({reason} if reason else {"truncated", "unreadable"})
    with pytest.raises(BadAudio) as caught:
        measure(str(tmp_path / "gone"), "x")
    assert caught.value.reason == "unreadable"


def test_a_disk_that_fails_is_asked_twice_and_never_taken_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaitool.audio.decode.RETRY_AFTER_S", 0.0)
    samples = babble(30.0, 0)
    (tmp_path / "x.tar").write_bytes(b"j" * 512 + wav(samples))
    expected = measure(str(tmp_path / "x.tar"), "x", offset=512)
    read, left = os.preadv, [0]

    def failing(*args: Any) -> int:
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(5, "Input/output error")
        return read(*args)

    monkeypatch.setattr(os, "preadv", failing)
    left[0] = 20  # in the middle of the samples: what was read until then is no shorter recording
    with pytest.raises(BadAudio, match="unreadable: Input/output error"):
        measure(str(tmp_path / "x.tar"), "x", offset=512)

    def failing_once(*args: Any) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(5, "Input/output error")
        return read(*args)

    monkeypatch.setattr(os, "preadv", failing_once)
    left[0] = 20
    again = measure(str(tmp_path / "x.tar"), "x", offset=512)
    assert left[0] < 0
    np.testing.assert_array_equal(again.db, expected.db)


@pytest.mark.parametrize("form", ["MP3", "OGG"])
def test_a_stretch_has_the_levels_of_the_whole_and_that_of_its_samples(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], form: str
) -> None:
    """Lossy coders need what comes before, and mpg123 complains on stderr wherever reading starts inside a sound."""
    (tmp_path / "x").write_bytes(wav(babble(20.0, 0), form=form))
    whole = measure(str(tmp_path / "x"), "x")
    frames = decode(str(tmp_path / "x"), "x").reshape(-1, 320)
    np.testing.assert_allclose(whole.db, 10 * np.log10(frames.var(axis=1)), atol=1e-3)
    for frame in range(50, 950, 47):
        start_s = frame * whole.frame_s
        part = measure(str(tmp_path / "x"), "x", start_s=start_s, end_s=start_s + 1)
        np.testing.assert_allclose(part.db, whole.db[frame : frame + 50], atol=1e-3)
    assert capfd.readouterr() == ("", "")


def test_nan_anywhere_is_found() -> None:
    samples = babble(30.0, 0)
    samples[-5] = np.nan
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    with pytest.raises(BadAudio) as caught:
        measure(buffer.getvalue(), "x")
    assert caught.value.reason == "not_finite"


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    minute = np.round(32_000 * babble(60.0, 0)).astype("<i2")
    peaks = []
    for minutes in (5, 60):
        path = tmp_path / "long.wav"
        with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        tracemalloc.start()
        levels = measure(str(path), "x")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(levels.db) == 3_000 * minutes
    # An hour of float32 samples is 230 MB; its levels are 0.7 MB.
    assert peaks[1] < peaks[0] + 10_000_000


def test_real_recordings_keep_their_speech() -> None:
    files = sorted((tiny.REAL / "speech" / "an4").rglob("*.flac"))[::20]
    if not files:
        pytest.skip(f"{tiny.REAL / 'speech'} holds no recordings (real data is not at hand)")
    rng = np.random.default_rng(0)
    parts = []
    for file in files:
        parts += [decode(str(file), str(file)), np.zeros(int(rng.uniform(0.2, 4) * RATE_HZ), "f4")]
    samples = np.concatenate(parts)
    samples += 1e-3 * rng.standard_normal(len(samples)).astype("f4")
    levels = measure(wav(samples), "x")
    found = check_pieces(levels, 15.0)
    kept = np.zeros(len(samples), bool)
    for a, b in found:
        kept[round(a * levels.frame_s * RATE_HZ) : round(b * levels.frame_s * RATE_HZ)] = True
    power = np.square(samples)
    assert power[kept].sum() > 0.999 * power.sum()
    assert kept.mean() < 0.95
