"""Which loss moves which part of the model, measured before the first update. Trains nothing.

A loss that reaches nothing is a number on a screen and no training (a detached term; an output that no loss uses). Both
happened in rebuilt versions of the method and were taken for results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from thaitool.errors import TrainingFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

#: Loss to part to gradient norm; 0 where none arrives.
Report = dict[str, dict[str, float]]


def gradient_report(
    losses: Mapping[str, Callable[[], Tensor]], parts: Mapping[str, Sequence[Tensor]]
) -> Report:
    """The gradient norm of every loss with respect to every part.

    Args:
        losses: Name to what computes the scalar. Called one after the other, so that one graph exists at a time.
        parts: Name to the parameters that are trained, some at least.
    """
    names = [name for name, parameters in parts.items() for _ in parameters]
    everything = [p for parameters in parts.values() for p in parameters]
    found: Report = {}
    for loss, compute in losses.items():
        squares = dict.fromkeys(parts, 0.0)
        total = compute()
        if total.requires_grad and everything:
            gradients = torch.autograd.grad(total, everything, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    squares[name] += float(gradient.float().square().sum())
        found[loss] = {name: value**0.5 for name, value in squares.items()}
    return found


def require_reach(report: Report, own: Mapping[str, str] | None = None) -> None:
    """Checks that every loss trains something, and that every trained part is moved by some loss.

    Args:
        report: What `gradient_report` found.
        own: Loss to the part that only serves it (a head). Reaching that alone is measuring, not training.

    Raises:
        TrainingFailed: names the loss and the parts that it does not reach, or the part that nothing reaches.
    """
    for loss, norms in report.items():
        others = [part for part in norms if part != (own or {}).get(loss)]
        if any(
            norms[part] != 0 for part in others
        ):  # NaN too: it arrives, and the update will say so
            continue
        head = f", only {(own or {})[loss]}, its own head" if loss in (own or {}) else ""
        listing = ", ".join(others) or "none: everything is frozen"
        raise TrainingFailed(
            f"The loss {loss} reaches no part of the model that is trained ({listing}){head}, so it would train"
            " nothing. Unfreeze a part that it depends on (train_projector, lora_rank, unfreeze_layers), or leave the"
            " loss out."
        )
    for part in next(iter(report.values()), {}):
        if all(norms[part] == 0 for norms in report.values()):
            raise TrainingFailed(
                f"{part} is to be trained, but none of the losses ({', '.join(report)}) reaches it: its gradient is"
                " exactly 0 on the first batch. Freeze it, or add a loss that depends on it."
            )


def told(report: Report) -> list[tuple[str, str]]:
    """The report for people: a line for each loss."""
    return [
        (
            f"gradient of {loss}",
            ", ".join(
                f"{part} {norm:.3g}" if norm else f"{part} none" for part, norm in norms.items()
            ),
        )
        for loss, norms in report.items()
    ]
