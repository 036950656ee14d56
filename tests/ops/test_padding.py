"""What stands in the padding, in other pairs and around the batch does not matter. No NaN in valid parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FORMS, Case, case, same_bits, with_gradients

GARBAGE = [torch.nan, torch.inf, -torch.inf, 1e30, -0.0]


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_is_inert(garbage: float, form: str, backend: str, device: torch.device) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    clean, clean_grads = with_gradients(inputs, backend=backend)
    frames, tokens = inputs.padding()
    inputs.speech[frames] = garbage
    inputs.text[tokens] = garbage
    if inputs.drop_cost is not None:
        inputs.drop_cost[frames] = garbage
    if inputs.text_weights is not None:
        inputs.text_weights[tokens] = garbage
    dirty, dirty_grads = with_gradients(inputs, backend=backend)
    assert torch.equal(clean.loss, dirty.loss)
    assert torch.equal(clean.intervals, dirty.intervals)
    assert torch.equal(clean.path_length, dirty.path_length)
    for name, grad in dirty_grads.items():
        assert torch.equal(clean_grads[name], grad), name
    assert not dirty_grads["speech"][frames].any()
    assert not dirty_grads["text"][tokens].any()
    assert not dirty.intervals[frames if inputs.text_index is None else (4,)].any()
    if inputs.drop_cost is not None:
        assert not dirty_grads["drop_cost"][frames].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("form", ["plain", "all"])
def test_padding_is_inert_in_every_dtype(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    clean, clean_grads = with_gradients(inputs, steps="monotonic", band=0.2, prior=0.5)
    for part, padding in zip((inputs.speech, inputs.text), inputs.padding(), strict=True):
        part[padding] = torch.nan
    dirty, dirty_grads = with_gradients(inputs, steps="monotonic", band=0.2, prior=0.5)
    assert torch.equal(clean.loss, dirty.loss)
    for name, grad in dirty_grads.items():
        assert torch.equal(clean_grads[name], grad), name


def test_means_are_not_part_of_padding(device: torch.device) -> None:
    # 0 * NaN would reach the gradient of a mean, which sums over rows.
    inputs = case("means", dtype=torch.float32, device=device)
    frames, tokens = inputs.padding()
    inputs.speech[frames] = torch.inf
    inputs.text[tokens] = torch.nan
    _, grads = with_gradients(inputs)
    assert grads["speech_mean"].isfinite().all()
    assert grads["text_mean"].isfinite().all()
    assert grads["speech_mean"].any()
    assert grads["text_mean"].any()


def reordered(inputs: Case, order: Tensor) -> Case:
    """The speeches, with all that belongs to them, in another order; texts too without an index."""
    texts = order if inputs.text_index is None else torch.arange(len(inputs.text))
    return Case(
        inputs.speech[order],
        inputs.text[texts],
        inputs.speech_lengths[order],
        inputs.text_lengths[texts],
        inputs.speech_mean,
        inputs.text_mean,
        None if inputs.text_index is None else inputs.text_index[order],
        None if inputs.drop_cost is None else inputs.drop_cost[order],
        None if inputs.text_weights is None else inputs.text_weights[texts],
    )


def close(left: Tensor, right: Tensor) -> None:
    """Equal but for the GEMM, whose tiles and so whose last bits follow the shape of the batch."""
    tolerance = 1e-13 if left.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_order_of_the_batch_does_not_matter(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    expected = inputs.align()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    got = reordered(inputs, order).align()
    assert torch.equal(got.intervals, expected.intervals[order])
    assert torch.equal(got.path_length, expected.path_length[order])
    # Every pair is multiplied alone or at its own place of one bmm; no pair reads another.
    close(got.loss, expected.loss[order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", FORMS)
def test_a_pair_alone_is_a_pair_in_a_batch(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    expected, grads = with_gradients(inputs, ("speech",))
    scale = torch.linspace(1, 2, expected.loss.numel(), device=device).view(expected.loss.shape)
    for b in range(6):
        one = reordered(inputs, torch.tensor([b]))
        n = int(inputs.speech_lengths[b])
        trimmed = {
            "speech": one.speech[:, :n].clone().requires_grad_(),
            "drop_cost": None if one.drop_cost is None else one.drop_cost[:, :n],
        }
        if one.text_index is None:
            m = int(inputs.text_lengths[b])
            trimmed["text"] = one.text[:, :m]
        alone = Case(**(vars(one) | trimmed))
        result = alone.align()
        close(result.loss, expected.loss[b : b + 1])
        assert torch.equal(result.intervals[..., :n, :], expected.intervals[b : b + 1, ..., :n, :])
        (grad,) = torch.autograd.grad((result.loss * scale[b]).sum(), alone.speech)
        close(grad[0], grads["speech"][b, :n])


@pytest.mark.parametrize("form", FORMS)
def test_exact_costs_do_not_depend_on_the_batch_at_all(form: str, device: torch.device) -> None:
    """With dot products that are exact in any order, order and size of the batch change no bit."""
    inputs = case(form, dtype=torch.float32, device=device)
    whole = {
        name: (4 * value).round()
        for name, value in vars(inputs).items()
        if name in {"speech", "text", "speech_mean", "text_mean"} and value is not None
    }
    inputs = Case(**(vars(inputs) | whole))
    expected, grads = with_gradients(inputs, ("speech",), reduction="sum")
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for places in (order, torch.tensor([2]), torch.tensor([5, 5, 0])):
        part = reordered(inputs, places)
        assert same_bits(part.align().loss, inputs.align().loss[places])
    _, got = with_gradients(reordered(inputs, order), ("speech",), reduction="sum")
    assert torch.equal(got["speech"], grads["speech"][order])
    assert expected.loss.isfinite()
