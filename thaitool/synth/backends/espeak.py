"""The embedded voices as a backend: espeak-ng by phonemes, in this process. Needs no network and no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.synth.backends.protocol import Identity
from thaitool.synth.espeak import VOICES, Speech, speak

if TYPE_CHECKING:
    from collections.abc import Sequence

_VOICES = {voice.name: voice for voice in VOICES}


class EspeakTts:
    """The embedded speakers; equal arguments give equal bytes, faster than a cache would find them."""

    identity = Identity("espeak:", "espeak-ng", "")
    in_flight = 1

    def __init__(self, voices: Sequence[str]) -> None:
        """No `voices` means all of them; raises `ConfigError` for one that does not exist."""
        unknown = [name for name in voices if name not in _VOICES]
        if unknown:
            raise ConfigError(
                f"The voices of espeak: are {', '.join(_VOICES)}, but {unknown[0]!r} was asked for."
            )
        self.voices = tuple(voices) or tuple(_VOICES)

    async def speak(
        self,
        text: str,
        voice: str,
        *,
        speed: float,
        pitch_shift: int,
        seed: int,  # noqa: ARG002
    ) -> Speech:
        """Says `text`; see `Tts.speak`."""
        return speak(text, _VOICES[voice], speed=speed, pitch_shift=pitch_shift)

    async def close(self) -> None:
        """Nothing to give back: the library stays loaded."""
