"""Minimal pairs of tones, spoken by every voice before any row: one that says both words alike is refused.

It tells tone-blind voices from others; it does not check that each tone is the right one. A tone-blind voice that says
one word at another pitch every time may pass by chance: nothing is said twice.

A voice that ignores tone marks passes every gate on level, rate and length, and its clips are labelled with words that
nobody can hear in them (espeak-ng reads ข่าว and ข้าว as the same bytes when it is given Thai letters).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode
from thaitool.errors import ConfigError, EnvironmentProblem, InputError
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.espeak import RMS_LEVEL, f0_contour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from thaitool.synth.voicing import Booth

#: Pairs that differ in nothing but tone. Low and mid are no pair: people's differ by little more than a semitone.
PAIRS = (
    ("ขาว", "ข่าว"),  # rising, low
    ("ข่าว", "ข้าว"),  # low, falling
    ("ขาว", "ข้าว"),  # rising, falling
    ("มา", "ม่า"),  # mid, falling
    ("มา", "ม้า"),  # mid, high
    ("มา", "หมา"),  # mid, rising
    ("ม่า", "หมา"),  # falling, rising
)
WORDS = tuple(dict.fromkeys(word for pair in PAIRS for word in pair))
#: Where F0 is looked for at first, and then, as factors of the voice's median: less than an octave either way.
LOWEST_HZ, HIGHEST_HZ, NARROW = 60.0, 500.0, 1.8
_POINTS = 5


@dataclass(frozen=True, slots=True)
class Canary:
    """How one voice said the pairs."""

    voice: str
    pair: tuple[str, str]
    """The two words that sound most alike."""
    semitones: float
    """How far their F0 is apart at the most, of five points; 0 if they are the same samples."""
    passed: bool


async def hear_voices(
    booth: Booth, voices: Sequence[str], min_semitones: float
) -> tuple[Canary, ...]:
    """Has each voice say `WORDS`.

    Raises:
        ConfigError: a voice fails; it names the voice and the pair.
        EnvironmentProblem: the endpoint is down, or refuses.
    """
    found = []
    for voice in dict.fromkeys(voices):
        takes = {word: await _take(booth, word, voice) for word in WORDS}
        canary = compare(voice, takes, min_semitones)
        if not canary.passed:
            one, other = (takes[word] for word in canary.pair)
            how = (
                "are the same samples"
                if np.array_equal(one, other)
                else f"are {canary.semitones:g} semitones apart at the most"
            )
            raise ConfigError(
                f"The voice {voice!r} of {booth.tts.identity} must say words of different tone differently, but"
                f" {' and '.join(canary.pair)} {how} ({min_semitones:g} semitones are wanted at least)."
                " It does not hear tones: leave it out of `voices`, or set gates.tone_canary=false."
            )
        found.append(canary)
    return tuple(found)


def compare(voice: str, takes: Mapping[str, NDArray[np.float32]], min_semitones: float) -> Canary:
    """Compares the pairs of one voice.

    Args:
        voice: Its name.
        takes: Samples of each of `WORDS`, shape (N,), at `SAMPLE_RATE_HZ`.
        min_semitones: What the pair that differs least must differ by.

    Raises:
        ConfigError: a word has too little voice in it for an F0 contour.
    """
    contours = _contours(voice, takes)
    apart = {
        (a, b): 0.0 if np.array_equal(takes[a], takes[b]) else _semitones(contours[a], contours[b])
        for a, b in PAIRS
    }
    pair = min(PAIRS, key=apart.__getitem__)
    return Canary(voice, pair, round(apart[pair], 2), apart[pair] >= min_semitones)


def as_json(canaries: Sequence[Canary]) -> list[dict[str, Any]]:
    """What the card says."""
    return [asdict(canary) for canary in canaries]


async def _take(booth: Booth, word: str, voice: str) -> NDArray[np.float32]:
    try:
        clip = await booth.record(word, voice, speed=1.0, pitch_shift=0, seed=0)
        return decode(clip.flac, word)
    except (CallFailed, InputError) as error:
        if isinstance(error, CallFailed) and error.again:
            raise EnvironmentProblem(
                f"{booth.tts.identity} could not be asked to say {word!r}: {error}. Run the same command when it works."
            ) from error
        raise ConfigError(
            f"The voice {voice!r} of {booth.tts.identity} must say {word!r} before it is used, but: {error}. Leave it"
            " out of `voices`, or set gates.tone_canary=false."
        ) from error


def _contours(voice: str, takes: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[float, ...]]:
    levelled = {word: _levelled(samples) for word, samples in takes.items()}
    try:
        wide = [f0_contour(take, LOWEST_HZ, HIGHEST_HZ, _POINTS) for take in levelled.values()]
        middle = float(np.median(wide))
        low, high = middle / NARROW, middle * NARROW
        return {word: f0_contour(take, low, high, _POINTS) for word, take in levelled.items()}
    except InputError as error:
        raise ConfigError(
            f"The voice {voice!r} must say {', '.join(takes)} so that its pitch can be followed, but: {error} Leave it"
            " out of `voices`, or set gates.tone_canary=false."
        ) from error


def _levelled(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """At the level that `f0_contour` tells voice from silence by; the loudest tenth of a second counts."""
    window = SAMPLE_RATE_HZ // 10
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    window = min(window, len(samples))
    loudest = math.sqrt(float((energy[window:] - energy[:-window]).max()) / window)
    return samples * np.float32(RMS_LEVEL / loudest)


def _semitones(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(12 * math.log2(a / b)) for a, b in zip(one, other, strict=True))
