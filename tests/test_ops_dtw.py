"""Contract of `dtw_alignment`: loss, gradient, padding, dtypes, errors. Not which path it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from thaitool.errors import InputError, OpNotBuiltError
from thaitool.ops import dtw
from thaitool.ops.dtw import dtw_alignment

OPTIONS: list[dict[str, Any]] = [
    {},
    {"band": 0.1},
    {"prior": 2.0},
    {"steps": "monotonic"},
    {"normalizer": "sum_lengths", "reduction": "mean"},
    {"steps": "monotonic", "band": 0.2, "prior": 0.5, "reduction": "sum"},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: on a busy machine, waiting for a second thread takes most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(
    dtype: torch.dtype = torch.float64, seed: int = 0, width: int = 16
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six padded pairs, among them n = m, one frame, one token, and an empty one."""
    generator = torch.Generator().manual_seed(seed)
    speech = torch.randn(6, 21, width, generator=generator).to(dtype)
    text = torch.randn(6, 9, width, generator=generator).to(dtype)
    n = torch.tensor([20, 13, 8, 1, 0, 7])
    m = torch.tensor([8, 5, 8, 1, 4, 1])
    return speech, text, n, m


def gradients(
    speech: Tensor, text: Tensor, n: Tensor, m: Tensor, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and gradients of a weighted sum of it to speech and text."""
    h, e = speech.clone().requires_grad_(), text.clone().requires_grad_()
    loss = dtw_alignment(h, e, n, m, **options).loss
    weights = torch.linspace(1, 2, max(1, loss.numel())).view(loss.shape)
    torch.autograd.backward((loss * weights).sum())
    assert h.grad is not None
    assert e.grad is not None
    return loss.detach(), h.grad, e.grad


def test_hand_worked_example() -> None:
    speech = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    n, m = torch.tensor([3]), torch.tensor([2])
    for backend in ("kernel", "reference"):
        result = dtw_alignment(speech, text, n, m, backend=backend)
        torch.testing.assert_close(result.loss, torch.tensor([0.2 / 3]))
        assert result.intervals.tolist() == [[[0, 1], [1, 2], [1, 2]]]
        assert result.path_length.tolist() == [3]
        by_lengths = dtw_alignment(speech, text, n, m, backend=backend, normalizer="sum_lengths")
        torch.testing.assert_close(by_lengths.loss, torch.tensor([0.2 / 5]))


def test_the_tie_rule_decides_the_loss() -> None:
    # cost [[1, 0], [0, 1]]: all three paths sum to 2, with 2 or 3 cells; the diagonal has 2.
    axes = torch.eye(2)[None]
    result = dtw_alignment(axes, axes.flip(1), torch.tensor([2]), torch.tensor([2]))
    assert result.loss.tolist() == [1.0]
    assert result.path_length.tolist() == [2]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_loss_path_and_gradient_equal_the_reference(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    inputs = batch(dtype)
    for a, b in zip(
        gradients(*inputs, **options),
        gradients(*inputs, **options, backend="reference"),
        strict=True,
    ):
        assert a.dtype == b.dtype
        # The inputs are the same rounded numbers, both accumulate in at least float32.
        tolerance = {torch.float64: 1e-13, torch.float32: 1e-6}.get(a.dtype, 1e-2)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance / 10)
    left = dtw_alignment(*inputs, **options)
    right = dtw_alignment(*inputs, **options, backend="reference")
    assert torch.equal(left.intervals, right.intervals)
    assert torch.equal(left.path_length, right.path_length)
    assert left.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_half_precision_is_close_to_float64() -> None:
    exact = dtw_alignment(*batch(torch.float64, width=256)).loss
    for dtype, tolerance in ((torch.bfloat16, 4e-3), (torch.float16, 5e-4)):
        torch.testing.assert_close(
            dtw_alignment(*batch(dtype, width=256)).loss.double(),
            exact,
            atol=tolerance,
            rtol=0,
        )


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    speech = torch.randn(4, 7, 3, generator=generator, dtype=torch.float64)
    text = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    n, m = torch.tensor([7, 5, 4, 0]), torch.tensor([3, 4, 4, 2])

    def loss(h: Tensor, e: Tensor) -> Tensor:
        return dtw_alignment(h, e, n, m, **options).loss

    inputs = (speech.requires_grad_(), text.requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs, nondet_tol=0.0, fast_mode=False)


def test_gradient_goes_only_where_it_is_asked_for() -> None:
    speech, text, n, m = batch()
    _, full_h, full_e = gradients(speech, text, n, m)
    for wants in ("speech", "text"):
        h = speech.clone().requires_grad_(wants == "speech")
        e = text.clone().requires_grad_(wants == "text")
        loss = dtw_alignment(h, e, n, m).loss
        weighted = (loss * torch.linspace(1, 2, 6)).sum()
        torch.autograd.backward(weighted, retain_graph=True)
        assert (h.grad is None) == (wants == "text")
        assert (e.grad is None) == (wants == "speech")
        got, full = (h.grad, full_h) if wants == "speech" else (e.grad, full_e)
        assert got is not None
        assert torch.equal(got, full)
        torch.autograd.backward(weighted)
        assert torch.equal(got, 2 * full)
    assert not dtw_alignment(speech, text, n, m).loss.requires_grad


def test_second_derivative_is_refused() -> None:
    speech, text, n, m = batch()
    h = speech.requires_grad_()
    loss = dtw_alignment(h, text, n, m).loss.sum()
    (grad,) = torch.autograd.grad(loss, h, create_graph=True)
    with pytest.raises(InputError, match="differentiated once"):
        torch.autograd.backward(grad.sum())


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_padding_is_inert(garbage: float, backend: str) -> None:
    speech, text, n, m = batch(torch.float32)
    clean = gradients(speech, text, n, m, backend=backend)
    frames = torch.arange(speech.shape[1])[None] >= n[:, None]
    tokens = torch.arange(text.shape[1])[None] >= m[:, None]
    speech[frames] = garbage
    text[tokens] = garbage
    dirty = gradients(speech, text, n, m, backend=backend)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
    assert not dirty[1][frames].any()
    assert not dirty[2][tokens].any()


def test_zero_vectors_have_cosine_and_gradient_zero() -> None:
    speech, text, n, m = batch()
    speech[0, 3] = 0
    text[1, 2] = 0
    speech[3] = 0  # the pair with one frame: loss is exactly 1 - 0
    for backend in ("kernel", "reference"):
        loss, grad_speech, grad_text = gradients(speech, text, n, m, backend=backend)
        assert loss.isfinite().all()
        assert loss[3] == 1
        assert not grad_speech[0, 3].any()
        assert not grad_text[1, 2].any()
        assert grad_speech.isfinite().all()
        assert grad_speech[0, 2].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", ["dtw", "monotonic"])
def test_a_bad_pair_is_nan_and_alone(bad: float, steps: Any) -> None:
    speech, text, n, m = batch(torch.float32)
    clean_loss, clean_h, clean_e = gradients(speech, text, n, m, steps=steps)
    speech[0, 4, 2] = bad
    text[1, 3, 0] = bad
    loss, grad_h, grad_e = gradients(speech, text, n, m, steps=steps)
    assert loss[:2].isnan().all()
    assert torch.equal(loss[2:], clean_loss[2:])
    assert torch.equal(grad_h[2:], clean_h[2:])
    assert torch.equal(grad_e[2:], clean_e[2:])
    reference = dtw_alignment(speech, text, n, m, steps=steps, backend="reference").loss
    assert reference[:2].isnan().all()
    intervals = dtw_alignment(speech, text, n, m, steps=steps).intervals
    assert (intervals >= 0).all()
    assert (intervals <= m[:, None, None]).all()


def test_a_bad_pair_can_be_masked_out() -> None:
    speech, text, n, m = batch(torch.float32)
    speech[0, 4, 2] = torch.nan
    h = speech.requires_grad_()
    loss = dtw_alignment(h, text, n, m).loss
    torch.autograd.backward(torch.where(loss.isnan(), 0.0, loss).sum())
    assert h.grad is not None
    assert not h.grad[0].any()
    assert h.grad[1].any()
    assert h.grad.isfinite().all()


def test_short_pairs() -> None:
    generator = torch.Generator().manual_seed(3)
    speech = torch.randn(4, 3, 4, generator=generator)
    text = torch.randn(4, 5, 4, generator=generator)
    n, m = torch.tensor([1, 3, 2, 0]), torch.tensor([5, 1, 5, 0])
    result = dtw_alignment(speech, text, n, m)
    assert result.intervals[0].tolist() == [[0, 5], [0, 0], [0, 0]]
    assert result.intervals[1].tolist() == [[0, 1], [0, 1], [0, 1]]
    cosine = torch.nn.functional.cosine_similarity(speech[0, :1], text[0])
    torch.testing.assert_close(result.loss[0], (1 - cosine).mean())
    assert result.path_length[2] in (5, 6)  # 5 tokens; one cell more without a diagonal step
    assert result.loss[3] == 0
    assert result.path_length[3] == 0


@pytest.mark.parametrize("backend", ["kernel", "reference"])
def test_empty_batch_and_empty_pairs(backend: Any) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    result = dtw_alignment(torch.ones(0, 4, 2), torch.ones(0, 3, 2), none, none, backend=backend)
    assert result.loss.shape == (0,)
    assert result.intervals.shape == (0, 4, 2)
    speech, text, n, m = batch()
    loss, grad_speech, grad_text = gradients(speech, text, 0 * n, m, backend=backend)
    assert not loss.any()
    assert not grad_speech.any()
    assert not grad_text.any()


def test_batch_order_and_batch_size_do_not_matter() -> None:
    speech, text, n, m = batch()
    loss = dtw_alignment(speech, text, n, m).loss
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = dtw_alignment(speech[order], text[order], n[order], m[order])
    torch.testing.assert_close(shuffled.loss, loss[order], rtol=1e-14, atol=0)
    for b in range(6):
        alone = dtw_alignment(
            speech[b : b + 1, : n[b]], text[b : b + 1, : m[b]], n[b : b + 1], m[b : b + 1]
        )
        torch.testing.assert_close(alone.loss, loss[b : b + 1], rtol=1e-14, atol=0)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        whole = dtw_alignment(*batch(dtype))
        with monkeypatch.context() as patch:
            patch.setattr(dtw, "WORKSPACE_BYTES", 2 * 4 * 21 * 9)
            pieces = dtw_alignment(*batch(dtype))
        torch.testing.assert_close(pieces.loss, whole.loss, rtol=1e-6, atol=0)
        assert torch.equal(pieces.intervals, whole.intervals)


@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_scale_of_the_vectors_does_not_matter(scale: float) -> None:
    speech, text, n, m = batch(torch.float32)
    loss, grad_h, grad_e = gradients(speech, text, n, m)
    scaled, scaled_h, scaled_e = gradients(speech * scale, text * 3, n, m)
    torch.testing.assert_close(scaled, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled_h * scale, grad_h, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scaled_e * 3, grad_e, rtol=1e-4, atol=1e-6)


def test_inverse_norms() -> None:
    vectors = torch.tensor([[[3.0, 4], [0, 0], [torch.nan, 1], [torch.inf, 1], [1e-30, 0], [7, 7]]])
    inverse = torch.ops.thaitool.dtw_inverse_norms(vectors, torch.tensor([5]))
    expected = torch.tensor([[0.2, 0.0, torch.nan, torch.nan, 1e30, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(inverse, expected, equal_nan=True, rtol=1e-6, atol=0)


def test_strides_and_length_types_do_not_matter() -> None:
    speech, text, n, m = batch()
    expected = gradients(speech, text, n, m)
    strided = (
        speech.transpose(1, 2).contiguous().transpose(1, 2),
        text.repeat(1, 1, 2)[..., :16],
        torch.stack([n, n], 1)[:, 0].int(),
        m.int(),
    )
    for a, b in zip(gradients(*strided), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    shared = text[:1].expand(6, -1, -1)
    same = dtw_alignment(speech, shared, n, m).loss
    assert torch.equal(same, dtw_alignment(speech, shared.contiguous(), n, m).loss)


def test_autocast_does_not_change_the_result() -> None:
    inputs = batch(torch.float32)
    expected = gradients(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients(*inputs)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_two_runs_and_any_thread_count_give_equal_bits() -> None:
    generator = torch.Generator().manual_seed(4)
    speech = torch.randn(5, 60, 512, generator=generator)  # enough work for several threads
    text = torch.randn(5, 20, 512, generator=generator)
    n, m = torch.tensor([60, 50, 40, 30, 20]), torch.tensor([20, 15, 20, 3, 1])
    dots = torch.randn(5, 600, 200, generator=generator)
    ones = torch.ones(5, 800, dtype=torch.float64)
    norms = (ones[:, :600].contiguous(), ones[:, :200].contiguous())
    runs = []
    for count in (1, 1, 2):
        torch.set_num_threads(count)
        paths = torch.ops.thaitool.dtw_path(dots, *norms, 10 * n, 10 * m, 1.0, 0.0, False)
        runs.append((*gradients(speech, text, n, m), *paths))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    speech, text, n, m = batch(dtype)
    ops = torch.ops.thaitool
    options = {"band": 0.5, "prior": 0.1, "monotonic": False}
    grads = (speech.clone().requires_grad_(), text.clone().requires_grad_())
    torch.library.opcheck(ops.dtw_forward.default, (*grads, n, m), options)
    cost, intervals, _, inverse_h, inverse_e = ops.dtw_forward(speech, text, n, m, **options)
    torch.library.opcheck(ops.dtw_inverse_norms.default, (speech, n))
    path_arguments = (torch.rand(6, 21, 9), inverse_h, inverse_e, n, m, 0.5, 0.1, False)
    torch.library.opcheck(ops.dtw_path.default, path_arguments)
    for needs in ((True, True), (True, False), (False, True)):
        saved = (cost, speech, text, inverse_h, inverse_e, intervals, n, m)
        torch.library.opcheck(ops.dtw_backward.default, (*saved, *needs))


def test_compiles_without_a_graph_break() -> None:
    inputs = batch(torch.float32)
    compiled = torch.compile(dtw_alignment, fullgraph=True, backend="aot_eager", dynamic=True)
    h = inputs[0].clone().requires_grad_()
    result = compiled(h, *inputs[1:], band=0.3, reduction="sum")
    torch.autograd.backward(result.loss)
    plain = inputs[0].clone().requires_grad_()
    expected = dtw_alignment(plain, *inputs[1:], band=0.3, reduction="sum")
    torch.autograd.backward(expected.loss)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.intervals, expected.intervals)
    assert h.grad is not None
    assert plain.grad is not None
    assert torch.equal(h.grad, plain.grad)
    with pytest.raises(RuntimeError, match=r"length 22 of pair 0 is not in 0\.\.21"):
        compiled(h, inputs[1], inputs[2] + 2, inputs[3], band=0.3, reduction="sum")


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"speech": torch.ones(2, 3)}, r"speech must have 3 axes .* has shape \(2, 3\)"),
    ({"text": torch.ones(2, 2, 4, dtype=torch.int64)}, r"text must be float32, .* torch\.int64"),
    ({"text": torch.ones(2, 2, 5)}, r"batch size and width.*\(2, 3, 4\) and \(2, 2, 5\)"),
    ({"text": torch.ones(1, 2, 4)}, r"batch size and width.*\(2, 3, 4\) and \(1, 2, 4\)"),
    ({"text": torch.ones(2, 2, 4).double()}, r"agree in dtype .*float32 on cpu and .*float64"),
    ({"speech_lengths": torch.ones(2)}, r"speech_lengths must be int32 or int64 of shape \(2,\)"),
    ({"text_lengths": torch.tensor([1])}, r"text_lengths must be .*int64 of shape \(1,\)"),
    ({"speech_lengths": torch.tensor([3, 4])}, r"speech_lengths .* 0\.\.3, but is 4 for pair 1"),
    ({"text_lengths": torch.tensor([-1, 2])}, r"text_lengths .* 0\.\.2, but is -1 for pair 0"),
    ({"band": -0.1}, r"band must be None or .* but is -0\.1"),
    ({"band": float("nan")}, r"band must be None or .* but is nan"),
    ({"prior": float("inf")}, r"prior must be a finite number .* but is inf"),
    ({"prior": -1.0}, r"prior must be a finite number .* but is -1\.0"),
    ({"steps": "soft"}, r"steps must be one of dtw, monotonic, but is 'soft'"),
    ({"normalizer": "none"}, r"normalizer must be one of path, sum_lengths, but is 'none'"),
    ({"reduction": "max"}, r"reduction must be one of none, mean, sum, but is 'max'"),
    ({"backend": "cuda"}, r"backend must be one of kernel, reference, but is 'cuda'"),
    (
        {"steps": "monotonic", "speech_lengths": torch.tensor([3, 1])},
        r"at least as many frames as tokens, but pair 1 has 1 frames and 2 tokens",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_ARGUMENTS)
def test_error_sentences(change: dict[str, Any], sentence: str) -> None:
    arguments: dict[str, Any] = {
        "speech": torch.ones(2, 3, 4),
        "text": torch.ones(2, 2, 4),
        "speech_lengths": torch.tensor([3, 3]),
        "text_lengths": torch.tensor([2, 2]),
    }
    dtw_alignment(**arguments)
    with pytest.raises(InputError, match=sentence):
        dtw_alignment(**{**arguments, **change})


def test_other_devices_have_no_kernel() -> None:
    lengths = torch.tensor([2])
    vectors = torch.ones(1, 2, 3, device="meta")
    with pytest.raises(OpNotBuiltError, match=r"no DTW kernel for meta .* CPU kernel only"):
        dtw_alignment(vectors, vectors, lengths, lengths)
    problem = dtw.kernel_problem(torch.device("cuda"))
    assert problem is not None
    assert 'backend="reference"' in problem
    assert dtw.kernel_problem(torch.device("cpu")) is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_raise_and_the_reference_runs() -> None:
    speech, text, n, m = (tensor.cuda() for tensor in batch())
    with pytest.raises(OpNotBuiltError, match="cuda"):
        dtw_alignment(speech, text, n, m)
    got = dtw_alignment(speech, text, n, m, backend="reference")
    expected = dtw_alignment(*batch(), backend="reference")
    torch.testing.assert_close(got.loss.cpu(), expected.loss)
    assert torch.equal(got.intervals.cpu(), expected.intervals)
