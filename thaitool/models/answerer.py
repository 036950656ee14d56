"""A model directory as something that answers about audio: a speech LLM, or a recogniser, which only transcribes.

Knows neither files nor scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.models import checkpoint
from thaitool.models.decoding import new_search, transcribe
from thaitool.models.device import choose_device
from thaitool.models.generate import Decoder, answer
from thaitool.models.quantised import quantised
from thaitool.models.recogniser import is_recogniser, load_recogniser
from thaitool.models.rows import can_pack

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import EvalConfig, InferConfig, ServeConfig


@dataclass(frozen=True)
class Answerer:
    """A loaded model on its device."""

    answer: Callable[[Tensor, Tensor, Sequence[str]], list[tuple[str, bool]]]
    """From audio (B, N) at 16 kHz, lengths (B,) and B instructions to (text, stopped by itself) for each clip."""
    normalises: bool
    """Whether audio must have zero mean and unit variance, or its own level."""
    longest_s: float | None
    """Seconds of the longest clip that it can hear; None if there is no limit."""
    device: str = "cpu"
    decoder: Decoder | None = None
    """Of a speech LLM."""
    context_tokens: int | None = None
    """Of audio, text and answer together that the LLM was made for; None if it does not say."""

    def too_long(self, duration_s: float) -> str | None:
        """The reason why a clip of this length cannot be answered about, as in the ledger; None if it can."""
        if self.longest_s is None or duration_s <= self.longest_s:
            return None
        return (
            f"too_long: {duration_s:.2f} s, the encoder hears at most {self.longest_s:g} s at once"
        )


def require_task(path: Path, tasks: Collection[str], prompt: str | None = None) -> None:
    """Raises `InputError` if a model directory holds a recogniser, and something else than a transcript is wanted."""
    others = [task for task in tasks if task != "asr"]
    if not (others or prompt is not None) or not is_recogniser(path):
        return
    wanted = f"task {others[0]}" if others else "a prompt"
    raise InputError(
        f"{path} is a recogniser (`finetune --head`), which only transcribes, but {wanted} was asked for. Use --task"
        " asr without --prompt, or a speech LLM."
    )


def load_answerer(path: Path, config: EvalConfig | InferConfig | ServeConfig) -> Answerer:
    """The model of a directory, on the device and with the search of a configuration.

    Raises:
        InputError: neither a recogniser nor a speech LLM, or damaged, or a search that it cannot do.
        EnvironmentProblem: CUDA, or the library of a search, was asked for and is not there.
    """
    device = choose_device(config.device)
    recognises = is_recogniser(path)
    if recognises and config.llm is not None:
        raise InputError(
            f"{path} is a recogniser (`finetune --head`) and has no LLM; leave out llm."
        )
    if recognises:
        recogniser = load_recogniser(path).to(device)
        search = new_search(recogniser, config)
        return Answerer(
            lambda audio, lengths, _: [
                (text, True) for text in transcribe(recogniser, audio, lengths, search)
            ],
            recogniser.encoder.normalises,
            _seconds(recogniser.encoder.longest_samples),
            device,
        )
    if config.decoding is not None:
        raise InputError(
            f"decoding: {config.decoding} is for recognisers (`finetune --head`), but {path} is none; leave it out."
        )
    is_quantised = config.llm_dtype == "int8"
    if is_quantised and device != "cpu":
        raise InputError(
            f"llm_dtype int8 is for the CPU, but the device is {device}; use bfloat16, or --device cpu."
        )
    dtype = torch.float32 if is_quantised else getattr(torch, config.llm_dtype)
    model, processor = checkpoint.load_speech_lm(path, llm=config.llm, dtype=dtype)
    model.to(device)
    if is_quantised:
        # Before: rounding to 8 bits turns the last bits, by which two ways differ, into larger differences.
        can_pack(model.language_model)
        model.language_model = quantised(model.language_model)
    return Answerer(
        lambda audio, lengths, instructions: answer(
            model, processor, audio, lengths, instructions, max_new_tokens=config.max_new_tokens
        ),
        model.audio_tower.normalises,
        _seconds(model.audio_tower.longest_samples),
        device,
        Decoder(model, processor),
        getattr(model.config.text_config, "max_position_embeddings", None),
    )


def _seconds(samples: int | None) -> float | None:
    return None if samples is None else samples / SAMPLE_RATE_HZ
