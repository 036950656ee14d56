"""The estimate before finetuning: memory against what autograd really keeps, weights against what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM, Wav2Vec2Model

from tests import tiny
from tests.test_models_estimate import kept_bytes
from thaitool.models.encoder import new_config
from thaitool.models.encoders.interface import SpeechEncoder
from thaitool.models.estimate_speech_lm import (
    describe_speech_lm,
    encoder_activation_bytes,
    estimate_speech_lm,
    llm_activation_bytes,
)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_llms_memory_is_near_what_autograd_keeps(family: str, half: bool, lora: bool) -> None:
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    make_config, make = kinds[family]
    config = make_config(
        vocab_size=32,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
    )
    model = make(config).to(torch.bfloat16 if half else torch.float32).requires_grad_(False)
    if lora:
        targets = r".*(q|k|v|o|gate|up|down)_proj$"
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        )
    decoder = (model.get_base_model() if lora else model).get_decoder()
    embeds = torch.randn(2, 300, 256, requires_grad=True)

    def compute() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out: torch.Tensor = decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state
            return out

    measured = kept_bytes(model, compute)
    asked: dict[str, bool] = {"lora": lora, "half": half, "query_norms": family == "qwen3"}
    guess = llm_activation_bytes(config, 600, checkpointing=False, **asked)
    assert guess == pytest.approx(measured, rel=0.2)
    again = llm_activation_bytes(config, 600, checkpointing=True, **asked)
    assert again < guess / 2


def test_a_frozen_encoder_keeps_nothing_and_each_layer_its_share() -> None:
    shape = {**tiny.SHAPE, "hidden_size": 256, "heads": 4, "intermediate_size": 1024}
    encoder = SpeechEncoder(Wav2Vec2Model(new_config(**shape, dropout=0.0)))
    assert encoder_activation_bytes(encoder, 10.0, layers=None, whole=False, half=False) == 0
    one, two = (
        encoder_activation_bytes(encoder, 10.0, layers=n, whole=False, half=False) for n in (1, 2)
    )
    assert two == 2 * one > 0
    encoder.requires_grad_(False)
    encoder.stack[-1].requires_grad_(True)
    audio, lengths = tiny.ragged_audio(160_000)
    measured = kept_bytes(encoder, lambda: encoder.train()(audio, lengths)[0])
    # What is above the layers, and masks, are not counted.
    assert one == pytest.approx(measured, rel=0.3)
    whole = encoder_activation_bytes(encoder, 10.0, layers=None, whole=True, half=False)
    assert whole > two


def test_the_estimate_adds_up(tmp_path: Path) -> None:
    model, _ = tiny.speech_lm(tiny.llm_directory(tmp_path / "llm"))
    asked: dict[str, Any] = {
        "trained_parameters": 1000,
        "tokens": 200,
        "text_tokens": 50,
        "audio_s": 4.0,
        "lora": True,
        "unfrozen_layers": None,
        "unfrozen_encoder": False,
        "checkpointing": False,
        "autocast": False,
        "keep": 2,
    }
    found = estimate_speech_lm(model, **asked)
    assert sum(found.weights.values()) == sum(p.numel() * 4 for p in model.parameters())
    assert found.state == sum(found.weights.values()) + 12_000
    assert found.casts == found.encoder_activations == 0
    assert found.scores == 12 * 50 * model.config.text_config.vocab_size
    assert found.total == found.state + found.llm_activations + found.scores
    half = estimate_speech_lm(model, **{**asked, "autocast": True})
    assert half.casts == 2 * sum(p.numel() for p in model.language_model.parameters())
    assert half.llm_activations < found.llm_activations
    told = dict(describe_speech_lm(found, tokens=200))
    assert "200 tokens" in told["memory"]
    assert told["disk"].endswith("MiB of checkpoints")
