"""Band and prior of the public op: slanted, widened where no path fits. Which path wins: test_paths.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.cases import case
from tests.ops.path_op import cells_of
from thaitool.ops.dtw import DTWAlignment, dtw_alignment

SHAPES = [(40, 10), (10, 40), (30, 30), (101, 7), (2, 50), (50, 2), (1, 9), (9, 1)]


def aligned(frames: int, tokens: int, device: torch.device, **options: Any) -> DTWAlignment:
    """One random pair."""
    generator = torch.Generator().manual_seed(frames * 100 + tokens)
    speech = torch.randn(1, frames, 8, generator=generator).to(device)
    text = torch.randn(1, tokens, 8, generator=generator).to(device)
    return dtw_alignment(speech, text, torch.tensor([frames]), torch.tensor([tokens]), **options)


def largest_offset(result: DTWAlignment, frames: int, tokens: int) -> float:
    """Distance of the path from the straight line, as a share of the length."""
    if min(frames, tokens) == 1:
        return 0.0
    return max(abs(i / (frames - 1) - j / (tokens - 1)) for i, j in cells_of(result.intervals[0]))


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize(("frames", "tokens"), SHAPES)
def test_the_band_is_slanted(frames: int, tokens: int, backend: str, device: torch.device) -> None:
    free = aligned(frames, tokens, device, backend=backend)
    narrowest = 0.5 / max(1, min(frames, tokens) - 1)
    offset, result = 0.0, free
    for band in (0.0, 0.02, 0.1, 0.25, 0.5, 1.0):
        result = aligned(frames, tokens, device, band=band, backend=backend)
        offset = largest_offset(result, frames, tokens)
        assert offset <= max(band, narrowest) + 1e-12
        assert result.loss.isfinite().all()
        cells = cells_of(result.intervals[0])
        assert cells[0] == (0, 0)
        assert cells[-1] == (frames - 1, tokens - 1)
    assert torch.equal(result.intervals, free.intervals)
    if min(frames, tokens) > 5 and frames != tokens:
        assert offset > 0.1, "the free path is far from the line, so the band did something"


@pytest.mark.parametrize("steps", ["dtw", "monotonic"])
def test_a_band_too_narrow_for_any_path_is_widened(steps: Any, device: torch.device) -> None:
    for frames, tokens in SHAPES:
        if steps == "monotonic" and tokens > frames:
            continue
        results = [
            aligned(frames, tokens, device, band=band, steps=steps)
            for band in (0.0, 1e-9, 0.49 / max(1, min(frames, tokens) - 1))
        ]
        for result in results[1:]:
            assert torch.equal(result.intervals, results[0].intervals)
        assert results[0].loss.isfinite().all()


def test_no_band_has_many_names(device: torch.device) -> None:
    inputs = case("all", device=device)
    expected = inputs.align()
    for band in (None, 1.0, 1, 1.5, 1e300, float("inf")):
        result = inputs.align(band=band)
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(result.intervals, expected.intervals)


def test_a_band_is_relative_to_each_pair(device: torch.device) -> None:
    """Not to the padded size of the batch."""
    inputs = case(device=device)
    together = inputs.align(band=0.15)
    for b, (n, m) in enumerate(
        zip(inputs.speech_lengths.tolist(), inputs.text_lengths.tolist(), strict=True)
    ):
        alone = dtw_alignment(
            inputs.speech[b : b + 1, :n],
            inputs.text[b : b + 1, :m],
            torch.tensor([n]),
            torch.tensor([m]),
            band=0.15,
        )
        assert torch.equal(together.intervals[b, :n], alone.intervals[0])


def test_a_narrower_band_never_has_a_cheaper_path(device: torch.device) -> None:
    inputs = case("drop", device=device)
    last = None
    for band in (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.0):
        result = inputs.align(band=band)
        total = result.loss * result.path_length
        assert last is None or (total >= last - 1e-12).all()
        last = total


def test_a_strong_prior_gives_the_straight_line(device: torch.device) -> None:
    for frames, tokens in SHAPES:
        result = aligned(frames, tokens, device, prior=1e9)
        free = aligned(frames, tokens, device)
        assert result.loss * result.path_length >= free.loss * free.path_length - 1e-5
        # (i / I - j / J)**2 is smallest along j = i J / I; no cell is a whole step away from it.
        for i, j in cells_of(result.intervals[0]):
            assert abs(i / frames - j / tokens) <= 1 / min(frames, tokens)


def test_a_prior_is_not_part_of_the_loss(device: torch.device) -> None:
    inputs = case("drop", device=device)
    result = inputs.align(prior=50.0)
    cosines = torch.nn.functional.cosine_similarity(
        inputs.speech[:, :, None], inputs.text[:, None], dim=-1
    )
    for b in range(6):
        cells = cells_of(result.intervals[b])
        if not cells:
            continue
        n = int(inputs.speech_lengths[b])
        assert inputs.drop_cost is not None
        empty = result.intervals[b, :n, 0] == result.intervals[b, :n, 1]
        total = sum(1 - cosines[b, i, j].item() for i, j in cells)
        total += inputs.drop_cost[b, :n][empty].sum().item()
        expected = total / (len(cells) + int(empty.sum()))
        torch.testing.assert_close(result.loss[b].item(), expected, rtol=1e-12, atol=0)
