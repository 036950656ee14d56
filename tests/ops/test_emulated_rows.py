"""The CUDA kernels of statistics and gradient against the CPU kernels, in emulation, without a GPU.

See test_emulated_kernels.py for what emulation is and what it cannot show.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import thaitool.ops.dtw  # noqa: F401  (registers torch.ops.thaitool)
from tests.ops import emulated
from tests.ops.cases import FLOATS
from tests.ops.emulated import Emulation

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The compiled emulation."""
    return emulated.load(tmp_path_factory.getbasetemp())


@dataclass(frozen=True)
class Rows:
    """Vectors, means and paths, as the gradient needs them."""

    speech: Tensor
    text: Tensor
    speech_mean: Tensor | None
    text_mean: Tensor | None
    text_index: Tensor | None
    speech_lengths: Tensor
    text_lengths: Tensor
    grad: Tensor
    token_weights: Tensor | None = None

    def statistics_and_intervals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inverse norms of both sides, and the paths, by the CPU ops."""
        u, v, n, m = self.speech_mean, self.text_mean, self.speech_lengths, self.text_lengths
        inverse_h, shift_h = torch.ops.thaitool.dtw_statistics(self.speech, u, v, n, False)
        inverse_e, shift_e = torch.ops.thaitool.dtw_statistics(self.text, v, u, m, True)
        index = torch.arange(len(n))[:, None] if self.text_index is None else self.text_index
        dots = torch.einsum("bid,bkjd->bkij", self.speech.double(), self.text.double()[index])
        generator = torch.Generator().manual_seed(3)
        drop = 0.5 + 0.4 * torch.rand(inverse_h.shape, generator=generator, dtype=torch.float64)
        intervals, _, _ = torch.ops.thaitool.dtw_path(
            *(dots, inverse_h, inverse_e, shift_h, shift_e, self.text_index, n, m, drop),
            *(None, 1.0, 0.0, False),
        )
        return inverse_h, inverse_e, intervals

    def backward(self, ops: Any, *needed: bool) -> tuple[Tensor, ...]:
        """Statistics and path on the CPU, the gradient by `ops`."""
        found: tuple[Tensor, ...] = ops.dtw_backward(
            *(self.grad, self.speech, self.text, self.speech_mean, self.text_mean),
            *self.statistics_and_intervals(),
            *(self.text_index, self.speech_lengths, self.text_lengths, self.token_weights),
            *needed,
        )
        return found


def rows(
    seed: int,
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    means: bool = True,
    places: int = 0,
    weighted: bool = False,
) -> Rows:
    """Three speeches of 21 frames, texts of 9 tokens."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    texts = 4 if places else 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Rows(
        draw(3, 21, width).to(dtype),
        draw(texts, 9, width).to(dtype),
        0.3 * draw(width).to(wide) if means else None,
        0.3 * draw(width).to(wide) if means else None,
        torch.randint(0, texts, (3, places), generator=generator) if places else None,
        torch.tensor([21, 13, 0]),
        torch.tensor([9, 5, 9, 0])[:texts],
        draw(3, max(places, 1)),
        draw(texts, 9).exp() if weighted else None,
    )


