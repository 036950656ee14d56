"""The definition of the DTW alignment in plain Python, pair by pair, in float64. Not fast.

`thaitool.ops.dtw` checks arguments and divides by the length; what is here argues the mathematics,
and the kernels are tested against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reference_alignment(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    band: float,
    prior: float,
    monotonic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Path costs float64 [B] (differentiable), intervals int32 [B, I, 2], path lengths int32 [B].

    The costs are gathered on the path, so that autograd holds the path constant. Shapes and meaning
    are those of `thaitool.ops.dtw.dtw_alignment`; a `band` of 1 is no band.
    """
    costs = []
    lengths = []
    intervals = torch.zeros(*speech.shape[:2], 2, dtype=torch.int32)
    pairs = zip(speech_lengths.tolist(), text_lengths.tolist(), strict=True)
    for b, (frames, tokens) in enumerate(pairs):
        h = unit_vectors(speech[b, :frames].double())
        e = unit_vectors(text[b, :tokens].double())
        path = cheapest_path((1 - h @ e.T).tolist(), band=band, prior=prior, monotonic=monotonic)
        costs.append((1 - (h[[i for i, _ in path]] * e[[j for _, j in path]]).sum(-1)).sum())
        lengths.append(len(path))
        for i in range(frames if path else 0):
            row = [j for frame, j in path if frame == i]
            intervals[b, i] = torch.tensor([row[0], row[-1] + 1])
    path_costs = torch.stack(costs) if costs else speech.new_zeros(0, dtype=torch.float64)
    path_lengths = torch.tensor(lengths, dtype=torch.int32, device=speech.device)
    return path_costs, intervals.to(speech.device), path_lengths


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors [N, D] divided by their norms; a zero vector stays zero and gets no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(norms == 0, 0.0, vectors / torch.where(norms == 0, 1.0, norms))


def cheapest_path(
    cost: list[list[float]], *, band: float, prior: float, monotonic: bool
) -> list[tuple[int, int]]:
    """Cells from (0, 0) to (I-1, J-1) with the smallest sum of cost + prior * (i/I - j/J)**2.

    Of equal sums, seen from the end: a diagonal step before a frame step before a token step.
    """
    frames, tokens = len(cost), len(cost[0]) if cost else 0
    if not tokens:
        return []
    area = (frames - 1) * (tokens - 1)
    half_width = max(math.floor(min(band, 1.0) * area), (max(frames, tokens) - 1) // 2)
    total = {(-1, -1): 0.0}
    came_from = {}
    for i in range(frames):
        for j in range(tokens):
            if abs(i * (tokens - 1) - j * (frames - 1)) > half_width:
                continue
            came = (i - 1, j - 1)
            for other in ((i - 1, j),) if monotonic else ((i - 1, j), (i, j - 1)):
                if total.get(other, math.inf) < total.get(came, math.inf):
                    came = other
            offset = i / frames - j / tokens
            total[i, j] = total.get(came, math.inf) + (cost[i][j] + prior * (offset * offset))
            came_from[i, j] = came
    path = [(frames - 1, tokens - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        # NaN compares false and keeps the diagonal, so the borders are forced: the walk must end.
        forced = (i, j - 1) if i == 0 else (i - 1, j) if j == 0 else None
        path.append(forced or came_from.get((i, j), (i - 1, j - 1)))
    return path[::-1]
