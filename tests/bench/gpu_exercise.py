"""The CUDA ops on a few shapes against the CPU ops, small enough for compute-sanitizer. No GEMM.

Every width of a block, strips, steps in shared and in global memory, drop costs, index, all outputs
of the gradient. Exit status 1 and a sentence where results differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, from anywhere

from thaitool.ops import kernels

#: Frames, tokens: one warp, several, two columns per lane, strips, and too many steps for shared memory.
SHAPES = [(1, 1), (40, 20), (70, 129), (33, 300), (20, 600), (2000, 520)]


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


def exercise(frames: int, tokens: int, dtype: torch.dtype, *, drop: bool, indexed: bool) -> None:
    """Statistics, path and gradient of three speeches."""
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
    results = []
    for place in (lambda value: value, to_cuda):
        inverse_h, shift_h = ops.dtw_statistics(*map(place, (speech, u, v, n)), False)
        inverse_e, shift_e = ops.dtw_statistics(*map(place, (text, v, u, m)), True)
        results.append([inverse_h, shift_h, inverse_e, shift_e])
    for name, found, wanted in zip(("norms", "shift") * 2, *results[::-1], strict=True):
        require_close(f"dtw_statistics, {name}", found, wanted, 1e-12)
    dots = torch.randn(3, places, frames, tokens, generator=generator, dtype=torch.float64).to(wide)
    inputs = (dots, *(results[0][at] for at in (0, 2, 1, 3)), index, n, m)
    arguments = (*inputs, price.double() if drop else None)
    path = ops.dtw_path(*arguments, 1.0, 0.0, False)
    on_cuda = ops.dtw_path(*map(to_cuda, arguments), 1.0, 0.0, False)
    label = f"{frames} frames, {tokens} tokens, {dtype}, drop {drop}, index {indexed}"
    for name, found, wanted in zip(("intervals", "length", "cost"), on_cuda, path, strict=True):
        exact = name != "cost" or wide == torch.float32
        require_close(f"dtw_path, {name}, {label}", found, wanted, 0.0 if exact else 1e-14)
    grad = torch.randn(3, places, generator=generator, dtype=torch.float64)
    vectors = (grad, speech, text, u, v, results[0][0], results[0][2], path[0], index, n, m)
    gradients = ops.dtw_backward(*vectors, True, True, True, True)
    on_cuda = ops.dtw_backward(*map(to_cuda, vectors), True, True, True, True)
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    for name, found, wanted in zip(("h", "e", "u", "v"), on_cuda, gradients, strict=True):
        require_close(f"dtw_backward, {name}, {label}", found, wanted, tolerance)


def main() -> None:
    problem = kernels.kernel_problem(torch.device("cuda"))
    if problem is not None:
        sys.exit(problem)
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    for at, (frames, tokens) in enumerate(SHAPES):
        exercise(frames, tokens, dtypes[at % 4], drop=False, indexed=at % 2 == 0)
        exercise(frames, tokens, dtypes[(at + 1) % 4], drop=True, indexed=at % 2 == 1)
    torch.cuda.synchronize()
    sys.stdout.write(f"{2 * len(SHAPES)} cases on CUDA agree with the CPU\n")


if __name__ == "__main__":
    main()
