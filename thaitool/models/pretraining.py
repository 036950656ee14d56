"""The wav2vec 2.0 objective on masked frames only: the value of the transformers model, a fraction of its work.

transformers quantizes every frame and gathers (100, B, I, D) negatives for every frame, then ignores the unmasked ones;
here both happen for masked frames only, the contrast as one matrix product per utterance. Holds no state and never
waits for the device: chance is drawn on the host (`masking`), results stay tensors. Source: Baevski et al. 2020, eq. 3
and 4.

What splitting a batch changes: the contrastive part is a sum over frames, so the gradient of a batch is that of its
parts. The diversity part is the perplexity of the codes of *one* micro-batch, times its masked frames; it is not a sum,
and the batch's value differs from that of its parts. fairseq does the same: perplexity of each process and
micro-batch on its own, weighted by its frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from thaitool.errors import InputError
from thaitool.models.encoder import output_lengths
from thaitool.models.masking import (
    MASK_PROB,
    MASK_SPAN,
    N_NEGATIVES,
    Draws,
    Layout,
    draw,
    lay_out,
)
from thaitool.models.wav2vec2 import Encoded, draw_layers, encode, options_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Weight of the diversity term (fairseq: loss_weights [0.1, 0]).
DIVERSITY_WEIGHT = 0.1


@dataclass(frozen=True)
class PretrainingLoss:
    """Sums over masked frames; divide once, by the count over all micro-batches and processes.

    Tensors lie on the device of the model, and only `total` carries a gradient.
    """

    total: Tensor
    """Scalar: contrastive sum plus weighted diversity and feature penalty."""
    masked: int
    negatives: int
    """Masked frames times negatives of each."""
    contrastive: Tensor
    """Scalar, in nats."""
    diversity: Tensor
    """Scalar: share of the codebook that is not used, times `masked`."""
    correct: Tensor
    """Scalar: masked frames whose own code scored highest, and which had at least one other code to be told from."""
    twins: Tensor
    """Scalar: negatives left out because they have the codes of the frame itself."""
    code_counts: Tensor
    """Shape (G, V): how often each code was the most probable one."""
    prob_sums: Tensor
    """Shape (G, V): sum of the code probabilities, without Gumbel noise."""
    feature_square: Tensor
    """Scalar: mean square of the convolutional features over all frames, times `masked`."""


@dataclass(frozen=True)
class Quantized:
    """Masked frames as codes."""

    vectors: Tensor
    """Shape (F, Dq); carries the straight-through gradient."""
    numbers: Tensor
    """Shape (F,): a number for each combination of codes in `vectors`."""
    probabilities: Tensor
    """Shape (F, G, V), without noise."""
    likeliest: Tensor
    """Shape (F, G): the codes without noise."""


def pretraining_loss(
    model: Any,
    audio: Tensor,
    audio_lengths: Tensor,
    *,
    generator: torch.Generator,
    temperature: float | None,
    mask_prob: float = MASK_PROB,
    mask_span: int = MASK_SPAN,
    n_negatives: int = N_NEGATIVES,
    diversity_weight: float = DIVERSITY_WEIGHT,
    feature_penalty: float = 0.0,
    draws: Draws | None = None,
) -> PretrainingLoss:
    """The whole objective for one micro-batch.

    Args:
        model: `Wav2Vec2ForPreTraining`, see `wav2vec2.prepare`. In training mode it drops layers.
        audio: Shape (B, N), 16 kHz, on the model's device.
        audio_lengths: Shape (B,), in samples, on the CPU: a CUDA tensor would make the host wait.
        generator: CPU generator of masks, negatives and dropped layers. Gumbel noise and dropout come from torch's
            global generator of the device.
        temperature: Gumbel temperature; None takes the best code (evaluation), and the codebook's use is then counted
            by codes instead of probabilities, as in transformers.
        mask_prob, mask_span, n_negatives: See `masking`.
        diversity_weight, feature_penalty: Weights of the two other terms (fairseq: loss_weights).
        draws: Mask and negatives, if they are not to be drawn here.

    Raises:
        InputError: no row is long enough for a frame.
    """
    config = model.config
    lengths = output_lengths(config, audio_lengths.cpu())
    if not int(lengths.max()):
        raise InputError(
            f"No recording of the batch is long enough for one frame: the longest has {int(audio_lengths.max())}"
            " samples; raise min_s."
        )
    draws = draws or draw(
        lengths, prob=mask_prob, span=mask_span, n_negatives=n_negatives, generator=generator
    )
    if model.training:
        kept = draw_layers(options_of(model), config.num_hidden_layers, generator)
    else:
        kept = [True] * config.num_hidden_layers
    # Audio may be padded beyond its longest row, masks never are.
    layout = lay_out(draws, lengths, output_lengths(config, audio.shape[1]))
    weights = (diversity_weight, feature_penalty)
    return loss_on_device(model, audio, layout.to(audio.device), kept, temperature, weights)


def loss_on_device(
    model: Any,
    audio: Tensor,
    layout: Layout,
    kept: Sequence[bool],
    temperature: float | None,
    weights: tuple[float, float],
) -> PretrainingLoss:
    """`pretraining_loss` after all that happens on the host; asks the device for nothing."""
    encoded = encode(model.wav2vec2, audio, layout, options_of(model), kept)
    return loss_of_encoded(model, encoded, layout, temperature, weights)


def loss_of_encoded(
    model: Any,
    out: Encoded,
    layout: Layout,
    temperature: float | None,
    weights: tuple[float, float],
) -> PretrainingLoss:
    """Quantizer, contrast and the other terms; in float32 also under autocast."""
    device = out.hidden.device
    with torch.autocast(device.type, enabled=False):
        context = model.project_hid(_masked_frames(out.hidden, layout))
        features = model.dropout_features(_masked_frames(out.features, layout))
        codes = quantize(model.quantizer, features, temperature=temperature)
        contrastive, correct, twins = contrastive_sums(
            context,
            model.project_q(codes.vectors),
            codes.numbers,
            layout,
            model.config.contrastive_logits_temperature,
        )
        G, V = codes.probabilities.shape[1:]
        probabilities = codes.probabilities.sum(0)
        counts = (codes.likeliest[..., None] == torch.arange(V, device=device)).sum(0)
        used = perplexity((counts if temperature is None else probabilities) / layout.masked).sum()
        diversity = (G * V - used) / (G * V) * layout.masked
        feature_square = _mean_square(out.raw, layout, with_gradient=weights[1] > 0) * layout.masked
        total = contrastive + weights[0] * diversity + weights[1] * feature_square
    return PretrainingLoss(
        total=total,
        masked=layout.masked,
        negatives=layout.masked * layout.negatives.shape[2],
        contrastive=contrastive.detach(),
        diversity=diversity.detach(),
        correct=correct,
        twins=twins,
        code_counts=counts.to(probabilities.dtype),
        prob_sums=probabilities.detach(),
        feature_square=feature_square.detach(),
    )


def _masked_frames(x: Tensor, layout: Layout) -> Tensor:
    """(B, I, D) to (F, D), at least float32: bf16 would round logits of 20 by 0.1, and the codes with them."""
    return _wide(x.flatten(0, 1).index_select(0, layout.where))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def quantize(quantizer: Any, features: Tensor, *, temperature: float | None) -> Quantized:
    """Codevectors of frames.

    Args:
        quantizer: `Wav2Vec2GumbelVectorQuantizer` (weights only are used).
        features: Shape (F, C): masked frames.
        temperature: Of the Gumbel softmax; None takes the best code.
    """
    G, V = quantizer.num_groups, quantizer.num_vars
    logits = quantizer.weight_proj(features).view(-1, G, V)
    likeliest = logits.detach().argmax(-1)
    book = quantizer.codevectors.view(G * V, -1)
    first = torch.arange(0, G * V, V, device=logits.device)
    if temperature is None:
        chosen, vectors = likeliest, functional.embedding(likeliest + first, book)
    else:
        soft = ((logits + gumbel_noise(logits)) / temperature).softmax(-1)
        chosen = soft.detach().argmax(-1)
        looked_up = functional.embedding(chosen + first, book)
        vectors = _StraightThrough.apply(  # type: ignore[no-untyped-call]
            looked_up, soft, book.detach().view(G, V, -1)
        )
    number = chosen[:, 0]
    for group in chosen.unbind(1)[1:]:
        number = number * V + group
    return Quantized(vectors.flatten(1), number, logits.softmax(-1), likeliest)


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise, as `torch.nn.functional.gumbel_softmax` draws it."""
    return -torch.empty_like(like, memory_format=torch.contiguous_format).exponential_().log()


