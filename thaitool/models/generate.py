"""Answers of the speech LLM for a batch of clips: greedy, with the reason why each answer ended. Scores nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from thaitool.models.processor import ThaiSpeechProcessor


@torch.inference_mode()
def answer(
    model: Any,
    processor: ThaiSpeechProcessor,
    audio: Tensor,
    audio_lengths: Tensor,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
) -> list[tuple[str, bool]]:
    """(text, stopped by itself) for each clip.

    Args:
        model: `ThaiSpeechForConditionalGeneration` in evaluation mode.
        processor: Its processor.
        audio: Shape (B, N), 16 kHz, right-padded, normalised if `audio_tower.normalises`.
        audio_lengths: Shape (B,), in samples.
        instructions: One per clip.
        max_new_tokens: Length limit of an answer.
    """
    tokens = processor.tokens(instructions, audio_lengths.tolist())
    device = model.device
    eos = processor.tokenizer.eos_token_id
    out = model.generate(
        input_ids=tokens.input_ids.to(device),
        attention_mask=tokens.attention_mask.to(device),
        input_values=audio.to(device),
        input_lengths=audio_lengths.to(device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    answers = []
    for row in out[:, tokens.input_ids.shape[1] :].tolist():
        stopped = eos in row
        ids = row[: row.index(eos)] if stopped else row
        answers.append((processor.tokenizer.decode(ids, skip_special_tokens=True).strip(), stopped))
    return answers
