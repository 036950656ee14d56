"""A stage in two processes under `accelerate launch`: one of them claims the run directory, both make the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from thaitool.config import AlignConfig
from thaitool.stages import align
from thaitool.training.run_dir import RunDir

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]


@pytest.mark.parametrize(
    ("launcher", "more"),
    [
        ("--multi_gpu", ["ctc_weight=0.3", "ctc_first_updates=1"]),
        pytest.param(
            "--use_fsdp --fsdp_version 2",
            ["ctc_weight=0.3", "unfreeze_layers=1", "gradient_checkpointing=true"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ddp", "fsdp2"],
)
def test_two_processes_finetune_what_one_does(
    launcher: str, more: list[str], tmp_path: Path
) -> None:
    """Also under FSDP2 the LLM answers at evaluations, and the checkpoint has whole weights."""
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
    for started, accumulation in (
        ([*LAUNCH, *launcher.split(), "--main_process_port", "0"], 1),
        ([sys.executable], 2),
    ):
        run = RunDir(tmp_path / f"run-{accumulation}")
        arguments = ["--data", str(sup), "--model", str(aligned), "--out", str(run.path)]
        settings = [
            *(f"train.accumulation={accumulation}", "train.batch_s=10", "train.eval_every=3"),
            *("train.learning_rate=1e-3", "lora_rank=2", "judge_items=2", "max_new_tokens=2"),
            *more,
        ]
        arguments += [*(a for s in settings for a in ("--set", s)), "--updates", "3"]
        done = subprocess.run(
            [*started, "-m", "thaitool", "finetune", *arguments, "--device", "cpu"],
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
        assert abs(a["loss"] - b["loss"]) < 1e-5 * b["loss"]
    for name in ("front_end", "ctc_head", "adapter/adapter_model"):
        both, alone = (load_file(run.path / "last" / f"{name}.safetensors") for run in runs)
        assert both.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(both[key], value, rtol=1e-4, atol=1e-6)
