"""Tiny LLM directories of several shapes, and speech LLMs over them. Holds no tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests import encoders, tiny
from thaitool.models.checkpoint import (
    load_llm,
    load_tokenizer,
    new_processor,
    new_speech_lm_config,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.projector import ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.text.tasks import TaskSpec

CONFIGS: dict[str, Any] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def llm_directory(
    path: Path, family: str = "llama", *, tied: bool = True, shard: str = "50GB", **changes: Any
) -> Path:
    """An untrained LLM of a family with the tokenizer of `tiny`; sharded if `shard` is small (e.g. 20KB)."""
    tiny.llm_directory(path)
    (path / "model.safetensors").unlink()
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": len(load_tokenizer(path)),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
    }
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**{**values, **changes}))
    model.save_pretrained(path, max_shard_size=shard)
    return path


def speech_lm(
    llm: Path, encoder: str = "wav2vec2", projector: ProjectorSettings | None = None
) -> tuple[ThaiSpeechForConditionalGeneration, ThaiSpeechProcessor]:
    """A speech LLM of an encoder family over the LLM of a directory, in evaluation mode, and its processor."""
    tower = encoders.encoder(encoder)
    tokenizer = load_tokenizer(llm)
    settings = projector or ProjectorSettings(hidden_size=24)
    config = new_speech_lm_config(tower.config, llm, tokenizer, projector=settings)
    torch.manual_seed(1)
    model = ThaiSpeechForConditionalGeneration(config, tower, load_llm(llm))
    return model.eval(), new_processor(config, tokenizer)


def save(
    path: Path,
    model: ThaiSpeechForConditionalGeneration,
    processor: ThaiSpeechProcessor,
    llm: Path,
    tasks: Mapping[str, TaskSpec] | None = None,
) -> Path:
    """A checkpoint as the stages write it."""
    path.mkdir()
    save_checkpoint(
        path,
        config=model.config,
        audio_tower=model.audio_tower,
        projector=model.multi_modal_projector,
        processor=processor,
        llm=llm,
        llm_sha256=weights_sha256(llm),
        language_model=model.language_model,
        tasks=tasks,
    )
    return path
