"""Speaks Thai offline: phonemes with tones, voiced in-process by espeak-ng (`espeakng-loader`).

It never gives Thai letters to espeak-ng (whose Thai rules lose tones and vowels), and it is no
natural voice: it is audio for smoke tests and tiny recipes, where different words sound different.
"""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, resample
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.text.phonemes import syllables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from thaitool.text.syllable import Syllable

#: Root mean square between the edges (-22 dB of full scale) unless the peak forbids it.
RMS_LEVEL = 0.08
PEAK_LEVEL = 0.95
#: Silence that is kept before and after the speech, and put between two phrases.
EDGE_SILENCE_S = 0.05
PHRASE_PAUSE_S = 0.15
#: Shorter audio than this means that espeak-ng did not know the phonemes.
SHORTEST_S = 0.05
#: espeak-ng cuts a clause that is longer than its buffers; this many syllables are far below.
SYLLABLES_PER_CALL = 30

# Names and numbers of the C interface (speak_lib.h).
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 0x1
_PHONEME_INPUT = 0x100
_RATE, _PITCH, _RANGE = 1, 3, 4

_INITIALS = {
    "": "",
    "b": "b", "d": "d", "f": "f", "h": "h", "j": "j", "k": "k", "kʰ": "k_h", "l": "l", "m": "m",
    "n": "n", "ŋ": "N", "p": "p", "pʰ": "p_h", "r": "r", "s": "s", "t": "t", "tʰ": "t_h",
    "tɕ": "c", "tɕʰ": "tS", "w": "w", "ʔ": "?",
}  # fmt: skip
_VOWELS = {"i": "i", "ɯ": "W", "u": "u", "e": "e", "ɤ": "@", "o": "o", "ɛ": "E", "a": "a", "ɔ": "O"}
_DIPHTHONGS = {"ia": ("i", "@"), "ɯa": ("W", "@"), "ua": ("u", "@")}
# espeak-ng's table for Thai is the one for Shan: tones 1 rising, 2 low, 3 mid, 4 high, 5 falling,
# 6 above mid. A diphthong is two vowels with a tone each; the pair follows the whole contour.
_TONES = {1: "3", 2: "2", 3: "5", 4: "4", 5: "1"}
_TONE_PAIRS = {1: ("6", "3"), 2: ("2", "2"), 3: ("5", "2"), 4: ("4", "4"), 5: ("2", "1")}


@dataclass(frozen=True, slots=True)
class Voice:
    """A synthetic speaker: where its tones lie, how fast it speaks, how its vocal tract sounds."""

    name: str
    gender: str
    f0_low_hz: float
    """F0 of the low tone."""
    f0_high_hz: float
    """F0 of the high tone; the other tones lie between."""
    speed_wpm: int
    """espeak-ng's own scale; 170 is about five syllables a second."""
    formant_percent: int
    """Formant frequencies relative to espeak-ng's male default; about 115 for a woman."""
    treble: int
    """Amplitude of voiced sound above 2 kHz, 0..255; espeak-ng's default is 110."""


VOICES: tuple[Voice, ...] = (
    Voice("anong", "female", 170, 300, 165, 114, 110),
    Voice("busaba", "female", 195, 340, 185, 118, 90),
    Voice("chai", "male", 90, 160, 165, 100, 110),
    Voice("daeng", "male", 80, 145, 150, 96, 130),
    Voice("fah", "female", 215, 375, 200, 121, 140),
    Voice("jan", "female", 155, 275, 150, 110, 150),
    Voice("krit", "male", 105, 185, 185, 103, 80),
    Voice("lek", "male", 120, 210, 175, 106, 150),
    Voice("mali", "female", 180, 315, 175, 112, 70),
    Voice("nop", "male", 95, 170, 205, 98, 95),
    Voice("orn", "female", 205, 360, 160, 116, 170),
    Voice("pong", "male", 75, 135, 175, 93, 75),
    Voice("rin", "female", 230, 400, 180, 126, 110),
    Voice("somchai", "male", 112, 200, 145, 101, 170),
)


