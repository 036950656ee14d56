"""Whisper's encoder (Radford et al. 2022): audio at its own level to log-mel features to the states of its layers.

Holds no weights: runs transformers' modules. Published weights were trained on clips with silence up to 30 s, which the
encoder attends to; that is the default here, too, and costs 30 s of computation for every clip. With `pad_to_window:
false` in the configuration only true frames are computed, and attention stays within them: cheaper, inert to padding as
well, but not what published weights were trained on, so for encoders that are trained here, or trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn import functional

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.models.encoder import length_mask
from thaitool.models.encoders.frames import Heard, run_layer
from thaitool.models.encoders.mel import HOP, WINDOW, padded_to, whisper_log_mel
from thaitool.models.wav2vec2 import attention_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def pads_to_window(config: Any) -> bool:
    """Whether every clip is padded to the whole window (30 s), as in the training of the published weights."""
    return bool(getattr(config, "pad_to_window", True))


def longest_samples(config: Any) -> int:
    """Samples of the longest clip that there are position embeddings for; 30 s in published models."""
    return int(config.max_source_positions) * 2 * HOP


def states(model: Any, heard: Heard) -> Iterator[Tensor]:
    """What enters the first layer, then what each layer makes of it; of shape (B, I, D), or I of the whole window.

    Raises:
        InputError: a clip is longer than the window.
    """
    config, longest = model.config, longest_samples(model.config)
    if heard.audio.shape[1] > longest:
        raise InputError(
            f"Whisper hears at most {longest / SAMPLE_RATE_HZ:g} s at once, but a clip of the batch has"
            f" {heard.audio.shape[1] / SAMPLE_RATE_HZ:.2f} s. Cut it at pauses, or leave it out."
        )
    whole = pads_to_window(config)
    counts = -(-heard.audio_lengths // HOP)  # a frame for each begun 10 ms
    if whole:
        mel = whisper_log_mel(padded_to(heard.audio, longest), bins=config.num_mel_bins)
    else:
        mel = _mel_of_clips(heard, counts, config.num_mel_bins)
    if heard.augment is not None:
        mel = heard.augment(mel, counts)
    hidden = functional.gelu(model.conv1(mel.transpose(1, 2)))
    if not whole:
        # The second convolution, too, meets zeros after the clip's end.
        hidden = hidden.masked_fill(~length_mask(counts, hidden.shape[2])[:, None], 0.0)
    hidden = functional.gelu(model.conv2(hidden)).transpose(1, 2)
    hidden = heard.masked(hidden, None)
    hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
    hidden = functional.dropout(hidden, config.dropout, model.training)
    yield hidden
    attention = None if whole else attention_mask(config, hidden, heard.valid)
    for layer in model.layers:
        hidden = run_layer(layer, hidden, attention, drop_chance=config.encoder_layerdrop)
        yield hidden


def _mel_of_clips(heard: Heard, counts: Tensor, bins: int) -> Tensor:
    """Features (B, 2 I, bins) as if each clip were alone, with silence after it, and zero after its count."""
    frames = 2 * heard.valid.shape[1]
    # So long that the mirror image at the end, which the spectrum needs, is of silence.
    audio = padded_to(heard.audio, frames * HOP + WINDOW)
    return whisper_log_mel(audio, bins=bins, counts=counts)[:, :frames]


def layers(model: Any) -> nn.ModuleList:
    """The transformer layers."""
    found: nn.ModuleList = model.layers
    return found


def norm_place(model: Any) -> tuple[Any, str] | None:
    """Module and attribute of the norm after the last layer."""
    return model, "layer_norm"


def parts(model: Any) -> dict[str, nn.Module]:
    """What can be frozen on its own; all weights but the position embeddings, sinusoids that are never trained."""
    return {
        "convolutions": nn.ModuleList([model.conv1, model.conv2]),
        "transformer": nn.ModuleList([*model.layers, model.layer_norm]),
    }
