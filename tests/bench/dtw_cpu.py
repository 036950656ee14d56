"""One part of one shape on the CPU: check, times and floor, or memory. Prints one JSON line.

`tests/bench/dtw.py` starts a process for each, because an allocator remembers what came before it,
and the allocator is part of what is measured.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import torch

from tests.bench import measure, peers, shapes
from tests.bench.measure import Row, Seconds
from thaitool.ops.kernels import WORKSPACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NO_NUMBA = "numba is not installed"


def op_rows(problem: shapes.Problem) -> dict[str, Row]:
    """The op, with centring (gradient to the mean of the frames too), and with four texts each."""
    means = (problem.speech.detach().mean((0, 1)), problem.text.mean((0, 1)))
    speech_mean, text_mean = (mean.float() for mean in means)
    speech_mean.requires_grad_()
    index = shapes.four_texts(problem)
    return {
        "op": Row(lambda: shapes.op_loss(problem), (problem.speech,)),
        "op, centred": Row(
            lambda: shapes.op_loss(problem, speech_mean=speech_mean, text_mean=text_mean),
            (problem.speech, speech_mean),
        ),
        "op, 4 texts": Row(lambda: shapes.op_loss(problem, text_index=index), (problem.speech,)),
    }


def peer_losses(threads: int) -> dict[str, peers.Loss]:
    """What can be compared here: nothing without numba."""
    if importlib.util.find_spec("numba") is None:
        return {}
    return {
        "numba": peers.numba_loss(threads, peers.cosine_cost),
        "numba, lean norms": peers.numba_loss(threads, peers.lean_cosine_cost),
    }


def peer_rows(losses: dict[str, peers.Loss], problem: shapes.Problem) -> dict[str, Row]:
    """The rows of the peers on a problem."""

    def row(loss: peers.Loss) -> Row:
        return Row(lambda: loss(problem.speech, problem.text), (problem.speech,))

    return {name: row(loss) for name, loss in losses.items()}


def run_check(problem: shapes.Problem, threads: int) -> dict[str, Any]:
    """Everything that is timed, against the definition or against the op."""
    checks = {"op": shapes.verify(problem), "op, other forms": shapes.verify_forms(problem)}
    for name, loss in peer_losses(threads).items():
        checks[name] = shapes.verify_peer(name, loss, problem)
    return {
        "figures": {name: check.figures for name, check in checks.items()},
        "failures": [sentence for check in checks.values() for sentence in check.failures],
    }


def run_times(problem: shapes.Problem, repeats: int, threads: int) -> dict[str, Any]:
    """The op beside the floor, then beside each other row, in pairs."""
    losses = peer_losses(threads)
    rows = op_rows(problem) | peer_rows(losses, problem)
    op = functools.partial(measure.once, rows.pop("op"))
    beside_floor = measure.interleaved({"op": op, "floor": floor_of(problem)}, repeats)
    floors = beside_floor["floor"]
    ratios: dict[str, float | None] = {"numba / op": None}
    for write in ("write_fresh", "write"):
        sums = [floor["gemm"] + floor["read"] + floor[write] for floor in floors]
        ratios[f"op / floor, {write}"] = measure.median_ratio(_totals(beside_floor["op"]), sums)
    milliseconds = {"op": measure.milliseconds(beside_floor["op"])}
    op_beside = {}
    for name, row in rows.items():
        pair = {"op": op, name: functools.partial(measure.once, row)}
        found = measure.interleaved(pair, repeats)
        milliseconds[name] = measure.milliseconds(found[name])
        op_beside[name] = measure.milliseconds(found["op"])
        ratios[f"{name} / op"] = measure.median_ratio(_totals(found[name]), _totals(found["op"]))
    return {
        "milliseconds": milliseconds,
        "op_milliseconds_beside": op_beside,
        "floor_milliseconds": _floor_milliseconds(floors, measure.median_of),
        "fastest_floor_milliseconds": _floor_milliseconds(floors, min),
        "ratios": ratios,
        "phases_milliseconds": measure.profile(op, repeats=min(repeats, 5), cuda=False),
        "missing": {} if losses else {"numba": NO_NUMBA},
    }


def floor_of(problem: shapes.Problem) -> Callable[[], dict[str, float]]:
    """The floor, with everything that it may keep between calls."""
    speech, text = problem.speech.detach(), problem.text
    dots = torch.zeros(len(speech), speech.shape[1], text.shape[1], dtype=speech.dtype)
    kept = torch.zeros_like(speech)
    return lambda: measure.floor_seconds(speech, text, dots, kept)


def _totals(times: list[Seconds]) -> list[float]:
    return [seconds.total for seconds in times]


def _floor_milliseconds(
    floors: list[dict[str, float]], pick: Callable[[Iterable[float]], float]
) -> dict[str, float]:
    return {part: round(1e3 * pick(floor[part] for floor in floors), 4) for part in floors[0]}


def run_memory(problem: shapes.Problem, row: str, threads: int) -> dict[str, Any]:
    """Peak bytes of one forward and backward beyond the inputs.

    A tiny problem goes first, so that loading libraries and starting threads is not counted.
    """
    tiny = shapes.make_problem((2, 8, 4, 16), "cpu", problem.speech.dtype)
    losses = {} if row.startswith("op") else peer_losses(threads)
    first, rows = (op_rows(p) | peer_rows(losses, p) for p in (tiny, problem))
    if row not in rows:
        return {"peak_bytes": None, "missing": {row: NO_NUMBA}}
    measure.once(first[row])
    peak = measure.peak_over(lambda: measure.once(rows[row]))
    speech, text = problem.speech, problem.text
    wide = 8 if speech.dtype == torch.float64 else 4
    chunk = min(WORKSPACE_BYTES["cpu"], wide * len(speech) * speech.shape[1] * text.shape[1])
    return {
        "peak_bytes": peak,
        "gradient_bytes": speech.nbytes,
        "chunk_bytes": chunk,
        "missing": {} if peak is not None else {row: "no /proc/self/clear_refs on this system"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", required=True, help="B,I,J,D")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--part", choices=("check", "times", "memory"), required=True)
    parser.add_argument("--row", default="op", help="whose memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs, frames, tokens, width = (int(n) for n in arguments.shape.split(","))
    dtype = getattr(torch, arguments.dtype)
    problem = shapes.make_problem((pairs, frames, tokens, width), "cpu", dtype)
    load = os.getloadavg()[0]
    if arguments.part == "check":
        result = run_check(problem, arguments.threads)
    elif arguments.part == "times":
        result = run_times(problem, arguments.repeats, arguments.threads)
    else:
        result = run_memory(problem, arguments.row, arguments.threads)
    result["load"] = [round(load, 2), round(os.getloadavg()[0], 2)]
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
