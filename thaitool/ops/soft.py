"""Soft-DTW under the cost of the alignment loss, to compare with. No kernel of its own, no path.

`thaitool.ops.dtw` is what alignment trains with; this says what a smoothed minimum would do.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from thaitool.errors import InputError

#: Stands for an impossible cell; finite, because the derivative of logsumexp at -inf is NaN.
IMPOSSIBLE = -1e30


def soft_dtw_alignment(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    gamma: float,
    normalizer: Literal["none", "sum_lengths"] = "none",
    reduction: Literal["none", "mean", "sum"] = "none",
) -> Tensor:
    """Soft-DTW of each pair: -gamma * log sum over all DTW paths P of exp(-cost(P) / gamma).

    cost(P) is the sum of 1 - cos over the cells of P; the steps are those of `dtw_alignment`. As
    gamma falls to 0 this becomes the smallest sum. It is negative where many paths are cheap.

    Args:
        speech: Frames [B, I, D], any floating dtype; computed in float64.
        text: Tokens [B, J, D].
        speech_lengths: Valid frames of each pair [B], 0 <= n <= I.
        text_lengths: Valid tokens of each pair [B].
        gamma: Smoothing, above 0, in units of cost.
        normalizer: "sum_lengths" divides by n + m; paths of different length are mixed, so there is
            no path length to divide by.
        reduction: "mean" or "sum" over the pairs.

    Returns:
        float64 [B], or [] after a reduction; 0 for a pair without frames or tokens. Differentiable
        as often as wanted, at a memory of some tables of I * J.

    Raises:
        InputError: `gamma` is not above 0.

    Source: Cuturi and Blondel, arXiv:1703.01541.
    """
    if not gamma > 0:
        raise InputError(f"gamma must be above 0, but is {gamma!r}.")
    n, m = speech_lengths.to(speech.device), text_lengths.to(speech.device)
    frames, tokens = speech.shape[1], text.shape[1]
    inside_h = torch.arange(frames, device=speech.device) < n[:, None]
    inside_e = torch.arange(tokens, device=speech.device) < m[:, None]
    # Padding may hold NaN, and 0 * NaN would reach the gradient.
    h = functional.normalize(speech.double().masked_fill(~inside_h[..., None], 0.0), dim=-1)
    e = functional.normalize(text.double().masked_fill(~inside_e[..., None], 0.0), dim=-1)
    score = (h @ e.transpose(1, 2) - 1) / gamma
    loss = -gamma * _log_partition(score, n, m)
    loss = torch.where((n > 0) & (m > 0), loss, 0.0)
    if normalizer == "sum_lengths":
        loss = loss / (n + m).clamp(min=1)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _log_partition(score: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """Log of the sum over paths of exp(sum of scores), [B], one anti-diagonal after the other."""
    pairs, frames, tokens = score.shape
    if not (frames and tokens):
        return score.new_zeros(pairs)
    # The score of cell i, j moves to row i + j, column i.
    padded = functional.pad(score, (0, frames), value=IMPOSSIBLE)
    skewed = padded.reshape(pairs, -1)[:, : frames * (frames + tokens - 1)]
    skewed = skewed.reshape(pairs, frames, frames + tokens - 1).transpose(1, 2)
    wall = score.new_full((pairs, 1), IMPOSSIBLE)
    before = score.new_full((pairs, frames), IMPOSSIBLE)
    start = before.clone()
    start[:, 0] = 0.0
    last = start + skewed[:, 0]
    diagonals = [last]
    for d in range(1, frames + tokens - 1):
        ways = torch.stack([shifted(before, wall), shifted(last, wall), last])
        # An impossible cell must stay near IMPOSSIBLE and not fall without end.
        now = (torch.logsumexp(ways, 0) + skewed[:, d]).clamp(min=IMPOSSIBLE)
        before, last = last, now
        diagonals.append(now)
    table = torch.stack(diagonals, 1)
    rows = torch.arange(pairs, device=score.device)
    return table[rows, (n + m - 2).clamp(min=0), (n - 1).clamp(min=0)]


def shifted(diagonal: Tensor, wall: Tensor) -> Tensor:
    """Entry i becomes what stood at i - 1."""
    return torch.cat([wall, diagonal[:, :-1]], 1)
