"""Which frames are masked, and which other masked frames each is told from; on the CPU, from a generator.

Computes no loss. The host draws and counts here, so that nothing later has to ask the device how many frames there
are. Spans as in fairseq: Baevski et al. 2020, section 3.1 and 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from thaitool.models.encoder import length_mask

if TYPE_CHECKING:
    from torch import Tensor

N_NEGATIVES = 100
#: Masking of pretraining (Baevski et al. 2020); a published configuration holds that of fine-tuning (XLS-R: 0.075).
MASK_PROB, MASK_SPAN = 0.65, 10


@dataclass(frozen=True)
class Draws:
    """What chance decides about one batch, on the CPU."""

    mask: Tensor
    """Shape (B, I), bool: masked frames; I frames in the longest row."""
    negatives: Tensor
    """Shape (B, M, K): for the m-th masked frame of a row, positions among the masked frames of the same row."""

    @property
    def counts(self) -> Tensor:
        """Masked frames of each row, shape (B,)."""
        return self.mask.sum(1)


@dataclass(frozen=True)
class Layout:
    """Where masked frames lie, as indices that the host knows how many there are of; see `lay_out`."""

    frames: int
    """Frames of the batch that are no padding."""
    masked: int
    """Masked frames of the batch, F."""
    mask: Tensor
    """Shape (B, I), bool, I as the encoder makes them of padded audio."""
    valid: Tensor | None
    """Shape (B, I), bool: frames that are no padding; None if all are."""
    where: Tensor
    """Shape (F,): masked frames in a batch flattened to (B * I)."""
    place: Tensor
    """Shape (B, M): masked frames row by row, as positions in `where`; shorter rows repeat their last."""
    inside: Tensor
    """Shape (B, M), bool: which of `place` are not repeated."""
    negatives: Tensor
    """Shape (B, M, K), see `Draws`."""

    def to(self, device: torch.device) -> Layout:
        """On the device; not waited for."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def lay_out(draws: Draws, lengths: Tensor, frames: int) -> Layout:
    """Indices for a batch whose audio, with padding, makes `frames` frames a row; on the CPU."""
    mask = functional.pad(draws.mask, (0, frames - draws.mask.shape[1]))
    counts = draws.counts
    M, masked = draws.negatives.shape[1], int(counts.sum())
    place = torch.minimum(torch.arange(M)[None, :], (counts - 1).clamp_min(0)[:, None])
    place = (place + (counts.cumsum(0) - counts)[:, None]).clamp_max(max(0, masked - 1))
    return Layout(
        frames=int(lengths.sum()),
        masked=masked,
        mask=mask,
        valid=None if int(lengths.min()) == frames else length_mask(lengths, frames),
        where=mask.flatten().nonzero().flatten(),
        place=place,
        inside=length_mask(counts, M),
        negatives=draws.negatives,
    )


def draw(
    lengths: Tensor, *, prob: float, span: int, n_negatives: int, generator: torch.Generator
) -> Draws:
    """Mask and negatives of a batch whose rows have `lengths` frames, shape (B,), on the CPU."""
    mask = sample_mask(lengths, prob=prob, span=span, generator=generator)
    return Draws(mask, sample_negatives(mask, n_negatives=n_negatives, generator=generator))


def sample_mask(lengths: Tensor, *, prob: float, span: int, generator: torch.Generator) -> Tensor:
    """Spans to mask, shape (B, I) bool, never in the padding and at least two frames a row where the row has two.

    Args:
        lengths: True frame counts, shape (B,), on the CPU.
        prob: Expected share of frames that start a span times `span` (0.65 masks 49 %, as spans overlap).
        span: Frames of one span; a row shorter than two spans has spans of half its length.
        generator: CPU generator.
    """
    I = int(lengths.max())  # noqa: E741
    width = torch.clamp(lengths // 2, 1, span)
    # A random number before rounding down, so that the expected count is exact for short rows, too.
    wanted = (prob * lengths / width + torch.rand(len(lengths), generator=generator)).long()
    # One masked frame has no negative to be told from.
    least = torch.where(width == 1, 2, 1)
    places = (lengths - width + 1).clamp_min(0) * (lengths > 0)
    wanted = torch.minimum(torch.maximum(wanted, least), places)
    # The `wanted` smallest of uniform numbers: starts without replacement, all rows at once.
    score = torch.rand(len(lengths), I, generator=generator)
    score[torch.arange(I)[None, :] >= places[:, None]] = 2.0
    starts = score.argsort(1).argsort(1) < wanted[:, None]
    # A frame is masked if a span starts at most width - 1 frames before it.
    seen = functional.pad(starts.long().cumsum(1), (1, 0))
    before = (torch.arange(1, I + 1)[None, :] - width[:, None]).clamp_min(0)
    return seen[:, 1:] > seen.gather(1, before)


def sample_negatives(mask: Tensor, *, n_negatives: int, generator: torch.Generator) -> Tensor:
    """Negatives of each masked frame, shape (B, M, K): positions among the masked frames of the same row.

    Uniform, with replacement, never the frame itself unless it is the only one. M is the largest number of masked
    frames of a row; what rows with fewer have beyond their own number means nothing, but is a valid position.
    """
    counts = mask.sum(1)
    M = int(counts.max())
    others = (counts - 1).clamp_min(1)[:, None, None]
    index = (torch.rand(len(mask), M, n_negatives, generator=generator) * others).long()
    own = torch.arange(M)[None, :, None]
    return torch.where(index >= own, index + 1, index).clamp_max(max(0, M - 1))