@dataclass(frozen=True, slots=True)
class Speech:
    """Mono samples, float32 in -1..1 of shape (I,), and what was said."""

    samples: NDArray[np.float32]
    sample_rate_hz: int
    voice: str
    phonemes: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate_hz


def speak(text: str, voice: Voice, *, speed: float = 1.0, pitch_shift: int = 0) -> Speech:
    """Say Thai text in one voice; equal arguments give equal bytes.

    Args:
        text: Thai in spoken form (`thaitool.text.spoken.spoken_form`); spaces become short pauses.
        voice: One of `VOICES`, or an own one.
        speed: Factor on the speed of the voice, 0.5..2.
        pitch_shift: Semitones added to the F0 of the voice, -12..12.

    Raises:
        InputError: the text holds something other than readable Thai, or nothing that can be heard.
        EnvironmentProblem: espeak-ng or its data cannot be loaded.
    """
    if not 0.5 <= speed <= 2 or not -12 <= pitch_shift <= 12:
        raise InputError(
            "speak() needs 0.5 <= speed <= 2 and -12 <= pitch_shift <= 12 (semitones), but got "
            f"speed {speed} and pitch_shift {pitch_shift}; choose values within these limits."
        )
    phrases = [part for chunk in text.split() for part in _portions(syllables(chunk))]
    if not phrases:
        raise InputError(
            f"The text {text!r} has no Thai syllable to speak; give text with Thai words."
        )
    codes = [" ".join(espeak_phonemes(syllable) for syllable in phrase) for phrase in phrases]
    samples = _finish(_synthesise(codes, voice, speed, 2 ** (pitch_shift / 12)), text)
    return Speech(samples, SAMPLE_RATE_HZ, voice.name, " _: ".join(codes))


def espeak_phonemes(syllable: Syllable) -> str:
    """The syllable in the mnemonics of espeak-ng's table `th`, tone after the vowel: `k_ha::1w`."""
    onset = "".join(_INITIALS[sound] for sound in syllable.initial_sounds)
    coda = _INITIALS[syllable.final]
    if syllable.vowel in _DIPHTHONGS:
        first, second = _DIPHTHONGS[syllable.vowel]
        first_tone, second_tone = _TONE_PAIRS[syllable.tone]
        return f"{onset}{first}{first_tone}{second}{second_tone}{coda}"
    # `a:` is a vowel of its own in the table, hardly longer than `a`; another colon lengthens it.
    length = ("::" if syllable.vowel == "a" else ":") if syllable.is_long else ""
    return f"{onset}{_VOWELS[syllable.vowel]}{length}{_TONES[syllable.tone]}{coda}"


@dataclass(frozen=True, slots=True)
class ToneCanary:
    """Whether a voice says five words that differ in nothing but tone in five different ways."""

    voice: str
    contours_hz: tuple[tuple[float, ...], ...]
    """F0 at five points of each word of `CANARY_WORDS`."""
    byte_equal_pairs: int
    closest_pair: tuple[str, str]
    closest_semitones: float
    """Largest distance between the contours of the pair that differs least."""

    @property
    def passed(self) -> bool:
        """No two words are equal audio, and any two contours are a semitone apart somewhere."""
        return self.byte_equal_pairs == 0 and self.closest_semitones >= 1.0


CANARY_WORDS = ("ขาว", "ข่าว", "ข้าว", "ค้าว", "คาว")


def tone_canary(voice: Voice) -> ToneCanary:
    """Synthesise `CANARY_WORDS` and compare the audio and the F0 contours of all pairs."""
    takes = [speak(word, voice).samples for word in CANARY_WORDS]
    contours = [f0_contour(take, voice.f0_low_hz * 0.8, voice.f0_high_hz * 1.25) for take in takes]
    pairs = [(a, b) for a in range(len(takes)) for b in range(a)]
    distances = {
        (a, b): max(
            abs(12 * math.log2(x / y)) for x, y in zip(contours[a], contours[b], strict=True)
        )
        for a, b in pairs
    }
    closest = min(pairs, key=distances.__getitem__)
    return ToneCanary(
        voice.name,
        tuple(contours),
        sum(takes[a].tobytes() == takes[b].tobytes() for a, b in pairs),
        (CANARY_WORDS[closest[1]], CANARY_WORDS[closest[0]]),
        distances[closest],
    )


