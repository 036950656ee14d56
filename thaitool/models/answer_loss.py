"""The loss of a causal LLM from the tokens of answers only, in bounded memory. Runs no decoder and knows no audio.

A row has some 200 tokens, a tenth to a third of them its answer, and scores of a 151k vocabulary in float32 for all of
them would decide the size of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import CausalLMOutputWithPast

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Scores (positions times vocabulary) that exist at once: 128 MiB in float32, some three times that with their softmax.
SCORES_AT_ONCE = 1 << 25


@dataclass
class AnswerLoss(CausalLMOutputWithPast):  # type: ignore[misc]
    """What the speech LLM returns with labels; of the other fields only `loss` is there."""

    row_nats: Tensor | None = None
    """Summed cross entropy of each row, shape (B,), float32, without gradient."""


def answer_loss(
    states: Tensor, labels: Tensor, supervised: Tensor, causal: Any, divisor: int | None
) -> AnswerLoss:
    """Loss of the tokens that follow the supervised positions (B, J) of labels (B, J)."""
    targets = labels[:, 1:][supervised[:, :-1]]
    nats = answer_nats(
        states,
        targets,
        causal.get_output_embeddings(),
        vocabulary=causal.config.vocab_size,
    )
    rows = supervised.nonzero()[:, 0]
    row_nats = nats.new_zeros(len(labels)).index_add(0, rows, nats.detach())
    return AnswerLoss(loss=nats.sum() / (divisor or len(targets)), row_nats=row_nats)


def answer_nats(
    states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], *, vocabulary: int
) -> Tensor:
    """Cross entropy of every target token, at most `SCORES_AT_ONCE` scores at a time.

    Where they are more, scores are computed again in the backward pass instead of being kept: one product more for the
    answers' tokens alone.

    Args:
        states: Of the tokens before the targets, shape (T, D).
        targets: Token ids, shape (T,).
        head: From states to scores (·, V), the output layer and nothing after it.
        vocabulary: V.

    Returns:
        Shape (T,), float32.
    """
    size = max(1, SCORES_AT_ONCE // vocabulary)
    if len(states) <= size:
        return _nats(head, states, targets)
    one = partial(checkpoint, _nats, head, use_reentrant=False) if torch.is_grad_enabled() else None
    pieces = zip(torch.split(states, size), torch.split(targets, size), strict=True)
    return torch.cat([one(*p) if one else _nats(head, *p) for p in pieces])


def _nats(head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(head(states).float(), targets, reduction="none")
