"""Loudness against the tone of the standard, and clips brought to one level without clipping."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.audio.loudness import HIGHEST_PEAK, TARGET_LUFS, levelled, loudness_lufs


def tone(seconds: float, level: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (level * np.sin(2 * np.pi * 997 * t)).astype(np.float32)


def test_the_tone_of_the_standard() -> None:
    """ITU-R BS.1770-4: 0 dBFS at 997 Hz in one channel reads -3.01 LUFS."""
    assert loudness_lufs(tone(3, 1.0)) == pytest.approx(-3.01, abs=0.1)
    assert loudness_lufs(tone(3, 0.1)) == pytest.approx(loudness_lufs(tone(3, 1.0)) - 20, abs=0.01)


def test_silence_around_speech_is_not_counted() -> None:
    alone = tone(2, 0.3)
    padded = np.concatenate([np.zeros(32_000, np.float32), alone, np.zeros(32_000, np.float32)])
    assert loudness_lufs(padded) == pytest.approx(loudness_lufs(alone), abs=0.7)
    mean_dbfs = 10 * math.log10(float(np.square(padded).mean()) / float(np.square(alone).mean()))
    assert mean_dbfs < -4.5  # a plain mean would have called it so much quieter


@pytest.mark.parametrize("level", [0.003, 0.05, 0.9])
@pytest.mark.parametrize("seconds", [0.15, 0.4, 2.0])
def test_clips_are_brought_to_the_target(level: float, seconds: float) -> None:
    clip = tone(seconds, level)
    made, gain_db = levelled(clip)
    assert made.dtype == np.float32
    assert loudness_lufs(made) == pytest.approx(TARGET_LUFS, abs=0.01)
    assert np.allclose(made, clip * 10 ** (gain_db / 20), atol=1e-6)


def test_no_peak_is_cut_to_reach_the_target() -> None:
    clip = tone(2, 0.01)
    clip[5_000] = 0.5
    made, _ = levelled(clip)
    assert float(np.abs(made).max()) == pytest.approx(HIGHEST_PEAK, abs=1e-4)
    assert loudness_lufs(made) < TARGET_LUFS - 1


def test_what_nobody_hears_is_left_alone() -> None:
    clip = tone(1, 1e-5)
    made, gain_db = levelled(clip)
    assert gain_db == 0
    assert np.array_equal(made, clip)
