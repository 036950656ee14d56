"""Speed perturbation: audio faster or slower by a drawn factor, pitch and all. Adds no noise, masks nothing.

Ko et al. 2015, "Audio augmentation for speech recognition": three copies at .9, 1 and 1.1 of the speed. Here every
recording draws one factor for each epoch.
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Length = TypeVar("Length", int, "np.typing.NDArray[np.int64]")


def draw_speed(speeds: Sequence[float], *, seed: int, epoch: int, name: str) -> float:
    """One of `speeds`, all equally likely, by (seed, epoch, name) alone: the same after a resume, in any batch."""
    # crc32, not hash(): Python's string hash differs between processes.
    rng = np.random.default_rng([seed, epoch, zlib.crc32(f"speed/{name}".encode())])
    return speeds[int(rng.integers(len(speeds)))]


def changed_length(samples: Length, speed: float) -> Length:
    """Samples that `change_speed` makes of `samples`, rounded up; an int or an array of any shape."""
    source, target = _ratio(speed)
    return -(-samples * target // source)


def change_speed(audio: Tensor, lengths: Tensor, speeds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Plays each row at its own speed.

    Args:
        audio: Shape (B, N), 0 in the padding, on the CPU.
        lengths: True samples, shape (B,).
        speeds: One for each row; above 1 is faster, and shorter.

    Returns:
        Audio of shape (B, N'), 0 in the padding, and the true lengths, shape (B,).
    """
    new = torch.tensor(
        [changed_length(n, s) for n, s in zip(lengths.tolist(), speeds, strict=True)],
        dtype=torch.int64,
    )
    out = audio.new_zeros(len(audio), int(new.max()) if len(new) else 0)
    for row, (n, m, speed) in enumerate(zip(lengths.tolist(), new.tolist(), speeds, strict=True)):
        # Row by row: a row must not depend on how long the others are.
        out[row, :m] = audio[row, :n] if speed == 1 else _resampler(speed)(audio[row, :n])[:m]
    return out, new


def _ratio(speed: float) -> tuple[int, int]:
    """Rates to resample between, as small whole numbers: 9 to 10 for .9. Speeds are whole hundredths."""
    hundredths = round(100 * speed)
    common = math.gcd(hundredths, 100)
    return hundredths // common, 100 // common


@lru_cache(maxsize=16)
def _resampler(speed: float) -> Any:
    # Imported here, as torchaudio takes a while; kept, as the transform holds its filter.
    from torchaudio.transforms import Resample

    return Resample(*_ratio(speed))
