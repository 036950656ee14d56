"""U-Align's CTC: projected frames scored against the LLM's token embeddings and a learned blank. Runs no encoder.

The classes are the tokens that occur in the training transcripts and the blank: exact for that closed set, and an LLM's
other tokens could never be a target. A row's loss needs the scores of its own tokens one by one, and of all others only
their log sum, so that scores of all tokens exist for a chunk of frames at a time, in the backward pass too. Sources:
arXiv:2509.14804 (U-Align with CTC); Graves et al. 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from thaitool.models.ctc import ctc_loss
from thaitool.models.encoder import length_mask
from thaitool.text.units import BLANK_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Bytes of the scores (float32) that exist at once.
CHUNK_BYTES = 64 * 2**20
#: A score that no other token's can be below, and whose exponential is 0; infinity would give NaN gradients.
NOTHING = -1e9


@dataclass(frozen=True)
class TokenCTCLoss:
    """Of one batch."""

    nats: Tensor
    """Minus the log probability of the targets, summed over the rows; a scalar."""
    blanks: Tensor
    """Frames whose best class is the blank; a scalar without gradient."""


class TokenCTC(nn.Module):
    """Scores of frames against token embeddings, and the CTC loss under them; trains the blank's vector."""

    def __init__(
        self,
        table: Tensor,
        tokens: Sequence[int],
        *,
        mean: Tensor,
        score: Literal["cosine", "dot"],
        temperature: float,
    ) -> None:
        """For a closed set of classes.

        Args:
            table: The LLM's token table (V, D).
            tokens: Ids of the classes, all different; no other token can be a target.
            mean: What is subtracted from every token embedding (D,).
            score: "cosine" compares directions, "dot" lets long frames be sure.
            temperature: Scores are divided by it.
        """
        super().__init__()
        self.score, self.temperature = score, temperature
        classes = table[torch.tensor(list(tokens))].float() - mean
        length = classes.norm(dim=-1).mean()
        self.blank = nn.Parameter(functional.normalize(torch.randn(len(mean)), dim=0) * length)
        if score == "cosine":
            classes = functional.normalize(classes, dim=-1)
        # Frozen parameters and not buffers: DDP sends buffers around before every forward pass.
        self.classes = nn.Parameter(classes, requires_grad=False)
        self.ids = list(tokens)
        self._place = {token: place for place, token in enumerate(tokens)}

    def forward(
        self, frames: Tensor, counts: Tensor, targets: Sequence[Sequence[int]]
    ) -> TokenCTCLoss:
        """The loss of a batch.

        Args:
            frames: Projected, centred frames (B, I, D), any precision; what padding holds does not matter.
            counts: True frame counts (B,), enough for their targets (`thaitool.models.ctc.frames_needed`).
            targets: Token ids of each row, one at least.

        Raises:
            KeyError: a target is none of the classes.
        """
        own, padding, places = self._own(targets, frames.device)
        with torch.autocast(frames.device.type, enabled=False):
            valid = length_mask(counts, frames.shape[1])
            scaled = self._scaled(frames.float().masked_fill(~valid[..., None], 0))
            blank = scaled @ self._unit(self.blank)
            said = scaled @ self.classes[own].transpose(1, 2)
            said = said.masked_fill(padding[:, None], NOTHING)
            rest, best = self._others(scaled[valid], own.repeat_interleave(counts, 0))
            others = blank.new_zeros(blank.shape).masked_scatter(valid, rest)
            logits = torch.cat([blank[..., None], said, others[..., None]], -1)
            nats = ctc_loss(logits, counts, places)
        best = torch.maximum(best, said.detach().amax(-1)[valid])
        return TokenCTCLoss(nats, (blank.detach()[valid] > best).sum())

    @torch.no_grad()
    def decode(self, frames: Tensor, counts: Tensor) -> tuple[list[list[int]], int]:
        """Token ids that greedy decoding gives each row of (B, I, D), and the number of blank frames."""
        found, blanks = [], 0
        with torch.autocast(frames.device.type, enabled=False):
            for row, count in zip(frames.float(), counts.tolist(), strict=True):
                scaled = self._scaled(row[:count])
                blank = scaled @ self._unit(self.blank)
                parts = [(c @ self.classes.T).max(-1) for c in torch.split(scaled, self._rows())]
                best = torch.cat([p.indices for p in parts]) if parts else blank.long()
                top = torch.cat([p.values for p in parts]) if parts else blank
                best = torch.where(blank > top, -1, best)
                blanks += int((best < 0).sum())
                merged = torch.unique_consecutive(best).tolist()
                found.append([self.ids[place] for place in merged if place >= 0])
        return found, blanks

    def _own(
        self, targets: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[Tensor, Tensor, list[list[int]]]:
        """Classes of each row's own tokens (B, K), true where that is padding (B, K), and targets as places in them."""
        rows = [sorted({self._place[token] for token in target}) for target in targets]
        K = max(map(len, rows))
        own = torch.tensor([[*row, *[row[0]] * (K - len(row))] for row in rows])
        padding = torch.arange(K) >= torch.tensor([len(row) for row in rows])[:, None]
        places = []
        for row, target in zip(rows, targets, strict=True):
            at = {place: number for number, place in enumerate(row, start=BLANK_ID + 1)}
            places.append([at[self._place[token]] for token in target])
        return own.to(device), padding.to(device), places

    def _others(self, frames: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Log sum and maximum (N,) of the scores of frames (N, D) with all classes but their own ones (N, K)."""
        n = self._rows()
        pairs = zip(torch.split(frames, n), torch.split(own, n), strict=True)
        parts = [checkpoint(_rest, x, self.classes, mine, use_reentrant=False) for x, mine in pairs]
        sums, tops = zip(*parts, strict=True)
        return torch.cat(sums), torch.cat(tops)

    def _rows(self) -> int:
        return max(1, CHUNK_BYTES // (4 * len(self.classes)))

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) if self.score == "cosine" else x

    def _scaled(self, frames: Tensor) -> Tensor:
        return self._unit(frames) / self.temperature


def _rest(frames: Tensor, classes: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    scores = (frames @ classes.T).scatter(1, own, NOTHING)
    return scores.logsumexp(-1), scores.detach().amax(-1)
