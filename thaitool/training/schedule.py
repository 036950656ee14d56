"""Learning rate and weight average as functions of the update. Keeps no state of a run but the average itself."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from thaitool.config import Training


def learning_rate_share(update: int, config: Training) -> float:
    """Share of the peak rate: linear warm-up, then cosine to 5 %, linear to 0 (fairseq's polynomial decay), or held and
    then exponentially to 5 % (fairseq's tri-stage schedule of fine-tuning: 10 % warm-up, 40 % hold, 50 % decay)."""
    warmup = config.warmup_share * config.updates
    if update < warmup:
        return (update + 1) / (warmup + 1)
    left = min(1.0, (update - warmup) / max(1.0, config.updates - warmup))
    if config.schedule == "linear":
        return 1.0 - left
    if config.schedule == "tristage":
        start = min(config.updates, warmup + config.hold_share * config.updates)
        decayed = max(0.0, update - start) / max(1.0, config.updates - start)
        return float(0.05 ** min(1.0, decayed))
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * left))


class Average:
    """Exponential moving average of trained weights, float32.

    Early on it follows the weights faster, with decay (1 + update) / (10 + update), so that a short run does not keep
    its first weights.
    """

    def __init__(self, parameters: list[Tensor], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().float().clone() for p in parameters]

    @torch.no_grad()
    def update(self, update: int) -> None:
        """Takes in the weights after update number `update`, counted from 0."""
        decay = min(self.decay, (1 + update) / (10 + update))
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.detach().float(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards its own again, to the bit."""
        own = [p.detach().clone() for p in self.parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
