"""From encoder frames to the LLM's embedding space: LayerNorm, strided convolution, MLP (arXiv:2509.14804, U-Align).

Also holds the two means of the centred alignment recipe, so that inference sees what alignment trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from thaitool.models.encoder import Length, frame_lengths

if TYPE_CHECKING:
    from torch import Tensor


class Projector(nn.Module):
    """Subsamples by `factor` and projects (B, I, D_audio) to (B, I // factor, D_text).

    `aligned` is the output that the DTW loss sees. `forward` moves it to where the LLM's token embeddings lie:
    gain * (aligned - speech_mean) + text_mean, the identity until `align` sets the three.
    """

    speech_mean: Tensor
    text_mean: Tensor
    gain: Tensor

    def __init__(
        self, audio_width: int, text_width: int, *, factor: int, hidden_width: int
    ) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.LayerNorm(audio_width)
        self.subsample = nn.Conv1d(audio_width, hidden_width, kernel_size=factor, stride=factor)
        self.mlp = nn.Sequential(
            nn.GELU(),
            nn.Linear(hidden_width, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, text_width),
        )
        self.register_buffer("speech_mean", torch.zeros(text_width))
        self.register_buffer("text_mean", torch.zeros(text_width))
        self.register_buffer("gain", torch.ones(()))

    def output_lengths(self, frames: Length) -> Length:
        """Output frames for `frames` encoder frames."""
        return frame_lengths([self.factor], [self.factor], frames)

    def aligned(self, frames: Tensor) -> Tensor:
        """Encoder frames (B, I, D_audio) to raw projections (B, I // factor, D_text)."""
        x = self.subsample(self.norm(frames).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.mlp(x)
        return out

    def forward(self, frames: Tensor) -> Tensor:
        """Encoder frames (B, I, D_audio) to LLM input embeddings (B, I // factor, D_text)."""
        out: Tensor = self.gain * (self.aligned(frames) - self.speech_mean) + self.text_mean
        return out
