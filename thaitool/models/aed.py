"""A small transformer decoder over encoder frames (attention encoder-decoder). Searches nothing: see `decoding`.

Unit ids are those of the CTC head. The blank never stands in a transcript, so its id 0 is the boundary here: the start
on the input side, the end on the output side, and both heads have the same width V. Pre-norm, sinusoidal positions,
output tied to the embeddings (Vaswani et al. 2017; the order of norms is Xiong et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from thaitool.errors import InputError
from thaitool.models.encoder import length_mask
from thaitool.text.units import BLANK_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from thaitool.config import DecoderShape

#: Before the first unit on the input side, after the last one on the output side.
BOUNDARY_ID = BLANK_ID
_IGNORED = -100


@dataclass(frozen=True)
class Cache:
    """What a decoder has read so far, for H hypotheses: keys and values of each layer, of its own units and of frames.

    Each is of shape (H, heads, J or I, width of a head); `frame_mask` is (H, 1, 1, I). Hypotheses about one clip share
    its frames, which are then of shape (1, ...).
    """

    own: tuple[tuple[Tensor, Tensor] | None, ...]
    frames: tuple[tuple[Tensor, Tensor], ...]
    frame_mask: Tensor

    def select(self, rows: Tensor) -> Cache:
        """The same for the hypotheses `rows` (H',), in their order; one may be taken more than once."""
        own = tuple(None if kv is None else (kv[0][rows], kv[1][rows]) for kv in self.own)
        if len(self.frame_mask) == 1:
            return Cache(own, self.frames, self.frame_mask)
        frames = tuple((k[rows], v[rows]) for k, v in self.frames)
        return Cache(own, frames, self.frame_mask[rows])


class _Attention(nn.Module):
    """Attention with keys and values computed apart, so that they can be kept between steps."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Of memory (B, M, D), each (B, heads, M, D / heads)."""
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self, hidden: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Attends from hidden (B, J, D); `mask` is true where a query may look, None is everywhere."""
        keys, values = (x.expand(len(hidden), -1, -1, -1) for x in keys_values)
        out = functional.scaled_dot_product_attention(
            self._split(self.query(hidden)),
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Layer(nn.Module):
    def __init__(self, width: int, shape: DecoderShape) -> None:
        super().__init__()
        self.norm_own, self.norm_frames, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.own = _Attention(width, shape.heads, shape.dropout)
        self.frames = _Attention(width, shape.heads, shape.dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, shape.intermediate_size),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.intermediate_size, width),
        )
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        hidden: Tensor,
        past: tuple[Tensor, Tensor] | None,
        frames: tuple[Tensor, Tensor],
        own_mask: Tensor | None,
        frame_mask: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        normed = self.norm_own(hidden)
        keys, values = self.own.keys_values(normed)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        hidden = hidden + self.dropout(self.own(normed, (keys, values), own_mask))
        hidden = hidden + self.dropout(self.frames(self.norm_frames(hidden), frames, frame_mask))
        return hidden + self.dropout(self.mlp(self.norm_mlp(hidden))), (keys, values)


class AttentionDecoder(nn.Module):
    """Next-unit scores from the units before and the encoder's frames."""

    def __init__(self, units: int, width: int, shape: DecoderShape) -> None:
        """`units` is V, the width of the CTC head; `width` is D, that of the frames and of the decoder.

        Raises:
            InputError: the heads do not divide the width.
        """
        super().__init__()
        if width % (2 * shape.heads):
            raise InputError(
                f"decoder.heads must divide half the encoder's width of {width}, but is {shape.heads}. Choose another"
                " number of heads."
            )
        self.shape, self.width = shape, width
        self.embedding = nn.Embedding(units, width)
        # Times sqrt(D) on the way in, so that units and positions weigh the same, and as they are on the way out.
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.frame_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(shape.dropout)

    def start(self, frames: Tensor, frame_lengths: Tensor) -> Cache:
        """The cache before the first unit, of frames (B, I, D), I >= 1, with their true counts (B,)."""
        normed = self.frame_norm(frames)
        # Of a clip without frames the first one is read, so that attention has something to attend to.
        counts = frame_lengths.to(frames.device).clamp_min(1)
        mask = length_mask(counts, frames.shape[1])
        return Cache(
            (None,) * len(self.layers),
            tuple(layer.frames.keys_values(normed) for layer in self._layers()),
            mask[:, None, None, :],
        )

    def forward(self, ids: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Scores (B, J, V) of what follows each of the ids (B, J), and the cache with these ids read."""
        first = cache.own[0]
        read = 0 if first is None else first[0].shape[2]
        length = ids.shape[1]
        hidden = self.embedding(ids) * math.sqrt(self.width)
        hidden = self.dropout(hidden + _positions(read, length, self.width, hidden))
        causal = None
        if length > 1:
            causal = torch.ones(length, read + length, dtype=torch.bool, device=ids.device)
            causal = causal.tril(read)
        own = []
        for layer, past, frames in zip(self._layers(), cache.own, cache.frames, strict=True):
            hidden, keys_values = layer(hidden, past, frames, causal, cache.frame_mask)
            own.append(keys_values)
        scores = functional.linear(self.norm(hidden), self.embedding.weight)
        return scores, Cache(tuple(own), cache.frames, cache.frame_mask)

    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]


def _positions(first: int, count: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of positions first..first+count-1, shape (count, width) (Vaswani et al. 2017, section 3.5)."""
    place = torch.arange(first, first + count, device=like.device, dtype=torch.float32)
    even = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angles = place[:, None] * torch.exp(even * (-math.log(10_000.0) / width))[None, :]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)


def teacher_forcing(targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """What the decoder reads and what it should say, each (B, J + 1), for the longest of B transcripts of J units.

    Positions after a transcript's end read the boundary and say -100, which no loss counts.
    """
    size = max(map(len, targets), default=0) + 1
    read = torch.full((len(targets), size), BOUNDARY_ID)
    say = torch.full((len(targets), size), _IGNORED)
    for row, ids in enumerate(targets):
        units = torch.tensor(ids, dtype=torch.int64)
        read[row, 1 : len(ids) + 1] = units
        say[row, : len(ids)] = units
        say[row, len(ids)] = BOUNDARY_ID
    return read, say


def attention_loss(
    decoder: AttentionDecoder,
    frames: Tensor,
    frame_lengths: Tensor,
    targets: Sequence[Sequence[int]],
    *,
    smoothing: float = 0.1,
) -> tuple[Tensor, int, Tensor]:
    """Cross-entropy of the right units given those before them, with label smoothing (Szegedy et al. 2016), as a sum.

    Args:
        decoder: The decoder.
        frames: Shape (B, I, D).
        frame_lengths: Shape (B,), true counts.
        targets: Unit ids of B transcripts, without boundaries.
        smoothing: Share of the target spread evenly over V.

    Returns:
        The summed loss in float32, the number of units it is a sum over (each transcript's end is one), and how many
        of them the decoder ranks first, a tensor that needs no synchronisation.
    """
    read, say = (x.to(frames.device) for x in teacher_forcing(targets))
    scores, _ = decoder(read, decoder.start(frames, frame_lengths))
    scores = scores.float()
    loss = functional.cross_entropy(
        scores.flatten(0, 1),
        say.flatten(),
        ignore_index=_IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )
    right = (scores.argmax(-1) == say).sum()
    return loss, sum(len(ids) + 1 for ids in targets), right
