"""Projectors other than the paper's and an LLM in half precision through the stages: tiny models, the real code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor

from tests import tiny
from tests.test_stages import aligning, training
from thaitool.config import FinetuneConfig, InferConfig
from thaitool.errors import InputError
from thaitool.stages import align, export, finetune, infer
from thaitool.text.prompts import PROMPTS
from thaitool.training.run_dir import RunDir, resolve

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", ["stack", "qformer"])
def test_a_projector_from_alignment_to_a_whole_model(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sup, llm = tiny.thai_sup(tmp_path), tiny.llm_directory(tmp_path / "llm")
    aligned = aligning(
        sup,
        tiny.encoder_directory(tmp_path / "encoder"),
        llm,
        tmp_path / "aligned",
        projector=form,
        projector_hidden_size=32,
        projector_window=8,
        train=training(3, learning_rate=1e-2),
    )
    align.run(aligned)
    tuning = tiny.make(
        FinetuneConfig,
        data=sup,
        model=aligned.out,
        out=tmp_path / "slm",
        lora_rank=2,
        llm_dtype="bfloat16",
        paraphrases=False,
        judge_items=2,
        max_new_tokens=2,
        train=training(3, learning_rate=1e-2),
    )
    tuned = finetune.run(tuning)
    losses = [row["answer_nats"] for row in RunDir(tuned.out).metrics() if "answer_nats" in row]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    before = load_file(resolve(aligned.out) / "front_end.safetensors")
    after = load_file(resolve(tuned.out) / "front_end.safetensors")
    part = "multi_modal_projector.body."
    assert all(not torch.equal(before[n], after[n]) for n in after if n.startswith(part)), (
        "a weight of the projector did not learn"
    )

    sounds = sorted(tiny.clips(tmp_path / "clips", 2).iterdir())
    asked = tiny.make(InferConfig, model=tuned.out, audio=sounds, max_new_tokens=6)
    said = [answer.text for answer in infer.run(asked)]
    export.run(tuned.out, tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "whole")
    inputs = processor.apply_transcription_request([str(file) for file in sounds])
    out = whole.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text.strip() for text in texts] == said

    # Both runs are bound to what turned prompts and clips into their input.
    for run in (aligned.out, tuned.out):
        fingerprint = json.loads((run / "run.json").read_text("utf-8"))["fingerprint"]
        assert fingerprint["processor"] == processor.sha256()
    monkeypatch.setitem(PROMPTS, "asr", "?")
    with pytest.raises(InputError, match=r"prompts, asr: trained with .*, now '\?'"):
        finetune.run(tuning)
    with pytest.raises(InputError, match="processor: the run has"):
        align.run(aligned)
