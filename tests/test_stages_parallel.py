"""A stage in two processes under `accelerate launch`: one of them claims the run directory, both make the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests import tiny
from thaitool.config import AlignConfig
from thaitool.stages import align
from thaitool.training.run_dir import RunDir

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]


def test_two_processes_finetune_what_one_does(tmp_path: Path) -> None:
    sup = tiny.thai_sup(tmp_path)
    aligned = align.run(
        tiny.make(
            AlignConfig,
            data=sup,
            encoder=tiny.encoder_directory(tmp_path / "encoder"),
            llm=tiny.llm_directory(tmp_path / "llm"),
            out=tmp_path / "aligned",
            method="none",
            projector_hidden_size=24,
            train={"updates": 1, "batch_s": 20.0, "learning_rate": 1e-3, "device": "cpu"},
        )
    ).out
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    runs = []
    for launcher, accumulation in (
        ([*LAUNCH, "--multi_gpu", "--main_process_port", "0"], 1),
        ([sys.executable], 2),
    ):
        run = RunDir(tmp_path / f"run-{accumulation}")
        arguments = ["--data", str(sup), "--model", str(aligned), "--out", str(run.path)]
        settings = [
            *(f"train.accumulation={accumulation}", "train.batch_s=10", "train.eval_every=3"),
            *("train.learning_rate=1e-3", "lora_rank=2"),
        ]
        arguments += [*(a for s in settings for a in ("--set", s)), "--updates", "3"]
        done = subprocess.run(
            [*launcher, "-m", "thaitool", "finetune", *arguments, "--device", "cpu"],
            env=env,
            cwd=tiny.ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        runs.append(run)
    two, one = (json.loads((run.path / "result.json").read_text()) for run in runs)
    assert two["planned"] == one["planned"] == {"updates": 3, "batches": 6}
    assert two["done"]["utterances"] == one["done"]["utterances"]
    for a, b in zip(runs[0].metrics(), runs[1].metrics(), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-4 * b["loss"]
