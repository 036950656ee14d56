"""Models from a directory, in this process: causal language models and VITS voices (such as MMS) of transformers.

Reads the directory only; nothing is fetched.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ, resample
from thaitool.errors import InputError
from thaitool.models.checkpoint import weights_sha256
from thaitool.synth.backends.protocol import (
    CallFailed,
    ChatReply,
    ChatRequest,
    Identity,
)
from thaitool.synth.draws import draw
from thaitool.synth.espeak import Speech

if TYPE_CHECKING:
    from collections.abc import Sequence


class LocalLlm:
    """A causal language model with a chat template; one question at a time."""

    def __init__(self, path: Path, device: str) -> None:
        """Raises `InputError` if the directory holds no such model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._device = device
        self._tokenizer = _loaded(AutoTokenizer, path)
        self._model = _loaded(AutoModelForCausalLM, path, dtype="auto").to(device).eval()
        if self._tokenizer.chat_template is None:
            raise InputError(
                f"{path} must have a chat template, but has none; give an instruction-tuned model."
            )
        self.identity = Identity("hf:", path.name, weights_sha256(path))

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One answer, away from the event loop; see `Llm.complete`."""
        return await asyncio.to_thread(self._complete, request)

    def _complete(self, request: ChatRequest) -> ChatReply:
        turns = [{"role": m.role, "content": m.content} for m in request.messages]
        prompt = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._device)
        length = prompt["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": request.temperature > 0}
        if sampling["do_sample"]:
            sampling["temperature"] = request.temperature
        with torch.inference_mode(), torch.random.fork_rng():
            # Equal questions get equal answers, whatever was asked before.
            torch.manual_seed(draw(*(m.content for m in request.messages)) % 2**63)
            made = self._model.generate(**prompt, max_new_tokens=request.max_tokens, **sampling)
        said = made[0, length:]
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        return ChatReply(text, length, len(said), len(said) < request.max_tokens)

    async def close(self) -> None:
        """Lets the weights go."""
        del self._model


class VitsTts:
    """A VITS voice; varies the speed, not the pitch. One clip at a time, never padded.

    MMS's Thai tokenizer pads with the letter "า", so a batch would say it.
    """

    in_flight = 1

    def __init__(self, path: Path, device: str, voices: Sequence[str]) -> None:
        """`voices` are numbers of speakers; none means all the model has.

        Raises:
            InputError: the directory holds no such model, or the model has no such speaker.
        """
        from transformers import AutoTokenizer, VitsModel

        self._device = device
        self._tokenizer = _loaded(AutoTokenizer, path)
        self._model = _loaded(VitsModel, path).to(device).eval()
        speakers = max(1, int(self._model.config.num_speakers))
        self.voices = tuple(voices) or tuple(str(n) for n in range(speakers))
        unknown = [v for v in self.voices if not v.isdecimal() or int(v) >= speakers]
        if unknown:
            raise InputError(
                f"{path} has the voices 0 to {speakers - 1}, but {unknown[0]!r} was asked for."
            )
        self.identity = Identity("hf-vits:", path.name, weights_sha256(path))

    async def speak(
        self,
        text: str,
        voice: str,
        *,
        speed: float,
        pitch_shift: int,  # noqa: ARG002
        seed: int,
    ) -> Speech:
        """Says `text`, away from the event loop; see `Tts.speak`."""
        return await asyncio.to_thread(self._speak, text, voice, speed, seed)

    def _speak(self, text: str, voice: str, speed: float, seed: int) -> Speech:
        tokens = self._tokenizer(text, return_tensors="pt").to(self._device)
        if tokens["input_ids"].shape[1] == 0:
            raise CallFailed("no_letters", f"the voice knows no letter of {text!r}", again=False)
        speaker = {"speaker_id": int(voice)} if self._model.config.num_speakers > 1 else {}
        self._model.speaking_rate = speed
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed % 2**63)
            wave = self._model(**tokens, **speaker).waveform[0]
        samples = wave.float().cpu().numpy()
        rate_hz = int(self._model.config.sampling_rate)
        return Speech(resample(samples, rate_hz), SAMPLE_RATE_HZ, voice, "")

    async def close(self) -> None:
        """Lets the weights go."""
        del self._model


def _loaded(kind: Any, path: Path, **options: Any) -> Any:
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path} must be the directory of a model in transformers form, but has no config.json."
        )
    try:
        return kind.from_pretrained(path, local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be loaded as {kind.__name__}: {error}") from error
