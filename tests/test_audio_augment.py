"""Speed perturbation: lengths, pitch, independence of the batch, and draws that depend on nothing but their names."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from thaitool.audio.augment import change_speed, changed_length, draw_speed

SPEEDS = (0.5, 0.9, 0.95, 1.0, 1.1, 1.37, 2.0)


def sine(hz: float, samples: int) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(samples) / 16_000)


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_faster_tone_is_shorter_and_higher(speed: float) -> None:
    samples = 8_000
    out, lengths = change_speed(sine(400, samples)[None], torch.tensor([samples]), [speed])
    n = int(lengths[0])
    assert n == out.shape[1] == changed_length(samples, speed)
    assert n == pytest.approx(samples / speed, abs=1)
    wanted = sine(400 * speed, n)
    inside = slice(200, n - 200)  # the filter rings at both ends
    assert float((out[0, inside] - wanted[inside]).abs().max()) < 0.02


def test_lengths_of_arrays_and_numbers_are_the_same() -> None:
    samples = np.arange(0, 5_000, 7)
    for speed in SPEEDS:
        assert changed_length(samples, speed).tolist() == [
            changed_length(int(n), speed) for n in samples
        ]


def test_a_row_does_not_depend_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3_000, 5_001, 1_600, 4_000])
    speeds = [0.9, 1.1, 1.0, 0.9]
    audio = torch.randn(4, 5_001, generator=generator)
    audio[torch.arange(5_001)[None, :] >= lengths[:, None]] = 0
    out, new = change_speed(audio, lengths, speeds)
    for row, (n, m, speed) in enumerate(zip(lengths.tolist(), new.tolist(), speeds, strict=True)):
        alone, _ = change_speed(audio[row : row + 1, :n], lengths[row : row + 1], [speed])
        assert torch.equal(out[row, :m], alone[0])
        assert not out[row, m:].any()
    assert torch.equal(out[2, :1_600], audio[2, :1_600])  # speed 1 changes nothing


def test_draws_depend_on_seed_epoch_and_name_and_are_even() -> None:
    speeds = (0.9, 1.0, 1.1)
    names = [f"u{k}" for k in range(3_000)]
    drawn = [draw_speed(speeds, seed=1, epoch=2, name=name) for name in names]
    assert drawn == [draw_speed(speeds, seed=1, epoch=2, name=name) for name in names]
    # A third each: 1,000 of 3,000, standard deviation 26.
    assert all(abs(n - 1_000) < 4 * 26 for n in Counter(drawn).values())
    for seed, epoch in ((1, 3), (2, 2)):
        other = [draw_speed(speeds, seed=seed, epoch=epoch, name=name) for name in names]
        same = sum(a == b for a, b in zip(drawn, other, strict=True))
        assert abs(same - 1_000) < 4 * 26
