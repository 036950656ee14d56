"""The pretraining loss of the transformers model on the draws of thaitool, for tests of equality and for benchmarks.

Their code runs as it is; here are only the indices that it wants and the noise that both sides must share.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.nn import functional

from thaitool.models import pretraining
from thaitool.models.encoder import length_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from thaitool.models.masking import Draws


def their_negatives(draws: Draws) -> Tensor:
    """Negatives as positions in the batch flattened to (B * I), shape (B, I, K); 0 at unmasked frames."""
    B, I = draws.mask.shape  # noqa: E741
    index = torch.zeros(B, I, draws.negatives.shape[2], dtype=torch.long)
    for row in range(B):
        position = draws.mask[row].nonzero().flatten()
        index[row, position] = position[draws.negatives[row, : len(position)]] + row * I
    return index


def their_loss(
    model: Any, audio: Tensor, lengths: Tensor, draws: Draws, negatives: Tensor | None = None
) -> Any:
    """Output of `Wav2Vec2ForPreTraining.forward`; indices may be made before, to keep them out of a timing."""
    device = audio.device
    return model(
        audio,
        attention_mask=length_mask(lengths, audio.shape[1]).long().to(device),
        mask_time_indices=draws.mask.to(device),
        sampled_negative_indices=(their_negatives(draws) if negatives is None else negatives).to(
            device
        ),
    )


@contextmanager
def same_noise(draws: Draws, groups: int, codes: int, device: str = "cpu") -> Iterator[None]:
    """The same Gumbel noise at masked frames for both sides; transformers draws some for the other frames, too."""
    generator = torch.Generator().manual_seed(1)
    masked = int(draws.mask.sum())
    noise = -torch.empty(masked, groups, codes).exponential_(generator=generator).log()
    everywhere = torch.zeros(draws.mask.numel(), groups, codes)
    everywhere[draws.mask.flatten()] = noise
    noise, everywhere = noise.to(device), everywhere.to(device)

    def gumbel_softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        if not hard:
            raise ValueError("Only hard samples are imitated.")
        soft = ((logits + everywhere.view_as(logits)) / tau).softmax(-1)
        one = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return one - soft.detach() + soft

    with (
        mock.patch.object(functional, "gumbel_softmax", gumbel_softmax),
        mock.patch.object(pretraining, "gumbel_noise", lambda _: noise),
    ):
        yield
