"""The wav2vec 2.0 objective on masked frames only: same value as the transformers model, a fraction of its work.

transformers quantizes every frame and gathers (100, B, I, D) negatives for every frame, then ignores the unmasked ones;
here both happen for masked frames only, the contrast as one matrix product per utterance. Holds no state: masks and
negatives are drawn from the generator that is passed in. Source: Baevski et al. 2020, eq. 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from thaitool.models.encoder import length_mask, output_lengths

if TYPE_CHECKING:
    from torch import Tensor

N_NEGATIVES = 100
#: Masking of pretraining (Baevski et al. 2020); a published configuration holds that of fine-tuning (XLS-R: 0.075).
MASK_PROB, MASK_SPAN = 0.65, 10
#: Weight of the diversity term (fairseq: loss_weights [0.1, 0]).
DIVERSITY_WEIGHT = 0.1


@dataclass(frozen=True)
class PretrainingLoss:
    """Sums over masked frames; divide once, by the count over all micro-batches and processes."""

    total: Tensor
    """Scalar: contrastive sum plus weighted diversity."""
    masked: int
    contrastive: float
    """Sum in nats."""
    correct: int
    """Masked frames whose true code scored highest."""
    code_perplexity: float
    """Of the codes chosen in this batch, summed over groups; 1 per group means collapse."""


def sample_mask(lengths: Tensor, *, prob: float, span: int, generator: torch.Generator) -> Tensor:
    """Spans to mask, shape (B, I) bool, never in the padding and at least two frames a row where the row has two.

    Args:
        lengths: True frame counts, shape (B,), on the CPU.
        prob: Expected share of frames that start a span times `span` (0.65 masks about half, as spans overlap).
        span: Frames of one span; a row shorter than that is masked in its second half.
        generator: CPU generator.
    """
    mask = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        width = min(span, max(1, length // 2))
        wanted = int(prob * length / width + float(torch.rand(1, generator=generator)))
        starts = torch.randperm(length - width + 1, generator=generator)[: max(1, wanted)]
        index = (starts[:, None] + torch.arange(width)).flatten()
        mask[row, index] = True
        if int(mask[row].sum()) < 2 <= length:
            mask[row, :2] = True  # one masked frame has no negative to be told from
    return mask


def sample_negatives(mask: Tensor, *, generator: torch.Generator) -> Tensor:
    """Negatives for each masked frame, shape (B, M, N_NEGATIVES): positions among the masked frames of the same row.

    M is the largest number of masked frames of a row. Rows with fewer are padded with zeros. Own position excluded.
    """
    counts = mask.sum(1)
    width = int(counts.max())
    draw = torch.rand(len(mask), width, N_NEGATIVES, generator=generator)
    index = (draw * (counts - 1).clamp_min(1)[:, None, None]).long()
    own = torch.arange(width)[None, :, None]
    return torch.where(index >= own, index + 1, index).clamp_max(width - 1)


def quantize(
    quantizer: Any, features: Tensor, *, temperature: float | None
) -> tuple[Tensor, Tensor, float]:
    """Codevectors of frames.

    Args:
        quantizer: `Wav2Vec2GumbelVectorQuantizer` (weights only are used).
        features: Shape (M, D): masked frames.
        temperature: Of the Gumbel softmax; None takes the best code (evaluation).

    Returns:
        Codevectors (M, Dq), the perplexity of the mean code distribution (differentiable), and the perplexity of the
        codes chosen; both summed over groups.
    """
    groups, codes = quantizer.num_groups, quantizer.num_vars
    logits = quantizer.weight_proj(features).float().view(-1, groups, codes)
    hard = functional.one_hot(logits.argmax(-1), codes).to(logits.dtype)
    chosen = (
        hard if temperature is None else functional.gumbel_softmax(logits, temperature, hard=True)
    )
    vectors = quantizer.codevectors.view(groups, codes, -1)
    out = torch.einsum("mgv,gvd->mgd", chosen, vectors.float()).flatten(1)
    return out, _perplexity(logits.softmax(-1).mean(0)), float(_perplexity(hard.mean(0)))


def _perplexity(distribution: Tensor) -> Tensor:
    entropy = -(distribution * (distribution + 1e-7).log()).sum(-1)
    return entropy.exp().sum()


def contrastive_sum(
    context: Tensor, target: Tensor, mask: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, int]:
    """InfoNCE over masked frames in nats, summed, and the number of frames whose target scored highest.

    Args:
        context, target: Shape (sum M_b, D): masked frames in row order.
        mask: Shape (B, I).
        negatives: Shape (B, M, K), from `sample_negatives`.
        temperature: Divides the cosine.
    """
    counts = mask.sum(1)
    valid = length_mask(counts, negatives.shape[1])

    def rows(x: Tensor) -> Tensor:  # (sum M_b, D) -> (B, M, D), zeros in the padding
        return torch.zeros(*valid.shape, x.shape[-1], device=x.device).masked_scatter(
            valid[..., None], functional.normalize(x.float(), dim=-1)
        )

    c, q = rows(context), rows(target)
    own = torch.einsum("bmd,bmd->bm", c, q)[..., None]
    others = torch.einsum("bmd,bnd->bmn", c, q).gather(2, negatives)
    # Codes repeat: a negative equal to the target is no negative (fairseq and transformers mask it too).
    twin = torch.einsum("bmd,bnd->bmn", q, q).gather(2, negatives) > 1 - 1e-6
    logits = torch.cat([own, others.masked_fill(twin, float("-inf"))], 2)[valid] / temperature
    zeros = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    loss = functional.cross_entropy(logits, zeros, reduction="sum")
    return loss, int((logits.argmax(-1) == 0).sum())


def pretraining_loss(
    model: Any,
    audio: Tensor,
    audio_lengths: Tensor,
    *,
    generator: torch.Generator,
    temperature: float | None,
) -> PretrainingLoss:
    """The whole objective for one micro-batch.

    Args:
        model: `Wav2Vec2ForPreTraining` (or a wrapper of it that forwards to one).
        audio: Shape (B, N), 16 kHz.
        audio_lengths: Shape (B,), in samples.
        generator: CPU generator of masks and negatives.
        temperature: Gumbel temperature; None in evaluation.
    """
    config = model.config
    lengths = output_lengths(config, audio_lengths.cpu())
    mask = sample_mask(lengths, prob=MASK_PROB, span=MASK_SPAN, generator=generator)
    negatives = sample_negatives(mask, generator=generator).to(audio.device)
    # Audio may be padded beyond its longest row, masks never are.
    frames = output_lengths(config, audio.shape[1])
    mask = functional.pad(mask, (0, frames - mask.shape[1])).to(audio.device)
    out = model.wav2vec2(
        audio,
        attention_mask=length_mask(audio_lengths.to(audio.device), audio.shape[1]).long(),
        mask_time_indices=mask,
    )
    with torch.autocast(audio.device.type, enabled=False):
        context = model.project_hid(out.last_hidden_state[mask].float())
        features = model.dropout_features(out.extract_features[mask].float())
        codes, prob_perplexity, code_perplexity = quantize(
            model.quantizer, features, temperature=temperature
        )
        contrastive, correct = contrastive_sum(
            context, model.project_q(codes), mask, negatives, config.contrastive_logits_temperature
        )
        n_masked = int(mask.sum())
        total_codes = config.num_codevectors_per_group * config.num_codevector_groups
        diversity = (total_codes - prob_perplexity) / total_codes * n_masked
    return PretrainingLoss(
        total=contrastive + DIVERSITY_WEIGHT * diversity,
        masked=n_masked,
        contrastive=float(contrastive.detach()),
        correct=correct,
        code_perplexity=code_perplexity,
    )
