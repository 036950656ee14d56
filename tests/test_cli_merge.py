"""`thaitool convert merge`: from a run's checkpoint to a directory that transformers loads by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from tests import llms, tiny
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.models.checkpoint import weights_sha256

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("signals")


def run(*args: object) -> int:
    return guarded(lambda: app([*map(str, args)], prog_name="thaitool", standalone_mode=False))


def test_merge_makes_a_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = llms.llm_directory(tmp_path / "llm", "qwen2")
    model, processor = llms.speech_lm(llm)
    path = llms.save(tmp_path / "checkpoint", model, processor, llm)
    moved = llm.rename(tmp_path / "moved")
    out = tmp_path / "whole"
    assert run("convert", "merge", path, "--out", out) == 3
    assert "which is not there any more; say where by --llm" in capsys.readouterr().err
    assert not out.exists()
    assert run("convert", "merge", path, "--out", out, "--llm", moved, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["weights_sha256"] == weights_sha256(out)
    assert said["n_bytes"] > (moved / "model.safetensors").stat().st_size
    whole = AutoModelForCausalLM.from_pretrained(out).eval()
    sound = tiny.ragged_audio(8_000)[0][0].numpy()
    asked = AutoProcessor.from_pretrained(out).apply_transcription_request(sound)
    with torch.no_grad():
        torch.testing.assert_close(whole(**asked).logits, model(**asked).logits)
    assert run("convert", "merge", path, "--out", out, "--llm", moved) == 3
    assert "must be a new or an empty directory" in capsys.readouterr().err
