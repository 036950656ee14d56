"""The alignment loss that does not collapse: centred DTW, weighted by token rarity, with contrasts over transcripts.

Plain min-DTW has a collapsed optimum below the right one; terms that compare with *other* transcripts remove it
(shown in tests/bench/collapse.py). Computes losses and monitors from embeddings, without waiting for the device; runs
no encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.path import largest_share, one_frame_share, token_durations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: How many transcripts the tokenizer gets at once when all of them are looked at.
TEXTS_AT_ONCE = 5000
#: Share of all tokens at which a token's weight has fallen to half of an unseen token's.
RARITY = 0.003


@dataclass(frozen=True)
class AlignmentTerms:
    """Means over the batch, and what the monitors read."""

    dtw: Tensor
    """Path cost of each speech with its own text, weighted by token, [] with gradient."""
    pool: Tensor
    """Contrast of pooled speech and text over the batch, [] with gradient."""
    transcript: Tensor
    """Contrast of DTW costs over transcripts, [] with gradient; 0 if there are none."""
    costs: Tensor
    """DTW costs [B, K] of each speech with its own text (column 0) and others; infinite for a twin of its own."""
    similarity: Tensor
    """Cosine of pooled speech (rows) and pooled text, [B, B]."""
    durations: Tensor
    """Frames on each token of the own text, int64 [B, J]."""


def alignment_terms(
    speech: Tensor,
    text: Tensor,
    speech_lengths: Tensor,
    text_lengths: Tensor,
    same_text: Tensor,
    *,
    temperature: float,
    transcripts: int = 0,
    speech_mean: Tensor | None = None,
    text_mean: Tensor | None = None,
    text_weights: Tensor | None = None,
) -> AlignmentTerms:
    """All terms for one batch.

    Args:
        speech, text: Embeddings [B, I, D] and [B, J, D].
        speech_lengths, text_lengths: True lengths [B].
        same_text: [B, B], true where two rows have the same transcript; such a row is no negative.
        temperature: Of both contrasts.
        transcripts: Other transcripts that each row's DTW cost is compared with; 0 skips that term.
        speech_mean, text_mean: Subtracted from every vector, [D]; None for embeddings that are centred already. The
            mean of this batch's frames (`masked_mean`) should have its gradient.
        text_weights: Weight of each token [B, J], 1 on average (`token_weights`); None weighs all alike.
    """
    index = _own_and_others(len(speech), transcripts, speech.device)
    text = text.to(speech.dtype)  # the table is float32, projections under autocast are not
    batch = (speech, text, speech_lengths, text_lengths)
    path = dtw_alignment(*batch, speech_mean=speech_mean, text_mean=text_mean, text_index=index)
    dtw = path.loss[:, 0]
    if text_weights is not None:
        # The contrast compares costs without weights, so the own path is walked again with them.
        dtw = dtw_alignment(
            *batch, speech_mean=speech_mean, text_mean=text_mean, text_weights=text_weights
        ).loss
    with torch.autocast(speech.device.type, enabled=False):
        similarity = (
            _pool(speech, speech_mean, speech_lengths)
            @ _pool(text, text_mean, text_lengths, text_weights).T
        )
    twins = same_text & ~torch.eye(len(same_text), dtype=torch.bool, device=same_text.device)
    similarity = similarity.masked_fill(twins, float("-inf"))
    costs = path.loss.masked_fill(twins.gather(1, index), float("inf"))
    return AlignmentTerms(
        dtw=dtw.mean(),
        pool=_symmetric(similarity / temperature),
        transcript=functional.cross_entropy(-costs / temperature, torch.zeros_like(index[:, 0])),
        costs=costs.detach(),
        similarity=similarity.detach(),
        durations=token_durations(path.intervals[:, 0], text.shape[1]),
    )


def ramp(share: float, start: float, end: float) -> float:
    """Weight of the DTW term: 0 before `start`, 1 from `end` on, linear between; all are shares of training."""
    if share >= end:
        return 1.0
    return max(0.0, (share - start) / (end - start))


def token_weights(counts: Tensor) -> Tensor:
    """Weight of each token of the vocabulary from its count in the training transcripts, [V] to float32 [V].

    Smooth inverse frequency, 1 / (RARITY + share), scaled to mean 1 over the counted tokens: without it the few
    frequent tokens have nearly all frames, and the others are not learned. Source: Arora et al. 2017, for sentence
    embeddings.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    weights = 1 / (RARITY + share)
    mean = (weights * share).sum()
    return torch.where(mean > 0, weights / mean, 1.0).float()  # no counts: all alike


def masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over all valid positions of all rows: (B, I, D) to (D,)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    inside = _inside(lengths, x.shape[1])[..., None]
    return x.masked_fill(~inside, 0).sum((0, 1), dtype=wide) / lengths.sum().clamp(min=1)


def pooled(x: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """Unit vector of the (weighted) mean of unit vectors over valid positions: (B, I, D) to (B, D)."""
    return _pool(x, None, lengths, weights)


def monitors(terms: AlignmentTerms, text_lengths: Tensor) -> dict[str, Tensor]:
    """Diagnostics of one batch that need no true alignment and no other pass, each [].

    one_frame_share: Share of tokens on exactly one frame; good below .15, collapsed above .5.
    largest_share: Share of the path that its longest token takes.
    transcript_r1: How often the own text is the cheapest of the compared ones; 1 if there is only the own.
    pool_r1: How often the own text is the nearest of the batch after pooling.
    """
    nearest = terms.similarity.argmax(1)
    rows = torch.arange(len(nearest), device=nearest.device)
    return {
        "one_frame_share": one_frame_share(terms.durations, text_lengths),
        "largest_share": largest_share(terms.durations),
        "transcript_r1": (terms.costs.argmin(1) == 0).float().mean(),
        "pool_r1": (nearest == rows).float().mean(),
    }


def _own_and_others(batch: int, transcripts: int, device: torch.device) -> Tensor:
    """Row b: b itself, then the `transcripts` rows before it, around the end of the batch."""
    rows = torch.arange(batch, device=device)
    others = min(transcripts, batch - 1)
    return (rows[:, None] - torch.arange(others + 1, device=device)) % max(batch, 1)


def _inside(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _pool(x: Tensor, mean: Tensor | None, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """Unit vector of the weighted mean of unit vectors of `x` minus `mean`: (B, I, D) to (B, D)."""
    inside = _inside(lengths, x.shape[1])
    # Padding may hold NaN, whose gradient would survive a product with 0: it is cut out first.
    kept = x.float().masked_fill(~inside[..., None], 0)
    unit = functional.normalize(kept if mean is None else kept - mean.float(), dim=-1)
    each = inside.float() if weights is None else weights.float().masked_fill(~inside, 0)
    return functional.normalize((each[:, None] @ unit)[:, 0], dim=-1)


def _symmetric(logits: Tensor) -> Tensor:
    """Half the cross-entropy of the diagonal over rows, half over columns."""
    rows = torch.arange(len(logits), device=logits.device)
    return 0.5 * (functional.cross_entropy(logits, rows) + functional.cross_entropy(logits.T, rows))


def same(texts: Sequence[str | None], device: torch.device) -> Tensor:
    """(B, B): true where two transcripts are equal."""
    index = {t: i for i, t in enumerate(dict.fromkeys(texts))}
    ids = torch.tensor([index[t] for t in texts], device=device)
    return ids[:, None] == ids[None, :]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without special tokens."""
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return found
