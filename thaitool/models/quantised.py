"""The linear layers of an LLM in 8 bits for the CPU: a quarter of the memory, faster products. Trains nothing.

Weights have one scale per output and inputs one per token, both symmetric (W8A8 with dynamic scales, as in Dettmers et
al. 2022 without outliers). Sums of integers are exact, so a token's result depends on no other token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class _Int8Linear(nn.Module):
    """What stands in the place of a linear layer."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        rounded = (linear.weight.detach() / scale).round().to(torch.int8)
        self.register_buffer("weight", rounded.t().contiguous())
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """As a linear layer: (..., in) to (..., out)."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        sums = torch._int_mm((rows / scale).round().to(torch.int8), self.weight)  # noqa: SLF001
        out = sums * scale * self.scale
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*inputs.shape[:-1], -1)


def quantised(language_model: Any) -> Any:
    """The causal LLM with its linear layers in 8 bits, all but the output layer; an adapter is merged before.

    The model that was given is changed.
    """
    if hasattr(language_model, "merge_and_unload"):
        language_model = language_model.merge_and_unload()
    head = language_model.get_output_embeddings()
    for name, module in list(language_model.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            language_model.set_submodule(name, _Int8Linear(module))
    return language_model
