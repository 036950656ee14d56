"""How much of its space a representation uses: spread per dimension and effective rank. Knows no model.

A collapsed encoder gives nearly the same vector for every frame (spread near 0) or vectors on a few lines (rank near
1) while its loss may look well. Source of the rank: Garrido et al. 2023, RankMe, eq. 1; Roy & Vetterli 2007.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def representation(hidden: Tensor) -> dict[str, float]:
    """`feature_std` and `effective_rank` of vectors of shape (M, D), computed in float32 about their mean.

    - `feature_std`: mean over dimensions of the standard deviation over vectors. Constant vectors: 0.
    - `effective_rank`: exp of the entropy of the normalised singular values, between 1 and min(M - 1, D). Equal
      spread in all directions: D; all on one line: 1; constant: 0, as there is no direction at all.

    The mean is taken off first: a large common offset, which layer-normed encoders have, would hide what varies.

    Raises:
        ValueError: fewer than two vectors, whose spread would mean nothing.
    """
    if hidden.dim() != 2 or len(hidden) < 2:
        raise ValueError(
            f"hidden must have shape (M, D) with M >= 2, but has shape {tuple(hidden.shape)}."
        )
    # bf16 under autocast would round what distinguishes the vectors.
    with torch.autocast(hidden.device.type, enabled=False):
        centred = hidden.detach().float()
        scale = centred.abs().amax()
        centred = centred - centred.mean(0)
        std = centred.square().mean(0).sqrt().mean()
        values = torch.linalg.svdvals(centred)
        # What is left of equal vectors after taking off their mean is rounding, not a direction.
        values = torch.where(values > scale * len(hidden) ** 0.5 * 1e-6, values, 0.0)
        share = values / values.sum().clamp_min(torch.finfo(torch.float32).tiny)
        entropy = -torch.xlogy(share, share).sum()
        rank = torch.where(values.sum() > 0, entropy.exp(), 0.0)
    return {"feature_std": float(std), "effective_rank": float(rank)}
