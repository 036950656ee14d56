"""Inputs that are views: transposed, sliced, expanded, with gradients through the view. No lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FLOATS, Case, case, with_gradients


def views(vectors: Tensor) -> dict[str, Tensor]:
    """The same numbers, laid out differently."""
    pairs, rows, width = vectors.shape
    wide = torch.full((pairs, rows + 3, width + 5), torch.nan).to(vectors)
    wide[:, 2:-1, 3:-2] = vectors
    every_other = vectors.repeat_interleave(2, 1)
    every_other[:, 1::2] = torch.nan
    return {
        "time first": vectors.transpose(0, 1).contiguous().transpose(0, 1),
        "width first": vectors.transpose(1, 2).contiguous().transpose(1, 2),
        "sliced": wide[:, 2:-1, 3:-2],
        "every other row": every_other[:, ::2],
        "every other number": vectors.repeat_interleave(2, 2)[..., ::2],
        "offset": torch.cat([vectors.new_zeros(1), vectors.flatten()])[1:].view(vectors.shape),
    }


def close(left: Tensor, right: Tensor) -> None:
    """The GEMM may take another route for other strides."""
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}.get(left.dtype, 1e-2)
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", ["plain", "all"])
def test_strides_do_not_matter(form: str, dtype: torch.dtype, device: torch.device) -> None:
    inputs = case(form, dtype=dtype, device=device)
    names = [n for n in ("speech", "text", "drop_cost") if getattr(inputs, n) is not None]
    expected, _ = with_gradients(inputs)
    grad_out = torch.linspace(1, 2, expected.loss.numel(), device=device).view(expected.loss.shape)
    leaves = [getattr(inputs, name).requires_grad_() for name in names]
    grads = torch.autograd.grad((inputs.align().loss * grad_out).sum(), leaves)
    for layout in views(inputs.speech.detach()):
        changed: dict[str, Tensor] = {}
        for name in names:
            value = getattr(inputs, name).detach()
            shaped = value if value.dim() == 3 else value[..., None].expand(-1, -1, 4)
            view = views(shaped)[layout]
            changed[name] = (view if value.dim() == 3 else view[..., 0]).requires_grad_()
            assert torch.equal(changed[name], value)
        result = Case(**(vars(inputs) | changed)).align()
        close(result.loss, expected.loss)
        assert torch.equal(result.intervals, expected.intervals)
        got = torch.autograd.grad((result.loss * grad_out).sum(), list(changed.values()))
        for a, b in zip(got, grads, strict=True):
            assert a.shape == b.shape
            close(a, b)


@pytest.mark.parametrize("side", ["speech", "text", "both"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_expanded_inputs(axis: int, side: str, device: torch.device) -> None:
    """A stride of 0; autograd sums the gradient over the copies."""
    inputs = case("means", device=device)
    sides = ("speech", "text") if side == "both" else (side,)
    bases = {
        name: getattr(inputs, name).narrow(axis, 0, 1).clone().requires_grad_() for name in sides
    }
    expanded = {name: base.expand_as(getattr(inputs, name)) for name, base in bases.items()}
    dense = {name: value.detach().clone().requires_grad_() for name, value in expanded.items()}
    one = Case(**(vars(inputs) | expanded)).align()
    two = Case(**(vars(inputs) | dense)).align()
    close(one.loss, two.loss)
    if axis == 0 or side != "both":
        assert torch.equal(one.intervals, two.intervals)
    folded = torch.autograd.grad(one.loss.sum(), list(bases.values()))
    full = torch.autograd.grad(two.loss.sum(), list(dense.values()))
    for a, b in zip(folded, full, strict=True):
        close(a, b.sum(axis, keepdim=True))


def test_gradient_through_views(device: torch.device) -> None:
    """Speech and text cut out of one tensor, which gets both gradients."""
    inputs = case(device=device)
    together = torch.cat([inputs.speech, inputs.text], 1).requires_grad_()
    view = Case(together[:, :21], together[:, 21:], inputs.speech_lengths, inputs.text_lengths)
    _, grads = with_gradients(inputs)
    loss = view.align().loss
    scale = torch.linspace(1, 2, 6, device=device)
    (grad,) = torch.autograd.grad((loss * scale).sum(), together)
    close(grad, torch.cat([grads["speech"], grads["text"]], 1))


def test_speech_and_text_are_one_tensor(device: torch.device) -> None:
    vectors = case(device=device).speech.requires_grad_()
    n = torch.tensor([20, 13, 8, 1, 0, 7])
    result = Case(vectors, vectors, n, n).align()
    torch.testing.assert_close(result.loss, torch.zeros_like(result.loss), rtol=0, atol=1e-14)
    for b, frames in enumerate(n.tolist()):
        assert result.intervals[b, :frames].tolist() == [[i, i + 1] for i in range(frames)]
    (grad,) = torch.autograd.grad(result.loss.sum(), vectors)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-14)


def test_inputs_are_not_written_to(device: torch.device) -> None:
    inputs = case("all", dtype=torch.float32, device=device)
    before = {n: v.clone() for n, v in vars(inputs).items() if v is not None}
    with_gradients(inputs)
    for name, value in before.items():
        assert torch.equal(getattr(inputs, name), value)
