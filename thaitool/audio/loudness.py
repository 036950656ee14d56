"""Clips brought to one loudness as people hear it (ITU-R BS.1770). Shapes no sound: one factor for the whole clip."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Loudness of broadcast speech (EBU R 128).
TARGET_LUFS = -23.0
#: No sample may pass this: -1 dBFS.
HIGHEST_PEAK = 10 ** (-1 / 20)
#: The standard measures blocks of 400 ms; a shorter clip is measured as if it were said again and again.
_BLOCK = round(0.4 * SAMPLE_RATE_HZ)
#: torchaudio's filters cut off what passes 1, and the standard's lift high sounds by 4 dB.
_HEADROOM = 0.5


def loudness_lufs(samples: NDArray[np.float32]) -> float:
    """Gated loudness of a mono clip, shape (N,), at `SAMPLE_RATE_HZ`; -inf where all is below the gate (-64 LUFS).

    As torchaudio computes it; at 16 kHz its filters read the tone of the standard within 0.1 LU.
    """
    import torch
    from torchaudio.functional import loudness

    repeated = np.tile(samples, max(1, math.ceil(_BLOCK / max(1, len(samples)))))
    with torch.inference_mode():
        quiet = torch.from_numpy(repeated)[None] * _HEADROOM
        measured = float(loudness(quiet, SAMPLE_RATE_HZ)) - 20 * math.log10(_HEADROOM)
    return measured if math.isfinite(measured) else -math.inf


def levelled(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The clip at `TARGET_LUFS`, or as near as `HIGHEST_PEAK` lets it, shape (N,), and the gain in dB.

    A clip below the gate is not touched: nobody can hear it, and its noise must not be made speech.
    """
    measured = loudness_lufs(samples)
    if not math.isfinite(measured):
        return samples, 0.0
    peak = float(np.abs(samples).max())
    factor = min(10 ** ((TARGET_LUFS - measured) / 20), HIGHEST_PEAK / peak)
    return (samples * np.float32(factor)).astype(np.float32), 20 * math.log10(factor)
