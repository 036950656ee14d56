"""Hard DTW alignment loss between speech frames and text tokens. Not a training recipe.

Plain minimal DTW collapses (every frame becomes one vector, at a low loss); what prevents that is
in `thaitool.training`. The kernels are C++, the definition is `thaitool.ops.reference`.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thaitool.errors import InputError, OpNotBuiltError
from thaitool.ops.reference import reference_alignment

BUILD_COMMAND = "pip install --no-build-isolation -e ."
#: Bound of the workspace for dot products and widened inputs; a larger batch goes in chunks.
WORKSPACE_BYTES = 64 * 2**20
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CHOICES = {
    "steps": ("dtw", "monotonic"),
    "normalizer": ("path", "sum_lengths"),
    "reduction": ("none", "mean", "sum"),
    "backend": ("kernel", "reference"),
}


@dataclass(frozen=True)
class DTWAlignment:
    """Loss and path of a batch of pairs."""

    loss: Tensor
    """Shape [B], or [] after a reduction; float64 for float64 inputs, otherwise float32."""
    intervals: Tensor
    """Tokens start..end of each frame, end exclusive: int32 [B, I, 2]; (0, 0) in the padding."""
    path_length: Tensor
    """Number of cells on the path: int32 [B]."""


def dtw_alignment(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    band: float | None = None,
    prior: float = 0.0,
    steps: Literal["dtw", "monotonic"] = "dtw",
    normalizer: Literal["path", "sum_lengths"] = "path",
    reduction: Literal["none", "mean", "sum"] = "none",
    backend: Literal["kernel", "reference"] = "kernel",
) -> DTWAlignment:
    """Hard DTW loss under cosine cost, one number per pair, and the path that gives it.

    cost[i, j] = 1 - cos(speech[i], text[j]). A path P runs from (0, 0) to (n-1, m-1), where n and m
    are the lengths of the pair, by the steps diagonal (next frame, next token), frame (next frame,
    same token) and token (same frame, next token), and minimises the *sum* of costs:

        loss = sum of cost over P / number of cells of P

    Tie rule: of paths with equal sums, the one that, seen from its end, steps diagonally rather
    than by frame, and by frame rather than by token. The loss depends on it, because such paths
    may differ in length.

    Args:
        speech: Frames [B, I, D], float32, float64, bfloat16 or float16; not normalised.
        text: Tokens [B, J, D] of the same dtype and device.
        speech_lengths: Valid frames n of each pair [B], int32 or int64, 0 <= n <= I.
        text_lengths: Valid tokens m of each pair [B], likewise. m > n is legal with steps="dtw".
        band: None, or the half width of a band around the straight line, as a share of the length:
            |i / (n-1) - j / (m-1)| <= band. A band that may be too narrow for any path is widened
            to half a cell of the shorter side, which always has one. From 1 on, no band.
        prior: Weight of (i / n - j / m)**2, added to the cost that selects P, not to the loss.
        steps: "monotonic" drops the token step: each frame has exactly one token.
        normalizer: What the sum is divided by: "path", the cells of P; "sum_lengths", n + m.
        reduction: "mean" or "sum" over the pairs of the batch, empty pairs included. The mean of
            a batch without pairs is NaN, as in torch.
        backend: "kernel" is compiled; "reference" is the slow definition, for every device.

    Returns:
        `DTWAlignment`. A pair without frames or tokens: loss 0, gradient 0, path length 0.

    Gradient:
        To `speech` and, if it requires one, to `text`, with P held constant; first order only.
        Exactly 0 in the padding, whatever the padding holds. A zero vector has cos = 0 and gradient
        0. A pair with NaN or Inf in its valid part has loss NaN and intervals without meaning, in
        bounds; it does not touch other pairs. Where the gradient of a pair's loss is 0, the kernel
        returns 0 for that pair, NaN or not.

    Raises:
        InputError: An argument has the wrong shape, dtype, device or value, or a pair has more
            tokens than frames under "monotonic". The message has the numbers.
        OpNotBuiltError: No kernel for this device; the message has the build command.

    Note:
        Dot products are a GEMM in float32 (float64 for float64) even under autocast, and the
        product of two norms must stay in its range. A float32 path may differ from the reference
        where sums differ by less than rounding. Under `torch.compile` the kernel checks the values
        of the lengths (RuntimeError). The kernel copies inputs that are not contiguous.

    Source: U-Align, arXiv:2509.14804.
    """
    _check_options(
        band, prior, steps=steps, normalizer=normalizer, reduction=reduction, backend=backend
    )
    _check_tensors(speech, text, speech_lengths, text_lengths)
    monotonic = steps == "monotonic"
    # Reading values would break the graph of torch.compile; the kernel checks them as well.
    if not torch.compiler.is_compiling():
        _check_lengths(speech, text, speech_lengths, text_lengths, monotonic=monotonic)
    width = 1.0 if band is None else float(band)
    if backend == "reference":
        cost, intervals, path_length = reference_alignment(
            speech, text, speech_lengths, text_lengths, band=width, prior=prior, monotonic=monotonic
        )
    else:
        problem = kernel_problem(speech.device)
        if problem is not None:
            raise OpNotBuiltError(problem)
        n = speech_lengths.to(speech.device, torch.int64).contiguous()
        m = text_lengths.to(speech.device, torch.int64).contiguous()
        cost, intervals, path_length, _, _ = torch.ops.thaitool.dtw_forward(
            speech, text, n, m, band=width, prior=float(prior), monotonic=monotonic
        )
    cells = path_length if normalizer == "path" else speech_lengths + text_lengths
    loss = cost / cells.to(cost.device).clamp(min=1)
    if reduction != "none":
        loss = loss.mean() if reduction == "mean" else loss.sum()
    dtype = torch.float64 if speech.dtype == torch.float64 else torch.float32
    return DTWAlignment(loss.to(dtype), intervals, path_length)


def kernel_problem(device: torch.device) -> str | None:
    """Why `backend="kernel"` cannot run on this device, with what to do; None if it can."""
    if device.type != "cpu":
        return (
            f"thaitool.ops has no DTW kernel for {device.type} tensors: this version has a CPU "
            "kernel only. Move the tensors to the CPU, or pass "
            'backend="reference", which is slow but works anywhere.'
        )
    if LOAD_PROBLEM is None:
        return None
    return (
        f"The DTW kernel of thaitool.ops is not available: {LOAD_PROBLEM}. Build it with "
        f"`{BUILD_COMMAND}` in a checkout of thaitool, or pass "
        'backend="reference", which is slow but works anywhere.'
    )


def _load_binary() -> str | None:
    """Load `thaitool.ops._C`, which registers the C++ ops; returns what went wrong, or None."""
    spec = importlib.util.find_spec("thaitool.ops._C")
    if spec is None or spec.origin is None:
        return "thaitool.ops._C has not been built for this Python and platform"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except (
        OSError
    ) as error:  # kept for the message of the first call: importing must work without it
        return f"{spec.origin} cannot be loaded ({error})"
    return None


def _check_options(band: float | None, prior: float, **choices: str) -> None:
    for name, value in choices.items():
        if value not in CHOICES[name]:
            allowed = ", ".join(CHOICES[name])
            raise InputError(f"{name} must be one of {allowed}, but is {value!r}.")
    if band is not None and not band >= 0:
        raise InputError(f"band must be None or a number of at least 0, but is {band!r}.")
    if not 0 <= prior < math.inf:
        raise InputError(f"prior must be a finite number of at least 0, but is {prior!r}.")


def _check_tensors(
    speech: Tensor, text: Tensor, speech_lengths: Tensor, text_lengths: Tensor
) -> None:
    for name, vectors in (("speech", speech), ("text", text)):
        if vectors.dim() != 3:
            raise InputError(
                f"{name} must have 3 axes (batch, length, width), but has shape "
                f"{tuple(vectors.shape)}."
            )
        if vectors.dtype not in DTYPES:
            raise InputError(
                f"{name} must be float32, float64, bfloat16 or float16, but is {vectors.dtype}."
            )
    if speech.shape[0] != text.shape[0] or speech.shape[2] != text.shape[2]:
        raise InputError(
            "speech and text must agree in batch size and width, but have shapes "
            f"{tuple(speech.shape)} and {tuple(text.shape)}."
        )
    if speech.dtype != text.dtype or speech.device != text.device:
        raise InputError(
            f"speech and text must agree in dtype and device, but are {speech.dtype} on "
            f"{speech.device} and {text.dtype} on {text.device}. Convert one of them first."
        )
    for name, lengths in (("speech_lengths", speech_lengths), ("text_lengths", text_lengths)):
        if lengths.shape != speech.shape[:1] or lengths.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"{name} must be int32 or int64 of shape ({speech.shape[0]},), but is "
                f"{lengths.dtype} of shape {tuple(lengths.shape)}."
            )


def _check_lengths(
    speech: Tensor, text: Tensor, speech_lengths: Tensor, text_lengths: Tensor, *, monotonic: bool
) -> None:
    frames = speech_lengths.tolist()
    tokens = text_lengths.tolist()
    for name, values, limit in (
        ("speech_lengths", frames, speech.shape[1]),
        ("text_lengths", tokens, text.shape[1]),
    ):
        for b, value in enumerate(values):
            if not 0 <= value <= limit:
                raise InputError(f"{name} must be in 0..{limit}, but is {value} for pair {b}.")
    for b, (n, m) in enumerate(zip(frames, tokens, strict=True)):
        if monotonic and m > n > 0:
            raise InputError(
                'steps="monotonic" needs at least as many frames as tokens, but pair '
                f'{b} has {n} frames and {m} tokens. Drop the pair, or use steps="dtw".'
            )


@torch.library.custom_op("thaitool::dtw_forward", mutates_args=(), device_types="cpu")
def _forward(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    band: float,
    prior: float,
    monotonic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Path costs float64 [B], intervals, path lengths, inverse norms float64 [B, I] and [B, J]."""
    inverse_h = torch.ops.thaitool.dtw_inverse_norms(speech, speech_lengths)
    inverse_e = torch.ops.thaitool.dtw_inverse_norms(text, text_lengths)
    pairs, frames, width = speech.shape
    tokens = text.shape[1]
    accumulate = torch.float64 if speech.dtype == torch.float64 else torch.float32
    widened = 0 if speech.dtype == accumulate else (frames + tokens) * width
    pair_bytes = accumulate.itemsize * (frames * tokens + widened)
    chunk = max(1, WORKSPACE_BYTES // max(1, pair_bytes))
    parts = []
    # autocast reaches into this function and would give the path the precision of bfloat16
    with torch.autocast(device_type=speech.device.type, enabled=False):
        for start in range(0, max(pairs, 1), chunk):
            rows = slice(start, start + chunk)
            h, e = speech[rows].to(accumulate), text[rows].to(accumulate)
            parts.append(
                torch.ops.thaitool.dtw_path(
                    torch.bmm(h, e.transpose(1, 2)),
                    *(inverse_h[rows], inverse_e[rows], speech_lengths[rows], text_lengths[rows]),
                    *(band, prior, monotonic),
                )
            )
    intervals, path_length, cost = (torch.cat(part) for part in zip(*parts, strict=True))
    return cost, intervals, path_length, inverse_h, inverse_e


@_forward.register_fake
def _forward_fake(
    speech: Tensor, text: Tensor, *_: Any, **_options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        speech.new_empty(speech.shape[:1], dtype=torch.float64),
        speech.new_empty((*speech.shape[:2], 2), dtype=torch.int32),
        speech.new_empty(speech.shape[:1], dtype=torch.int32),
        speech.new_empty(speech.shape[:2], dtype=torch.float64),
        speech.new_empty(text.shape[:2], dtype=torch.float64),
    )


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...], **_: Any) -> None:
    speech, text, speech_lengths, text_lengths = inputs
    intervals, path_length, inverse_h, inverse_e = output[1:]
    ctx.mark_non_differentiable(intervals, path_length, inverse_h, inverse_e)
    ctx.save_for_backward(
        speech, text, inverse_h, inverse_e, intervals, speech_lengths, text_lengths
    )


