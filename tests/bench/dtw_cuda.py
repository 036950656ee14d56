"""One shape on a GPU in a process of its own: check, times, floor, memory. Prints one JSON line.

`tests/bench/dtw.py` starts it; with `--peer` it compares the op with one public package instead.
Every figure is device time between two events around many iterations; the inputs rotate, because
one small batch would stay in the cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests.bench import measure, peers, shapes
from thaitool.ops.kernels import WORKSPACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

#: Iterations between two events, for the op and for peers that take milliseconds.
ITERATIONS = 50
PEER_ITERATIONS = 5
WARM_UP = 10
#: Input sets that take turns.
SETS = 4
COPY_BYTES = 2**30


def timed_block(step: Callable[[int], object], iterations: int) -> float:
    """Milliseconds per iteration, from the device's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for i in range(iterations):
        step(i)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / iterations


def blocks(
    steps: dict[str, tuple[Callable[[int], object], int]], repeats: int
) -> dict[str, list[float]]:
    """A block of every step, then again: (step, iterations) by name, to milliseconds."""
    for step, _ in steps.values():
        for i in range(WARM_UP if len(steps) > 2 else 2):
            step(i)
    torch.cuda.synchronize()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, (step, iterations) in steps.items():
            found[name].append(timed_block(step, iterations))
    return found


def backward_of(problems: list[shapes.Problem], **options: Any) -> Callable[[int], object]:
    """Forward and backward on the next input set."""

    def step(i: int) -> object:
        problem = problems[i % len(problems)]
        return torch.autograd.grad(shapes.op_loss(problem, **options), problem.speech)

    return step


def centred_backward(problems: list[shapes.Problem]) -> Callable[[int], object]:
    """The same with centring and a gradient to the mean of the frames."""
    speech_mean, text_mean = (
        x.detach().float().mean((0, 1)) for x in (problems[0].speech, problems[0].text)
    )
    speech_mean.requires_grad_()

    def step(i: int) -> object:
        problem = problems[i % len(problems)]
        loss = shapes.op_loss(problem, speech_mean=speech_mean, text_mean=text_mean)
        return torch.autograd.grad(loss, (problem.speech, speech_mean))

    return step


def dot_products(problem: shapes.Problem) -> torch.Tensor:
    """The GEMM that no implementation avoids, with sums in float32."""
    h, e = problem.speech.detach(), problem.text.mT
    if h.dtype in {torch.float32, torch.float64}:
        return torch.bmm(h, e)
    return torch.bmm(h, e, out_dtype=torch.float32)


def graph_milliseconds(problems: list[shapes.Problem], repeats: int) -> list[float]:
    """The op without the host: a CUDA graph of one step per input set, replayed."""
    step = backward_of(problems)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(len(problems)):
            step(i)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [step(i) for i in range(len(problems))]
    timed_block(lambda _: graph.replay(), 3)
    times = [timed_block(lambda _: graph.replay(), ITERATIONS) for _ in range(repeats)]
    del kept
    return [time / len(problems) for time in times]