def f0_contour(
    samples: NDArray[np.float32], lowest_hz: float, highest_hz: float, points: int = 5
) -> tuple[float, ...]:
    """F0 in Hz at `points` equal parts of the voiced stretch, by autocorrelation of 40 ms windows.

    Args:
        samples: Shape (I,), at `SAMPLE_RATE_HZ`.
        lowest_hz: Lower end of the search; close below the voice, against octave errors.
        highest_hz: Upper end of the search.
        points: Number of medians.

    Raises:
        InputError: fewer voiced windows than points.
    """
    window, hop = SAMPLE_RATE_HZ * 40 // 1000, SAMPLE_RATE_HZ // 100
    shortest, longest = int(SAMPLE_RATE_HZ / highest_hz), int(SAMPLE_RATE_HZ / lowest_hz) + 1
    found = []
    for start in range(0, len(samples) - window, hop):
        part = samples[start : start + window].astype(np.float64)
        part = part - part.mean()
        if np.sqrt((part * part).mean()) < RMS_LEVEL / 4:
            continue
        spectrum = np.abs(np.fft.rfft(part, 2 * window)) ** 2
        similarity = np.fft.irfft(spectrum)[: longest + 1] / (1 - np.arange(longest + 1) / window)
        candidates = similarity[shortest : longest + 1]
        if candidates.max() < 0.5 * similarity[0]:
            continue
        # The first lag that is nearly as good as the best one: its multiples are equally good.
        near_best = int(np.argmax(candidates > 0.9 * candidates.max()))
        peak = near_best + int(np.argmax(candidates[near_best : near_best + 8]))
        found.append(SAMPLE_RATE_HZ / (shortest + peak))
    if len(found) < points:
        raise InputError(
            f"An F0 contour of {points} points needs {points} voiced windows, but the audio has "
            f"{len(found)}; give a longer voiced stretch."
        )
    return tuple(float(np.median(part)) for part in np.array_split(np.array(found), points))


def _portions(spoken: Sequence[Syllable]) -> list[Sequence[Syllable]]:
    return [
        spoken[at : at + SYLLABLES_PER_CALL] for at in range(0, len(spoken), SYLLABLES_PER_CALL)
    ]


@dataclass(frozen=True, slots=True)
class _Engine:
    library: Any
    rate_hz: int
    blocks: list[NDArray[np.int16]]
    lock: threading.Lock
    callback: Any
    """Held because ctypes frees a callback that nothing refers to."""


@cache
def _engine() -> _Engine:
    try:
        import espeakng_loader

        library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data_path = str(espeakng_loader.get_data_path())
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(
            "The embedded voice needs espeak-ng from the package espeakng-loader, which cannot be "
            f"loaded: {error}. Install it with `pip install espeakng-loader`."
        ) from error
    blocks: list[NDArray[np.int16]] = []

    def receive(samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    signature = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
    )
    callback = signature(receive)
    rate_hz = library.espeak_Initialize(
        _OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT
    )
    if rate_hz <= 0:
        raise EnvironmentProblem(
            f"espeak-ng did not start with the data in {data_path} (status {rate_hz}); reinstall "
            "espeakng-loader."
        )
    library.espeak_SetSynthCallback(callback)
    return _Engine(library, rate_hz, blocks, threading.Lock(), callback)


