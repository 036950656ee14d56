"""`dtw_path` on costs that a test chose, so that no GEMM rounds them. Checks nothing itself."""

from __future__ import annotations

import torch
from torch import Tensor

import thaitool.ops.dtw  # noqa: F401  (registers torch.ops.thaitool)


def path_of(
    cost: Tensor,
    *,
    band: float = 1.0,
    prior: float = 0.0,
    monotonic: bool = False,
    speech_lengths: Tensor | None = None,
    text_lengths: Tensor | None = None,
    drop_cost: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals [B, I, 2], lengths [B] and sums [B], on the CPU, for costs [B, I, J].

    Unit norms and dot products 1 - cost; runs where `cost` is.
    """
    pairs, frames, tokens = cost.shape
    device = cost.device
    if speech_lengths is None:
        speech_lengths = torch.full((pairs,), frames)
    if text_lengths is None:
        text_lengths = torch.full((pairs,), tokens)
    none = torch.zeros(0, 0, dtype=torch.float64, device=device)
    intervals, path_length, path_cost = torch.ops.thaitool.dtw_path(
        (1 - cost)[:, None].contiguous(),
        torch.ones(pairs, frames, dtype=torch.float64, device=device),
        torch.ones(pairs, tokens, dtype=torch.float64, device=device),
        none,
        none,
        None,
        speech_lengths.to(device),
        text_lengths.to(device),
        None if drop_cost is None else drop_cost.double().to(device).contiguous(),
        None,
        band,
        prior,
        monotonic,
    )
    return intervals[:, 0].cpu(), path_length[:, 0].cpu(), path_cost[:, 0].cpu()


def cells_of(intervals: Tensor) -> list[tuple[int, int]]:
    """The cells of one pair from its intervals [I, 2]."""
    return [(i, j) for i, (start, end) in enumerate(intervals.tolist()) for j in range(start, end)]


def random_costs(kind: str, pairs: int, frames: int, tokens: int, seed: int) -> Tensor:
    """Costs whose sums are exact in any order: small integers (ties) or multiples of 2**-10."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "equal":
        return torch.ones(pairs, frames, tokens)
    high, scale = (3, 1) if kind == "ties" else (2048, 1024)
    return torch.randint(0, high, (pairs, frames, tokens), generator=generator) / scale
