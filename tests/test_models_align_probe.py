"""The CTC probe: it reads what linear frames hold, reads nothing in noise, and gives the same figure twice."""

from __future__ import annotations

import pytest
import torch

from thaitool.errors import InputError
from thaitool.models.align_probe import Probe, character_error_rate, train_probe

LETTERS = "กขคงจชซ"


def clips(count: int, seed: int, noise: float) -> tuple[list[torch.Tensor], list[str]]:
    """Clips of 8 letters, each three frames of the letter's own vector (D = 16) and a frame of silence."""
    generator = torch.Generator().manual_seed(seed)
    sounds = torch.randn(len(LETTERS) + 1, 16, generator=torch.Generator().manual_seed(99))
    found, texts = [], []
    for _ in range(count):
        drawn = torch.randint(len(LETTERS), (8,), generator=generator)
        order = torch.stack([drawn, drawn, drawn, torch.full((8,), len(LETTERS))], 1).flatten()
        clip = sounds[order]
        found.append(clip + noise * torch.randn(clip.shape, generator=generator))
        texts.append("".join(LETTERS[i] for i in drawn))
    return found, texts


def error(probe: Probe, noise: float) -> float:
    heard, texts = clips(20, seed=7, noise=noise)
    return character_error_rate([probe.read(clip) for clip in heard], texts)


def test_it_reads_what_is_there_and_nothing_else() -> None:
    probe = train_probe(*clips(60, 0, 0.3), updates=200)
    assert error(probe, 0.3) < 0.05
    silent = [torch.randn(32, 16, generator=torch.Generator().manual_seed(i)) for i in range(60)]
    blind = train_probe(silent, clips(60, 0, 0.3)[1], updates=200)
    assert error(blind, 0.3) > 0.7


def test_the_same_frames_give_the_same_probe() -> None:
    torch.manual_seed(1)
    first = train_probe(*clips(20, 0, 0.3), updates=10)
    torch.manual_seed(2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        second = train_probe(*clips(20, 0, 0.3), updates=10)
    assert torch.equal(first.layer.weight, second.layer.weight)
    other = train_probe(*clips(20, 0, 0.3), updates=10, seed=1)
    assert not torch.equal(first.layer.weight, other.layer.weight)


def test_clips_that_cannot_carry_their_text_are_not_learned_from() -> None:
    heard, texts = clips(4, 0, 0.3)
    short = [*heard, heard[0][:3]]
    kept = train_probe(heard, texts, updates=5)
    same = train_probe(short, [*texts, texts[0]], updates=5)
    assert torch.equal(kept.mean, same.mean)
    assert torch.equal(kept.scale, same.scale)
    with pytest.raises(InputError, match="none of 1 has that many; use a smaller projector_factor"):
        train_probe([heard[0][:3]], texts[:1], updates=5)
    assert kept.read(heard[0][:0]) == ""


def test_error_rate_by_hand() -> None:
    # One of three characters wrong, one of two missing; white space does not count.
    assert character_error_rate(["กขง", " ก"], ["กขค", "ก ข"]) == pytest.approx(2 / 5)
