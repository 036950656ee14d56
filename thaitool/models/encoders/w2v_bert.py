"""wav2vec2-bert (w2v-BERT 2.0, Seamless Communication 2023): audio to log-mel pairs to the states of conformer layers.

Holds no weights: runs transformers' modules. The level of audio does not matter: each clip has each mel bin normed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thaitool.models.encoders.frames import Heard, run_layer
from thaitool.models.encoders.mel import kaldi_log_mel
from thaitool.models.wav2vec2 import attention_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def states(model: Any, heard: Heard) -> Iterator[Tensor]:
    """What enters the first layer, then what each layer makes of it; every one of shape (B, I, D)."""
    B, I = heard.valid.shape  # noqa: E741
    width = model.config.feature_projection_input_dim
    mel, counts = kaldi_log_mel(heard.audio, heard.audio_lengths, bins=width // 2)
    if heard.augment is not None:
        mel = heard.augment(mel, counts)
    pairs = mel[:, : 2 * I].reshape(B, I, width)
    pairs = pairs.to(model.feature_projection.projection.weight.dtype)  # half, as servers have it
    hidden = model.feature_projection(pairs)[0]
    hidden = heard.masked(hidden, getattr(model, "masked_spec_embed", None))
    encoder = model.encoder
    hidden = encoder.dropout(hidden.masked_fill(~heard.valid[..., None], 0.0))
    yield hidden
    attention = attention_mask(model.config, hidden, heard.valid)
    relative = None if encoder.embed_positions is None else encoder.embed_positions(hidden)
    for layer in encoder.layers:
        hidden = run_layer(
            layer,
            hidden,
            drop_chance=model.config.layerdrop,
            attention_mask=attention,
            relative_position_embeddings=relative,
            conv_attention_mask=heard.valid,
        )
        yield hidden


def layers(model: Any) -> nn.ModuleList:
    """The conformer layers."""
    found: nn.ModuleList = model.encoder.layers
    return found


def norm_place(model: Any) -> tuple[Any, str] | None:  # noqa: ARG001 (one signature for all families)
    """None: each layer ends with a norm of its own."""
    return None


def parts(model: Any) -> dict[str, nn.Module]:
    """What can be frozen on its own; together all weights but the embedding of masked frames."""
    return {"projection": model.feature_projection, "transformer": model.encoder}