class _StraightThrough(torch.autograd.Function):
    """Looked-up codevectors, whose gradient also goes to the code probabilities as if they had mixed the codebook.

    As `gumbel_softmax(hard=True)` times the codebook, without that product in the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, probabilities: Tensor, book: Tensor) -> Tensor:
        ctx.save_for_backward(book)
        ctx.shape = probabilities.shape
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (book,) = ctx.saved_tensors
        return gradients[0], torch.einsum("mgd,gvd->mgv", gradients[0], book), None


def contrastive_sums(
    context: Tensor, target: Tensor, codes: Tensor, layout: Layout, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE over masked frames in nats, the frames whose target scored highest, and the twins; all summed.

    A negative with the codes of the frame itself is a twin and left out, as in fairseq and transformers. They compare
    the vectors, which are equal where the codes are.

    Args:
        context, target: Shape (F, D): masked frames in row order.
        codes: Shape (F,): equal where the codes are.
        layout: Rows and negatives, on the device.
        temperature: Divides the cosine.
    """
    place, negatives = layout.place, layout.negatives

    def rows(x: Tensor) -> Tensor:  # (F, ...) -> (B, M, ...)
        return x.index_select(0, place.flatten()).view(*place.shape, *x.shape[1:])

    c, q = rows(functional.normalize(context, dim=-1)), rows(functional.normalize(target, dim=-1))
    code = rows(codes)
    scores = torch.bmm(c, q.transpose(1, 2))
    own = scores.diagonal(dim1=1, dim2=2)[..., None]
    twin = code.gather(1, negatives.flatten(1)).view_as(negatives) == code[..., None]
    others = scores.gather(2, negatives).masked_fill(twin, float("-inf"))
    logits = torch.cat([own, others], 2) / temperature
    loss = (logits.logsumexp(2) - logits[..., 0]).masked_fill(~layout.inside, 0.0).sum()
    best = others.detach().amax(2)
    correct = (own.detach()[..., 0] >= best) & (best > float("-inf")) & layout.inside
    return loss, correct.sum(), (twin & layout.inside[..., None]).sum()


def _mean_square(features: Tensor, layout: Layout, *, with_gradient: bool) -> Tensor:
    """Mean square of (B, I, C) features over frames that are no padding."""
    squares = _wide(features if with_gradient else features.detach()).square().mean(2)
    if layout.valid is not None:
        squares = squares.masked_fill(~layout.valid, 0.0)
    return squares.sum() / layout.frames


def perplexity(distribution: Tensor) -> Tensor:
    """exp of the entropy over the last dimension; unused codes count nothing and get a finite gradient."""
    entropy = -(distribution * distribution.clamp_min(1e-30).log()).sum(-1)
    return entropy.exp()


def perplexities(tally: Tensor) -> list[float]:
    """Perplexity of each group from summed counts or probabilities of shape (G, V): V is even use, 1 is one code.

    Waits for the device; meant for sums over an update that are fetched anyway.
    """
    share = tally / tally.sum(-1, keepdim=True).clamp_min(torch.finfo(tally.dtype).tiny)
    found: list[float] = perplexity(share).tolist()
    return found
