"""Speaks Thai offline: phonemes with tones, voiced in-process by espeak-ng (`espeakng-loader`).

It never gives Thai letters to espeak-ng (whose Thai rules lose tones and vowels), and it is no
natural voice: it is audio for smoke tests and tiny recipes, where different words sound different.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, resample
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.synth.espeak_library import engine, load_voice, say
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

# Parameters of speak_lib.h.
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
    phrases = [part for chunk in text.split() for part in _portions(syllables(chunk))]
    return _say(phrases, text, voice, speed, pitch_shift)[0]


def speak_words(
    words: Sequence[str], voice: Voice, *, speed: float = 1.0, pitch_shift: int = 0
) -> tuple[Speech, tuple[float, ...]]:
    """Say Thai words without pauses, and tell when each begins, in seconds.

    A word ends where the next begins, and the last one `EDGE_SILENCE_S` before the end. The times are espeak-ng's own,
    where it begins the first phoneme of the word. Arguments and errors are those of `speak`.
    """
    spoken = [syllables(word) for word in words]
    silent = [word for word, said in zip(words, spoken, strict=True) if not said]
    if silent:
        raise InputError(f"The word {silent[0]!r} has no Thai syllable to speak; leave it out.")
    together = [syllable for word in spoken for syllable in word]
    speech, starts_s = _say(_portions(together), "".join(words), voice, speed, pitch_shift)
    if len(starts_s) != len(together):
        raise EnvironmentProblem(
            f"espeak-ng told the times of {len(starts_s)} syllables, but {len(together)} were said; the times of words"
            " cannot be known with this version. Reinstall espeakng-loader."
        )
    first = accumulate((len(word) for word in spoken[:-1]), initial=0)
    return speech, tuple(starts_s[syllable] for syllable in first)


def _say(
    phrases: Sequence[Sequence[Syllable]], text: str, voice: Voice, speed: float, pitch_shift: int
) -> tuple[Speech, list[float]]:
    """Phrases with pauses between, and the start of each syllable in seconds."""
    if not 0.5 <= speed <= 2 or not -12 <= pitch_shift <= 12:
        raise InputError(
            "speak() needs 0.5 <= speed <= 2 and -12 <= pitch_shift <= 12 (semitones), but got "
            f"speed {speed} and pitch_shift {pitch_shift}; choose values within these limits."
        )
    if not phrases:
        raise InputError(
            f"The text {text!r} has no Thai syllable to speak; give text with Thai words."
        )
    codes = [" ".join(espeak_phonemes(syllable) for syllable in phrase) for phrase in phrases]
    raw, starts_s = _synthesise(codes, voice, speed, 2 ** (pitch_shift / 12))
    samples = _finish(raw, text)
    speech = Speech(samples, SAMPLE_RATE_HZ, voice.name, " _: ".join(codes))
    return speech, [EDGE_SILENCE_S + start for start in starts_s]


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


def _synthesise(
    codes: Sequence[str], voice: Voice, speed: float, pitch_factor: float
) -> tuple[NDArray[np.float32], list[float]]:
    """All phrases one after the other, each trimmed, with pauses between, at `SAMPLE_RATE_HZ`; and the start of each
    syllable in seconds."""
    library = engine()
    with library.lock:
        load_voice(library.espeak, _voice_definition(voice, pitch_factor))
        library.espeak.espeak_SetParameter(
            _RATE, max(80, min(450, round(voice.speed_wpm * speed))), 0
        )
        library.espeak.espeak_SetParameter(_PITCH, 50, 0)
        library.espeak.espeak_SetParameter(_RANGE, 50, 0)
        phrases = [say(library, code) for code in codes]
    pause = np.zeros(int(PHRASE_PAUSE_S * library.rate_hz), np.float32)
    parts = [part for phrase, _ in phrases for part in (phrase, pause)][:-1]
    begins = accumulate((len(phrase) + len(pause) for phrase, _ in phrases), initial=0)
    starts = [at + n for at, (_, own) in zip(begins, phrases, strict=False) for n in own]
    return resample(np.concatenate(parts), library.rate_hz), [n / library.rate_hz for n in starts]


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
