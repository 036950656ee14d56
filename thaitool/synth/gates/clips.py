"""Whether a clip sounds as its text predicts: rate, length, level, clipping, silence. Does not understand speech.

A voice that repeats itself or never stops is found by the length of the clip over the one that its syllables predict,
not by how it stands among other clips of the voice: that would depend on which clips were made before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.text.phonemes import word_syllables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thaitool.config.synth_gates import Gates

#: Seconds of a syllable and of the edges of a clip, for the prediction: Thai read aloud has about five syllables a
#: second, and slow voices four.
SYLLABLE_S, EDGES_S = 0.22, 0.3
#: Letters of a syllable, where a word has no reading.
LETTERS_PER_SYLLABLE = 3
#: Speech is what is above both: this far below the loudest frame, and this level.
RANGE_DB, FLOOR_DBFS = 40.0, -60.0
#: Stands for the level of digital silence, which has none.
LOWEST_DBFS = -120.0
#: Samples from here on count as clipped.
CLIPPED = 0.99
_FRAMES_PER_S = 100
_FRAME = SAMPLE_RATE_HZ // _FRAMES_PER_S


@dataclass(frozen=True, slots=True)
class Measures:
    """What `measure` finds in a clip; shares are of its samples or frames."""

    chars_per_s: float
    """Letters of the spoken form, without spaces, over the clip without its silent edges."""
    level_dbfs: float
    """Mean power of the frames with speech, over that of full scale."""
    peak_dbfs: float
    clipped_share: float
    silence_share: float
    """Share of frames without speech, edges and pauses."""
    lead_s: float
    """Silence before the first frame with speech, and after the last."""
    tail_s: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a clip is refused: a reason code, and the number that says so."""

    reason: str
    detail: str


def measure(samples: NDArray[np.float32], spoken: str) -> Measures:
    """Numbers of one clip.

    Args:
        samples: Shape (N,), mono, `SAMPLE_RATE_HZ`, N > 0.
        spoken: What was said, in spoken form.
    """
    power = _frame_powers(samples)
    least = max(10 ** (FLOOR_DBFS / 10), float(power.max()) * 10 ** (-RANGE_DB / 10))
    speech = np.flatnonzero(power >= least)
    peak = float(np.abs(samples).max())
    lead, tail = (
        (int(speech[0]), len(power) - 1 - int(speech[-1])) if len(speech) else (len(power),) * 2
    )
    frames = len(power) - lead - tail if len(speech) else len(power)
    return Measures(
        chars_per_s=round(len("".join(spoken.split())) / (frames / _FRAMES_PER_S), 3),
        level_dbfs=_db(float(power[speech].mean()) if len(speech) else 0.0),
        peak_dbfs=_db(peak * peak),
        clipped_share=round(float((np.abs(samples) >= CLIPPED).mean()), 6),
        silence_share=round(1 - len(speech) / len(power), 4),
        lead_s=round(lead / _FRAMES_PER_S, 2),
        tail_s=round(tail / _FRAMES_PER_S, 2),
    )


def fault_of(measures: Measures, duration_s: float, predicted: float, gates: Gates) -> Fault | None:
    """The first gate that a clip of `duration_s` fails, the most telling ones first; None if it passes all.

    Args:
        measures: Of the clip.
        duration_s: Its length.
        predicted: What `predicted_s` says, at the speed that was asked for.
        gates: The limits.
    """
    m = measures
    edge = max(m.lead_s, m.tail_s)
    checks = (
        (
            m.level_dbfs <= FLOOR_DBFS or m.silence_share > gates.max_silence_share,
            "silent",
            f"{100 * m.silence_share:.0f} % of the clip is without speech",
        ),
        (edge > gates.max_edge_s, "silent", f"{edge:.2f} s of silence at one end"),
        (
            duration_s > gates.max_duration_ratio * predicted,
            "duration",
            f"{duration_s:.2f} s, where its syllables predict {predicted:.2f} s",
        ),
        (
            not gates.min_chars_per_s <= m.chars_per_s <= gates.max_chars_per_s,
            "speech_rate",
            f"{m.chars_per_s:.1f} characters per second",
        ),
        (
            m.clipped_share > gates.max_clipped_share,
            "clipped",
            f"{100 * m.clipped_share:.2f} % of the samples are at full scale",
        ),
        (
            not gates.min_level_dbfs <= m.level_dbfs <= gates.max_level_dbfs,
            "level",
            f"{m.level_dbfs:.1f} dBFS",
        ),
    )
    return next((Fault(reason, detail) for failed, reason, detail in checks if failed), None)


def predicted_s(spoken: str) -> float:
    """Length of a clip at an ordinary speed, from the syllables of the spoken form."""
    return EDGES_S + SYLLABLE_S * sum(_syllable_count(chunk) for chunk in spoken.split())


@lru_cache(maxsize=10_000)
def _syllable_count(chunk: str) -> int:
    from pythainlp.tokenize import word_tokenize
    from pythainlp.util import normalize

    return sum(_in_word(word) for word in word_tokenize(normalize(chunk), engine="newmm"))


def _in_word(word: str) -> int:
    try:
        return len(word_syllables(word))
    except InputError:
        # A name that the rules cannot read, or another script: whether it can be said is the voice's business.
        return max(1, round(len(word) / LETTERS_PER_SYLLABLE))


def _frame_powers(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean power of frames of 10 ms, shape (T,); the last one may be shorter."""
    squares = np.square(samples, dtype=np.float64)
    starts = np.arange(0, len(squares), _FRAME)
    sizes = np.minimum(_FRAME, len(squares) - starts)
    powers: NDArray[np.float64] = np.add.reduceat(squares, starts) / sizes
    return powers


def _db(power: float) -> float:
    return max(LOWEST_DBFS, round(10 * math.log10(power), 2)) if power > 0 else LOWEST_DBFS
