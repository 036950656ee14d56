"""The wav2vec 2.0 family (wav2vec 2.0, XLS-R, HuBERT, WavLM): audio to the states of its layers.

Holds no weights: runs transformers' modules, with the convolutions of `models.wav2vec2`. Padding is inert also
where the convolutions norm each channel over time (wav2vec 2.0 base): those run clip by clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from thaitool.models.encoder import output_lengths
from thaitool.models.encoders.frames import Heard, run_layer
from thaitool.models.wav2vec2 import attention_mask, conv_features, skipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def states(model: Any, heard: Heard) -> Iterator[Tensor]:
    """What enters the first layer, then what each layer makes of it; every one of shape (B, I, D)."""
    projected = model.feature_projection(_features(model, heard))
    hidden = projected[0] if isinstance(projected, tuple) else projected
    hidden = heard.masked(hidden, getattr(model, "masked_spec_embed", None))
    hidden = hidden.masked_fill(~heard.valid[..., None], 0.0)
    encoder = model.encoder
    hidden = hidden + encoder.pos_conv_embed(hidden)
    if not model.config.do_stable_layer_norm:
        hidden = encoder.layer_norm(hidden)
    hidden = encoder.dropout(hidden)
    yield hidden
    chance = model.config.layerdrop
    if model.config.model_type == "wavlm":
        yield from _wavlm_states(encoder, hidden, heard.valid, chance)
        return
    attention = attention_mask(model.config, hidden, heard.valid)
    for layer in encoder.layers:
        hidden = run_layer(layer, hidden, attention, drop_chance=chance)
        yield hidden


def _wavlm_states(
    encoder: Any, hidden: Tensor, valid: Tensor, drop_chance: float
) -> Iterator[Tensor]:
    """WavLM's layers hand a bias by relative position from one to the next; the first one makes it, and is kept."""
    bias = None
    for number, layer in enumerate(encoder.layers):
        dropped = layer.training and drop_chance > 0 and float(torch.rand(())) < drop_chance
        if number and dropped:
            hidden = skipped(layer, hidden)
        else:
            hidden, bias = layer(hidden, attention_mask=valid.long(), position_bias=bias)
        yield hidden


def _features(model: Any, heard: Heard) -> Tensor:
    """Output of the convolutions, shape (B, I, C)."""
    if model.config.feat_extract_norm == "layer":
        return conv_features(model, heard.audio)
    I = heard.valid.shape[1]  # noqa: E741
    rows = []
    for audio, n in zip(heard.audio, heard.audio_lengths.tolist(), strict=True):
        if output_lengths(model.config, n) == 0:
            rows.append(audio.new_zeros(I, model.config.conv_dim[-1]))
            continue
        features = conv_features(model, audio[None, :n])[0]
        rows.append(functional.pad(features, (0, 0, 0, I - len(features))))
    return torch.stack(rows)


def layers(model: Any) -> nn.ModuleList:
    """The transformer layers."""
    found: nn.ModuleList = model.encoder.layers
    return found


def norm_place(model: Any) -> tuple[Any, str] | None:
    """Module and attribute of the norm after the last layer, if there is one."""
    return (model.encoder, "layer_norm") if model.config.do_stable_layer_norm else None


def parts(model: Any) -> dict[str, nn.Module]:
    """What can be frozen on its own; together all weights but the embedding of masked frames."""
    return {
        "convolutions": model.feature_extractor,
        "projection": model.feature_projection,
        "transformer": model.encoder,
    }
