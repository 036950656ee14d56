"""The alignment loss that does not collapse: centred DTW, pooled contrast, optional contrast over transcripts.

Plain min-DTW has a collapsed optimum below the right one; terms that compare with *other* transcripts remove it
(shown in tests/test_models_alignment.py). Computes losses and monitors from embeddings; runs no encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from thaitool.models.encoder import length_mask
from thaitool.ops.dtw import dtw_alignment

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AlignmentTerms:
    """Means over the batch."""

    dtw: Tensor
    pool: Tensor
    transcript: Tensor
    one_frame_share: float
    """Share of tokens that got exactly one frame on the DTW path: above .5 the alignment has collapsed."""


def masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over all valid positions of all rows: (B, I, D) to (D,)."""
    return x[length_mask(lengths, x.shape[1])].mean(0)


def pooled(x: Tensor, lengths: Tensor) -> Tensor:
    """Unit vector of the mean of unit vectors over valid positions: (B, I, D) to (B, D)."""
    unit = functional.normalize(x.float(), dim=-1)
    valid = length_mask(lengths, x.shape[1])[..., None]
    return functional.normalize((unit * valid).sum(1) / lengths[:, None].clamp_min(1), dim=-1)


def alignment_terms(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    same_text: Tensor,
    *,
    temperature: float,
    transcripts: int = 0,
) -> AlignmentTerms:
    """All terms for one batch of centred embeddings.

    Args:
        speech, text: Shape (B, I, D) and (B, J, D), means subtracted.
        speech_lengths, text_lengths: True lengths, shape (B,).
        same_text: Shape (B, B): true where two rows have the same transcript; such a row is no negative.
        temperature: Of both contrasts.
        transcripts: Other transcripts that each row's DTW cost is compared with; 0 skips that term.
    """
    path = dtw_alignment(speech, text, speech_lengths, text_lengths, reduction="none")
    logits = pooled(speech, speech_lengths) @ pooled(text, text_lengths).T / temperature
    twins = same_text & ~torch.eye(len(same_text), dtype=torch.bool, device=same_text.device)
    logits = logits.masked_fill(twins, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    pool = 0.5 * (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    )
    transcript = torch.zeros((), device=speech.device)
    if transcripts:
        costs = [path.loss]
        for shift in range(1, min(transcripts, len(speech) - 1) + 1):
            other, other_lengths = text.roll(shift, 0), text_lengths.roll(shift, 0)
            cost = dtw_alignment(
                speech, other, speech_lengths, other_lengths, reduction="none"
            ).loss
            twin = same_text[target, (target - shift) % len(speech)]
            costs.append(cost.masked_fill(twin, float("inf")))
        scores = -torch.stack(costs, 1) / temperature
        transcript = functional.cross_entropy(scores, torch.zeros_like(target))
    return AlignmentTerms(
        path.loss.mean(),
        pool,
        transcript,
        one_frame_share(path.intervals, speech_lengths, text_lengths),
    )


def one_frame_share(intervals: Tensor, speech_lengths: Tensor, text_lengths: Tensor) -> float:
    """Share of text tokens that lie on exactly one frame of the path, from token intervals (B, I, 2)."""
    valid = length_mask(speech_lengths, intervals.shape[1])
    total = int(text_lengths.sum())
    if not total:
        return 0.0
    frames = torch.zeros(
        len(intervals), int(text_lengths.max()) + 1, dtype=torch.long, device=intervals.device
    )
    starts, ends = intervals[..., 0].long(), intervals[..., 1].long()
    ones = valid.long()
    # A frame covers the half-open interval start..end: +1 at its start, -1 at its end, then a running sum.
    frames.scatter_add_(1, starts.clamp_min(0), ones)
    frames.scatter_add_(1, ends.clamp_min(0), -ones)
    per_token = frames.cumsum(1)[:, :-1]
    tokens = length_mask(text_lengths, per_token.shape[1])
    return int(((per_token == 1) & tokens).sum()) / total


def retrieval(speech: Tensor, text: Tensor, same_text: Tensor) -> dict[str, float]:
    """How well pooled speech (B, D) finds its transcript among pooled texts (B, D): R@1, mean reciprocal rank.

    Rows of the same transcript count as the same item, so that repeated sentences are no errors.
    """
    scores = speech @ text.T
    own = scores.masked_fill(~same_text, float("-inf")).max(1).values
    rivals = scores.masked_fill(same_text, float("-inf"))
    # Distinct rival transcripts only: keep the first row of each.
    first = same_text.float().argmax(1) == torch.arange(len(same_text), device=same_text.device)
    rank = 1 + ((rivals >= own[:, None]) & first[None, :]).sum(1)
    return {
        "retrieval_r1": float((rank == 1).float().mean()),
        "retrieval_mrr": float((1 / rank).mean()),
    }
