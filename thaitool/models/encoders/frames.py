"""What the families of encoders share on the way from audio to frames: their input, masking, layers that are skipped.

Knows no family and holds no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from thaitool.models.wav2vec2 import skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True)
class Heard:
    """A batch on its way through an encoder, everything on one device."""

    audio: Tensor
    """Shape (B, N), 16 kHz, zero after each row's length."""
    audio_lengths: Tensor
    """Shape (B,), in samples."""
    valid: Tensor
    """Shape (B, I), true for frames of the audio; of a clip too short for one, the first is, so that attention has
    something to attend to."""
    time_mask: Tensor | None
    """Shape (B, I), true where the transformer is not to see the frame."""
    channel_mask: Tensor | None
    """Shape (B, D), true where a channel is zero in all frames."""
    augment: Callable[[Tensor, Tensor], Tensor] | None
    """Of log-mel features."""

    def masked(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        """Frames (B, I, D) with masked ones replaced by `embedding` (D,), or by zeros where a family has none."""
        if self.time_mask is not None:
            stand_in = hidden.new_zeros(()) if embedding is None else embedding.to(hidden.dtype)
            # Whisper's window is longer than the batch.
            more = hidden.shape[1] - self.time_mask.shape[1]
            mask = functional.pad(self.time_mask, (0, more))
            hidden = torch.where(mask[..., None], stand_in, hidden)
        if self.channel_mask is not None:
            hidden = hidden.masked_fill(self.channel_mask[:, None], 0.0)
        return hidden


def run_layer(
    layer: Any, hidden: Tensor, *arguments: Any, drop_chance: float, **named: Any
) -> Tensor:
    """A transformer layer on frames (B, I, D); in training it is skipped with `drop_chance` (layerdrop).

    Drawn on the CPU, whose state the training loop seeds for each micro-batch.
    """
    if layer.training and drop_chance > 0 and float(torch.rand(())) < drop_chance:
        return skipped(layer, hidden)
    out = layer(hidden, *arguments, **named)
    frames: Tensor = out[0] if isinstance(out, tuple) else out
    return frames
