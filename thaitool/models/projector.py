"""From encoder frames to the LLM's embedding space, in one of three forms that all subsample by the same factor.

- conv: LayerNorm, strided convolution, MLP (arXiv:2509.14804, U-Align).
- stack: neighbouring frames side by side, LayerNorm over them together, MLP (SLAM-LLM; Ma et al. 2024). A convolution
  whose kernel is its stride is a linear layer of stacked frames, so it differs from conv only by its norm.
- qformer: learned queries attend to windows of frames (BLIP-2, Li et al. 2023; windows: SALMONN, Tang et al. 2024).

Also holds the two means of the centred alignment recipe, so that inference sees what alignment trained. Knows neither
the encoder nor the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from thaitool.errors import InputError
from thaitool.models.encoder import Length, frame_lengths, length_mask

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["conv", "stack", "qformer"]
#: Width of an attention head of the Q-Former.
HEAD_WIDTH = 32


@dataclass(frozen=True)
class ProjectorSettings:
    """Form and size of a projector."""

    form: Form = "conv"
    factor: int = 2
    """Encoder frames per LLM embedding."""
    hidden_size: int = 256
    layers: int = 2
    """Linear layers after subsampling (conv, stack), or transformer blocks (qformer)."""
    window: int = 16
    """Encoder frames that a query of the Q-Former sees."""

    def __post_init__(self) -> None:
        """Raises `InputError` for a form or a size that makes no projector."""
        if self.form not in get_args(Form):
            raise InputError(
                f"The projector must be one of {', '.join(get_args(Form))}, but is {self.form!r}."
            )
        for name in ("factor", "hidden_size", "layers", "window"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"The projector's {name} must be 1 or more, but is {getattr(self, name)}."
                )
        if self.form == "qformer" and self.window % self.factor:
            raise InputError(
                f"The projector's window must be a multiple of its factor ({self.factor}), so that every window gives"
                f" whole embeddings, but is {self.window}."
            )
        if self.form == "qformer" and self.hidden_size % HEAD_WIDTH:
            raise InputError(
                f"The hidden size of a qformer must be a multiple of {HEAD_WIDTH}, the width of an attention head, but"
                f" is {self.hidden_size}."
            )


class Projector(nn.Module):
    """Subsamples by `factor` and projects (B, I, D_audio) to (B, I // factor, D_text).

    `aligned` is the output that the DTW loss sees. `forward` moves it to where the LLM's token embeddings lie:
    gain * (aligned - speech_mean) + text_mean, the identity until `align` sets the three.
    """

    speech_mean: Tensor
    text_mean: Tensor
    gain: Tensor

    def __init__(self, audio_width: int, text_width: int, settings: ProjectorSettings) -> None:
        super().__init__()
        self.settings = settings
        forms = {"conv": _Convolution, "stack": _Stack, "qformer": _WindowQFormer}
        self.body: nn.Module = forms[settings.form](audio_width, text_width, settings)
        self.register_buffer("speech_mean", torch.zeros(text_width))
        self.register_buffer("text_mean", torch.zeros(text_width))
        self.register_buffer("gain", torch.ones(()))

    def output_lengths(self, frames: Length) -> Length:
        """Embeddings for `frames` encoder frames; frames that do not fill the last one are left out."""
        return frame_lengths([self.settings.factor], [self.settings.factor], frames)

    def aligned(self, frames: Tensor, counts: Tensor) -> Tensor:
        """Raw projections (B, I // factor, D_text).

        Args:
            frames: Shape (B, I, D_audio).
            counts: Shape (B,), valid frames of each row. What lies after them changes no valid projection.
        """
        out: Tensor = self.body(frames, counts)
        return out

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:
        """LLM input embeddings (B, I // factor, D_text) of encoder frames (B, I, D_audio), `counts` (B,) valid."""
        raw = self.aligned(frames, counts)
        out: Tensor = self.gain * (raw - self.speech_mean) + self.text_mean
        return out


class _Convolution(nn.Module):
    """Norm of each frame, convolution with kernel = stride = factor, MLP."""

    def __init__(self, audio_width: int, text_width: int, settings: ProjectorSettings) -> None:
        super().__init__()
        factor, hidden = settings.factor, settings.hidden_size
        self.norm = nn.LayerNorm(audio_width)
        self.subsample = nn.Conv1d(audio_width, hidden, kernel_size=factor, stride=factor)
        self.mlp = _mlp(hidden, text_width, settings.layers)
        self.text_width = text_width

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:  # noqa: ARG002 (one signature)
        factor = self.subsample.stride[0]
        if frames.shape[1] < factor:  # a convolution refuses what is shorter than its kernel
            return frames.new_zeros(len(frames), 0, self.text_width)
        # No valid projection reaches into the padding: its frames are all below I // factor * factor.
        x = self.subsample(self.norm(frames).transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.mlp(x)
        return out


class _Stack(nn.Module):
    """`factor` frames as one vector, norm of it, MLP."""

    def __init__(self, audio_width: int, text_width: int, settings: ProjectorSettings) -> None:
        super().__init__()
        self.factor = settings.factor
        wide = settings.factor * audio_width
        self.norm = nn.LayerNorm(wide)
        self.widen = nn.Linear(wide, settings.hidden_size)
        self.mlp = _mlp(settings.hidden_size, text_width, settings.layers)

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:  # noqa: ARG002 (one signature)
        groups = frames.shape[1] // self.factor
        stacked = frames[:, : groups * self.factor].reshape(
            len(frames), groups, self.factor * frames.shape[2]
        )
        out: Tensor = self.mlp(self.widen(self.norm(stacked)))
        return out


class _WindowQFormer(nn.Module):
    """In each window, `window // factor` learned queries attend to each other and to the valid frames.

    The last window of a clip is cut short with it: r frames in it give r // factor embeddings.
    """

    def __init__(self, audio_width: int, text_width: int, settings: ProjectorSettings) -> None:
        super().__init__()
        self.factor, self.window = settings.factor, settings.window
        hidden = settings.hidden_size
        self.norm = nn.LayerNorm(audio_width)
        self.narrow = nn.Linear(audio_width, hidden)
        # Without a place in the window, a query could not tell early frames from late ones.
        self.places = nn.Parameter(0.02 * torch.randn(settings.window, hidden))
        self.queries = nn.Parameter(0.02 * torch.randn(settings.window // settings.factor, hidden))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                hidden,
                hidden // HEAD_WIDTH,
                dim_feedforward=4 * hidden,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.last_norm = nn.LayerNorm(hidden)
        self.widen = nn.Linear(hidden, text_width)

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:
        B, I = frames.shape[:2]  # noqa: E741
        windows = -(-I // self.window)
        if not windows:
            return frames.new_zeros(B, 0, self.widen.out_features)
        valid = length_mask(counts.to(frames.device), windows * self.window)
        padded = functional.pad(frames, (0, 0, 0, windows * self.window - I))
        # Padding may hold anything, NaN too.
        heard = self.narrow(self.norm(padded.masked_fill(~valid[..., None], 0.0)))
        heard = heard.view(B * windows, self.window, -1) + self.places
        unheard = ~valid.view(B * windows, self.window)
        # A window of padding only: attention needs one frame, and nobody uses what it finds there.
        unheard = unheard & ~(unheard.all(1, keepdim=True) & _first(unheard))
        found = self.queries.expand(B * windows, -1, -1)
        for block in self.blocks:
            found = block(found, heard, memory_key_padding_mask=unheard)
        out: Tensor = self.widen(self.last_norm(found))
        return out.view(B, -1, out.shape[-1])[:, : I // self.factor]


def _first(mask: Tensor) -> Tensor:
    """(1, W): true at the first place."""
    return torch.arange(mask.shape[1], device=mask.device)[None] == 0


def _mlp(hidden: int, text_width: int, layers: int) -> nn.Sequential:
    """GELU before each of `layers` linear layers, the last of which has the LLM's width."""
    widths = [hidden] * layers + [text_width]
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.GELU(), nn.Linear(before, after)]
    return nn.Sequential(*parts)
