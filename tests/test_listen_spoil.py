"""Spoilt clips are spoilt in the way that they are said to be, and a rater is judged by what would tell."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from thaitool.listening.spoil import SPOILT, Spoilt, clipped, fails, flat_tones, shuffled

RATE_HZ = 16_000


def gliding(seconds: float = 1.5) -> NDArray[np.float32]:
    """A voice-like sound whose pitch rises from 110 to 220 Hz: harmonics under one formant."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    phase = 2 * np.pi * np.cumsum(np.linspace(110, 220, len(t))) / RATE_HZ
    waves = [np.exp(-(((165 * n - 800) / 600) ** 2)) * np.sin(n * phase) for n in range(1, 20)]
    return np.asarray(0.1 * np.sum(waves, axis=0), dtype=np.float32)


def pitches_hz(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pitch of frames of 64 ms, by the highest peak of the autocorrelation between 70 and 320 Hz."""
    found = []
    for start in range(2_048, len(samples) - 3_072, 1_024):
        frame = samples[start : start + 1_024]
        correlation = np.correlate(frame, frame, "full")[1_023:]
        found.append(RATE_HZ / (50 + int(np.argmax(correlation[50:230]))))
    return np.array(found)


def test_flat_tones_have_one_pitch_and_the_spectrum_they_had() -> None:
    voice = gliding()
    flat = flat_tones(voice)
    assert flat.shape == voice.shape
    assert np.ptp(pitches_hz(voice)) > 60
    assert np.ptp(pitches_hz(flat)) < 5
    bands = [
        np.abs(np.fft.rfft(x))[: 100 * (len(x) // 200)].reshape(100, -1).sum(axis=1)
        for x in (voice, flat)
    ]
    smooth = [np.convolve(band, np.ones(7) / 7, "valid") for band in bands]
    assert np.corrcoef(np.stack(smooth))[0, 1] > 0.9


def test_clipped_has_the_same_height_for_two_fifths_of_its_samples() -> None:
    voice = gliding()
    cut = clipped(voice)
    limit = np.abs(cut).max()
    assert (np.abs(cut) >= limit).mean() == pytest.approx(0.4, abs=0.01)
    inside = np.abs(voice) < limit
    assert np.array_equal(cut[inside], voice[inside])


def test_clipped_leaves_something_to_hear_between_silences() -> None:
    silence = np.zeros(3 * RATE_HZ, dtype=np.float32)
    voice = gliding()
    assert np.array_equal(clipped(np.concatenate([silence, voice])), [*silence, *clipped(voice)])
    assert np.array_equal(clipped(silence), silence)


@pytest.mark.parametrize("seconds", [0.4, 1.5, 5.0])
def test_shuffled_has_all_pieces_and_none_behind_its_own(seconds: float) -> None:
    ramp = np.arange(round(seconds * RATE_HZ), dtype=np.float32) + 1
    mixed = shuffled(ramp, np.random.default_rng(0))
    n_pieces = max(3, round(seconds / 0.2))
    pieces = np.array_split(ramp, n_pieces)
    middles = [float(piece[len(piece) // 2]) for piece in pieces]
    places = [int(np.flatnonzero(mixed == middle)[0]) for middle in middles]
    assert len(mixed) == len(ramp)
    order = np.argsort(places)
    assert not (np.diff(order) == 1).any()


def test_a_rater_is_judged_by_what_would_tell() -> None:
    expected: dict[Spoilt, list[bool | None]] = {
        #            good+yes  bad+no  good+unsure  none+none
        "flat_tones": [True, False, False, None],
        "clipped": [True, False, True, None],
        "shuffled": [True, False, True, None],
        "wrong_text": [True, False, False, None],
    }
    said = [(5, "yes"), (1, "no"), (4, "unsure"), (None, "")]
    assert {k: [fails(k, mark, tones) for mark, tones in said] for k in SPOILT} == expected
    assert fails("shuffled", None, "yes") is True
    assert fails("clipped", None, "yes") is None