def run_times(problems: list[shapes.Problem], repeats: int) -> dict[str, Any]:
    """Check, then time the op, its forms, and the parts of the floor."""
    checks = {"op": shapes.verify(problems[0]), "op, other forms": shapes.verify_forms(problems[0])}
    source = torch.randn(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    index = shapes.four_texts(problems[0])
    steps: dict[str, tuple[Callable[[int], object], int]] = {
        "op": (backward_of(problems), ITERATIONS),
        "op, forward": (lambda i: shapes.op_loss(problems[i % len(problems)]), ITERATIONS),
        "op, centred": (centred_backward(problems), ITERATIONS),
        "op, 4 texts": (backward_of(problems, text_index=index), ITERATIONS),
        "gemm": (lambda i: dot_products(problems[i % len(problems)]), ITERATIONS),
        "copy": (lambda _: target.copy_(source), ITERATIONS),
    }
    times = blocks(steps, repeats)
    copied = 3 * problems[0].speech.nbytes / (2 * COPY_BYTES)
    floors = [g + copied * c for g, c in zip(times["gemm"], times["copy"], strict=True)]
    found: dict[str, Any] = {
        "verified": {name: check.figures for name, check in checks.items()},
        "failures": [sentence for check in checks.values() for sentence in check.failures],
        "milliseconds": {name: round(measure.median_of(t), 5) for name, t in times.items()},
        "floor_milliseconds": round(measure.median_of(floors), 5),
        "copy_gigabytes_per_second": round(
            2 * COPY_BYTES / 1e6 / measure.median_of(times["copy"]), 1
        ),
        "ratios": {
            "op / floor": measure.median_ratio(times["op"], floors),
            "centred / op": measure.median_ratio(times["op, centred"], times["op"]),
            "4 texts / op": measure.median_ratio(times["op, 4 texts"], times["op"]),
        },
        "phases_milliseconds": measure.profile(
            functools.partial(backward_of(problems), 0), repeats=10, cuda=True
        ),
        "memory": peak_memory(problems[0]),
        "missing": {},
    }
    try:  # last: a failed capture can leave the device in a bad state
        graph = graph_milliseconds(problems, repeats)
    except RuntimeError as error:
        found["missing"]["graph"] = f"it cannot be captured: {error}"
    else:
        found["milliseconds"]["graph"] = round(measure.median_of(graph), 5)
        found["ratios"]["graph / floor"] = measure.median_ratio(graph, floors)
    return found


def peak_memory(problem: shapes.Problem) -> dict[str, int]:
    """Peak bytes of one forward and backward beyond the inputs, by torch's allocator."""
    step = backward_of([problem])
    step(0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(0)
    torch.cuda.synchronize()
    dots = 4 * len(problem.speech) * problem.speech.shape[1] * problem.text.shape[1]
    return {
        "peak_bytes": torch.cuda.max_memory_allocated() - before,
        "gradient_bytes": problem.speech.nbytes,
        "chunk_bytes": min(WORKSPACE_BYTES["cuda"], dots),
    }


def run_peer(problems: list[shapes.Problem], name: str, repeats: int) -> dict[str, Any]:
    """One public package beside the op, block by block."""
    loss = peers.CUDA_PEERS[name].make()
    failures: list[str] = []
    if peers.CUDA_PEERS[name].hard:
        failures = shapes.verify_peer(name, loss, problems[0]).failures
    elif not loss(problems[0].speech, problems[0].text).isfinite():
        failures = [f"the loss of {name} is not finite"]

    def step(i: int) -> object:
        problem = problems[i % len(problems)]
        return torch.autograd.grad(loss(problem.speech, problem.text), problem.speech)

    steps = {"op": (backward_of(problems), ITERATIONS), name: (step, PEER_ITERATIONS)}
    times = blocks(steps, repeats)
    return {
        "failures": failures,
        "milliseconds": round(measure.median_of(times[name]), 4),
        "op_milliseconds": round(measure.median_of(times["op"]), 4),
        "peer / op": measure.median_ratio(times[name], times["op"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", required=True, help="B,I,J,D")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--peer", help="compare with this package instead")
    parser.add_argument("--peer-path", type=Path, help="folder of packages to compare with")
    arguments = parser.parse_args()
    if arguments.peer_path:
        sys.path.append(str(arguments.peer_path))
    pairs, frames, tokens, width = (int(n) for n in arguments.shape.split(","))
    dtype = getattr(torch, arguments.dtype)
    problems = [
        shapes.make_problem((pairs, frames, tokens, width), "cuda", dtype, seed)
        for seed in range(SETS)
    ]
    load = os.getloadavg()[0]
    if arguments.peer:
        result = run_peer(problems, arguments.peer, arguments.repeats)
    else:
        result = run_times(problems, arguments.repeats)
    result["load"] = [round(load, 2), round(os.getloadavg()[0], 2)]
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
