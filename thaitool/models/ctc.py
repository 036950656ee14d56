"""CTC: the summed loss, what audio can carry, and what a model emits, greedily. Decodes no text and knows no encoder.

Source: Graves et al. 2006. The blank has id 0 (`thaitool.text.units`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from thaitool.models.encoder import length_mask
from thaitool.text.units import BLANK_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def frames_needed(ids: Sequence[int]) -> int:
    """Fewest frames that can carry a sequence of S units: S, and a blank between two that are equal."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def ctc_loss(logits: Tensor, frames: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Minus the log probability of the targets, in nats, summed over the rows; a scalar in float32.

    A target that its frames cannot carry has probability 0 and an infinite loss. It is for the caller to leave such
    rows out (`frames_needed`): torch's `zero_infinity` would count them as learned.

    Args:
        logits: Shape (B, I, V), any precision.
        frames: True frame counts, shape (B,).
        targets: Unit ids of each row, no blanks, one unit at least.
    """
    # Padded int64 targets: torch's own kernel. cuDNN's wants all on the CPU as int32, and other gradients.
    width = max(map(len, targets))
    padded = torch.tensor([[*ids, *[BLANK_ID] * (width - len(ids))] for ids in targets])
    sizes = torch.tensor([len(ids) for ids in targets])
    return functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        padded.to(logits.device),
        frames.to(logits.device),
        sizes.to(logits.device),
        blank=BLANK_ID,
        reduction="sum",
        zero_infinity=False,
    )


@dataclass(frozen=True)
class Emitted:
    """What the best id of each frame says, as sums that stay on their device."""

    best: Tensor
    """Shape (B, I): the best id of each frame; blank in the padding."""
    blanks: Tensor
    """Frames whose best id is the blank, without padding; a scalar."""
    units: Tensor
    """Units that greedy decoding gives; a scalar."""


def emitted(logits: Tensor, frames: Tensor) -> Emitted:
    """Greedy decoding as counts; see `Vocabulary.decode_frames` for its text.

    Args:
        logits: Shape (B, I, V).
        frames: True frame counts, shape (B,).
    """
    valid = length_mask(frames.to(logits.device), logits.shape[1])
    best = logits.detach().argmax(-1).masked_fill(~valid, BLANK_ID)
    before = functional.pad(best, (1, 0), value=BLANK_ID)[:, :-1]
    units = ((best != BLANK_ID) & (best != before)).sum()
    return Emitted(best, ((best == BLANK_ID) & valid).sum(), units)
