"""Tiny random encoders of every family, as configurations of transformers. Holds no tests."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    HubertConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)

from thaitool.models.encoders.interface import Layer, SpeechEncoder, new_speech_encoder

WAVE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 24),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 15,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "layerdrop": 0.0,
}
POST_NORM: dict[str, Any] = {"feat_extract_norm": "group", "do_stable_layer_norm": False}


BERT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "feature_projection_input_dim": 32,
    "conv_depthwise_kernel_size": 7,
    "layerdrop": 0.0,
}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_mel_bins": 20,
    # A window of 3 s: what is tested does not depend on its length, and 30 s would take ten times as long.
    "max_source_positions": 150,
}
FAMILIES = (
    *("wav2vec2", "wav2vec2/base", "hubert", "hubert/base", "wavlm", "wavlm/base"),
    *("wav2vec2-bert", "whisper", "whisper/clip"),
)


def config(family: str) -> Any:
    """A configuration whose model has some ten thousand weights.

    `/base` is the form with norms over time and after each layer, `/clip` that without padding to the window.
    """
    name, _, form = family.partition("/")
    if name == "wav2vec2-bert":
        return Wav2Vec2BertConfig(**BERT)
    if name == "whisper":
        return WhisperConfig(**WHISPER, **({"pad_to_window": False} if form else {}))
    wave = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "wavlm": WavLMConfig}
    return wave[name](**(WAVE | (POST_NORM if form == "base" else {})))


def encoder(family: str, layer: Layer = "last", seed: int = 0) -> SpeechEncoder:
    """Random weights, in evaluation mode."""
    torch.manual_seed(seed)
    made = new_speech_encoder(config(family), layer=layer).eval()
    # Biases start at zero and norms at one, which would hide a swapped or left-out one.
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made
