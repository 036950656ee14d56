"""`make bench`: the DTW op against library routes and the physical floor. No assertion on time.

Each shape is checked against the float64 definition and then timed, in processes of its own. The
exit status is 1 if a check fails; a missed target is printed and recorded. What cannot be measured
here (no GPU, no numba) is null with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests.bench import measure, peers  # noqa: E402

SMALL, TYPICAL, LONG = "8,250,40,1024", "16,500,100,2048", "4,1500,300,2048"
LARGE = "64,1500,400,4096"
SHAPES = {"cpu": [SMALL, TYPICAL, LONG], "cuda": [SMALL, TYPICAL, LONG, LARGE]}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
REPEATS = {"cpu": 15, "cuda": 5}
#: Keeps freed memory in the process: no page faults after the first step.
TUNED_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


@dataclass(frozen=True)
class Target:
    """A figure that must be at least or at most its limit; unmeasured if None."""

    name: str
    value: float | None
    limit: float
    at_least: bool
    reason: str = ""
    """Why it was not measured."""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = {True: "met", False: "MISSED", None: f"unmeasured: {self.reason}"}[self.met]
        value = "-" if self.value is None else f"{self.value:.3g}"
        return f"  {self.name:<58} {value:>8}  {sign} {self.limit:<8.4g} {verdict}"


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    device: str
    shapes: list[str]
    dtype: str
    repeats: int
    threads: int
    peer_path: Path | None


def child(module: str, arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a module of this folder; its last line is JSON, the rest goes to the terminal."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_cpu(shape: str, settings: Settings) -> dict[str, Any]:
    """Check, times with the default and with a tuned allocator, and memory, in a process each."""
    common = ["--shape", shape, "--dtype", settings.dtype, "--repeats", str(settings.repeats)]
    common += ["--threads", str(settings.threads)]
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = dict.fromkeys(pools, str(settings.threads))
    check = child("dtw_cpu", [*common, "--part", "check"], environment)
    memory = {
        row: child("dtw_cpu", [*common, "--part", "memory", "--row", row], environment)
        for row in ("op", "op, centred", "op, 4 texts", "numba")
    }
    return {
        "check": check,
        "default allocator": child("dtw_cpu", [*common, "--part", "times"], environment),
        "tuned allocator": child(
            "dtw_cpu", [*common, "--part", "times"], environment | TUNED_ALLOCATOR
        ),
        "memory": memory,
    }


def cpu_targets(shape: str, found: dict[str, Any]) -> list[Target]:
    """The targets, from what `measure_cpu` found."""
    default, tuned = found["default allocator"], found["tuned allocator"]
    missing = default["missing"].get("numba", "")
    memory = found["memory"]["op"]
    budget = 1.1 * memory["gradient_bytes"] + memory["chunk_bytes"]
    peak = memory["peak_bytes"]
    share = None if peak is None else peak / budget
    over = "CPU, speed-up over numba"
    return [
        Target(f"{over} {shape}", default["ratios"]["numba / op"], 4, True, missing),
        Target(f"{over}, tuned allocator {shape}", tuned["ratios"]["numba / op"], 2, True, missing),
        Target(
            f"CPU, time over floor {shape}",
            default["ratios"]["op / floor, write_fresh"],
            1.3,
            False,
        ),
        Target(
            f"CPU, peak memory over 1.1 dH + chunk {shape}",
            share,
            1,
            False,
            memory["missing"].get("op", ""),
        ),
    ]


def measure_cuda(shape: str, settings: Settings) -> dict[str, Any]:
    """The op, then each public package that can be imported."""
    arguments = ["--shape", shape, "--dtype", settings.dtype, "--repeats", str(settings.repeats)]
    if settings.peer_path:
        arguments += ["--peer-path", str(settings.peer_path)]
    found = child("dtw_cuda", arguments, {})
    found["peers"] = {}
    places = [*sys.path, *([str(settings.peer_path)] if settings.peer_path else [])]
    longest = max(int(n) for n in shape.split(",")[1:3])
    for name, package in peers.CUDA_PEERS.items():
        found["peers"][name] = None
        if PathFinder.find_spec(package.module, places) is None:
            found["missing"][name] = f"{package.module} is not installed"
        elif package.longest is not None and longest > package.longest:
            found["missing"][name] = f"falls back to the CPU beyond {package.longest} frames"
        else:
            try:
                found["peers"][name] = child("dtw_cuda", [*arguments, "--peer", name], {})
            except subprocess.CalledProcessError as error:
                # A package that crashes on this GPU is not our failure; its traceback is above.
                found["missing"][name] = f"its process ended with status {error.returncode}"
    return found


def cuda_targets(shape: str, found: dict[str, Any] | None) -> list[Target]:
    """The targets; None where there is no GPU."""
    reason = "no CUDA device"
    ratios, times = (found["ratios"], found["milliseconds"]) if found else ({}, {})
    targets = []
    if shape == TYPICAL:
        measured = [p for p in found["peers"].values() if p] if found else []
        speedup = min((p["peer / op"] for p in measured), default=None)
        no_graph = found["missing"].get("graph", "") if found else reason
        absent = "no public package could be imported" if found else reason
        targets += [
            Target(f"CUDA, ms {shape}", times.get("op"), 0.25, False, reason),
            Target(f"CUDA, ms, graph replay {shape}", times.get("graph"), 0.25, False, no_graph),
            Target(f"CUDA, speed-up over the best package {shape}", speedup, 50, True, absent),
        ]
    if shape == LARGE:
        targets += [
            Target(f"CUDA, time over floor {shape}", ratios.get("op / floor"), 1.5, False, reason)
        ]
    share = None
    if found:
        memory = found["memory"]
        share = memory["peak_bytes"] / (1.1 * memory["gradient_bytes"] + memory["chunk_bytes"])
    name = f"CUDA, peak memory over 1.1 dH + chunk {shape}"
    return [*targets, Target(name, share, 1, False, reason)]


def failures_in(found: dict[str, Any]) -> list[str]:
    """The sentences of failed checks, at any depth."""
    sentences = list(found.get("failures", []))
    for value in found.values():
        if isinstance(value, dict):
            sentences += failures_in(value)
    return sentences


def print_figures(shape: str, found: dict[str, Any]) -> None:
    parts = {"": found, **{k: v for k, v in found.items() if k.endswith("allocator")}}
    for name, part in parts.items():
        if "milliseconds" not in part:
            continue
        sys.stdout.write(f"{shape} {name}, load {part['load']}\n")
        for row, times in part["milliseconds"].items():
            sys.stdout.write(f"  {row:<20} {json.dumps(times)}\n")
        for title in ("floor_milliseconds", "ratios", "phases_milliseconds"):
            sys.stdout.write(f"  {title}: {json.dumps(part[title])}\n")


def parse() -> tuple[Settings, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", metavar="B,I,J,D")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer-path", type=Path, help="folder of CUDA packages to compare with")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, and torch finds none")
    settings = Settings(
        given.device,
        given.shapes or SHAPES[given.device],
        given.dtype or DTYPES[given.device],
        given.repeats or REPEATS[given.device],
        given.threads,
        given.peer_path and given.peer_path.resolve(),
    )
    return settings, given.out


def targets_of(settings: Settings, found: dict[str, dict[str, Any]]) -> list[Target]:
    """Of the shapes measured so far; on a machine without GPU, the CUDA targets as unmeasured."""
    if settings.device == "cuda":
        return [target for shape in found for target in cuda_targets(shape, found[shape])]
    targets = [target for shape in found for target in cpu_targets(shape, found[shape])]
    return targets + [target for shape in (TYPICAL, LARGE) for target in cuda_targets(shape, None)]


def main() -> None:
    settings, out = parse()
    machine = measure.machine(settings.device)
    sys.stdout.write(f"{json.dumps(machine)}\n")
    found: dict[str, dict[str, Any]] = {}
    targets: list[Target] = []
    failures: list[str] = []
    for shape in settings.shapes:
        run = measure_cpu if settings.device == "cpu" else measure_cuda
        found[shape] = run(shape, settings)
        print_figures(shape, found[shape])
        targets = targets_of(settings, found)
        failures += [f"{shape}: {sentence}" for sentence in failures_in(found[shape])]
        if out is not None:  # after every shape: a later one may not fit into the memory of a GPU
            record = {
                "machine": machine,
                "settings": asdict(settings) | {"peer_path": settings.peer_path is not None},
                "shapes": found,
                "targets": [asdict(target) | {"met": target.met} for target in targets],
                "failures": failures,
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(["targets", *(target.line() for target in targets), ""]))
    if failures:
        sys.exit("\n".join(["the op or a peer is wrong, so its times mean nothing:", *failures]))


if __name__ == "__main__":
    main()
