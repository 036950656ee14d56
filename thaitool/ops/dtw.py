"""Hard DTW alignment loss between speech frames and text tokens. Not a training recipe.

Plain minimal DTW collapses (every frame becomes one vector, at a low loss); what prevents that is
in `thaitool.models.alignment`. The kernels are C++ and CUDA (`thaitool.ops.kernels`), the
definition is `thaitool.ops.reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from thaitool.errors import InputError, OpNotBuiltError
from thaitool.ops.kernels import accumulate_dtype, kernel_problem
from thaitool.ops.reference import reference_alignment

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CHOICES = {
    "steps": ("dtw", "monotonic"),
    "normalizer": ("path", "sum_lengths"),
    "reduction": ("none", "mean", "sum"),
    "backend": ("kernel", "reference"),
}


@dataclass(frozen=True)
class DTWAlignment:
    """Loss and path of a batch of pairs; [B] becomes [B, K] where `text_index` was given."""

    loss: Tensor
    """Shape [B], or [] after a reduction; float64 for float64 inputs, otherwise float32."""
    intervals: Tensor
    """Tokens start..end of each frame, end exclusive: int32 [B, I, 2]; empty for a dropped frame,
    (0, 0) in the padding."""
    path_length: Tensor
    """Number of cells on the path and of dropped frames: int32 [B]."""


def dtw_alignment(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    speech_mean: Tensor | None = None,
    text_mean: Tensor | None = None,
    text_index: Tensor | None = None,
    drop_cost: Tensor | float | None = None,
    text_weights: Tensor | None = None,
    band: float | None = None,
    prior: float = 0.0,
    steps: Literal["dtw", "monotonic"] = "dtw",
    normalizer: Literal["path", "sum_lengths"] = "path",
    reduction: Literal["none", "mean", "sum"] = "none",
    backend: Literal["kernel", "reference"] = "kernel",
) -> DTWAlignment:
    """Hard DTW loss under cosine cost, one number per pair, and the path that gives it.

    cost[i, j] = 1 - cos(speech[i] - speech_mean, text[j] - text_mean). A path P runs from (0, 0) to
    (n-1, m-1), where n and m are the lengths of the pair, by the steps diagonal (next frame, next
    token), frame (next frame, same token) and token (same frame, next token), and minimises the
    *sum* of costs:

        loss = sum of cost over P / number of cells of P

    With `drop_cost` a path may leave out frames, and "next frame" is the next frame it keeps. The
    price of each is a term of the sum and counts as a cell.

    Tie rule: of paths with equal sums, the one that, seen from its end, matches a frame rather than
    drops it, and steps diagonally rather than by frame, and by frame rather than by token. The loss
    depends on it, because such paths may differ in length.

    Args:
        speech: Frames [B, I, D], float32, float64, bfloat16 or float16; not normalised.
        text: Tokens [B, J, D] of the same dtype and device; [C, J, D] with `text_index`.
        speech_lengths: Valid frames n of each speech [B], int32 or int64, 0 <= n <= I.
        text_lengths: Valid tokens m of each text [B] or [C], likewise. m > n is legal with
            steps="dtw".
        speech_mean: Subtracted from every frame [D], without a copy of `speech`; any floating
            dtype. None is zero.
        text_mean: Subtracted from every token [D], likewise.
        text_index: Cross pairs: int64 [B, K], pair (b, k) is speech b with text text_index[b, k].
            On CUDA the texts of a chunk are gathered for the GEMM; the speech is never copied.
        drop_cost: Price of leaving out a frame: a number of at least 0, or a tensor [B, I], whose
            values are not checked. None: no frame may be left out.
        text_weights: Weight of each token in the loss [B, J] ([C, J] with `text_index`), any
            floating dtype: its cells count weight * cost. Neither path nor path length change, and
            drop costs are not weighted. A constant.
        band: None, or the half width of a band around the straight line, as a share of the length:
            |i / (n-1) - j / (m-1)| <= band. A band that may be too narrow for any path is widened
            to half a cell of the shorter side, which always has one. From 1 on, no band.
        prior: Weight of (i / n - j / m)**2, added to the cost that selects P, not to the loss.
        steps: "monotonic" drops the token step: each frame has at most one token.
        normalizer: What the sum is divided by: "path", the cells of P; "sum_lengths", n + m.
        reduction: "mean" or "sum" over the pairs of the batch, empty pairs included. The mean of
            a batch without pairs is NaN, as in torch.
        backend: "kernel" is compiled; "reference" is the slow definition, for every device.

    Returns:
        `DTWAlignment`. A pair without frames or tokens: loss 0, gradient 0, path length 0.

    Gradient:
        To `speech` and, where they require one, to `text`, the means and `drop_cost`, with P held
        constant; first order only. Exactly 0 in the padding, whatever the padding holds. A vector
        that is zero (after centring) has cos = 0 and gradient 0. A pair with NaN or Inf in its
        valid part has loss NaN and intervals without meaning, in bounds; it does not touch other
        pairs. Where the gradient of a pair's loss is 0, the kernel returns 0 for that pair, NaN or
        not.

    Raises:
        InputError: An argument has the wrong shape, dtype, device or value, or a pair has more
            tokens than frames under "monotonic". The message has the numbers.
        OpNotBuiltError: No kernel for this device; the message has the build command.

    Note:
        Dot products are a GEMM in float32 (float64 for float64) even under autocast; on CUDA it
        obeys torch's switch for TF32. Centring corrects the GEMM, so a mean should not be thousands
        of times longer than what is left without it, and the product of two norms must stay in
        range. A float32 path may differ from the reference where sums differ by less than rounding.
        Lengths and indices that live on a GPU are checked there, without waiting for it (a
        device-side assertion, as in torch's own indexing); under `torch.compile` the kernel checks
        them (RuntimeError). To capture a CUDA graph, put them on the GPU before. Inputs whose last
        axis is not dense are copied.

    Source: U-Align, arXiv:2509.14804; dropping as in Drop-DTW, arXiv:2108.11996.
    """
    _check_options(
        band, prior, steps=steps, normalizer=normalizer, reduction=reduction, backend=backend
    )
    _check_tensors(speech, text, speech_lengths, text_lengths, text_index)
    means = _checked_means(speech, speech_mean, text_mean)
    drop = _checked_drop_cost(speech, drop_cost)
    weights = _checked_weights(text, text_weights)
    monotonic = steps == "monotonic"
    # Reading values would break the graph of torch.compile; the kernel checks them as well.
    if not torch.compiler.is_compiling():
        _refuse_forward_mode(speech, text, speech_mean, text_mean, drop_cost)
        _check_values(speech, text, speech_lengths, text_lengths, text_index, monotonic=monotonic)
    width = 1.0 if band is None else float(band)
    n = _moved(speech_lengths, speech.device)
    m = _moved(text_lengths, speech.device)
    index = None if text_index is None else _moved(text_index, speech.device)
    if backend == "reference":
        cost, intervals, path_length = reference_alignment(
            *(speech, text, n, m),
            speech_mean=means[0],
            text_mean=means[1],
            text_index=index,
            drop_cost=drop,
            text_weights=weights,
            band=width,
            prior=prior,
            monotonic=monotonic,
        )
    else:
        problem = kernel_problem(speech.device)
        if problem is not None:
            raise OpNotBuiltError(problem)
        cost, intervals, path_length, _, _ = torch.ops.thaitool.dtw_forward(
            *(_dense(speech), _dense(text), *means, drop, weights, n, m, index),
            torch.full((), width, dtype=torch.float64),
            torch.full((), prior, dtype=torch.float64),
            monotonic=monotonic,
        )
    cells = path_length
    if normalizer == "sum_lengths":
        cells = n[:, None] + (m[:, None] if index is None else m[index])
    loss = (cost / cells.clamp(min=1)).to(accumulate_dtype(speech.dtype))
    if reduction != "none":
        loss = loss.mean() if reduction == "mean" else loss.sum()
    elif index is None:
        loss = loss.squeeze(1)
    if index is None:
        intervals, path_length = intervals.squeeze(1), path_length.squeeze(1)
    return DTWAlignment(loss, intervals, path_length)


def _moved(integers: Tensor, device: torch.device) -> Tensor:
    # A copy to a GPU need not wait for what the GPU is doing; a copy from one must.
    to_gpu = device.type == "cuda"
    return integers.to(device, torch.int64, non_blocking=to_gpu).contiguous()


def _dense(vectors: Tensor) -> Tensor:
    return vectors if vectors.stride(-1) == 1 or vectors.shape[-1] < 2 else vectors.contiguous()


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
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    text_index: Tensor | None,
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
    if speech.shape[2] != text.shape[2] or (
        text_index is None and speech.shape[0] != text.shape[0]
    ):
        same = "width" if text_index is not None else "batch size and width"
        raise InputError(
            f"speech and text must agree in {same}, but have shapes "
            f"{tuple(speech.shape)} and {tuple(text.shape)}."
        )
    if speech.dtype != text.dtype or speech.device != text.device:
        raise InputError(
            f"speech and text must agree in dtype and device, but are {speech.dtype} on "
            f"{speech.device} and {text.dtype} on {text.device}. Convert one of them first."
        )
    for name, lengths, vectors in (
        ("speech_lengths", speech_lengths, speech),
        ("text_lengths", text_lengths, text),
    ):
        if lengths.shape != vectors.shape[:1] or lengths.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"{name} must be int32 or int64 of shape ({vectors.shape[0]},), but is "
                f"{lengths.dtype} of shape {tuple(lengths.shape)}."
            )
    if text_index is None:
        return
    if (
        text_index.dim() != 2
        or text_index.shape[0] != speech.shape[0]
        or text_index.dtype != torch.int64
    ):
        raise InputError(
            f"text_index must be int64 of shape ({speech.shape[0]}, K), but is "
            f"{text_index.dtype} of shape {tuple(text_index.shape)}."
        )


def _require(
    name: str, value: Tensor, shape: tuple[int, ...], device: torch.device, or_else: str = ""
) -> None:
    if value.shape != shape or value.dtype not in DTYPES or value.device != device:
        raise InputError(
            f"{name} must be {or_else}floating point of shape {tuple(shape)} on {device}, but is "
            f"{value.dtype} of shape {tuple(value.shape)} on {value.device}."
        )


def _checked_means(
    speech: Tensor, speech_mean: Tensor | None, text_mean: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Both means in the accumulating dtype, or neither; a missing one is zero."""
    width, wide = speech.shape[2], accumulate_dtype(speech.dtype)
    if speech_mean is None and text_mean is None:
        return None, None
    found = []
    for name, mean in (("speech_mean", speech_mean), ("text_mean", text_mean)):
        if mean is None:
            found.append(speech.new_zeros(width, dtype=wide))
            continue
        _require(name, mean, (width,), speech.device)
        found.append(mean.to(wide).contiguous())
    return found[0], found[1]


def _checked_drop_cost(speech: Tensor, drop_cost: Tensor | float | None) -> Tensor | None:
    """Price of each frame, float64 [B, I]."""
    if drop_cost is None:
        return None
    if not isinstance(drop_cost, Tensor):
        if not 0 <= drop_cost < math.inf:
            raise InputError(
                f"drop_cost must be a finite number of at least 0, but is {drop_cost!r}."
            )
        return speech.new_full(speech.shape[:2], drop_cost, dtype=torch.float64)
    _require("drop_cost", drop_cost, speech.shape[:2], speech.device, or_else="a number or ")
    return drop_cost.double().contiguous()


def _checked_weights(text: Tensor, text_weights: Tensor | None) -> Tensor | None:
    """Weight of each token, float64 [C, J]."""
    if text_weights is None:
        return None
    _require("text_weights", text_weights, text.shape[:2], text.device)
    if text_weights.requires_grad:
        raise InputError(
            "text_weights are constants of the loss, but require a gradient: detach them."
        )
    return text_weights.double().contiguous()


def _refuse_forward_mode(*inputs: object) -> None:
    """Torch would hand out tangents of 0."""
    for tensor in inputs:
        if not isinstance(tensor, Tensor):
            continue
        dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
        if dual.tangent is not None:
            raise InputError(
                "The DTW alignment loss has no forward-mode derivative; use torch.autograd.grad."
            )


def _check_values(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    text_index: Tensor | None,
    *,
    monotonic: bool,
) -> None:
    """Of lengths and indices on the CPU; reading them from a GPU would wait for it."""
    for name, lengths, limit in (
        ("speech_lengths", speech_lengths, speech.shape[1]),
        ("text_lengths", text_lengths, text.shape[1]),
    ):
        for b, value in enumerate(lengths.tolist() if lengths.device.type == "cpu" else ()):
            if not 0 <= value <= limit:
                raise InputError(f"{name} must be in 0..{limit}, but is {value} for pair {b}.")
    if text_index is not None and text_index.device.type == "cpu" and text_index.numel():
        low, high = int(text_index.min()), int(text_index.max())
        if low < 0 or high >= len(text):
            raise InputError(
                f"text_index must be in 0..{len(text) - 1}, but holds {low if low < 0 else high}."
            )
    index = torch.arange(len(speech))[:, None] if text_index is None else text_index
    if not monotonic or {t.device.type for t in (speech_lengths, text_lengths, index)} != {"cpu"}:
        return
    for b, texts in enumerate(index.tolist()):
        n = int(speech_lengths[b])
        for c in texts:
            m = int(text_lengths[c])
            if m > n > 0:
                raise InputError(
                    'steps="monotonic" needs at least as many frames as tokens, but pair '
                    f'{b} has {n} frames and {m} tokens. Drop the pair, or use steps="dtw".'
                )
