"""Batches, options and gradients that the tests of the op share. Checks nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thaitool.ops.dtw import DTWAlignment, dtw_alignment

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
#: Options that every property should survive.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"band": 0.1},
    {"prior": 2.0},
    {"steps": "monotonic"},
    {"normalizer": "sum_lengths", "reduction": "mean"},
    {"steps": "monotonic", "band": 0.2, "prior": 0.5, "reduction": "sum"},
]
#: What the op may be given besides speech and text; see `case`.
FORMS = ["plain", "means", "drop", "cross", "all", "weights"]
#: Names of the inputs that may have a gradient.
LEAVES = ("speech", "text", "speech_mean", "text_mean", "drop_cost")


@dataclass(frozen=True)
class Case:
    """Inputs of one call; None is not given."""

    speech: Tensor
    text: Tensor
    speech_lengths: Tensor
    text_lengths: Tensor
    speech_mean: Tensor | None = None
    text_mean: Tensor | None = None
    text_index: Tensor | None = None
    drop_cost: Tensor | None = None
    text_weights: Tensor | None = None

    def on(self, device: torch.device) -> Case:
        """The same on another device."""
        given = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **given)

    def padding(self) -> tuple[Tensor, Tensor]:
        """Which frames [B, I] and tokens [C, J] are padding."""
        frames = torch.arange(self.speech.shape[1], device=self.speech.device)
        tokens = torch.arange(self.text.shape[1], device=self.text.device)
        return (
            frames >= self.speech_lengths[:, None].to(frames.device),
            tokens >= self.text_lengths[:, None].to(tokens.device),
        )

    def align(self, **options: Any) -> DTWAlignment:
        """Call the op."""
        return dtw_alignment(
            *(self.speech, self.text, self.speech_lengths, self.text_lengths),
            speech_mean=self.speech_mean,
            text_mean=self.text_mean,
            text_index=self.text_index,
            drop_cost=self.drop_cost,
            text_weights=self.text_weights,
            **options,
        )


def case(
    form: str = "plain",
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    width: int = 16,
    device: torch.device | None = None,
) -> Case:
    """Six padded pairs, among them n = m, one frame, one token, no frame; every m fits every n > 0 it meets.

    "means" centres both sides, "drop" prices every frame, "cross" pairs every speech with three
    texts, one of them twice; "all" does it all, and "weights" weighs the tokens besides.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    made = Case(
        speech=normal(6, 21, width),
        text=normal(6, 9, width),
        speech_lengths=torch.tensor([20, 13, 8, 1, 0, 7]),
        text_lengths=torch.tensor([8, 5, 8, 1, 4, 1]),
    )
    if form in {"means", "all", "weights"}:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        made = replace(
            made,
            speech_mean=0.5 * normal(width).to(wide),
            text_mean=0.5 * normal(width).to(wide),
        )
    if form in {"drop", "all", "weights"}:
        price = torch.rand(6, 21, generator=generator, dtype=torch.float64)
        made = replace(made, drop_cost=price + 0.3)
    if form in {"cross", "all", "weights"}:
        # "monotonic" needs a text that fits: speech 3 has one frame, speech 5 has seven.
        index = [[0, 1, 1], [1, 5, 2], [2, 2, 0], [3, 5, 3], [4, 0, 1], [1, 3, 4]]
        made = replace(made, text_index=torch.tensor(index))
    if form == "weights":
        weights_of_tokens = torch.rand(6, 9, generator=generator, dtype=torch.float64) * 2
        made = replace(made, text_weights=weights_of_tokens)
    return made.on(torch.device("cpu") if device is None else device)


def weights(loss: Tensor) -> Tensor:
    """A gradient of the loss that is different for every pair."""
    return torch.linspace(1, 2, loss.numel(), device=loss.device).view(loss.shape)


def with_gradients(
    inputs: Case, leaves: tuple[str, ...] = LEAVES, **options: Any
) -> tuple[DTWAlignment, dict[str, Tensor]]:
    """The result, and the gradients of a weighted sum of the loss to the leaves that are given."""
    given = {
        name: value.detach().clone().requires_grad_()
        for name, value in vars(inputs).items()
        if name in leaves and value is not None
    }
    result = replace(inputs, **given).align(**options)
    total = (result.loss * weights(result.loss)).sum()
    found = torch.autograd.grad(total, list(given.values()))
    return result, dict(zip(given, found, strict=True))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal values in equal places; NaN equals NaN."""
    return torch.equal(left.isnan(), right.isnan()) and torch.equal(
        left.nan_to_num(0.0), right.nan_to_num(0.0)
    )