def assert_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """To the rounding of the sums, then of the narrow type."""
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if other.numel() > 0:
            tolerance = {torch.float64: 1e-13, torch.float32: 4e-6}.get(other.dtype, 1e-7)
            rtol = {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(other.dtype, 0.0)
            scale = max(float(other.double().nan_to_num(0, 0, 0).abs().max()), 1e-30)
            torch.testing.assert_close(
                *(one.double(), other.double()), rtol=rtol, atol=tolerance * scale, equal_nan=True
            )


ALL = (True, True, True, True)


@pytest.mark.parametrize("places", [0, 3])
@pytest.mark.parametrize("width", [1, 8, 33, 264])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient(dtype: torch.dtype, width: int, places: int, emulation: Emulation) -> None:
    given = rows(width, width if width > 1 else 2, dtype=dtype, places=places)
    wanted = given.backward(torch.ops.thaitool, *ALL)
    for seed in range(2):
        assert_close(given.backward(replace(emulation, seed=seed), *ALL), wanted, dtype)
    plain = replace(given, speech_mean=None, text_mean=None)
    assert_close(
        plain.backward(emulation, True, True, False, False),
        plain.backward(torch.ops.thaitool, True, True, False, False),
        dtype,
    )


@pytest.mark.parametrize("places", [0, 3])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_gradient_with_token_weights(
    dtype: torch.dtype, places: int, emulation: Emulation
) -> None:
    for width in (5, 40, 1030):
        given = rows(width, width, dtype=dtype, places=places, weighted=True)
        if width == 1030:  # in tiles
            given = replace(
                given, speech=given.speech[:, :5], speech_lengths=torch.tensor([5, 3, 0])
            )
        wanted = given.backward(torch.ops.thaitool, *ALL)
        found = given.backward(emulation, *ALL)
        assert_close(found, wanted, dtype)
        plain = replace(given, token_weights=None).backward(emulation, *ALL)
        assert all((one != other).any() for one, other in zip(found, plain, strict=True))


def test_token_weights_by_autograd(emulation: Emulation) -> None:
    given = rows(9, 12, dtype=torch.float64, places=3, weighted=True)
    assert given.speech_mean is not None
    assert given.text_mean is not None
    assert given.text_index is not None
    assert given.token_weights is not None
    *_, intervals = given.statistics_and_intervals()
    token = torch.arange(9)
    met = (intervals[..., :1] <= token) & (token < intervals[..., 1:])
    inputs = (given.speech, given.text, given.speech_mean, given.text_mean)
    h, e, u, v = (tensor.clone().requires_grad_() for tensor in inputs)
    cosine = torch.einsum(
        "bid,bkjd->bkij",
        torch.nn.functional.normalize(h - u, dim=-1),
        torch.nn.functional.normalize(e - v, dim=-1)[given.text_index],
    )
    weights = given.token_weights[given.text_index][:, :, None]
    loss = (given.grad[..., None, None] * weights * met * (1 - cosine)).sum()
    wanted = torch.autograd.grad(loss, (h, e, u, v))
    assert_close(given.backward(emulation, *ALL), wanted, torch.float64)


@pytest.mark.parametrize("places", [0, 3])
def test_a_token_weight_of_zero_hides_no_nan(places: int, emulation: Emulation) -> None:
    given = rows(10, 16, means=False, places=places, weighted=True)
    if places:
        given = replace(given, text_index=torch.tensor([[0, 1, 2], [0, 2, 1], [1, 2, 2]]))
    assert given.token_weights is not None
    given.token_weights[0, 2] = 0
    given.text[0, 2, 3] = float("nan")
    given.grad[1] = 0
    wanted = given.backward(torch.ops.thaitool, True, True, False, False)
    found = given.backward(emulation, True, True, False, False)
    assert_close(found, wanted, torch.float32)
    assert found[0][0].isnan().any()
    assert not found[0][0].isnan().all()
    assert (found[0][1] == 0).all()
    given = replace(given, text=given.text.nan_to_num(0.5))
    speech, text, *_ = given.backward(emulation, True, True, False, False)
    assert speech.isfinite().all()
    assert (text[0, 2] == 0).all()
    assert (text[0, 1] != 0).any()


@pytest.mark.parametrize("width", [1026, 2050, 2056])
def test_wide_rows_go_in_tiles(width: int, emulation: Emulation) -> None:
    given = rows(1, width, dtype=torch.float64)
    given = replace(given, speech=given.speech[:, :5], speech_lengths=torch.tensor([5, 3, 0]))
    assert_close(
        given.backward(emulation, *ALL),
        given.backward(torch.ops.thaitool, *ALL),
        torch.float64,
    )


@pytest.mark.parametrize("needed", list(itertools.product((False, True), repeat=4)))
def test_only_what_is_needed(needed: tuple[bool, ...], emulation: Emulation) -> None:
    given = rows(4, 24)
    assert_close(
        given.backward(emulation, *needed),
        given.backward(torch.ops.thaitool, *needed),
        torch.float32,
    )


def test_strides_and_addresses_that_packs_do_not_fit(emulation: Emulation) -> None:
    given = rows(5, 16)
    views = [
        given.speech.transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat([given.speech, given.speech], 2)[..., :16],
        torch.cat([given.speech[..., :1], given.speech], 2)[..., 1:],
        given.speech[:1].expand(3, 21, 16),
    ]
    assert [emulated.aligned(view) for view in views] == [True, True, False, True]
    for view in views:
        strided = replace(given, speech=view)
        assert_close(
            strided.backward(emulation, *ALL),
            strided.backward(torch.ops.thaitool, *ALL),
            torch.float32,
        )


def test_padding_zero_vectors_and_pairs_without_gradient_are_zero(emulation: Emulation) -> None:
    given = rows(6, 16, means=False)
    given.speech[0, 3] = 0
    given.speech[1, 13:] = float("nan")
    given.text[1, 5:] = float("nan")
    given.speech[1, 2] = float("nan")
    given.grad[1] = 0
    speech, text, _, _ = given.backward(emulation, True, True, False, False)
    assert (speech[0, 3] == 0).all()
    assert (speech[1:] == 0).all()
    assert (text[1:] == 0).all()
    assert (speech[0, :3] != 0).any()
    assert text.isfinite().all()


@pytest.mark.parametrize("scale", [1e-20, 1e20, 1e-39])
def test_norms_at_the_ends_of_float(scale: float, emulation: Emulation) -> None:
    given = rows(7, 16, means=False)
    small = replace(given, text=given.text * scale, grad=given.grad)
    wanted = given.backward(torch.ops.thaitool, True, False, False, False)
    rough = 1e-5 if scale > 1e-38 else 0.2  # denormal numbers have few bits
    found = small.backward(emulation, True, False, False, False)
    torch.testing.assert_close(found[0], wanted[0], rtol=rough, atol=rough)


def test_an_interval_that_leaves_the_text_stops_the_kernel(emulation: Emulation) -> None:
    given = rows(8, 8, means=False)
    ones = torch.ones(3, 21, dtype=torch.float64), torch.ones(3, 9, dtype=torch.float64)
    intervals = torch.zeros(3, 1, 21, 2, dtype=torch.int32)
    intervals[0, 0, 4, 1] = 10
    lengths = given.speech_lengths, given.text_lengths
    with pytest.raises(RuntimeError, match="an interval leaves the text"):
        emulation.dtw_backward(
            *(given.grad, given.speech, given.text, None, None, *ones, intervals, None, *lengths),
            *(None, True, False, False, False),
        )


@pytest.mark.parametrize("width", [1, 8, 100, 264])
@pytest.mark.parametrize("dtype", FLOATS)
def test_statistics(dtype: torch.dtype, width: int, emulation: Emulation) -> None:
    given = rows(width, width, dtype=dtype)
    given.speech[0, 0] = 0
    given.speech[0, 1, 0] = float("inf")
    given.speech[0, 2] *= 1e-4
    u, v, n = given.speech_mean, given.text_mean, given.speech_lengths
    for own, other, centre in ((u, v, False), (u, v, True), (None, None, False)):
        wanted = torch.ops.thaitool.dtw_statistics(given.speech, own, other, n, centre)
        found = emulation.dtw_statistics(given.speech, own, other, n, centre)
        for one, reference in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, reference, rtol=1e-12, atol=1e-12, equal_nan=True)
    with pytest.raises(RuntimeError, match="length is out of range"):
        emulation.dtw_statistics(given.speech, u, v, n + 1, False)
