"""What the op is compared with: hard DTW by a library route, and public CUDA packages. Not the op.

On the CPU numba finds the path and torch does everything else. The CUDA packages are measured
where they can be imported; none of their code is part of thaitool.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

#: Smoothing of the soft-DTW packages.
GAMMA = 0.1

#: From speech [B, I, D] and text [B, J, D], all of full length, to a scalar loss.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cosine_cost(speech: Tensor, text: Tensor) -> Tensor:
    """1 - cos [B, I, J], as one writes it in torch."""
    h, e = functional.normalize(speech, dim=-1), functional.normalize(text, dim=-1)
    return 1 - torch.bmm(h, e.transpose(1, 2))


def lean_cosine_cost(speech: Tensor, text: Tensor) -> Tensor:
    """The same without normalised copies: the norms divide the dot products."""
    h = torch.linalg.vector_norm(speech, dim=-1)[:, :, None]
    e = torch.linalg.vector_norm(text, dim=-1)[:, None, :]
    cosine: Tensor = torch.bmm(speech, text.transpose(1, 2)) / (h * e)
    return 1 - cosine


def mean_on_path(cost: Tensor, cells: Tensor, lengths: Tensor) -> Tensor:
    """Mean over pairs of the mean cost on the path; cells [B, P] index the flattened grid."""
    picked = cost.flatten(1).gather(1, cells)
    valid = torch.arange(cells.shape[1], device=cells.device) < lengths[:, None]
    return ((picked * valid).sum(1) / lengths).mean()


def numba_paths(threads: int) -> Callable[[Any], tuple[Any, Any]]:
    """Compiled hard DTW of costs [B, I, J]: flat cells [B, I+J-1] of the paths, lengths [B]."""
    numba = importlib.import_module("numba")
    np = importlib.import_module("numpy")
    prange = numba.prange
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def paths(cost: Any) -> tuple[Any, Any]:
        pairs, frames, tokens = cost.shape
        cells = np.zeros((pairs, frames + tokens - 1), np.int64)
        lengths = np.zeros(pairs, np.int64)
        for b in prange(pairs):
            steps = np.empty((frames, tokens), np.uint8)
            above = np.full(tokens + 1, np.inf)
            row = np.full(tokens + 1, np.inf)
            above[0] = 0.0
            for i in range(frames):
                for j in range(tokens):
                    best, step = above[j], 0
                    if above[j + 1] < best:
                        best, step = above[j + 1], 1
                    if row[j] < best:
                        best, step = row[j], 2
                    row[j + 1] = best + cost[b, i, j]
                    steps[i, j] = step
                above, row = row, above
                row[0] = np.inf
            i, j, count = frames - 1, tokens - 1, 0
            while i >= 0 and j >= 0:
                cells[b, count] = i * tokens + j
                count += 1
                step = steps[i, j]
                i, j = i - (step != 2), j - (step != 1)
            lengths[b] = count
        return cells, lengths

    compiled: Callable[[Any], tuple[Any, Any]] = numba.njit(parallel=True)(paths)
    return compiled


def numba_loss(threads: int, cost_of: Loss) -> Loss:
    """Hard DTW: cost, gather and autograd of torch, path of numba."""
    find_paths = numba_paths(threads)

    def loss(speech: Tensor, text: Tensor) -> Tensor:
        cost = cost_of(speech, text)
        wide = torch.promote_types(cost.dtype, torch.float32)
        cells, lengths = find_paths(cost.detach().to(wide).numpy())
        return mean_on_path(cost, torch.from_numpy(cells), torch.from_numpy(lengths))

    return loss


def torchdtw_loss() -> Loss:
    """Hard DTW of bootphon/torchdtw 0.4: its path is found on the CPU, pair by pair."""
    find_path = importlib.import_module("torchdtw").dtw_path

    def loss(speech: Tensor, text: Tensor) -> Tensor:
        cost = cosine_cost(speech, text)
        flat = torch.tensor([cost.shape[2], 1], device=cost.device)
        paths = [(find_path(pair) * flat).sum(1) for pair in cost.detach().float()]
        lengths = torch.tensor([len(path) for path in paths], device=cost.device)
        return mean_on_path(cost, torch.nn.utils.rnn.pad_sequence(paths, batch_first=True), lengths)

    return loss


def soft_loss(module: str) -> Loss:
    """Soft-DTW on CUDA of a class SoftDTW(use_cuda, gamma, dist_func), as two packages have it."""
    package = importlib.import_module(module)
    soft_dtw = package.SoftDTW(use_cuda=True, gamma=GAMMA, dist_func=cosine_cost)

    def loss(speech: Tensor, text: Tensor) -> Tensor:
        sums: Tensor = soft_dtw(speech.float(), text.float())
        return sums.mean() / (speech.shape[1] + text.shape[1])

    return loss


@dataclass(frozen=True)
class Package:
    """A public package for CUDA."""

    module: str
    make: Callable[[], Loss]
    hard: bool
    """The same loss as ours, so that it can be checked; otherwise soft-DTW."""
    longest: int | None = None
    """Longest sequence that it runs on the GPU; beyond that it goes to the CPU by itself."""


CUDA_PEERS = {
    "torchdtw": Package("torchdtw", torchdtw_loss, hard=True),
    "pysdtw": Package("pysdtw", lambda: soft_loss("pysdtw"), hard=False),
    "soft_dtw_cuda": Package("soft_dtw_cuda", lambda: soft_loss("soft_dtw_cuda"), False, 1024),
}
