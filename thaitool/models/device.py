"""Which device to compute on, asked in one place: what was asked for and is absent is an error, never a fallback."""

from __future__ import annotations

import torch

from thaitool.errors import EnvironmentProblem


def choose_device(wanted: str) -> str:
    """cpu or cuda for a recipe's `device`: auto takes CUDA if there is one.

    Raises:
        EnvironmentProblem: cuda was asked for and torch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "device: cuda was asked for, but torch finds no CUDA device; use device: cpu."
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
