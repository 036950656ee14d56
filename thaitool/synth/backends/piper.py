"""Voices that piper trained (ONNX, with the JSON beside them), in this process. Fetches nothing.

Thai reaches a voice as the phonemes it was trained on. piper makes them with TLTK, which needs packages that it does
not name and loses words that it cannot segment; the same symbols are made here by `thaitool.text.phonemes`, and a word
without a reading rejects its row. Voices of espeak-ng's phonemes are refused: those have no Thai tones.
Source of the symbols: piper1-gpl, `phonemize_thai.py`, and the tables of TLTK 1.11.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, resample
from thaitool.errors import ConfigError, EnvironmentProblem, InputError
from thaitool.synth.backends.protocol import Identity
from thaitool.synth.espeak import Speech
from thaitool.text.phonemes import word_syllables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.text.syllable import Syllable

#: Between words, in piper's phonemes.
WORD_BREAK = " "
#: Where TLTK writes a sound otherwise than we do.
_SOUNDS = {"tɕ": "c", "tɕʰ": "cʰ"}


class PiperTts:
    """One voice file with one or more speakers; varies the speed, not the pitch.

    piper draws its noise itself, so that no seed brings the same bytes back: what was said stays in the cache.
    """

    in_flight = 1

    def __init__(self, path: Path, voices: Sequence[str]) -> None:
        """`voices` are speakers by the names of the JSON, or by number without names; none means all.

        Raises:
            ConfigError: the voice is not trained on Thai phonemes or letters.
            EnvironmentProblem: piper is not installed.
            InputError: the files are no voice, or the voice has no such speaker.
        """
        self._voice = _loaded(path)
        config = self._voice.config
        if config.phoneme_type.value not in {"thai", "text"}:
            raise ConfigError(
                f"{path} must be a voice of the phoneme type thai or text, but is of {config.phoneme_type.value}, which"
                " has no Thai tones; give a voice that was trained on Thai."
            )
        count = max(1, int(config.num_speakers))
        self._speakers = dict(config.speaker_id_map) or {str(n): n for n in range(count)}
        unknown = [voice for voice in voices if voice not in self._speakers]
        if unknown:
            raise InputError(
                f"{path} has the voices {', '.join(self._speakers)}, but {unknown[0]!r} was asked for."
            )
        self.voices = tuple(voices) or tuple(self._speakers)
        self.identity = Identity("piper:", path.name, _sha256(path))

    async def speak(
        self,
        text: str,
        voice: str,
        *,
        speed: float,
        pitch_shift: int,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Speech:
        """Says `text`, away from the event loop; see `Tts.speak`."""
        return await asyncio.to_thread(self._speak, text, voice, speed)

    def _speak(self, text: str, voice: str, speed: float) -> Speech:
        from piper import SynthesisConfig

        config = self._voice.config
        symbols = self._symbols(text)
        missing = [symbol for symbol in symbols if symbol not in config.phoneme_id_map]
        if missing:
            raise InputError(
                f"The voice knows no symbol {missing[0]!r}, which is part of {text!r}."
            )
        audio = self._voice.phoneme_ids_to_audio(
            self._voice.phonemes_to_ids(symbols),
            SynthesisConfig(
                speaker_id=self._speakers[voice], length_scale=config.length_scale / speed
            ),
        )
        samples = np.clip(audio, -1, 1).astype(np.float32).reshape(-1)
        return Speech(
            resample(samples, int(config.sample_rate)), SAMPLE_RATE_HZ, voice, "".join(symbols)
        )

    def _symbols(self, text: str) -> list[str]:
        if self._voice.config.phoneme_type.value == "thai":
            return thai_symbols(text)
        return [symbol for part in self._voice.phonemize(text) for symbol in part]

    async def close(self) -> None:
        """Lets the weights go."""
        del self._voice


def thai_symbols(text: str) -> list[str]:
    """The phonemes of a Thai piper voice for text in spoken form: IPA by code points, a digit for the tone after each
    syllable, a space between words (`ข่าว` is k ʰ a ː w 2).

    Raises:
        InputError: a word has no reading, or there is none.
    """
    from pythainlp.tokenize import word_tokenize
    from pythainlp.util import normalize

    words = [
        word
        for chunk in text.split()
        for word in word_tokenize(normalize(chunk), engine="newmm", keep_whitespace=False)
    ]
    spoken = ["".join(map(_written, word_syllables(word))) for word in words]
    symbols = list(WORD_BREAK.join(word for word in spoken if word))
    if not symbols:
        raise InputError(
            f"The text {text!r} has no Thai syllable to speak; give text with Thai words."
        )
    return symbols


def _written(syllable: Syllable) -> str:
    onset = "".join(_SOUNDS.get(sound, sound) for sound in syllable.initial_sounds)
    # A diphthong's length is written after its first vowel.
    length = "ː" if syllable.is_long else ""
    vowel = f"{syllable.vowel[0]}{length}{syllable.vowel[1:]}"
    return f"{onset}{vowel}{syllable.final}{syllable.tone}"


def _loaded(path: Path) -> Any:
    try:
        from piper import PiperVoice
    except ImportError as error:
        raise EnvironmentProblem(
            f"A piper: voice needs the package piper-tts, which cannot be loaded: {error}. Install it with"
            " `pip install 'thaitool[piper]'`."
        ) from error
    settings = path.with_name(f"{path.name}.json")
    absent = [str(file) for file in (path, settings) if not file.is_file()]
    if absent:
        raise InputError(
            f"A piper voice is a file NAME.onnx with NAME.onnx.json beside it, but {absent[0]} is no file."
        )
    try:
        return PiperVoice.load(path, settings)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{settings} must be the JSON of a piper voice, but: {error!r}."
        ) from error
    except Exception as error:
        # onnxruntime's own errors share no class but this, and are raised by compiled code.
        if type(error).__module__.partition(".")[0] != "onnxruntime":
            raise
        raise InputError(f"{path} cannot be loaded as an ONNX model: {error}") from error


def _sha256(path: Path) -> str:
    """Of weights and settings."""
    digest = hashlib.sha256()
    for file in (path, path.with_name(f"{path.name}.json")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
