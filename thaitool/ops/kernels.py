"""The compiled DTW kernels as torch operators: loading, shapes for the compiler, gradient. No checks of arguments.

`thaitool.ops.dtw` is the public face. The binaries are `thaitool.ops._C` (the definitions and the
CPU kernels) and, where a CUDA toolkit was found at build time, `thaitool.ops._cuda`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from thaitool.errors import InputError

BUILD_COMMAND = "pip install --no-build-isolation -e ."
#: Bound of the workspace for dot products and widened inputs, by device; a larger batch goes in chunks.
WORKSPACE_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}


def kernel_problem(device: torch.device) -> str | None:
    """Why the kernels cannot run on this device, with what to do; None if they can."""
    if device.type not in WORKSPACE_BYTES:
        return (
            f"thaitool.ops has no DTW kernel for {device.type} tensors, only for CPU and CUDA. Move "
            'the tensors there, or pass backend="reference", which is slow but works anywhere.'
        )
    problem = LOAD_PROBLEM or (CUDA_PROBLEM if device.type == "cuda" else None)
    if problem is None:
        return None
    build = f"THAITOOL_CUDA=1 {BUILD_COMMAND}" if device.type == "cuda" else BUILD_COMMAND
    return (
        f"The {device.type.upper()} kernel of thaitool.ops is not available: {problem}. Build it "
        f'with `{build}` in a checkout of thaitool, or pass backend="reference", which is slow but '
        "works anywhere."
    )


def load_binary(name: str) -> str | None:
    """Load a binary, which registers its ops; returns what went wrong, or None."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return f"{name} has not been built for this Python and platform"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:
        # Kept for the message of the first call: importing must work without it.
        return f"{spec.origin} cannot be loaded ({error})"
    return None


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over float64 and over all other inputs are made of."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("thaitool::dtw_forward", mutates_args=(), device_types=("cpu", "cuda"))
def _forward(
    speech: Tensor,
    text: Tensor,
    speech_mean: Tensor | None,
    text_mean: Tensor | None,
    drop_cost: Tensor | None,
    text_weights: Tensor | None,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    text_index: Tensor | None,
    band: Tensor,
    prior: Tensor,
    *,
    monotonic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Path costs float64 [B, K], intervals, path lengths, inverse norms float64 [B, I] and [C, J].

    `band` and `prior` are float64 [] on the CPU: `torch.compile` would compile anew for every value
    of a float, and both are annealed.
    """
    ops = torch.ops.thaitool
    inverse_h, shift_h = ops.dtw_statistics(speech, speech_mean, text_mean, speech_lengths, False)
    inverse_e, shift_e = ops.dtw_statistics(text, text_mean, speech_mean, text_lengths, True)
    parts = []
    # autocast reaches into this function and would give the path the precision of bfloat16
    with torch.autocast(device_type=speech.device.type, enabled=False):
        for rows, dots in _dot_products(speech, text, text_index):
            texts = rows if text_index is None else slice(None)
            parts.append(
                ops.dtw_path(
                    dots,
                    *(inverse_h[rows], inverse_e[texts], shift_h[rows], shift_e[texts]),
                    None if text_index is None else text_index[rows],
                    speech_lengths[rows],
                    text_lengths[texts],
                    None if drop_cost is None else drop_cost[rows],
                    None if text_weights is None else text_weights[texts],
                    *(band.item(), prior.item(), monotonic),
                )
            )
            del dots  # or a chunk would still be there while the next one is made
    # An output of a custom op must not be a view; one chunk is the usual case and needs no copy.
    intervals, path_length, cost = (
        part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True)
    )
    return cost, intervals, path_length, inverse_h, inverse_e


def _dot_products(
    speech: Tensor, text: Tensor, text_index: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of the batch: rows, and dot products [rows, K, I, J] in the accumulating dtype.

    A chunk reuses the memory of the one before it.
    """
    pairs, frames, width = speech.shape
    places, tokens = 1 if text_index is None else text_index.shape[1], text.shape[1]
    wide = accumulate_dtype(speech.dtype)
    on_cuda = speech.device.type == "cuda"
    copied = 0  # bytes per speech that are not dot products
    if on_cuda and text_index is not None:
        copied = places * tokens * width * text.element_size()
    elif not on_cuda and speech.dtype != wide:
        copied = (frames + tokens) * width * wide.itemsize
    each = places * frames * tokens * wide.itemsize + copied
    chunk = max(1, min(pairs, WORKSPACE_BYTES[speech.device.type] // max(1, each)))
    space = None if on_cuda else speech.new_empty((chunk, places, frames, tokens), dtype=wide)
    for start in range(0, max(pairs, 1), chunk):
        rows = slice(start, min(start + chunk, pairs))
        h = speech[rows]
        if space is not None:
            dots = space[: len(h)]
            _multiply_on_cpu(h, text, text_index, rows, dots)
        elif text_index is None:
            dots = _multiply_on_cuda(h, text[rows])[:, None]
        else:
            e = text[text_index[rows]].flatten(1, 2)
            dots = _multiply_on_cuda(h, e).view(len(h), frames, places, tokens).transpose(1, 2)
            del e
        yield rows, dots
        del dots


def _multiply_on_cpu(
    speech: Tensor, text: Tensor, text_index: Tensor | None, rows: slice, dots: Tensor
) -> None:
    """Fill dots [rows, K, I, J]; `speech` holds these rows only. With an index, nothing is copied."""
    if text_index is None:
        torch.bmm(speech.to(dots.dtype), text[rows].to(dots.dtype).mT, out=dots[:, 0])
        return
    for b, texts in enumerate(text_index[rows].tolist()):
        h = speech[b].to(dots.dtype)
        for k, c in enumerate(texts):
            torch.mm(h, text[c].to(dots.dtype).mT, out=dots[b, k])


def _multiply_on_cuda(speech: Tensor, text: Tensor) -> Tensor:
    """Dot products [B, I, J]; a GEMM on CUDA widens while it accumulates, so nothing is converted."""
    wide = accumulate_dtype(speech.dtype)
    if speech.dtype == wide:
        return torch.bmm(speech, text.mT)
    return torch.bmm(speech, text.mT, out_dtype=wide)


def _dropped(intervals: Tensor, path_length: Tensor, speech_lengths: Tensor) -> Tensor:
    """Frames that a path leaves out, bool [B, K, I]."""
    inside = torch.arange(intervals.shape[2], device=intervals.device) < speech_lengths[:, None]
    empty = intervals[..., 0] == intervals[..., 1]
    return empty & inside[:, None] & (path_length > 0)[..., None]


@_forward.register_fake
def _forward_fake(
    speech: Tensor, text: Tensor, *rest: Any, **_options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    text_index = rest[6]
    pairs, frames = speech.shape[:2]
    places = 1 if text_index is None else text_index.shape[1]
    return (
        speech.new_empty((pairs, places), dtype=torch.float64),
        speech.new_empty((pairs, places, frames, 2), dtype=torch.int32),
        speech.new_empty((pairs, places), dtype=torch.int32),
        speech.new_empty(speech.shape[:2], dtype=torch.float64),
        speech.new_empty(text.shape[:2], dtype=torch.float64),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], **_: Any) -> None:
    speech, text, speech_mean, text_mean, drop_cost, text_weights, n, m, text_index = inputs[:9]
    cost, intervals, path_length, inverse_h, inverse_e = output
    ctx.mark_non_differentiable(intervals, path_length, inverse_h, inverse_e)
    ctx.set_materialize_grads(False)  # or four tables of zeros would be made for nothing
    ctx.save_for_backward(
        *(speech, text, speech_mean, text_mean, inverse_h, inverse_e, intervals),
        *(text_index, n, m, path_length, text_weights),
        None if drop_cost is None else cost.detach(),
    )


def _backward(ctx: Any, grad_cost: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    constants = (None,) * 6  # weights, lengths, index, band and prior
    if grad_cost is None:
        return (None,) * 5 + constants
    *saved, path_length, text_weights, cost = ctx.saved_tensors
    *needed, need_drop = ctx.needs_input_grad[:5]
    if cost is not None:
        # A path that drops frames need not pass through the bad vector that made its cost NaN.
        bad = cost.isnan() & (grad_cost != 0)
        grad_cost = grad_cost.masked_fill(bad, torch.nan)
    grads: tuple[Tensor, ...] = (grad_cost,) * 4
    if any(needed):
        backward = torch.ops.thaitool.dtw_backward
        grads = backward(grad_cost.contiguous(), *saved, text_weights, *needed)
    grad_drop = None
    if need_drop:
        dropped = _dropped(saved[6], path_length, saved[8])
        grad_drop = torch.where(dropped, grad_cost[..., None], 0.0).sum(1)
    given = [g if need else None for g, need in zip(grads, needed, strict=True)]
    return (*given, grad_drop, *constants)


def _statistics_fake(vectors: Tensor, own_mean: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    shape = vectors.shape[:2]
    return (
        vectors.new_empty(shape, dtype=torch.float64),
        vectors.new_empty((0, 0) if own_mean is None else shape, dtype=torch.float64),
    )


def _path_fake(dots: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        dots.new_empty((*dots.shape[:3], 2), dtype=torch.int32),
        dots.new_empty(dots.shape[:2], dtype=torch.int32),
        dots.new_empty(dots.shape[:2], dtype=torch.float64),
    )


def _backward_fake(_: Tensor, speech: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    need_speech, need_text, need_speech_mean, need_text_mean = rest[-4:]
    wide, width = accumulate_dtype(speech.dtype), speech.shape[2]
    return (
        speech.new_empty(speech.shape if need_speech else (0,)),
        text.new_empty(text.shape if need_text else (0,)),
        speech.new_empty((width if need_speech_mean else 0,), dtype=wide),
        speech.new_empty((width if need_text_mean else 0,), dtype=wide),
    )


def _no_second_derivative(*_: Any) -> None:
    raise InputError("The DTW alignment loss can be differentiated once, not twice.")


_forward.register_autograd(_backward, setup_context=_save)
LOAD_PROBLEM = load_binary("thaitool.ops._C")
CUDA_PROBLEM = LOAD_PROBLEM or load_binary("thaitool.ops._cuda")
if LOAD_PROBLEM is None:
    torch.library.register_fake("thaitool::dtw_statistics", _statistics_fake)
    torch.library.register_fake("thaitool::dtw_path", _path_fake)
    torch.library.register_fake("thaitool::dtw_backward", _backward_fake)
    torch.library.register_autograd("thaitool::dtw_backward", _no_second_derivative)