def _voice_definition(voice: Voice, pitch_factor: float) -> str:
    """The text of an espeak-ng voice file.

    Flutter and roughness are off because both carry state from one utterance to the next, so that
    equal texts gave different bytes; that also rules out the variants that espeak-ng brings along.
    """
    low, high = voice.f0_low_hz * pitch_factor, voice.f0_high_hz * pitch_factor
    # Measured on espeak-ng 1.52 at its default pitch and range: low = base - 8.5 + 0.79 span and
    # high = base - 8.5 + 1.315 span, where a voice file says `pitch base base+span`.
    span = (high - low) / 0.525
    base = low + 8.5 - 0.79 * span
    lines = [
        f"name {voice.name}", "language th", "phonemes th", f"pitch {base:.0f} {base + span:.0f}",
        "flutter 0", "roughness 0", "intonation 2",
        f"tone 600 170 1200 {(170 + voice.treble) // 2} 2000 {voice.treble}",
    ]  # fmt: skip
    lines += [f"formant {number} {voice.formant_percent} 100 100" for number in range(1, 6)]
    return "\n".join(lines) + "\n"


def _load_voice(library: Any, definition: str) -> None:
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("voice")
        try:
            os.write(handle, definition.encode())
            status = library.espeak_ng_SetVoiceByFile(f"/proc/self/fd/{handle}".encode())
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "v"
            path.write_text(definition, encoding="ascii")
            status = library.espeak_ng_SetVoiceByFile(str(path).encode())
    if status != 0:
        raise EnvironmentProblem(
            "espeak-ng did not accept a voice file (status "
            f"{status & 0xFFFFFFFF:#x}). It needs its data for `th`, and where there is no memfd a "
            "temporary directory with a lower-case path shorter than 58 characters; reinstall "
            "espeakng-loader or set TMPDIR."
        )


def _synthesise(
    codes: Sequence[str], voice: Voice, speed: float, pitch_factor: float
) -> NDArray[np.float32]:
    """All phrases one after the other, each trimmed, with pauses between, at `SAMPLE_RATE_HZ`."""
    engine = _engine()
    with engine.lock:
        _load_voice(engine.library, _voice_definition(voice, pitch_factor))
        engine.library.espeak_SetParameter(
            _RATE, max(80, min(450, round(voice.speed_wpm * speed))), 0
        )
        engine.library.espeak_SetParameter(_PITCH, 50, 0)
        engine.library.espeak_SetParameter(_RANGE, 50, 0)
        phrases = [_one_call(engine, code) for code in codes]
    pause = np.zeros(int(PHRASE_PAUSE_S * engine.rate_hz), np.float32)
    parts = [part for phrase in phrases for part in (phrase, pause)][:-1]
    return resample(np.concatenate(parts), engine.rate_hz)


def _one_call(engine: _Engine, code: str) -> NDArray[np.float32]:
    engine.blocks.clear()
    request = f"[[{code}]]".encode("ascii")
    engine.library.espeak_Synth(
        request, len(request) + 1, 0, 1, 0, _CHARS_UTF8 | _PHONEME_INPUT, None, None
    )
    engine.library.espeak_Synchronize()
    if not engine.blocks:
        return np.zeros(0, np.float32)
    samples = np.concatenate(engine.blocks).astype(np.float32) / np.float32(32768)
    loud = np.flatnonzero(np.abs(samples) > 0.005)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def _finish(samples: NDArray[np.float32], text: str) -> NDArray[np.float32]:
    if len(samples) < SHORTEST_S * SAMPLE_RATE_HZ:
        raise InputError(
            f"The text {text!r} gave {len(samples) / SAMPLE_RATE_HZ:.3f} s of audio, less than "
            f"{SHORTEST_S} s; give text with at least one full Thai syllable."
        )
    gain = min(
        RMS_LEVEL / float(np.sqrt(np.mean(samples**2))), PEAK_LEVEL / float(np.abs(samples).max())
    )
    edge = np.zeros(int(EDGE_SILENCE_S * SAMPLE_RATE_HZ), np.float32)
    finished: NDArray[np.float32] = np.concatenate([edge, samples * np.float32(gain), edge])
    return finished
