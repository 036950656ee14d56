"""Soft-DTW against the sum over all paths, and its limit, hard DTW. Other packages: test_oracles.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.ops.cases import Case, case
from tests.ops.enumeration import table
from thaitool.ops.soft import soft_dtw_alignment


def soft(inputs: Case, gamma: float, **options: Any) -> Tensor:
    return soft_dtw_alignment(
        *(inputs.speech, inputs.text, inputs.speech_lengths, inputs.text_lengths),
        gamma=gamma,
        **options,
    )


@pytest.mark.parametrize("gamma", [10.0, 1.0, 0.1, 0.01])
def test_all_paths_of_every_grid_up_to_5x5(gamma: float, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    for frames in range(1, 6):
        for tokens in range(1, 6):
            speech = torch.randn(4, frames, 3, generator=generator, dtype=torch.float64)
            text = torch.randn(4, tokens, 3, generator=generator, dtype=torch.float64)
            cost = 1 - functional.cosine_similarity(speech[:, :, None], text[:, None], dim=-1)
            paths = table(frames, tokens, monotonic=False, drops=False)
            sums = cost.flatten(1) @ paths.cells.T
            expected = -gamma * torch.logsumexp(-sums / gamma, 1)
            inputs = Case(speech, text, torch.full((4,), frames), torch.full((4,), tokens))
            got = soft(inputs.on(device), gamma).cpu()
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_small_gamma_is_hard_dtw(device: torch.device) -> None:
    inputs = case(device=device)
    hard = inputs.align()
    total = hard.loss * hard.path_length
    last = None
    for gamma in (1.0, 0.1, 0.01, 1e-3, 1e-4):
        got = soft(inputs, gamma)
        # -gamma log(number of paths) <= soft - hard <= 0, and there are less than 3^(n+m) paths.
        steps = inputs.speech_lengths + inputs.text_lengths
        gap = total - got
        assert (gap >= -1e-12).all()
        assert (gap <= gamma * steps * torch.tensor(3.0).log() + 1e-12).all()
        assert last is None or (gap <= last + 1e-12).all()
        last = gap
    torch.testing.assert_close(soft(inputs, 1e-6), total, rtol=0, atol=1e-4)


def test_gradient_at_small_gamma_is_that_of_the_hard_path(device: torch.device) -> None:
    inputs = case(device=device)
    h, e = inputs.speech.requires_grad_(), inputs.text.requires_grad_()
    result = inputs.align()
    hard = torch.autograd.grad((result.loss * result.path_length).sum(), (h, e))
    got = torch.autograd.grad(soft(inputs, 1e-5).sum(), (h, e))
    for a, b in zip(got, hard, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, 1e30])
def test_padding_is_inert(garbage: float, device: torch.device) -> None:
    inputs = case(dtype=torch.float32, device=device)
    runs = []
    for value in (0.0, garbage):
        frames, tokens = inputs.padding()
        speech, text = inputs.speech.clone(), inputs.text.clone()
        speech[frames], text[tokens] = value, value
        h, e = speech.requires_grad_(), text.requires_grad_()
        loss = soft(Case(h, e, inputs.speech_lengths, inputs.text_lengths), 0.2)
        grads = torch.autograd.grad(loss.sum(), (h, e))
        runs.append((loss, *grads))
        assert not grads[0][frames].any()
        assert not grads[1][tokens].any()
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_a_padded_pair_is_the_pair_alone(device: torch.device) -> None:
    inputs = case(device=device)
    together = soft(inputs, 0.3)
    for b, (n, m) in enumerate(
        zip(inputs.speech_lengths.tolist(), inputs.text_lengths.tolist(), strict=True)
    ):
        alone = soft_dtw_alignment(
            inputs.speech[b : b + 1, :n],
            inputs.text[b : b + 1, :m],
            torch.tensor([n]),
            torch.tensor([m]),
            gamma=0.3,
        )
        torch.testing.assert_close(alone[0], together[b], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.05])
def test_gradcheck_twice(gamma: float, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    speech = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64).to(device)
    text = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64).to(device)
    n, m = torch.tensor([4, 2, 0]), torch.tensor([3, 3, 2])

    def loss(h: Tensor, e: Tensor) -> Tensor:
        return soft_dtw_alignment(h, e, n, m, gamma=gamma)

    leaves = (speech.requires_grad_(), text.requires_grad_())
    assert torch.autograd.gradcheck(loss, leaves)
    if gamma == 1.0:
        assert torch.autograd.gradgradcheck(loss, leaves)


def test_normalizer_reduction_and_empty_pairs(device: torch.device) -> None:
    inputs = case(device=device)
    plain = soft(inputs, 0.5)
    assert plain.dtype == torch.float64
    assert plain[4] == 0
    steps = inputs.speech_lengths + inputs.text_lengths
    assert torch.equal(soft(inputs, 0.5, normalizer="sum_lengths"), plain / steps.clamp(min=1))
    assert torch.equal(soft(inputs, 0.5, reduction="sum"), plain.sum())
    assert torch.equal(soft(inputs, 0.5, reduction="mean"), plain.mean())
    empty = Case(
        torch.ones(2, 0, 3), torch.ones(2, 4, 3), torch.zeros(2).long(), torch.ones(2).long()
    )
    assert soft(empty.on(device), 0.5).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_inputs_are_computed_in_float64(dtype: torch.dtype, device: torch.device) -> None:
    inputs = case(dtype=dtype, device=device)
    wide = Case(**(vars(inputs) | {n: getattr(inputs, n).double() for n in ("speech", "text")}))
    speech = inputs.speech.requires_grad_()
    loss = soft(inputs, 0.3)
    assert torch.equal(loss, soft(wide, 0.3))
    (grad,) = torch.autograd.grad(loss.sum(), speech)
    assert grad.dtype == dtype


def test_a_long_pair_stays_finite(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    speech = torch.randn(1, 150, 4, generator=generator).to(device).requires_grad_()
    text = torch.randn(1, 60, 4, generator=generator).to(device)
    n, m = torch.tensor([150]), torch.tensor([60])
    for gamma in (1.0, 1e-3, 1e-6):
        loss = soft_dtw_alignment(speech, text, n, m, gamma=gamma)
        (grad,) = torch.autograd.grad(loss.sum(), speech)
        assert loss.isfinite().all()
        assert grad.isfinite().all()
        assert grad.any()
