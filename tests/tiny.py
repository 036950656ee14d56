"""Small models, sound files and data sets that tests make at run time. Holds no data and no tests."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Wav2Vec2ForPreTraining,
)

from thaitool.config import Section, SynthConfig
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.models.checkpoint import load_tokenizer, new_processor, new_speech_lm_config
from thaitool.models.encoder import feature_extractor, new_config
from thaitool.models.encoders.interface import SpeechEncoder
from thaitool.models.processor import ThaiSpeechProcessor
from thaitool.models.projector import ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration
from thaitool.stages import synth

ROOT = Path(__file__).resolve().parents[1]
ALPACA = ROOT / "examples" / "alpaca.jsonl"
#: Real data that others wrote; never in the tree.
REAL = Path(os.environ.get("THAITOOL_SHARED", ROOT.parent / "shared")) / "data"
#: The demo's convolutions (kernels and strides), everything narrower.
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16, 24, 32],
    "conv_kernel": [20, 16, 8],
    "conv_stride": [10, 8, 4],
    "codevectors_per_group": 16,
    "codevector_dim": 16,
}
Config = TypeVar("Config", bound=Section)
SPECIAL = ("<unk>", "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", AUDIO_TOKEN)
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def installed(module: str) -> bool:
    """Whether an optional library can be imported here."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def make(config: type[Config], **values: Any) -> Config:
    """A configuration, given what differs from the defaults."""
    return config.model_validate(values)


def pretraining_model(seed: int = 0, **changes: Any) -> Wav2Vec2ForPreTraining:
    """A wav2vec 2.0 with quantizer and heads, in evaluation mode."""
    torch.manual_seed(seed)
    return Wav2Vec2ForPreTraining(new_config(**{**SHAPE, **changes})).eval()


def encoder_directory(path: Path, seed: int = 0) -> Path:
    """A directory as `pretrain` writes it."""
    model = pretraining_model(seed)
    model.save_pretrained(path)
    feature_extractor(model.config).save_pretrained(path)
    return path


def llm_directory(path: Path, seed: int = 0, width: int = 32) -> Path:
    """A tokenizer of characters and a few merges, and an untrained Llama."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    bpe.decoder = decoders.Fuse()
    special = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
    alphabet = [chr(c) for c in (*range(0x0E01, 0x0E3B), *range(0x0E3F, 0x0E5C), *range(32, 127))]
    bpe.train_from_iterator(
        ["เปิดไฟ ปิดไฟ ตั้งปลุก ฟังเพลง"] * 4,
        trainers.BpeTrainer(vocab_size=220, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        pad_token="<|pad|>",  # noqa: S106
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    # A larger spread than the usual 0.02, so that an untrained model gives different answers to different inputs.
    config.initializer_range = 0.3
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def speech_lm(
    llm: Path, seed: int = 0
) -> tuple[ThaiSpeechForConditionalGeneration, ThaiSpeechProcessor]:
    """A speech LLM over the LLM of a directory, in evaluation mode, and its processor."""
    tower = SpeechEncoder(pretraining_model(seed).wav2vec2)
    tokenizer = load_tokenizer(llm)
    config = new_speech_lm_config(
        tower.config, llm, tokenizer, projector=ProjectorSettings(hidden_size=24)
    )
    language_model = LlamaForCausalLM.from_pretrained(llm)
    model = ThaiSpeechForConditionalGeneration(config, tower, language_model)
    return model.eval(), new_processor(config, tokenizer)


def ragged_audio(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of shape (B, N), zero after each row's length, and the lengths."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(len(lengths), max(lengths), generator=generator)
    for row, length in zip(audio, lengths, strict=True):
        row[length:] = 0
    return audio, torch.tensor(lengths)


def clips(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` FLAC files of a gliding tone in noise, 0.4 to 0.8 s, 16 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = int(rng.integers(6_400, 12_800))
        first_hz, last_hz = rng.uniform(80, 400, 2).tolist()
        pitch_hz = np.linspace(first_hz, last_hz, n)
        tone = np.sin(2 * np.pi * np.cumsum(pitch_hz) / 16_000)
        samples = 0.3 * tone + 0.05 * rng.standard_normal(n)
        soundfile.write(folder / f"clip-{number:02d}.flac", samples, 16_000)
    return folder


def alpaca_excerpt(path: Path, intents: int = 4, rows_each: int = 3) -> Path:
    """The first rows of the first intents of the example source, as a file of its own."""
    kept: dict[str, list[str]] = {}
    for line in ALPACA.read_text("utf-8").splitlines():
        rows = kept.setdefault(json.loads(line)["intent"], [])
        if len(rows) < rows_each:
            rows.append(line)
    # Intents with names in their sentences first: they are what NER rows are made of.
    named = sorted(kept.values(), key=lambda rows: not any('"type"' in row for row in rows))
    path.write_text("\n".join(row for rows in named[:intents] for row in rows) + "\n", "utf-8")
    return path


def thai_sup(base: Path) -> Path:
    """Thai-SUP shards of twelve sentences below `base`, made once."""
    out = base / "tiny-thai-sup"
    if not out.exists():
        source = alpaca_excerpt(base / "tiny-alpaca.jsonl")
        synth.run(make(SynthConfig, source=source, out=out, variants=1, trainable=True))
    return out
