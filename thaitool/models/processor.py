"""Text and audio to model input: the only place that builds a prompt, for training, eval and infer alike.

One audio placeholder of the prompt becomes as many placeholders as the projector makes embeddings, by the shared length
arithmetic. Labels cover the answer span and the end-of-sequence token, nothing else. Does not run models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import BatchFeature, ProcessorMixin

from thaitool.errors import InputError
from thaitool.models.encoder import frame_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

AUDIO_TOKEN = "<|audio|>"  # noqa: S105 (a vocabulary entry)
IGNORED = -100


@dataclass(frozen=True)
class Tokens:
    """Padded token ids. Left-padded for generation, right-padded for training."""

    input_ids: Tensor
    """Shape (B, J)."""
    attention_mask: Tensor
    """Shape (B, J)."""
    labels: Tensor | None
    """Shape (B, J), `IGNORED` outside the answers."""


class ThaiSpeechProcessor(ProcessorMixin):
    """Feature extractor, tokenizer and chat template, with the audio length arithmetic of one encoder and projector."""

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        # Not keyword-only: transformers' from_pretrained leaves out what is, and the arithmetic would be another.
        conv_kernel: Sequence[int] = (),
        conv_stride: Sequence[int] = (),
        projector_factor: int = 2,
    ) -> None:
        self.conv_kernel = list(conv_kernel)
        self.conv_stride = list(conv_stride)
        self.projector_factor = projector_factor
        self.audio_token = AUDIO_TOKEN
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def audio_token_id(self) -> int:
        """Id of the audio placeholder."""
        token_id: int = self.tokenizer.convert_tokens_to_ids(self.audio_token)
        return token_id

    def audio_tokens(self, samples: int) -> int:
        """Placeholders for a clip of `samples` samples at 16 kHz."""
        frames = frame_lengths(self.conv_kernel, self.conv_stride, samples)
        return frame_lengths([self.projector_factor], [self.projector_factor], frames)

    def template_sha256(self) -> str:
        """Hash of what turns a prompt into text; checkpoints store it and `infer` compares it."""
        probe = self.prompt("x", 1) + str(self.tokenizer.eos_token)
        return hashlib.sha256(probe.encode()).hexdigest()

    def prompt(self, instruction: str, n_audio: int) -> str:
        """The text before the answer: audio, instruction and the assistant's turn opened, by the chat template.

        Raises:
            InputError: the instruction holds the audio placeholder, which would shift every embedding.
        """
        if self.audio_token in instruction:
            raise InputError(
                f"An instruction must not contain {self.audio_token}, the audio placeholder, but {instruction!r} does."
            )
        content = self.audio_token * n_audio + instruction
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.chat_template or self.tokenizer.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    def tokens(
        self,
        instructions: Sequence[str],
        samples: Sequence[int],
        answers: Sequence[str] | None = None,
    ) -> Tokens:
        """Token ids of prompts, or of prompts with answers and their labels.

        Args:
            instructions: One per clip.
            samples: Length of each clip in samples at 16 kHz; 0 for a prompt without audio.
            answers: What the model should say; the end-of-sequence token is added after each and always supervised.
        """
        eos = self.tokenizer.eos_token_id
        rows: list[list[int]] = []
        answer_starts: list[int] = []
        for i, (instruction, n) in enumerate(zip(instructions, samples, strict=True)):
            text = self.prompt(instruction, self.audio_tokens(n))
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            answer_starts.append(len(ids))
            if answers is not None:
                ids = (
                    ids + self.tokenizer(answers[i], add_special_tokens=False)["input_ids"] + [eos]
                )
            rows.append(ids)
        width = max(len(r) for r in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = None if answers is None else torch.full_like(ids, IGNORED)
        for i, row in enumerate(rows):
            # Generation continues at the right edge, so prompts end there; training rows begin at the left edge.
            start = width - len(row) if answers is None else 0
            ids[i, start : start + len(row)] = torch.tensor(row)
            mask[i, start : start + len(row)] = 1
            if labels is not None:
                labels[i, answer_starts[i] : len(row)] = ids[i, answer_starts[i] : len(row)]
        return Tokens(ids, mask, labels)

    def __call__(
        self, text: str | list[str], audio: list[NDArray[np.float32]], **kwargs: Any
    ) -> BatchFeature:
        """Model input for generation: instructions and clips (16 kHz mono), one each.

        Returns:
            `input_ids`, `attention_mask` (B, J), `input_values` (B, N) and `input_lengths` (B,).
        """
        instructions = [text] if isinstance(text, str) else text
        tokens = self.tokens(instructions, [len(a) for a in audio])
        features = self.feature_extractor(
            audio,
            sampling_rate=self.feature_extractor.sampling_rate,
            padding=True,
            return_tensors="pt",
            **kwargs,
        )
        return BatchFeature(
            {
                "input_ids": tokens.input_ids,
                "attention_mask": tokens.attention_mask,
                "input_values": features["input_values"],
                "input_lengths": torch.tensor([len(a) for a in audio]),
            }
        )
