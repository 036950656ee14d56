"""Language models and voices by URL. Opening one checks the URL and loads what is local; it asks nothing.

Language models: `openai:URL#MODEL` · `hf:PATH` · `batch:DIR#MODEL` · `replay:FILE#MODEL`.
Voices: `espeak:` · `speech:URL#MODEL` · `hf-vits:PATH` · `piper:PATH` · `command:PROGRAM ARGUMENTS`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from thaitool.errors import ConfigError, InputError
from thaitool.synth.backends.protocol import Llm, Tts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.config import Calls

LLM_FORMS = "embedded:, openai:URL#MODEL, hf:PATH, batch:DIR#MODEL or replay:FILE#MODEL"
TTS_FORMS = (
    "espeak: (embedded), speech:URL#MODEL, hf-vits:PATH, piper:PATH or command:PROGRAM ARGUMENTS"
)


async def open_llm(url: str, calls: Calls, option: str) -> Llm:
    """The language model of a URL; `option` is what to call it in messages.

    Raises:
        ConfigError: the URL has another form, or names no model where the server has several.
        InputError: a directory or recording is not what it must be.
    """
    scheme, _, rest = url.partition(":")
    place, _, model = rest.partition("#")
    if scheme == "openai" and place:
        from thaitool.synth.backends.chat import OpenAiLlm, only_model
        from thaitool.synth.backends.web import WebClient

        client = WebClient(place, key_variable_of(place, calls), calls.in_flight)
        return OpenAiLlm(client, model or await only_model(client), calls.record)
    if scheme == "hf" and rest:
        from thaitool.models.device import choose_device
        from thaitool.synth.backends.local import LocalLlm

        return LocalLlm(Path(rest), choose_device(calls.device))
    if scheme in {"batch", "replay"} and place:
        from thaitool.synth.backends.chat import REQUESTS, RecordedLlm

        path = Path(place)
        if not model:
            raise ConfigError(
                f"The {option} {url!r} must name the model, which is part of every request: {url}#MODEL."
            )
        if scheme == "replay":
            return RecordedLlm(f"replay:{path.name}", model, [path], None)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} must be a directory or absent, but is a file.")
        answers = sorted(p for p in path.glob("*.jsonl") if p.name != REQUESTS)
        return RecordedLlm("batch:", model, answers, path / REQUESTS)
    raise ConfigError(f"The {option} backend must be {LLM_FORMS}, but is {url!r}.")


def open_tts(url: str, voices: Sequence[str], calls: Calls) -> Tts:
    """The voices of a URL; `voices` as `weighted` gives them, none where the backend knows its own.

    Raises:
        ConfigError: the URL has another form, or the backend needs voices to be named.
        EnvironmentProblem: the backend needs a package that is not installed.
        InputError: a file or directory is not what it must be.
    """
    scheme, colon, rest = url.partition(":")
    place, _, model = rest.partition("#")
    if scheme == "espeak" and colon and not rest:
        from thaitool.synth.backends.espeak import EspeakTts

        return EspeakTts(voices)
    if scheme == "hf-vits" and rest:
        from thaitool.models.device import choose_device
        from thaitool.synth.backends.local import VitsTts

        return VitsTts(Path(rest), choose_device(calls.device), voices)
    if scheme == "piper" and rest:
        from thaitool.synth.backends.piper import PiperTts

        return PiperTts(Path(rest), voices)
    if (scheme, bool(place)) in {("speech", True), ("command", True)} and not voices:
        raise ConfigError(
            f"The voices of {url!r} must be named: --set 'voices=[NAME, NAME:WEIGHT]'."
        )
    if scheme == "speech" and place:
        from thaitool.synth.backends.speech import SpeechApiTts
        from thaitool.synth.backends.web import WebClient

        if not model:
            raise ConfigError(f"The tts backend {url!r} must name its model: {url}#MODEL.")
        client = WebClient(place, key_variable_of(place, calls), calls.in_flight)
        return SpeechApiTts(client, model, voices, calls.in_flight)
    if scheme == "command" and rest:
        from thaitool.synth.backends.speech import CommandTts

        return CommandTts(rest, voices, min(calls.in_flight, os.cpu_count() or 1))
    raise ConfigError(f"The tts backend must be {TTS_FORMS}, but is {url!r}.")


def key_variable_of(base_url: str, calls: Calls) -> str:
    """The environment variable with the key of a server; "" for none."""
    return calls.key_variables.get(urlsplit(base_url).hostname or "", calls.key_variable)


def weighted(voices: Sequence[str]) -> tuple[str, ...]:
    """`NAME` or `NAME:WEIGHT` each; a name stands in the result as often as its weight says.

    Raises:
        ConfigError: a weight is no positive whole number, or a name comes twice.
    """
    named: dict[str, int] = {}
    for voice in voices:
        name, colon, weight = voice.rpartition(":")
        name, weight = (name, weight) if colon else (voice, "1")
        if not name or not weight.isdecimal() or int(weight) == 0 or name in named:
            raise ConfigError(
                f"Each of `voices` must be NAME or NAME:WEIGHT with a whole weight from 1, and no name twice, but one"
                f" is {voice!r}."
            )
        named[name] = int(weight)
    return tuple(name for name, weight in named.items() for _ in range(weight))
