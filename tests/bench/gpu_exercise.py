"""The CUDA ops on a few shapes against the CPU ops, small enough for compute-sanitizer. No GEMM.

Every width of a block, strips, steps in shared and in global memory, band, prior, monotonic steps,
drop costs, index, token weights, all outputs of the gradient. Exit status 1 and a sentence where
results differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere

from thaitool.ops import kernels

#: Frames, tokens: one warp, several, two columns per lane, strips, and too many steps for shared memory.
#: In this order both accumulating types meet one and two columns per lane.
SHAPES = [(1, 1), (33, 300), (70, 129), (2000, 520), (20, 600), (40, 20)]
#: Band, prior, and whether steps are monotonic where all speeches are long enough. Each has a kernel.
FREE, CONSTRAINED = (1.0, 0.0, False), (0.2, 0.5, True)


def to_cuda(value: object) -> object:
    """Tensors move, the rest stays."""
    return value.cuda() if isinstance(value, Tensor) else value


def require_close(name: str, found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Stop with a sentence where two results differ; tolerance 0 means the same bits."""
    scale = float(wanted.double().abs().max()) if wanted.numel() else 0.0
    same = torch.allclose(found.cpu().double(), wanted.double(), rtol=0, atol=tolerance * scale)
    if found.dtype != wanted.dtype or found.shape != wanted.shape or not same:
        sys.exit(
            f"{name}: the CUDA op differs from the CPU op by more than {tolerance:g} relative."
        )


def path_on_both(label: str, dots: Tensor, *arguments: object) -> Tensor:
    """The intervals of the CPU op, after a comparison of all results."""
    op = torch.ops.thaitool.dtw_path
    path = op(dots, *arguments)
    on_cuda = op(*map(to_cuda, (dots, *arguments)))
    for name, found, wanted in zip(("intervals", "length", "cost"), on_cuda, path, strict=True):
        exact = name != "cost" or dots.dtype == torch.float32
        tolerance = 0.0 if exact else 1e-14
        sentence = f"dtw_path, {name}, {label}, band, prior, monotonic {arguments[-3:]}"
        require_close(sentence, found, wanted, tolerance)
    intervals: Tensor = path[0]
    return intervals


def exercise(
    frames: int,
    tokens: int,
    dtype: torch.dtype,
    options: list[tuple[float, float, bool]],
    *,
    drop: bool,
    indexed: bool,
    weighted: bool,
) -> None:
    """Statistics, paths, and the gradient of the last path, of three speeches."""
    ops = torch.ops.thaitool
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(frames + tokens)
    width, places, texts = 72, 2 if indexed else 1, 3
    speech = torch.randn(3, frames, width, generator=generator).to(dtype)
    text = torch.randn(texts, tokens, width, generator=generator).to(dtype)
    u, v = (torch.randn(width, generator=generator).to(wide) for _ in range(2))
    n = torch.tensor([frames, (frames + 1) // 2, 0])
    m = torch.tensor([tokens, (tokens + 1) // 2, tokens])
    index = torch.tensor([[0, 1], [2, 1], [0, 2]]) if indexed else None
    price = 0.5 + torch.randint(0, 2**20, (3, frames), generator=generator) / 2.0**21
    # few bits, so that sums are exact in any order
    weights = torch.randint(16, (texts, tokens), generator=generator).double() / 8
    token_weights = weights if weighted else None
    label = f"{frames} frames, {tokens} tokens, {dtype}, {drop=}, {indexed=}, {weighted=}"
    results = []
    for place in (lambda value: value, to_cuda):
        inverse_h, shift_h = ops.dtw_statistics(*map(place, (speech, u, v, n)), False)
        inverse_e, shift_e = ops.dtw_statistics(*map(place, (text, v, u, m)), True)
        results.append([inverse_h, shift_h, inverse_e, shift_e])
    for name, found, wanted in zip(("norms", "shift") * 2, *results[::-1], strict=True):
        require_close(f"dtw_statistics, {name}", found, wanted, 1e-12)
    dots = torch.randn(3, places, frames, tokens, generator=generator, dtype=torch.float64).to(wide)
    inputs = (dots, *(results[0][at] for at in (0, 2, 1, 3)), index, n, m)
    arguments = (*inputs, price.double() if drop else None, token_weights)
    long_enough = tokens <= (frames + 1) // 2
    paths = [
        path_on_both(label, *arguments, band, prior, monotonic and long_enough)
        for band, prior, monotonic in options
    ]
    grad = torch.randn(3, places, generator=generator, dtype=torch.float64)
    vectors = (grad, speech, text, u, v, results[0][0], results[0][2], paths[-1])
    saved = (*vectors, index, n, m, token_weights)
    gradients = ops.dtw_backward(*saved, True, True, True, True)
    on_cuda = ops.dtw_backward(*map(to_cuda, saved), True, True, True, True)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    for name, found, wanted in zip(("h", "e", "u", "v"), on_cuda, gradients, strict=True):
        require_close(f"dtw_backward, {name}, {label}", found, wanted, tolerance)


def main() -> None:
    problem = kernels.kernel_problem(torch.device("cuda"))
    if problem is not None:
        sys.exit(problem)
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    for at, (frames, tokens) in enumerate(SHAPES):
        even, weighted = at % 2 == 0, at % 4 in {1, 2}
        options, dtype = [FREE, CONSTRAINED], dtypes[at % 4]
        exercise(frames, tokens, dtype, options, drop=False, indexed=even, weighted=weighted)
        # With drop costs there is one kernel for all options.
        options, dtype = [options[at % 2]], dtypes[(at + 1) % 4]
        exercise(frames, tokens, dtype, options, drop=True, indexed=not even, weighted=not weighted)
    torch.cuda.synchronize()
    sys.stdout.write(f"{2 * len(SHAPES)} cases on CUDA agree with the CPU\n")


if __name__ == "__main__":
    main()
