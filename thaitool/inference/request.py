"""A question about one clip, how its answer is chosen, and the answer. Loads no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from thaitool.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from thaitool.text.context import Context

#: What an answer may be: any text, one name of a closed set, or the JSON of the task `ner`.
FormName = Literal["free", "labels", "json"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The draws of an answer depend on its own seed alone, not on what is answered beside it."""

    temperature: float = 0.0
    """0 takes the best token every time."""
    top_p: float = 1.0
    """Share of the probability that tokens are drawn from, most probable first."""
    seed: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Raises `InputError` for values that choose nothing."""
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 100):
            raise InputError(f"temperature must be between 0 and 100, but is {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, but is {self.top_p}.")
        if self.seed < 0:
            raise InputError(f"A seed must be 0 or more, but is {self.seed}.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be 1 or more, but is {self.max_new_tokens}.")


@dataclass(frozen=True)
class Request:
    """A question about one clip."""

    audio: NDArray[np.float32]
    """Shape (N,), mono, 16 kHz, at its own level."""
    task: str = "asr"
    prompt: str | None = None
    """Asked instead of the task's own prompt."""
    context: Context | None = None
    sampling: Sampling = Sampling()
    form: FormName = "free"
    labels: tuple[str, ...] = ()
    """The closed set of the form `labels`; empty takes the task's."""


@dataclass(frozen=True)
class Reply:
    """The answer to a request."""

    text: str
    stopped: bool
    """Whether it ended by itself rather than at the length limit."""
    audio_s: float
    seconds: float
    """Its share of the time that the model worked: shares of all answers add up."""
    latency_s: float
    """From the request to the end of the answer."""
    tokens: int = 0
    """Of the answer."""
    prompt_tokens: int = 0
    """Of the audio and the text before the answer."""
