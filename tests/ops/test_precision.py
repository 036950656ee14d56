"""bfloat16, float16, float32: distance from float64, autocast, gradient scaling. No extreme values."""

from __future__ import annotations

import pytest
import torch

from tests.ops.cases import FORMS, Case, case, with_gradients
from thaitool.ops.dtw import dtw_alignment

#: Per dtype: largest error of a loss, smallest share of frames on the path of float64.
BOUNDS = {
    torch.float32: (2e-7, 0.999),
    torch.float16: (3e-5, 0.995),
    torch.bfloat16: (3e-4, 0.98),
}


def speechlike(seed: int) -> Case:
    """Noisy repetitions of the tokens of each pair, as an aligned model would give them."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(16, 12, 256, generator=generator, dtype=torch.float64)
    place = torch.rand(16, 60, generator=generator).sort(1).values * 12
    speech = text.gather(1, place.long()[..., None].expand(-1, -1, 256))
    noise = torch.randn(16, 60, 256, generator=generator, dtype=torch.float64)
    return Case(speech + 6 * noise, text, torch.full((16,), 60), torch.full((16,), 12))


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_loss_and_path_are_close_to_float64(dtype: torch.dtype, device: torch.device) -> None:
    error, share = BOUNDS[dtype]
    agreeing = []
    for seed in range(4):
        inputs = speechlike(seed).on(device)
        exact = inputs.align()
        narrow = Case(
            inputs.speech.to(dtype),
            inputs.text.to(dtype),
            inputs.speech_lengths,
            inputs.text_lengths,
        ).align()
        torch.testing.assert_close(narrow.loss.double(), exact.loss, atol=error, rtol=0)
        agreeing.append((narrow.intervals == exact.intervals).all(-1).double().mean())
    assert torch.stack(agreeing).mean() >= share


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_the_inputs_are_rounded(dtype: torch.dtype, form: str, device: torch.device) -> None:
    """Half inputs give what the same numbers give in float32: nothing is summed in half."""
    narrow = case(form, dtype=dtype, width=256, device=device)
    wide = Case(**(vars(narrow) | {n: getattr(narrow, n).float() for n in ("speech", "text")}))
    left, left_grads = with_gradients(narrow)
    right, right_grads = with_gradients(wide)
    torch.testing.assert_close(left.loss, right.loss, rtol=1e-6, atol=1e-6)
    assert torch.equal(left.intervals, right.intervals)
    for name, grad in left_grads.items():
        assert grad.dtype == getattr(narrow, name).dtype
        # Rounded once: to half a place, or to the next place where the sums differ in their last.
        steps = torch.finfo(grad.dtype).eps
        torch.testing.assert_close(
            grad,
            right_grads[name].to(grad.dtype),
            rtol=max(steps, 1e-5),
            atol=1e-6,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["plain", "all"])
def test_autocast_does_not_change_the_result(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    expected, grads = with_gradients(inputs)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        got, got_grads = with_gradients(inputs)
    assert got.loss.dtype == torch.float32
    assert torch.equal(got.loss, expected.loss)
    assert torch.equal(got.intervals, expected.intervals)
    for name, grad in got_grads.items():
        assert torch.equal(grad, grads[name])


def test_grad_scaler_does_not_overflow_half(device: torch.device) -> None:
    """The scale meets the sums in float32; only what is written is half."""
    inputs = case("cross", dtype=torch.float16, width=256, device=device)
    _, plain = with_gradients(
        Case(**(vars(inputs) | {n: getattr(inputs, n).double() for n in ("speech", "text")}))
    )
    scaler = torch.amp.grad_scaler.GradScaler(device.type, init_scale=65536.0, enabled=True)
    speech, text = inputs.speech.requires_grad_(), inputs.text.requires_grad_()
    result = inputs.align()
    scale = torch.linspace(1, 2, 18, device=device).view(6, 3)
    torch.autograd.backward(scaler.scale((result.loss * scale).sum()))
    for leaf, name in ((speech, "speech"), (text, "text")):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float16
        assert leaf.grad.isfinite().all()
        expected = plain[name] * 65536
        assert expected.abs().max() < 65504, "the scaled gradient must fit for this test"
        assert expected.abs().max() > 65504 / 256
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=2e-3, atol=1e-2)


def test_partial_sums_may_exceed_half(device: torch.device) -> None:
    # The gradient of the token is a sum over 64 frames that nearly cancel: 64 terms of about
    # 4e4 in sum, whose result is small. In half the sum would be Inf after two terms.
    generator = torch.Generator().manual_seed(11)
    side = torch.randn(1, 32, 8, generator=generator)
    speech = torch.cat([side, -side], 1).half().to(device)
    text = torch.ones(1, 1, 8, device=device, dtype=torch.float16).requires_grad_()
    one = torch.tensor([1])
    loss = dtw_alignment(speech, text, torch.tensor([64]), one, normalizer="sum_lengths").loss
    (grad,) = torch.autograd.grad(loss.sum() * 65.0 * 2.0**17, text)
    assert grad.isfinite().all()
    assert grad.abs().max() < 100


@pytest.mark.parametrize("offset", [1.0, 10.0, 100.0])
def test_centring_of_vectors_far_from_zero(offset: float, device: torch.device) -> None:
    """The GEMM of the raw vectors is corrected; what that loses grows with the square of the mean."""
    inputs = case("means", dtype=torch.float32, width=64, device=device)
    assert inputs.speech_mean is not None
    assert inputs.text_mean is not None
    direction = torch.full((64,), 1 / 8, device=device)  # of length 1
    moved = {
        "speech": inputs.speech + offset * direction,
        "text": inputs.text + offset * direction,
        "speech_mean": inputs.speech_mean + offset * direction,
        "text_mean": inputs.text_mean + offset * direction,
    }
    far = Case(**(vars(inputs) | moved))
    loss = far.align().loss.double()
    exact = Case(**(vars(far) | {n: v.double() for n, v in moved.items()})).align().loss
    # |u| |v| eps / (|h - u| |e - v|), with norms of about 8 and a mean of at least 4.
    bound = 4 * (offset**2 / 64 + 1) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(loss, exact, rtol=0, atol=bound)
