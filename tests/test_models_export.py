"""What a merged model must not lose or change on its way from a checkpoint: shared tables, the recogniser of drafts."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests import llms, tiny
from tests.test_training_drafts import recogniser_directory
from thaitool.errors import InputError
from thaitool.models.checkpoint import load_speech_lm, weights_sha256
from thaitool.models.drafter import drafter_of, load_drafter, save_drafter
from thaitool.models.export import export

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def adapted(root: Path, targets: str, *, tied: bool) -> Path:
    """A checkpoint whose adapter changes what the LLM says."""
    llm = llms.llm_directory(root / "llm", tied=tied)
    model, processor = llms.speech_lm(llm)
    lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    model.language_model = get_peft_model(model.language_model, lora)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return llms.save(root / "checkpoint", model, processor, llm)


def scores(path: Path) -> Tensor:
    model, processor = load_speech_lm(path)
    audio, lengths = tiny.ragged_audio(8_000)
    asked = processor.tokens(["ถอดเสียง"], [8_000])
    with torch.no_grad():
        found: Tensor = model(
            input_ids=asked.input_ids,
            attention_mask=asked.attention_mask,
            input_values=audio,
            input_lengths=lengths,
        ).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [r".*(q_proj|lm_head)$", r".*(embed_tokens|q_proj)$"])
def test_an_adapter_of_one_of_two_shared_tables_is_not_merged_into_both(
    tmp_path: Path, targets: str, *, tied: bool
) -> None:
    path = adapted(tmp_path, targets, tied=tied)
    export(path, tmp_path / "whole")
    # It is the adapter of the table that is at stake: without it the model says something else.
    assert (scores(path) - scores(plain(tmp_path))).abs().max() > 1
    torch.testing.assert_close(scores(tmp_path / "whole"), scores(path), atol=2e-5, rtol=1e-4)


def plain(root: Path) -> Path:
    """The same checkpoint without its adapter."""
    shutil.copytree(root / "checkpoint", root / "plain")
    shutil.rmtree(root / "plain" / "adapter")
    return root / "plain"


def test_a_model_that_hears_with_drafts_takes_its_recogniser_along(tmp_path: Path) -> None:
    path = adapted(tmp_path, r".*q_proj$", tied=True)
    mine = recogniser_directory(tmp_path / "ctc")
    save_drafter(path, mine, weights_sha256(mine))
    export(path, tmp_path / "whole")
    clip = np.asarray(tiny.ragged_audio(9_000)[0][0].numpy())
    said = load_drafter(mine)([clip])
    moved = mine.rename(tmp_path / "moved")
    whole = (tmp_path / "whole").rename(tmp_path / "elsewhere")
    found = drafter_of(whole)
    assert found is not None
    assert found([clip]) == said
    assert str(tmp_path) not in (whole / "drafter.json").read_text("utf-8")
    with pytest.raises(InputError, match="which is not there"):
        export(path, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    export(path, tmp_path / "again", drafter=moved)
    assert weights_sha256(tmp_path / "again") == weights_sha256(whole)
