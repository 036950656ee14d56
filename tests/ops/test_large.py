"""Offsets that no 32-bit integer holds. The slow ones need some 10 GB of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import thaitool.ops.dtw  # noqa: F401  (registers torch.ops.thaitool)
from tests.ops.cases import Case, case

BEYOND = 2**31 + 64


def far_apart(vectors: Tensor, path: Path) -> Tensor:
    """The same numbers, the items of the batch more than 2**31 elements apart."""
    size = (len(vectors) - 1) * BEYOND + vectors[0].numel()
    if vectors.device.type == "cpu":
        # A sparse file: only the pages that somebody touches exist.
        path.touch()
        storage = torch.from_file(str(path), shared=True, size=size, dtype=vectors.dtype)
    else:
        storage = torch.empty(size, dtype=vectors.dtype, device=vectors.device)
    strides = (BEYOND, *vectors[0].contiguous().stride())
    return storage.as_strided(vectors.shape, strides).copy_(vectors)


def test_strides_beyond_2_31(tmp_path: Path, device: torch.device) -> None:
    inputs = case(dtype=torch.bfloat16, device=device)
    few = Case(
        *(part[:2] for part in (inputs.speech, inputs.text)),
        *(part[:2] for part in (inputs.speech_lengths, inputs.text_lengths)),
    )
    far = replace(
        few,
        speech=far_apart(few.speech, tmp_path / "speech"),
        text=far_apart(few.text, tmp_path / "text"),
    )
    assert torch.equal(far.speech, few.speech)
    results = []
    for each in (few, far):
        leaves = [part.detach().requires_grad_() for part in (each.speech, each.text)]
        result = replace(each, speech=leaves[0], text=leaves[1]).align()
        results.append((result, torch.autograd.grad(result.loss.sum(), leaves)))
    (one, one_grads), (two, two_grads) = results
    torch.testing.assert_close(two.loss, one.loss, rtol=1e-6, atol=0)
    assert torch.equal(two.intervals, one.intervals)
    for a, b in zip(two_grads, one_grads, strict=True):
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_dots_beyond_2_31(tmp_path: Path, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    cosines = torch.randint(-8, 9, (2, 1, 12, 7), generator=generator) / 8
    far = far_apart(cosines.to(device), tmp_path / "dots")
    n, m = torch.tensor([12, 11], device=device), torch.tensor([7, 6], device=device)
    ones = torch.ones(2, 12, dtype=torch.float64, device=device)
    none = ones.new_zeros(0, 0)
    for one, two in zip(
        *(
            torch.ops.thaitool.dtw_path(
                *(dots, ones, ones[:, :7].contiguous(), none, none, None, n, m),
                *(None, None, 1.0, 0.0, False),
            )
            for dots in (cosines.to(device), far)
        ),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_more_than_2_31_numbers_of_speech_and_gradient(device: torch.device) -> None:
    """B * I * D = 2.2e9: one real speech, repeated with stride 0, and a gradient that is all there."""
    pairs, frames, tokens, width = 720, 1500, 4, 2048
    assert pairs * frames * width > 2**31
    generator = torch.Generator().manual_seed(2)
    one = torch.randn(1, frames, width, generator=generator).bfloat16().to(device)
    speech = one.expand(pairs, -1, -1).requires_grad_()
    text = torch.randn(1, tokens, width, generator=generator).bfloat16().to(device)
    n, m = torch.full((pairs,), frames), torch.full((pairs,), tokens)
    inputs = Case(speech, text.expand(pairs, -1, -1), n, m)
    result = inputs.align()
    alone = one.clone().requires_grad_()
    expected = Case(alone, text, n[:1], m[:1]).align()
    torch.testing.assert_close(result.loss, expected.loss.expand(pairs), rtol=1e-5, atol=1e-6)
    assert (result.intervals == result.intervals[:1]).all()
    (small,) = torch.autograd.grad(expected.loss.sum(), alone)
    (grad,) = torch.autograd.grad(result.loss.sum(), speech)
    assert grad.shape == speech.shape
    for b in (0, 1, 500, 698, 699, 700, pairs - 1):  # 2**31 lies in item 699
        torch.testing.assert_close(grad[b], small[0], rtol=1e-2, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "frames", "tokens"), [(1, 50_000, 45_000), (640, 1200, 3000)])
def test_more_than_2_31_cells(pairs: int, frames: int, tokens: int, device: torch.device) -> None:
    """Costs are 0 on token `free` and 1 elsewhere, so the path is known: it waits there."""
    assert pairs * frames * tokens > 2**31
    if frames < tokens:
        free, waits = tokens // 3, 0
    else:
        free, waits = tokens // 3, frames - tokens
    row = torch.zeros(tokens, device=device)
    row[free] = 1.0
    dots = row.expand(pairs, 1, frames, tokens)
    ones = torch.ones(pairs, max(frames, tokens), dtype=torch.float64, device=device)
    none = ones.new_zeros(0, 0)
    intervals, lengths, costs = torch.ops.thaitool.dtw_path(
        *(dots, ones[:, :frames].contiguous(), ones[:, :tokens].contiguous(), none, none, None),
        torch.full((pairs,), frames, device=device),
        torch.full((pairs,), tokens, device=device),
        *(None, None, 1.0, 0.0, False),
    )
    assert (costs == tokens - 1).all()
    if frames >= tokens:
        starts = torch.cat(
            [
                torch.arange(free),
                torch.full((waits + 1,), free),
                torch.arange(free + 1, tokens),
            ]
        )
        expected = torch.stack([starts, starts + 1], 1).int().to(device)
        assert torch.equal(intervals, expected.expand(pairs, 1, -1, -1))
        assert (lengths == frames).all()
        return
    # More tokens than frames: every token once, and no cell more than that costs anything.
    assert (intervals == intervals[:1]).all()
    assert intervals[0, 0, 0, 0] == 0
    assert intervals[0, 0, -1, 1] == tokens
    assert (intervals[0, 0, 1:, 0] >= intervals[0, 0, :-1, 1] - 1).all()
    assert (intervals[0, 0, 1:, 0] <= intervals[0, 0, :-1, 1]).all()
    assert (lengths >= tokens).all()
