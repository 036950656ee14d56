"""Loss, path and gradient against the reference; zero vectors and extreme norms. No padding, no NaN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FLOATS, FORMS, OPTIONS, Case, case, with_gradients
from thaitool.ops import kernels
from thaitool.ops.dtw import dtw_alignment

BACKENDS = ["kernel", "reference"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked_example(backend: Any, device: torch.device) -> None:
    speech = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]], device=device)
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], device=device)
    n, m = torch.tensor([3]), torch.tensor([2])
    result = dtw_alignment(speech, text, n, m, backend=backend)
    torch.testing.assert_close(result.loss.cpu(), torch.tensor([0.2 / 3]))
    assert result.intervals.tolist() == [[[0, 1], [1, 2], [1, 2]]]
    assert result.path_length.tolist() == [3]
    by_lengths = dtw_alignment(speech, text, n, m, backend=backend, normalizer="sum_lengths")
    torch.testing.assert_close(by_lengths.loss.cpu(), torch.tensor([0.2 / 5]))
    dropped = dtw_alignment(speech, text, n, m, backend=backend, drop_cost=0.125)
    torch.testing.assert_close(dropped.loss.cpu(), torch.tensor([0.125 / 3]))
    assert dropped.intervals.tolist() == [[[0, 1], [0, 0], [1, 2]]]
    crossed = dtw_alignment(
        *(speech, text, n, m),
        text_index=torch.tensor([[0, 0]]),
        speech_mean=torch.tensor([0.5, 0.5], device=device),
        backend=backend,
    )
    # Centred, the frames are (.5, -.5), (.1, .3), (-.5, .5): cosines 1/sqrt 2 and 3/sqrt 10.
    cosines = torch.tensor([0.5**0.5, 0.9**0.5, 0.5**0.5])
    torch.testing.assert_close(crossed.loss.cpu(), (1 - cosines).mean().expand(1, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_loss_path_and_gradient_equal_the_reference(
    dtype: torch.dtype, options: dict[str, Any], form: str, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    left, left_grads = with_gradients(inputs, **options)
    right, right_grads = with_gradients(inputs, **options, backend="reference")
    assert torch.equal(left.intervals, right.intervals)
    assert torch.equal(left.path_length, right.path_length)
    assert left.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert left.loss.shape == right.loss.shape
    pairs = [(left.loss, right.loss)]
    pairs += [(grad, right_grads[name]) for name, grad in left_grads.items()]
    for a, b in pairs:
        assert a.dtype == b.dtype
        # The inputs are the same rounded numbers, both accumulate in at least float32.
        tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}.get(a.dtype, 1e-2)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_weights_by_hand(device: torch.device) -> None:
    """Diagonal path of two cells, of costs .2 and 1."""
    speech = torch.tensor([[[0.8, 0.0, 0.6], [0.5, 0.0, 0.75**0.5]]], device=device)
    text = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], device=device)
    two = torch.tensor([2])
    weights = torch.tensor([[0.5, 4.0]], device=device)
    loss = dtw_alignment(speech, text, two, two, text_weights=weights).loss
    assert loss.tolist() == pytest.approx([(0.5 * 0.2 + 4.0 * 1.0) / 2])


def test_weights_do_not_touch_the_path(device: torch.device) -> None:
    weighted = case("weights", device=device)
    assert weighted.text_weights is not None
    plain = replace(weighted, text_weights=None).align()
    doubled = replace(
        weighted, drop_cost=None, text_weights=torch.full_like(weighted.text_weights, 2)
    )
    for got in (
        weighted.align(),
        replace(weighted, text_weights=weighted.text_weights.flip(1)).align(),
    ):
        assert torch.equal(got.intervals, plain.intervals)
        assert torch.equal(got.path_length, plain.path_length)
    undropped = replace(weighted, drop_cost=None, text_weights=None).align()
    torch.testing.assert_close(doubled.align().loss, 2 * undropped.loss)


def test_sum_and_mean_are_over_all_pairs(device: torch.device) -> None:
    for form in ("plain", "cross"):
        inputs = case(form, device=device)
        loss = inputs.align().loss
        assert loss.shape == ((6, 3) if form == "cross" else (6,))
        assert inputs.align(reduction="sum").loss == loss.sum()
        assert inputs.align(reduction="mean").loss == loss.mean()
        assert loss[4].eq(0).all(), "the empty pair counts in the mean"


def test_cross_pairs_are_the_pairs_one_by_one(device: torch.device) -> None:
    inputs = case("all", device=device)
    assert inputs.text_index is not None
    together, grads = with_gradients(inputs)
    h_sum, w = torch.zeros_like(inputs.speech), torch.linspace(1, 2, 18).view(6, 3)
    for k in range(3):
        texts = inputs.text_index[:, k]
        alone = Case(
            inputs.speech.clone().requires_grad_(),
            inputs.text[texts],
            inputs.speech_lengths,
            inputs.text_lengths[texts],
            inputs.speech_mean,
            inputs.text_mean,
            None,
            inputs.drop_cost,
        )
        result = alone.align()
        torch.testing.assert_close(result.loss, together.loss[:, k], rtol=1e-13, atol=0)
        assert torch.equal(result.intervals, together.intervals[:, k])
        assert torch.equal(result.path_length, together.path_length[:, k])
        total = (result.loss * w[:, k].to(device)).sum()
        h_sum += torch.autograd.grad(total, alone.speech)[0]
    torch.testing.assert_close(grads["speech"], h_sum, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", ["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_do_not_matter(
    dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    whole = inputs.align()
    for pairs in (1, 2, 5):
        monkeypatch.setitem(kernels.WORKSPACE_BYTES, device.type, pairs * 4 * (21 * 9 + 30 * 16))
        pieces = inputs.align()
        torch.testing.assert_close(pieces.loss, whole.loss, rtol=1e-6, atol=0)
        assert torch.equal(pieces.intervals, whole.intervals)
        assert torch.equal(pieces.path_length, whole.path_length)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_vectors_have_cosine_and_gradient_zero(
    backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case(dtype=dtype, device=device)
    inputs.speech[0, 3] = 0
    inputs.text[1, 2] = 0
    inputs.speech[3] = 0  # the pair with one frame: the loss is exactly 1 - 0
    inputs.text[5] = -0.0  # one token, which all frames of its pair meet
    result, grads = with_gradients(inputs, backend=backend)
    assert result.loss.isfinite().all()
    assert result.loss[[3, 5]].tolist() == [1.0, 1.0]
    for grad in grads.values():
        assert grad.isfinite().all()
    assert not grads["speech"][0, 3].any()
    assert not grads["text"][1, 2].any()
    assert not grads["speech"][5].any()
    assert grads["speech"][0, 2].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_that_are_zero_after_centring(
    backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case("means", dtype=dtype, device=device)
    assert inputs.speech_mean is not None
    assert inputs.text_mean is not None
    inputs.speech_mean.copy_(inputs.speech_mean.to(dtype))  # so that the difference can be 0
    inputs.text_mean.copy_(inputs.text_mean.to(dtype))
    inputs.speech[0, 3] = inputs.speech_mean.to(dtype)
    inputs.speech[3, 0] = inputs.speech_mean.to(dtype)
    inputs.text[5, 0] = inputs.text_mean.to(dtype)
    result, grads = with_gradients(inputs, backend=backend)
    assert result.loss[[3, 5]].tolist() == [1.0, 1.0]
    assert not grads["speech"][0, 3].any()
    assert not grads["speech"][5].any()
    assert not grads["text"][3].any()
    for grad in grads.values():
        assert grad.isfinite().all()


def scaled(inputs: Case, speech: float, text: float) -> Case:
    return Case(
        inputs.speech * speech, inputs.text * text, inputs.speech_lengths, inputs.text_lengths
    )


@pytest.mark.parametrize(
    ("speech", "text"), [(1e-20, 1e20), (1e20, 1e-20), (1e-20, 1.0), (1e20, 3.0), (1e-18, 1e-18)]
)
def test_scale_of_the_vectors_does_not_matter(
    speech: float, text: float, device: torch.device
) -> None:
    inputs = case(dtype=torch.float32, device=device)
    expected, grads = with_gradients(inputs)
    got, got_grads = with_gradients(scaled(inputs, speech, text))
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(got.intervals, expected.intervals)
    for name, factor in (("speech", speech), ("text", text)):
        torch.testing.assert_close(
            got_grads[name].double() * factor, grads[name].double(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e100, 1e150])
def test_scale_in_float64(scale: float, device: torch.device) -> None:
    inputs = case(device=device)
    expected, grads = with_gradients(inputs)
    got, got_grads = with_gradients(scaled(inputs, scale, 1.0))
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(got_grads["speech"] * scale, grads["speech"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got_grads["text"], grads["text"], rtol=1e-9, atol=1e-12)


def test_denormal_norms(device: torch.device) -> None:
    # Integers times the smallest float32: as exact as the integers, with norms below 1e-38.
    generator = torch.Generator().manual_seed(9)
    whole = torch.randint(-9, 10, (1, 6, 4), generator=generator).float().to(device)
    text = torch.randint(-9, 10, (1, 3, 4), generator=generator).float().to(device)
    n, m = torch.tensor([6]), torch.tensor([3])
    tiny = (whole * 2.0**-149).requires_grad_()
    assert tiny.abs().max() < torch.finfo(torch.float32).tiny
    result = dtw_alignment(tiny, text * 2.0**20, n, m)
    expected = dtw_alignment(whole.double(), text.double(), n, m)
    torch.testing.assert_close(result.loss.double(), expected.loss, rtol=1e-6, atol=1e-7)
    assert torch.equal(result.intervals, expected.intervals)
    # The derivative is about 1e44 and no float32; it may overflow, but not to NaN or 0.
    (grad,) = torch.autograd.grad(result.loss.sum() * 1e-10, tiny)
    assert not grad.isnan().any()
    assert grad.any()


def test_half_norms_that_overflow_half(device: torch.device) -> None:
    # Elements of about 3e4 have squares, norms and dot products far beyond 65504.
    inputs = case(dtype=torch.float32, width=256, device=device)
    big = Case(
        (inputs.speech * 1e4).half(),
        (inputs.text * 1e4).half(),
        inputs.speech_lengths,
        inputs.text_lengths,
    )
    assert big.speech.isfinite().all()
    same = Case(big.speech.double(), big.text.double(), inputs.speech_lengths, inputs.text_lengths)
    result, grads = with_gradients(big)
    expected, exact = with_gradients(same)
    torch.testing.assert_close(result.loss.double(), expected.loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(result.intervals, expected.intervals)
    for name, grad in grads.items():
        assert grad.isfinite().all()
        # About 1e-7 each, at the lower end of float16: right to its last place there.
        torch.testing.assert_close(grad.double(), exact[name], rtol=0, atol=2.0**-24)


def test_statistics_by_hand(device: torch.device) -> None:
    vectors = torch.tensor(
        [[[3.0, 4], [0, 0], [torch.nan, 1], [torch.inf, 1], [1e-30, 0], [7, 7]]], device=device
    )
    lengths = torch.tensor([5], device=device)
    inverse, shift = torch.ops.thaitool.dtw_statistics(vectors, None, None, lengths, False)
    expected = torch.tensor([[0.2, 0.0, torch.nan, torch.nan, 1e30, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(inverse.cpu(), expected, equal_nan=True, rtol=1e-6, atol=0)
    assert shift.shape == (0, 0)
    own = torch.tensor([3.0, 0.0], device=device)
    other = torch.tensor([2.0, 10.0], device=device)
    for centre, of_first, of_second in ((False, 46.0, 0.0), (True, 40.0, -6.0)):
        inverse, shift = torch.ops.thaitool.dtw_statistics(vectors, own, other, lengths, centre)
        assert inverse[0, 0].item() == 0.25
        torch.testing.assert_close(inverse[0, 1].item(), 1 / 3)
        assert shift[0, :2].tolist() == [of_first, of_second]
        assert shift[0, 5].item() == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 33, 127, 1000])
def test_every_width(width: int, dtype: torch.dtype, device: torch.device) -> None:
    """Vector instructions have remainders."""
    inputs = case("means", dtype=dtype, width=width, device=device)
    lengths = inputs.speech_lengths.to(device)
    inverse, shift = torch.ops.thaitool.dtw_statistics(
        inputs.speech, inputs.speech_mean, inputs.text_mean, lengths, False
    )

    def wide(mean: Tensor | None) -> Tensor:
        assert mean is not None
        return mean.double()

    centred = inputs.speech.double() - wide(inputs.speech_mean)
    inside = ~inputs.padding()[0]
    # CUDA may add up float32 pieces.
    tolerance = 1e-13 if dtype == torch.float64 else 2e-7
    norms = torch.linalg.vector_norm(centred, dim=-1)
    torch.testing.assert_close(inverse, torch.where(inside, 1 / norms, 0), rtol=tolerance, atol=0)
    products = torch.where(inside, inputs.speech.double() @ wide(inputs.text_mean), 0)
    torch.testing.assert_close(shift, products, rtol=tolerance, atol=tolerance * width)
    if width > 1:  # with one number every cosine is 1 or -1, and paths tie
        _, grads = with_gradients(inputs)
        _, expected = with_gradients(inputs, backend="reference")
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], rtol=tolerance, atol=tolerance)
