"""The demo's pipeline rebuilds what changed and nothing else, and its verdict on learning can fail."""

from __future__ import annotations

import os
import runpy
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from thaitool.data.shards import write_shard
from thaitool.metrics.tasks import TaskScores
from thaitool.records import Score
from thaitool.reports.report import Report

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: Stands in for `thaitool` and `python`: makes the file that each step promises, and writes down that it ran.
STUB = """#!/bin/sh
echo "$1" >> "$LOG"
out=""; stage="$1"
while [ $# -gt 0 ]; do if [ "$1" = --out ]; then out="$2"; fi; shift; done
case "$stage" in
  synth) mkdir -p "$out"; echo {} > "$out/dataset_card.json";;
  pretrain|align|finetune) mkdir -p "$out"; echo {} > "$out/run.json"; sleep 0.02; echo {} > "$out/result.json";;
  eval) mkdir -p "$out"; echo {} > "$out/report.json";;
  tiny_llm.py) mkdir -p "$out"; echo {} > "$out/config.json";;
  export_clips.py) mkdir -p "$out"; echo a > "$out/paths.txt";;
esac
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    """Runs make on a copy of the pipeline; returns the steps that ran."""
    stub, log = tmp_path / "stub", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    for name in ("Makefile", "tiny_llm.py", "export_clips.py", "alpaca.jsonl"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    (tmp_path / "tiny.yaml").write_text("synth: {}\n")

    def run() -> list[str]:
        log.write_text("")
        time.sleep(0.02)  # a file system may keep time in steps of 10 ms
        subprocess.run(
            ["make", "all", f"THAITOOL={stub}", f"PYTHON={stub}", "RECIPE=tiny.yaml"],
            cwd=tmp_path,
            env={**os.environ, "LOG": str(log), "MAKEFLAGS": ""},
            check=True,
            capture_output=True,
        )
        return log.read_text().split()

    return tmp_path, run


def test_pipeline_runs_every_stage_once_and_then_nothing(pipeline: Any) -> None:
    _, run = pipeline
    steps = run()
    assert sorted(steps) == sorted(
        [
            "synth",
            "pretrain",
            "tiny_llm.py",
            "align",
            "finetune",
            "eval",
            "export_clips.py",
            "infer",
        ]
    )
    assert (
        steps.index("synth")
        < steps.index("pretrain")
        < steps.index("align")
        < steps.index("finetune")
    )
    assert run() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            "alpaca.jsonl",
            {
                "synth",
                "pretrain",
                "tiny_llm.py",
                "align",
                "finetune",
                "eval",
                "export_clips.py",
                "infer",
            },
        ),
        ("tiny_llm.py", {"tiny_llm.py", "align", "finetune", "eval", "infer"}),
        ("out/aligned/result.json", {"finetune", "eval", "infer"}),
        ("export_clips.py", {"export_clips.py", "infer"}),
    ],
)
def test_pipeline_rebuilds_what_depends_on_a_change(
    pipeline: Any, changed: str, expected: set[str]
) -> None:
    folder, run = pipeline
    run()
    marks = {"align": "aligned", "finetune": "speech-llm", "pretrain": "encoder"}
    for name in marks.values():
        (folder / "out" / name / "of-the-earlier-run").touch()
    time.sleep(0.02)
    (folder / changed).touch()
    assert set(run()) == expected
    # A stage that runs again because its input changed starts afresh: it would refuse the earlier run's directory.
    kept = {
        step
        for step, name in marks.items()
        if (folder / "out" / name / "of-the-earlier-run").exists()
    }
    assert kept == set(marks) - expected


def test_pipeline_resumes_an_interrupted_run_and_drops_an_outdated_one(pipeline: Any) -> None:
    folder, run = pipeline
    run()
    interrupted = folder / "out" / "speech-llm"
    (interrupted / "result.json").unlink()
    (interrupted / "checkpoint-1").mkdir()
    assert "finetune" in run()
    assert (interrupted / "checkpoint-1").exists()
    time.sleep(0.02)
    (folder / "out" / "aligned" / "result.json").touch()
    run()
    assert not (interrupted / "checkpoint-1").exists()


@pytest.mark.parametrize("script", ["export_clips.py", "tiny_llm.py"])
def test_scripts_leave_other_peoples_files_alone(script: str, tmp_path: Path) -> None:
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("three years of work")
    data = tmp_path / "data" / "IC" / "test"
    write_shard(data / "test-00000.parquet", [])
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / script),
            "--data",
            str(tmp_path / "data"),
            "--out",
            str(thesis.parent),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "choose another --out" in done.stderr
    assert thesis.read_text() == "three years of work"


def _report(accuracy: float, low: float, shuffled: float) -> Report:
    chance = Score("ic_chance", 1, 8)

    def scores(value: float, lower: float) -> tuple[TaskScores, ...]:
        return (
            TaskScores("ic", 100, (Score("ic_accuracy", value * 100, 100, lower, 1.0), chance)),
        )

    return Report("t", "eval", "now", tasks=scores(accuracy, low), shuffled=scores(shuffled, 0.0))


@pytest.mark.parametrize(
    ("accuracy", "low", "shuffled", "phrases"),
    [
        (0.5, 0.4, 0.12, []),
        (0.2, 0.1, 0.05, ["not above chance"]),
        (0.5, 0.4, 0.45, ["do not come from the audio"]),
        (0.13, 0.08, 0.13, ["not above chance", "do not come from the audio"]),
    ],
)
def test_verdict_on_learning(
    accuracy: float, low: float, shuffled: float, phrases: list[str]
) -> None:
    learned = runpy.run_path(str(EXAMPLES / "summary.py"))["learned"]
    problems = learned(_report(accuracy, low, shuffled))
    assert len(problems) == len(phrases)
    for problem, phrase in zip(problems, phrases, strict=True):
        assert phrase in problem
