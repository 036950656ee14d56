"""Text and audio to model input: the only place that builds a prompt, for training, eval and infer alike.

One audio placeholder of the prompt becomes as many placeholders as the projector makes embeddings, by the shared length
arithmetic. Labels cover the answer span and the end-of-sequence token, nothing else. Does not run models.

Has two faces: `prompt` and `tokens` for the stages, and what transformers (and servers built on it) call: `processor(
text, audio)` with rendered text, and `apply_chat_template` on messages of audio and text parts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from thaitool.audio.decode import decode, normalise
from thaitool.audio.headers import BadAudio
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.models.encoder import frame_lengths
from thaitool.text.prompts import PROMPTS, task_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

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

    #: Defaults of `__call__`, read by transformers; the rendered template has its special tokens already.
    text_kwargs = {"padding": True, "return_tensors": "pt", "add_special_tokens": False}  # noqa: RUF012

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
        # Generation continues at the right edge; whatever the tokenizer's files say.
        self.tokenizer.padding_side = "left"

    @property
    def audio_token_id(self) -> int:
        """Id of the audio placeholder."""
        token_id: int = self.tokenizer.convert_tokens_to_ids(self.audio_token)
        return token_id

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` gives."""
        return ["input_ids", "attention_mask", "input_values", "input_lengths"]

    def audio_tokens(self, samples: int) -> int:
        """Placeholders for a clip of `samples` samples at 16 kHz."""
        frames = frame_lengths(self.conv_kernel, self.conv_stride, samples)
        return frame_lengths([self.projector_factor], [self.projector_factor], frames)

    def identity(self) -> dict[str, Any]:
        """What decides how a prompt and a clip become model input; checkpoints store it, and loading compares it."""
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True, ensure_ascii=False)
        return {
            "chat_template": _sha256(str(self.chat_template)),
            "vocabulary": _sha256(vocabulary),
            "audio_token": [self.audio_token, self.audio_token_id],
            "end_token": [str(self.tokenizer.eos_token), self.tokenizer.eos_token_id],
            "prompts": dict(PROMPTS),
            "sample_rate_hz": int(self.feature_extractor.sampling_rate),
            "normalised": bool(self.feature_extractor.do_normalize),
            "frame_kernels": self.conv_kernel,
            "frame_strides": self.conv_stride,
            "projector_factor": self.projector_factor,
        }

    def sha256(self) -> str:
        """Hash of `identity`, for fingerprints of runs."""
        return _sha256(json.dumps(self.identity(), sort_keys=True, ensure_ascii=False))

    def prompt(self, instruction: str, n_audio: int) -> str:
        """The text before the answer: audio, instruction and the assistant's turn opened, by the chat template.

        Raises:
            InputError: the instruction holds the audio placeholder, which would shift every embedding; or the chat
                template loses placeholders.
        """
        self._require_no_placeholder(instruction, "An instruction")
        content = self.audio_token * n_audio + instruction
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.chat_template or self.tokenizer.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        if (found := text.count(self.audio_token)) != n_audio:
            raise InputError(
                "The chat template must write a user's message into the prompt as it is, but of"
                f" {n_audio} {self.audio_token} in it {found} are there. Choose an LLM with another template."
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
                Control tokens that are written in an answer are plain text there.

        Raises:
            InputError: an instruction or an answer holds the audio placeholder.
        """
        eos = self.tokenizer.eos_token_id
        rows: list[list[int]] = []
        answer_starts: list[int] = []
        for i, (instruction, n) in enumerate(zip(instructions, samples, strict=True)):
            text = self.prompt(instruction, self.audio_tokens(n))
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            answer_starts.append(len(ids))
            if answers is not None:
                ids = [*ids, *self._answer(answers[i]), eos]
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

    def __call__(self, text: Any = None, audio: Any = None, **named: Any) -> BatchFeature:
        """Model input for generation, as in transformers: `text` is rendered and has one placeholder per clip.

        Args:
            text: One string or several.
            audio: Clips at 16 kHz, mono, in the order of the placeholders.
            named: What else `ProcessorMixin` takes.

        Returns:
            `input_ids`, `attention_mask` (B, J), padded at the left; `input_values` (clips, N), padded at the right,
            and `input_lengths` (clips,) in samples.

        Raises:
            ValueError: placeholders and clips differ in number (of transformers).
            InputError: a clip is too short for one embedding, not mono, or said to be at another rate.
        """
        made: BatchFeature = super().__call__(text=text, audio=audio, **named)
        return made

    def apply_chat_template(self, conversation: Any, *arguments: Any, **named: Any) -> Any:
        """As in transformers; audio parts may be arrays at 16 kHz, or paths that are decoded here (`path`, `audio`).

        Raises:
            InputError: a text holds the audio placeholder, which would take the place of a clip; or a recording cannot
                be read.
        """
        several = bool(conversation) and not isinstance(conversation[0], dict)
        turns = [self._heard(c) for c in (conversation if several else [conversation])]
        return super().apply_chat_template(turns if several else turns[0], *arguments, **named)

    def apply_transcription_request(
        self, audio: Any, prompt: str | None = None, **named: Any
    ) -> BatchFeature:
        """Model input that asks for a transcript of one recording or of a list of them.

        Args:
            audio: Arrays at 16 kHz, mono, or paths.
            prompt: What is asked instead of the trained prompt of `asr`.
            named: More for `apply_chat_template`.
        """
        clips = audio if isinstance(audio, list | tuple) else [audio]
        asked = {"type": "text", "text": task_prompt("asr") if prompt is None else prompt}
        conversations = [
            [{"role": "user", "content": [{"type": "audio", "audio": clip}, asked]}]
            for clip in clips
        ]
        made: BatchFeature = self.apply_chat_template(
            conversations, tokenize=True, return_dict=True, add_generation_prompt=True, **named
        )
        return made

    def replace_audio_token(self, audio_inputs: Any, audio_idx: int, **_: Any) -> str:
        """What the placeholder of a clip becomes; asked by transformers."""
        return self.audio_token * self.audio_tokens(int(audio_inputs["input_lengths"][audio_idx]))

    def _process_audio(
        self,
        audio: Sequence[NDArray[np.float32]],
        sampling_rate: int | None = None,
        **_: Any,
    ) -> tuple[dict[str, Any], list[str]]:
        """Each clip normalised alone, as in training: transformers' extractor would include the padding in some."""
        expected = int(self.feature_extractor.sampling_rate)
        if sampling_rate not in {None, expected}:
            raise InputError(
                f"Audio must have {expected} samples per second, but sampling_rate is {sampling_rate}. Resample it, or"
                " give its path."
            )
        wanted = bool(self.feature_extractor.do_normalize)
        clips = [np.asarray(clip, dtype=np.float32) for clip in audio]
        lengths = torch.tensor([len(clip) for clip in clips])
        for clip in clips:
            if clip.ndim != 1:
                raise InputError(
                    f"A clip must be mono, of shape (N,), but one has shape {clip.shape}. Mix its channels first."
                )
            if not self.audio_tokens(len(clip)):
                raise InputError(
                    f"A clip must be long enough for one embedding, but one of {len(clip)} samples gives none."
                    " Leave it out."
                )
        values = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(values.numpy(), clips, strict=True):
            row[: len(clip)] = normalise(clip) if wanted else clip
        inputs = {"input_values": values, "input_lengths": lengths}
        return inputs, [self.replace_audio_token(inputs, i) for i in range(len(clips))]

    def _get_num_multimodal_tokens(
        self, audio_lengths: Sequence[int] | None = None, **_: Any
    ) -> dict[str, list[int]]:
        """Placeholders of clips by their lengths in samples; asked by servers."""
        return (
            {}
            if audio_lengths is None
            else {"num_audio_tokens": [self.audio_tokens(int(n)) for n in audio_lengths]}
        )

    def _answer(self, text: str) -> list[int]:
        self._require_no_placeholder(text, "An answer")
        # An end token inside an answer would teach the model to stop there.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        return ids

    def _heard(self, conversation: Any) -> list[dict[str, Any]]:
        """A copy of a conversation in which audio parts are arrays, and no text holds the placeholder."""
        turns = []
        for turn in conversation:
            content = turn.get("content")
            if isinstance(content, str):
                self._require_no_placeholder(content, "A message")
            elif content is not None:
                turn = {**turn, "content": [self._heard_part(part) for part in content]}  # noqa: PLW2901
            turns.append(turn)
        return turns

    def _heard_part(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            self._require_no_placeholder(part["text"], "A message")
        if part["type"] != "audio":
            return part
        audio = part.get("audio", part.get("path"))
        if audio is None:
            return part  # a bare placeholder: the clip is passed beside the rendered text
        if not isinstance(audio, str | PathLike):
            return {"type": "audio", "audio": audio}
        try:
            return {"type": "audio", "audio": decode(str(audio), str(audio))}
        except BadAudio as bad:
            raise InputError(
                f"{audio} must be a readable recording, but is not: {bad.reason}: {bad.detail}."
            ) from bad

    def _require_no_placeholder(self, text: str, what: str) -> None:
        if self.audio_token in text:
            raise InputError(
                f"{what} must not contain {self.audio_token}, the audio placeholder, but {text!r} does."
            )


def differences(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of two `ThaiSpeechProcessor.identity` differs, a line each; a task that came later is no difference."""
    lines = []
    for name in sorted({*stored, *now}):
        then, here = stored.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(here, dict):
            here = {task: here.get(task) for task in then}
            lines += [
                f"{name}, {task}: trained with {then[task]!r}, now {here[task]!r}"
                for task in then
                if then[task] != here[task]
            ]
        elif then != here:
            lines.append(f"{name}: trained with {_short(then)}, now {_short(here)}")
    return lines


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else repr(value)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
