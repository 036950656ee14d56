"""Projectors of all forms: exact lengths, padding that changes nothing, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thaitool.errors import InputError
from thaitool.models.projector import Projector, ProjectorSettings

AUDIO, TEXT = 12, 20
SETTINGS = [
    ProjectorSettings("conv", 2, 32, 2),
    ProjectorSettings("conv", 3, 24, 1),
    ProjectorSettings("stack", 2, 32, 2),
    ProjectorSettings("stack", 5, 24, 3),
    ProjectorSettings("qformer", 2, 32, 1, window=8),
    ProjectorSettings("qformer", 3, 64, 2, window=6),
]


def new(settings: ProjectorSettings) -> Projector:
    torch.manual_seed(0)
    return Projector(AUDIO, TEXT, settings).eval()


def ragged(counts: list[int], padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.full((len(counts), max(counts), AUDIO), padding)
    for row, count in zip(frames, counts, strict=True):
        row[:count] = torch.randn(count, AUDIO, generator=generator)
    return frames, torch.tensor(counts)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_lengths_are_exact(settings: ProjectorSettings) -> None:
    projector = new(settings)
    with torch.no_grad():
        for frames in range(40):
            made = projector(torch.randn(1, frames, AUDIO), torch.tensor([frames]))
            assert made.shape == (1, projector.output_lengths(frames), TEXT)
            assert made.shape[1] == frames // settings.factor
    assert projector.output_lengths(torch.tensor([0, 7])).tolist() == [0, 7 // settings.factor]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_changes_no_embedding(settings: ProjectorSettings) -> None:
    projector = new(settings)
    counts = [23, 6, 17, 11, 1]
    frames, lengths = ragged(counts)
    noise, _ = ragged(counts, padding=7.0)
    longer = torch.nn.functional.pad(frames, (0, 0, 0, 30), value=-3.0)
    with torch.no_grad():
        together = projector(frames, lengths)
        for row, count in enumerate(counts):
            alone = projector(frames[row : row + 1, :count], lengths[row : row + 1])[0]
            for other in (together, projector(noise, lengths), projector(longer, lengths)):
                torch.testing.assert_close(other[row, : len(alone)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_weight_learns_and_padding_has_no_gradient(settings: ProjectorSettings) -> None:
    projector = new(settings).train()
    counts = [23, 6]
    frames, lengths = ragged(counts)
    frames.requires_grad_(True)
    out = projector(frames, lengths)
    made = projector.output_lengths(lengths)
    sum(out[i, :n].square().sum() for i, n in enumerate(made.tolist())).backward()
    assert frames.grad is not None
    assert bool(frames.grad[1, 6:].eq(0).all())
    assert bool(frames.grad[0, :6].abs().sum() > 0)
    silent = [n for n, p in projector.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_nothing_heard_gives_no_nan() -> None:
    """Rows without a frame, and padding that is not a number, in a batch with others."""
    projector = new(SETTINGS[4])
    frames, lengths = ragged([16, 0], padding=float("nan"))
    with torch.no_grad():
        found = projector(frames, lengths)
    assert bool(found[0].isfinite().all())
    alone = projector(frames[:1], lengths[:1])
    torch.testing.assert_close(found[0], alone[0], rtol=1e-5, atol=1e-5)


def test_a_query_hears_its_window_only() -> None:
    projector = new(SETTINGS[4])
    frames, lengths = ragged([32])
    changed = frames.clone()
    changed[0, 10] += 1.0
    with torch.no_grad():
        moved = (projector(changed, lengths) - projector(frames, lengths)).abs().sum(-1)[0]
    # Window 8, factor 2: frame 10 lies in the second window, whose embeddings are 4 to 7.
    assert (moved > 1e-6).nonzero()[:, 0].tolist() == [4, 5, 6, 7]


def test_centring_is_the_identity_until_it_is_set() -> None:
    projector = new(SETTINGS[0])
    frames, lengths = ragged([8])
    with torch.no_grad():
        raw = projector.aligned(frames, lengths)
        assert torch.equal(projector(frames, lengths), raw)
        projector.speech_mean.fill_(0.5)
        projector.text_mean.fill_(-1.0)
        projector.gain.fill_(2.0)
        torch.testing.assert_close(projector(frames, lengths), 2 * (raw - 0.5) - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "linear"}, "must be one of conv, stack, qformer, but is 'linear'"),
        ({"factor": 0}, "factor must be 1 or more, but is 0"),
        ({"layers": -1}, "layers must be 1 or more, but is -1"),
        ({"form": "qformer", "window": 7}, r"a multiple of its factor \(2\).*but is 7"),
        ({"form": "qformer", "hidden_size": 100}, "a multiple of 32.*but is 100"),
    ],
)
def test_sizes_that_make_no_projector_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ProjectorSettings(**changes)
