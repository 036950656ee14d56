"""`make gpu-check`: all that a GPU machine has to do, in one command. Installs nothing, needs no network.

Builds both binaries in place for the GPU at hand, runs the tests of the op on it, the benchmark,
pretraining at the size of XLS-R 300M, compute-sanitizer where there is one, and the tests of very
large tensors; goes on after a step that fails, writes one results file, and exits with 1 if anything
failed or was cut short. Needs Python, torch, transformers, pytest, setuptools and a CUDA toolkit.
Ten minutes at most.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results"
TOTAL_SECONDS = 570
TAIL_LINES = 60
PYTEST = ["-m", "pytest", "tests/ops", "--confcutdir=tests/ops", "--device", "cuda", "-q"]


@dataclass(frozen=True)
class Step:
    """One command, or why it cannot run."""

    name: str
    seconds: int
    """Time limit."""
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    outcome: str
    """passed, failed, timed out, or not run because something is missing here."""
    seconds: float
    detail: str
    tail: list[str]


def steps(scratch: Path) -> list[Step]:
    """In the order they run; a later one never needs that an earlier one of the checks passed."""
    python = [sys.executable]
    major, minor = torch.cuda.get_device_capability()
    build = [
        *python,
        "-c",
        "from setuptools import setup; setup()",
        "build_ext",
        "--inplace",
        "--force",
    ]
    forced = {"THAITOOL_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    exercise = [*python, "tests/bench/gpu_exercise.py"]
    sanitizer = shutil.which("compute-sanitizer") or ""
    missing = "" if sanitizer else "compute-sanitizer is not on the PATH"
    # Without the caching allocator every tensor is an allocation of its own, which memcheck can guard.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}

    def sanitized(tool: str, seconds: int) -> Step:
        options = ["--tool", tool, "--error-exitcode", "9"]
        return Step(tool, seconds, [sanitizer, *options, *exercise], alone, missing)

    bench = [
        *python,
        "tests/bench/dtw.py",
        "--device",
        "cuda",
        "--out",
        str(scratch / "bench.json"),
    ]
    pretraining = [
        *python,
        "tests/bench/gpu_pretraining.py",
        "--out",
        str(scratch / "pretraining.json"),
    ]
    return [
        Step("build", 200, build, forced),
        Step("exercise", 60, exercise),
        Step("tests", 180, [*python, *PYTEST, "-m", "not slow"]),
        Step("bench", 200, bench),
        Step("pretraining", 150, pretraining),
        sanitized("memcheck", 90),
        sanitized("racecheck", 90),
        sanitized("synccheck", 60),
        Step("slow", 120, [*python, *PYTEST, "-m", "slow"]),
    ]


def run(step: Step, seconds: float, log: Path) -> Outcome:
    """Run one step, shown as it goes and kept in a file; at its limit it is ended with its children."""
    if step.missing:
        return Outcome(step.name, "not run", 0.0, step.missing, [])
    limit = min(step.seconds, seconds)
    if limit < 5:
        return Outcome(step.name, "timed out", 0.0, "nothing is left of the total time limit", [])
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | step.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            detail = f"exit status {code}"
            outcome = "passed" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            rest = ", all that was left of the total time limit" if seconds < step.seconds else ""
            detail, outcome = f"longer than {limit:.0f} s{rest}", "timed out"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    taken = round(time.monotonic() - start, 1)
    return Outcome(step.name, outcome, taken, detail, lines[-TAIL_LINES:])


def first_line(command: list[str]) -> str | None:
    """What a program says about itself; None if it is absent or fails."""
    program = shutil.which(command[0])
    if program is None:
        return None
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout else None


def describe_machine() -> dict[str, Any]:
    """The GPU, its driver, and what compiles and runs."""
    gpu = torch.cuda.get_device_properties(0)
    return {
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "memory_gib": round(gpu.total_memory / 2**30, 1),
        "driver": first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "nvcc": first_line(["nvcc", "--version"]),
        "python": sys.version.split()[0],
        "processors": os.cpu_count(),
    }


def revision(given: str | None) -> dict[str, Any] | None:
    """The commit, and whether the tree differs from it; None if nothing says what the tree is."""
    if given:
        return {"commit": given, "changed": None}
    # git would also find the repository of a folder above, which is not this one's
    if not (ROOT / ".git").exists():
        return None
    git = ["git", "-c", f"safe.directory={ROOT}"]
    commit = first_line([*git, "rev-parse", "HEAD"])
    if commit is None:
        return None
    status = [*git, "status", "--porcelain", "--untracked-files=no"]
    return {"commit": commit, "changed": first_line(status) is not None}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Build, test and time the CUDA op and pretraining on this machine."
    )
    parser.add_argument("--only", metavar="STEP,...", help="build,tests,... instead of all steps")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also copy results and logs there")
    parser.add_argument("--revision", help="the commit, where the tree is a copy without .git")
    return parser.parse_args()


def chosen(all_steps: list[Step], only: str | None) -> list[Step]:
    if only is None:
        return all_steps
    wanted = only.split(",")
    unknown = sorted(set(wanted) - {step.name for step in all_steps})
    if unknown:
        names = ", ".join(step.name for step in all_steps)
        sys.exit(f"--only names {', '.join(unknown)}, but the steps are {names}.")
    return [step for step in all_steps if step.name in wanted]


def run_all(
    todo: list[Step], scratch: Path, save: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """Run the steps; results are saved after each one, so that nothing is lost at a hard limit."""
    end = time.monotonic() + TOTAL_SECONDS
    outcomes: list[Outcome] = []
    for step in todo:
        sys.stdout.write(f"gpu-check: {step.name}\n")
        sys.stdout.flush()
        done = run(step, end - time.monotonic(), scratch / f"{step.name}.log")
        outcomes.append(done)
        shown = done.tail if done.outcome in {"failed", "timed out"} else done.tail[-3:]
        sys.stdout.write("".join(f"    {line}\n" for line in shown))
        sys.stdout.write(
            f"gpu-check: {step.name} {done.outcome}, {done.seconds} s ({done.detail})\n"
        )
        sys.stdout.flush()
        save(outcomes)
    return outcomes


def main() -> None:
    given = parse()
    if not torch.cuda.is_available():
        sys.exit(
            "gpu-check needs a GPU that torch can use, but torch.cuda.is_available() is False."
        )
    machine = describe_machine()
    sys.stdout.write(f"gpu-check: {json.dumps(machine)}\n")
    slug = re.sub(r"[^a-z0-9]+", "-", machine["gpu"].lower()).strip("-")
    suffix = "" if given.only is None else "-" + given.only.replace(",", "-")
    scratch = ROOT / "build" / "gpu-check"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"gpu-{slug}{suffix}.json"
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    commit = revision(given.revision)

    def figures(step: str) -> Any:
        """What a step measured; None if it was not run or did not get that far."""
        file = scratch / f"{step}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def save(outcomes: list[Outcome]) -> None:
        record = {
            "date": date,
            "revision": commit,
            "machine": machine,
            "steps": [asdict(outcome) for outcome in outcomes],
            "bench": figures("bench"),
            "pretraining": figures("pretraining"),
        }
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, given.out)
            logs = [
                path.read_text(encoding="utf-8", errors="replace")
                for path in sorted(scratch.glob("*.log"))
            ]
            (given.out / "gpu-check.log").write_text("\n".join(logs), encoding="utf-8")

    outcomes = run_all(chosen(steps(scratch), given.only), scratch, save)
    sys.stdout.write(f"gpu-check: results in {target.relative_to(ROOT)}\n")
    for done in outcomes:
        sys.stdout.write(
            f"  {done.name:<12} {done.outcome:<10} {done.seconds:>6} s  {done.detail}\n"
        )
    sys.exit(any(done.outcome in {"failed", "timed out"} for done in outcomes))


if __name__ == "__main__":
    main()
