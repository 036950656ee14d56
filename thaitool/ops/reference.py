"""The definition of the DTW alignment in plain Python, pair by pair, in float64. Not fast.

`thaitool.ops.dtw` checks arguments and divides by the length; what is here argues the mathematics,
and the kernels are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Path(NamedTuple):
    """A path in order: its cells, and the frames that it leaves out."""

    cells: list[tuple[int, int]]
    dropped: list[int]


def reference_alignment(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    *,
    speech_mean: Tensor | None = None,
    text_mean: Tensor | None = None,
    text_index: Tensor | None = None,
    drop_cost: Tensor | None = None,
    text_weights: Tensor | None = None,
    band: float,
    prior: float,
    monotonic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Path costs float64 [B, K] (differentiable), intervals int32 [B, K, I, 2], lengths int32 [B, K].

    The costs are gathered on the path, so that autograd holds the path constant. Shapes and meaning
    are those of `thaitool.ops.dtw.dtw_alignment`; K is 1 without `text_index`; a `band` of 1 is no
    band.
    """
    texts = torch.arange(len(speech))[:, None] if text_index is None else text_index
    costs: list[Tensor] = []
    lengths: list[int] = []
    intervals = torch.zeros(*texts.shape, speech.shape[1], 2, dtype=torch.int32)
    for at, c in enumerate(texts.flatten().tolist()):
        b, k = divmod(at, texts.shape[1])
        frames, tokens = int(speech_lengths[b]), int(text_lengths[c])
        h = unit_vectors(centred(speech[b, :frames], speech_mean))
        e = unit_vectors(centred(text[c, :tokens], text_mean))
        drop = None if drop_cost is None else drop_cost[b, :frames].double() + 0 * h.sum(-1)
        path = cheapest_path(
            (1 - h @ e.T).tolist(),
            band=band,
            prior=prior,
            monotonic=monotonic,
            drop=None if drop is None else drop.tolist(),
        )
        tokens_met = [j for _, j in path.cells]
        cells = 1 - (h[[i for i, _ in path.cells]] * e[tokens_met]).sum(-1)
        cost = (cells if text_weights is None else cells * text_weights[c, tokens_met]).sum()
        costs.append(cost if drop is None else cost + drop[path.dropped].sum())
        lengths.append(len(path.cells) + len(path.dropped))
        fill_intervals(intervals[b, k], path)
    # without pairs still a function of `speech`, so that backward has something to go through
    path_costs = torch.stack(costs) if costs else speech.double().sum()[None][:0]
    path_lengths = torch.tensor(lengths, dtype=torch.int32, device=speech.device)
    return (
        path_costs.reshape(texts.shape),
        intervals.to(speech.device),
        path_lengths.reshape(texts.shape),
    )


def centred(vectors: Tensor, mean: Tensor | None) -> Tensor:
    """Vectors [N, D] minus a mean [D], in float64."""
    return vectors.double() if mean is None else vectors.double() - mean.double()


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors [N, D] divided by their norms; a zero vector stays zero and gets no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(norms == 0, 0.0, vectors / torch.where(norms == 0, 1.0, norms))


def fill_intervals(intervals: Tensor, path: Path) -> None:
    """Write the half-open token interval of each frame [I, 2]; empty for a dropped frame."""
    for i, j in reversed(path.cells):
        intervals[i, 0] = j
    for i, j in path.cells:
        intervals[i, 1] = j + 1
    for i in path.dropped:
        before = [j for frame, j in path.cells if frame < i]
        intervals[i] = before[-1] if before else 0


def cheapest_path(
    cost: list[list[float]],
    *,
    band: float,
    prior: float,
    monotonic: bool,
    drop: Sequence[float] | None = None,
) -> Path:
    """Cells from the first to the last token with the smallest sum of cost + prior * (i/I - j/J)**2.

    With `drop`, a frame may be left out at its price. Of equal sums, seen from the end: matched
    before dropped, a diagonal step before a frame step before a token step.
    """
    frames, tokens = len(cost), len(cost[0]) if cost else 0
    if not tokens:
        return Path([], [])
    area = (frames - 1) * (tokens - 1)
    half_width = max(math.floor(min(band, 1.0) * area), (max(frames, tokens) - 1) // 2)
    price = [math.inf] * frames if drop is None else drop
    total = {(-1, -1): 0.0}  # frames up to i, the last token matched is j
    matched: dict[tuple[int, int], float] = {}  # the same, and frame i is matched to j
    came_from, left_out = {}, set()
    for i in range(frames):
        total[i, -1] = total[i - 1, -1] + price[i]
        for j in range(tokens):
            if abs(i * (tokens - 1) - j * (frames - 1)) <= half_width:
                came = (i - 1, j - 1)
                best = total.get(came, math.inf)
                if total.get((i - 1, j), math.inf) < best:
                    came, best = (i - 1, j), total[i - 1, j]
                if not monotonic and matched.get((i, j - 1), math.inf) < best:
                    came, best = (i, j - 1), matched[i, j - 1]
                offset = i / frames - j / tokens
                matched[i, j] = best + (cost[i][j] + prior * (offset * offset))
                came_from[i, j] = came
            total[i, j] = matched.get((i, j), math.inf)
            if total.get((i - 1, j), math.inf) + price[i] < total[i, j]:
                total[i, j] = total[i - 1, j] + price[i]
                left_out.add((i, j))
    return walk_back((frames - 1, tokens - 1), came_from, left_out, may_drop=drop is not None)


def walk_back(
    end: tuple[int, int],
    came_from: dict[tuple[int, int], tuple[int, int]],
    left_out: set[tuple[int, int]],
    *,
    may_drop: bool,
) -> Path:
    """The path that ends in `end`. NaN compares false and keeps the diagonal: the borders are forced."""
    cells: list[tuple[int, int]] = []
    dropped: list[int] = []
    i, j = end
    while i >= 0 and j >= 0:
        if (i, j) in left_out and not (cells and cells[-1][0] == i):
            dropped.append(i)
            i -= 1
            continue
        cells.append((i, j))
        came = came_from.get((i, j), (i - 1, j - 1))
        if i == 0:
            came = (0, j - 1)
        elif j == 0 and not (may_drop and came == (i - 1, -1)):
            came = (i - 1, 0)
        if (i, j) == (0, 0):
            came = (-1, -1)
        i, j = came
    return Path(cells[::-1], [*range(i + 1), *dropped[::-1]])