def _backward(ctx: Any, grad_cost: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    need_speech, need_text = ctx.needs_input_grad[:2]
    grad_speech, grad_text = torch.ops.thaitool.dtw_backward(
        grad_cost, *ctx.saved_tensors, need_speech, need_text
    )
    return (grad_speech if need_speech else None, grad_text if need_text else None, None, None)


def _norms_fake(vectors: Tensor, *_: Any) -> Tensor:
    return vectors.new_empty(vectors.shape[:2], dtype=torch.float64)


def _path_fake(dots: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        dots.new_empty((*dots.shape[:2], 2), dtype=torch.int32),
        dots.new_empty(dots.shape[:1], dtype=torch.int32),
        dots.new_empty(dots.shape[:1], dtype=torch.float64),
    )


def _backward_fake(_: Tensor, speech: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_speech, need_text = rest[-2:]
    return (
        speech.new_empty(speech.shape if need_speech else (0,)),
        text.new_empty(text.shape if need_text else (0,)),
    )


def _no_second_derivative(*_: Any) -> None:
    raise InputError("The DTW alignment loss can be differentiated once, not twice.")


_forward.register_autograd(_backward, setup_context=_save)
LOAD_PROBLEM = _load_binary()
if LOAD_PROBLEM is None:
    torch.library.register_fake("thaitool::dtw_inverse_norms", _norms_fake)
    torch.library.register_fake("thaitool::dtw_path", _path_fake)
    torch.library.register_fake("thaitool::dtw_backward", _backward_fake)
    torch.library.register_autograd("thaitool::dtw_backward", _no_second_derivative)
