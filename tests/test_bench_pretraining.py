"""The GPU step of pretraining runs as a program on a bare machine, here on the CPU with a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import gpu_pretraining

ROOT = Path(__file__).resolve().parents[1]
#: What the GPU machine does not have.
ABSENT = (
    "soundfile",
    "pydantic",
    "pythainlp",
    "datasets",
    "evaluate",
    "jiwer",
    "peft",
    "rapidfuzz",
)
PROGRAM = f"""
import runpy, sys
for name in {ABSENT}:
    sys.modules[name] = None
sys.argv = ["gpu_pretraining.py", "--device", "cpu", "--tiny", "--no-compile", "--out", sys.argv[1]]
runpy.run_path("tests/bench/gpu_pretraining.py", run_name="__main__")
"""


def test_the_gpu_step_runs_without_what_a_gpu_machine_lacks(tmp_path: Path) -> None:
    out = tmp_path / "pretraining.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(out.read_text("utf-8"))
    assert record["device_against_cpu"] == {"loss": 0.0, "gradient": 0.0}
    assert record["updates"]["equality"]["difference"] < 0.03
    assert record["updates"]["thaitool, compiled"] == {"not run": "--no-compile"}
    rows = [r for r in record["updates"].values() if "update_ms" in r]
    assert len(rows) == 5
    assert all(r["update_ms"] > 0 and r["audio_hours_per_hour"] > 0 for r in rows)
    assert min(record["parts_ms"].values()) > 0
    assert len(record["kernels_ms"]) == 15


def test_a_difference_ends_the_program() -> None:
    assert gpu_pretraining.require("loss", 1e-6, 1e-5) == 1e-6
    for found in (1e-4, float("nan")):
        with pytest.raises(SystemExit, match="loss: differs by"):
            gpu_pretraining.require("loss", found, 1e-5)
