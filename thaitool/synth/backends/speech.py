"""Voices outside this process: a server with `/v1/audio/speech`, or any program that takes text and gives a WAV.

What comes back is decoded to mono at 16 kHz; level and silence are left as they are.
"""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode
from thaitool.audio.headers import BadAudio
from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.synth.backends.protocol import CallFailed, Identity
from thaitool.synth.espeak import Speech

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.synth.backends.web import WebClient

#: Of a program's complaint, what a message shows.
_SHOWN = 300


class SpeechApiTts:
    """Any server that knows OpenAI's speech endpoint; varies the speed, not the pitch."""

    def __init__(
        self, client: WebClient, model: str, voices: Sequence[str], in_flight: int
    ) -> None:
        self._client = client
        self.identity = Identity(f"speech:{client.base_url}", model, "")
        self.voices = tuple(voices)
        self.in_flight = in_flight

    async def speak(
        self,
        text: str,
        voice: str,
        *,
        speed: float,
        pitch_shift: int,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Speech:
        """One call; see `Tts.speak`."""
        body = {
            "model": self.identity.model,
            "input": text,
            "voice": voice,
            "speed": round(speed, 3),
            "response_format": "wav",
        }
        response = await self._client.post("/audio/speech", body)
        return _decoded(response.content, voice)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


class CommandTts:
    """Any program: text on its standard input, a WAV on its standard output or in the file `{out}`.

    `{voice}`, `{speed}`, `{semitones}` and `{seed}` in the command line are filled in; no shell reads it.
    """

    def __init__(self, command: str, voices: Sequence[str], in_flight: int) -> None:
        """Raises `ConfigError` for a command line that cannot be split."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(
                f"The command {command!r} must be a command line, but: {error}."
            ) from error
        if not self._words:
            raise ConfigError(
                "The voice command: needs a program, such as 'command:say --wav {out}'."
            )
        self.identity = Identity("command:", command, "")
        self.voices = tuple(voices)
        self.in_flight = in_flight

    async def speak(
        self, text: str, voice: str, *, speed: float, pitch_shift: int, seed: int
    ) -> Speech:
        """Runs the program once; see `Tts.speak`."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "speech.wav"
            places = {
                "{out}": str(out),
                "{voice}": voice,
                "{speed}": f"{speed:.3f}",
                "{semitones}": str(pitch_shift),
                "{seed}": str(seed % 2**31),
            }
            said = await self._run([_filled(word, places) for word in self._words], text)
            return _decoded(out.read_bytes() if out.is_file() else said, voice)

    async def _run(self, words: list[str], text: str) -> bytes:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=pipe, stdout=pipe, stderr=pipe
            )
        except OSError as error:
            raise EnvironmentProblem(
                f"The program {words[0]!r} of the voice command: cannot be run: {error.strerror}. Install it or give"
                " its path."
            ) from error
        try:
            said, complaint = await process.communicate(text.encode())
        except asyncio.CancelledError:
            process.kill()  # it hung, or the run was stopped
            await process.wait()
            raise
        if process.returncode != 0:
            detail = complaint.decode("utf-8", "replace").strip()[-_SHOWN:]
            raise CallFailed("command_failed", f"exit {process.returncode}: {detail}", again=False)
        return said

    async def close(self) -> None:
        """Nothing stays open between clips."""


def _filled(word: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def _decoded(sound: bytes, voice: str) -> Speech:
    try:
        samples = decode(sound, f"speech of {voice}")
    except BadAudio as error:
        raise CallFailed(f"audio_{error.reason}", str(error), again=False) from error
    return Speech(samples, SAMPLE_RATE_HZ, voice, "")
