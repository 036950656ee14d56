"""Lengths and indices: empty and short pairs, types, devices, and values out of range. No padding values."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.ops.cases import Case, case, with_gradients
from tests.ops.path_op import path_of
from thaitool.errors import InputError
from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.reference import cheapest_path

BACKENDS = ["kernel", "reference"]


def test_short_pairs(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    speech = torch.randn(4, 3, 4, generator=generator).to(device)
    text = torch.randn(4, 5, 4, generator=generator).to(device)
    n, m = torch.tensor([1, 3, 2, 0]), torch.tensor([5, 1, 5, 0])
    result = dtw_alignment(speech, text, n, m)
    assert result.intervals[0].tolist() == [[0, 5], [0, 0], [0, 0]]
    assert result.intervals[1].tolist() == [[0, 1], [0, 1], [0, 1]]
    cosine = torch.nn.functional.cosine_similarity(speech[0, :1], text[0])
    torch.testing.assert_close(result.loss[0], (1 - cosine).mean())
    assert result.path_length[2] in (5, 6)  # 5 tokens; one cell more without a diagonal step
    assert result.intervals[2, :2].tolist()[0][0] == 0
    assert result.intervals[2, :2].tolist()[1][1] == 5
    assert result.loss[3] == 0
    assert result.path_length[3] == 0


@pytest.mark.parametrize("drop_cost", [None, 0.25])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_frame_and_one_token(
    backend: Any, drop_cost: float | None, device: torch.device
) -> None:
    generator = torch.Generator().manual_seed(4)
    h = torch.randn(1, 1, 4, generator=generator).to(device)
    e = torch.randn(1, 1, 4, generator=generator).to(device)
    one = torch.tensor([1])
    result = dtw_alignment(h, e, one, one, drop_cost=drop_cost, backend=backend)
    torch.testing.assert_close(
        result.loss, 1 - torch.nn.functional.cosine_similarity(h[:, 0], e[:, 0])
    )
    # The only frame cannot be left out: the token needs one.
    assert result.intervals.tolist() == [[[0, 1]]]
    assert result.path_length.tolist() == [1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", ["plain", "all"])
def test_pairs_without_frames_or_tokens(form: str, backend: str, device: torch.device) -> None:
    inputs = case(form, device=device)
    for empty in ("speech_lengths", "text_lengths"):
        none = {empty: torch.zeros_like(getattr(inputs, empty))}
        result, grads = with_gradients(Case(**(vars(inputs) | none)), backend=backend)
        assert not result.loss.any()
        assert not result.intervals.any()
        assert not result.path_length.any()
        for grad in grads.values():
            assert not grad.any()


@pytest.mark.parametrize(
    ("pairs", "frames", "tokens", "width"),
    [(0, 4, 3, 2), (2, 0, 3, 2), (2, 4, 0, 2), (2, 4, 3, 0), (0, 0, 0, 0)],
)
@pytest.mark.parametrize("form", ["plain", "means", "drop", "all"])
def test_axes_of_size_zero(
    pairs: int, frames: int, tokens: int, width: int, form: str, device: torch.device
) -> None:
    inputs = Case(
        torch.ones(pairs, frames, width),
        torch.ones(pairs, tokens, width),
        torch.full((pairs,), frames),
        torch.full((pairs,), tokens),
        speech_mean=torch.zeros(width) if form in {"means", "all"} else None,
        drop_cost=torch.ones(pairs, frames) if form in {"drop", "all"} else None,
        text_index=torch.zeros(pairs, 2, dtype=torch.int64) if form == "all" else None,
    ).on(device)
    result, grads = with_gradients(inputs)
    places = (2,) if form == "all" else ()
    assert result.loss.shape == (pairs, *places)
    assert result.intervals.shape == (pairs, *places, frames, 2)
    assert result.path_length.shape == (pairs, *places)
    # Vectors without numbers are zero vectors.
    assert (
        result.loss.tolist()
        == torch.full(result.loss.shape, float(frames > 0 and tokens > 0)).tolist()
    )
    for name, grad in grads.items():
        assert grad.shape == getattr(inputs, name).shape
        assert name == "drop_cost" or not grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_pairs_at_all(backend: Any, device: torch.device) -> None:
    vectors = torch.ones(0, 4, 2, device=device, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    for reduction, value in (("sum", 0.0), ("mean", torch.nan), ("none", 0.0)):
        result = dtw_alignment(
            vectors,
            vectors[:, :3],
            none,
            none,
            reduction=reduction,  # type: ignore[arg-type]
            backend=backend,
        )
        total = result.loss.sum()
        torch.testing.assert_close(total.item(), value, equal_nan=True)
        (grad,) = torch.autograd.grad(total, vectors)
        assert grad.shape == (0, 4, 2)
    # A speech without places, and no text to put there.
    speech, text = torch.ones(2, 4, 3, device=device), torch.ones(0, 5, 3, device=device)
    index = torch.zeros(2, 0, dtype=torch.int64)
    result = dtw_alignment(
        speech, text, torch.tensor([4, 4]), none, text_index=index, backend=backend
    )
    assert result.loss.shape == (2, 0)
    assert result.intervals.shape == (2, 0, 4, 2)


def test_an_empty_pair_has_no_path(device: torch.device) -> None:
    for n, m in [(0, 3), (3, 0), (0, 0)]:
        for drop in (None, torch.ones(1, 3)):
            intervals, path_length, total = path_of(
                torch.ones(1, 3, 3, device=device),
                monotonic=True,
                speech_lengths=torch.tensor([n]),
                text_lengths=torch.tensor([m]),
                drop_cost=drop,
            )
            assert not intervals.any()
            assert path_length.tolist() == [0]
            assert total.tolist() == [0.0]
    assert cheapest_path([], band=1.0, prior=0.0, monotonic=False) == ([], [])


@pytest.mark.parametrize("form", ["plain", "all"])
def test_types_and_devices_of_lengths(form: str, device: torch.device) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    expected, grads = with_gradients(inputs)
    n, m = inputs.speech_lengths, inputs.text_lengths
    index = inputs.text_index
    for lengths in (
        {"speech_lengths": n.int(), "text_lengths": m},
        {"speech_lengths": n.int(), "text_lengths": m.int()},
        {"speech_lengths": n.cpu(), "text_lengths": m.cpu().int()},
        {"speech_lengths": n.cpu(), "text_lengths": m},
        {
            "speech_lengths": torch.stack([n, n], 1)[:, 0],
            "text_lengths": m.repeat_interleave(2)[::2],
            "text_index": None if index is None else index.cpu().T.contiguous().T,
        },
    ):
        result, got = with_gradients(Case(**(vars(inputs) | lengths)))
        assert torch.equal(result.loss, expected.loss)
        assert torch.equal(result.intervals, expected.intervals)
        for name, grad in got.items():
            assert torch.equal(grad, grads[name])


def test_more_tokens_than_frames(device: torch.device) -> None:
    inputs = case(device=device)
    short = Case(
        inputs.text, inputs.speech, inputs.text_lengths.clamp(min=1), inputs.speech_lengths
    )
    result, grads = with_gradients(short)
    expected, reference = with_gradients(short, backend="reference")
    assert torch.equal(result.intervals, expected.intervals)
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-13, atol=1e-14)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, reference[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("speech_lengths", [21, 22], r"speech_lengths must be in 0\.\.21, but is 22 for pair 1"),
        ("speech_lengths", [-1, 3], r"speech_lengths must be in 0\.\.21, but is -1 for pair 0"),
        ("text_lengths", [9, 10], r"text_lengths must be in 0\.\.9, but is 10 for pair 1"),
        ("text_lengths", [-(2**40), 9], r"text_lengths .* but is -1099511627776 for pair 0"),
        ("text_index", [[0], [2]], r"text_index must be in 0\.\.1, but holds 2\."),
        ("text_index", [[0], [-1]], r"text_index must be in 0\.\.1, but holds -1\."),
    ],
)
def test_out_of_range_on_the_cpu_is_a_sentence(
    name: str, value: Any, sentence: str, backend: str, device: torch.device
) -> None:
    """Also for tensors on a GPU: what is on the CPU is looked at."""
    inputs = case(device=device)
    arguments = {
        "speech": inputs.speech[:2],
        "text": inputs.text[:2],
        "speech_lengths": torch.tensor([20, 20]),
        "text_lengths": torch.tensor([8, 8]),
    }
    with pytest.raises(InputError, match=sentence):
        Case(**(arguments | {name: torch.tensor(value)})).align(backend=backend)


DEVICE_ASSERTION = """
import sys, torch
from thaitool.ops.dtw import dtw_alignment
speech, text = torch.ones(2, 6, 4, device="cuda"), torch.ones(2, 5, 4, device="cuda")
n, m = torch.tensor([6, 6], device="cuda"), torch.tensor([5, 5], device="cuda")
index = torch.tensor([[0], [1]], device="cuda")
dtw_alignment(speech, text, n, m, text_index=index)
torch.cuda.synchronize()
print("fine so far")
{change}
dtw_alignment(speech, text, n, m, text_index=index, steps="{steps}")
torch.cuda.synchronize()
print("not noticed")
"""


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ("n[1] = 7", "dtw"),
        ("n[0] = -1", "dtw"),
        ("m[1] = 6", "dtw"),
        ("m[0] = -1", "dtw"),
        ("index[1] = 2", "dtw"),
        ("index[0] = -1", "dtw"),
        ("n[1] = 4", "monotonic"),
    ],
)
def test_out_of_range_on_the_gpu_is_a_device_side_assertion(
    change: str, steps: str, cuda: torch.device
) -> None:
    """In a process of its own, because the assertion ends the CUDA context."""
    done = subprocess.run(
        [sys.executable, "-c", DEVICE_ASSERTION.format(change=change, steps=steps)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "fine so far" in done.stdout, done.stderr
    assert "not noticed" not in done.stdout
    assert done.returncode != 0
    assert "device-side assert" in done.stderr
