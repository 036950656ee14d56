"""A strided convolution over a long sequence of frames as matrix products, without transposing and without im2col.

Knows no model. A kernel of k taps and stride s is cut into runs of at most s taps: the inputs of one run for all
outputs lie s rows apart and do not overlap, so each run is one product on the tensor as it is. Libraries want
channels-by-frames instead, which a layer norm between the convolutions turns into four copies per layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def strided_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Output frame i is the convolution's at input frame i * stride, shape (R / stride, D).

    The last ceil(k / stride) - 1 frames would need input beyond the end and hold nothing of use.

    Args:
        x: Shape (R, C), R a multiple of the stride.
        weight: Shape (D, C, k), as of `nn.Conv1d`.
        bias: Shape (D,) or None.
        stride: Input frames per output frame.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[1] == 1:
        return _of_one_channel(x, weight, bias, stride)
    out: Tensor = _Strided.apply(x, weight, bias, stride)  # type: ignore[no-untyped-call]
    return out


def _of_one_channel(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Of a wave the taps are so few that copying them costs little, while products of 5 columns would cost much."""
    k = weight.shape[2]
    # Tensor cores take rows of whole 16 bytes.
    width = -(-k // 8) * 8
    taps = functional.pad(x[:, 0], (0, width - stride)).unfold(0, width, stride)
    return functional.linear(taps, functional.pad(weight[:, 0], (0, width - k)), bias)


def _runs(k: int, stride: int) -> list[tuple[int, int]]:
    return [(start, min(start + stride, k)) for start in range(0, k, stride)]


def _inputs(x: Tensor, number: int, stride: int, taps: int) -> Tensor:
    """The inputs of run `number`, shape (outputs that have them, taps * C): a view, row i at frame (i + number) * s."""
    R, C = x.shape
    start = x.storage_offset() + number * stride * C
    return x.as_strided((R // stride - number, taps * C), (stride * C, 1), start)


class _Strided(torch.autograd.Function):
    """The products of all runs; autograd would copy the output for each run that is added to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        out: Tensor | None = None
        for number, (start, end) in enumerate(_runs(weight.shape[2], stride)):
            taps = _inputs(x, number, stride, end - start)
            matrix = weight[:, :, start:end].permute(2, 1, 0).reshape(-1, len(weight))
            if out is None:
                out = taps @ matrix if bias is None else torch.addmm(bias, taps, matrix)
            else:
                out[: len(taps)].addmm_(taps, matrix)
        assert out is not None  # noqa: S101  (a kernel has a tap)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, d_out = ctx.stride, gradients[0].contiguous()
        D, C, k = weight.shape
        d_x = torch.zeros_like(x) if ctx.needs_input_grad[0] and k < stride else None
        runs = []
        for number, (start, end) in enumerate(_runs(k, stride)):
            d_part = d_out[: len(d_out) - number]
            taps = _inputs(x, number, stride, end - start)
            runs.append((taps.t() @ d_part).view(end - start, C, D))
            if not ctx.needs_input_grad[0]:
                continue
            matrix = weight[:, :, start:end].permute(0, 2, 1).reshape(D, -1)
            if d_x is None:  # the first run covers every input frame
                d_x = (d_part @ matrix).view(-1, C)
            else:
                _inputs(d_x, number, stride, end - start).addmm_(d_part, matrix)
        d_weight = torch.cat(runs).permute(2, 1, 0)
        d_bias = d_out.sum(0) if ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias, None
