"""Clips that are known to be bad, to see whether a rater listens. What a good rater says of each is `fails`'.

Each takes and gives samples, shape (N,), mono, 16 kHz, and changes no length by more than a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from numpy.typing import NDArray

Spoilt = Literal["flat_tones", "clipped", "shuffled", "wrong_text"]
#: In the order in which a pack is given them. `wrong_text` is good speech with the text of another clip.
SPOILT: tuple[Spoilt, ...] = ("flat_tones", "clipped", "shuffled", "wrong_text")
#: A rating of naturalness from here on says that a spoilt clip is good speech.
GOOD = 4

#: Shares of a clip's samples that `clipped` cuts off.
_CUT_SHARE = 0.4
#: About a syllable.
_PIECE_S, _FADE_S = 0.2, 0.01
#: The one pitch of `flat_tones`, and its frames: 64 ms every 16 ms.
_PITCH_HZ = 130.0
_N_FFT, _HOP = 1024, 256
#: Quefrencies that are kept of the spectrum: 1.9 ms, below the period of voices up to 500 Hz.
_LIFTER = 30


def fails(spoilt: Spoilt, naturalness: int | None, tones: str) -> bool | None:
    """Whether these ratings took a spoilt clip for good; None where the rater did not say what would tell.

    Naturalness tells for `clipped` and `shuffled`, the answer about tones and text for the other two and `shuffled`.
    """
    by_tones = None if not tones else tones == "yes"
    by_ear = None if naturalness is None else naturalness >= GOOD
    if spoilt == "clipped":
        return by_ear
    if spoilt != "shuffled":
        return by_tones
    known = [told for told in (by_tones, by_ear) if told is not None]
    return any(known) if known else None


def clipped(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """With the highest 40 % of its samples cut off, as by an amplifier that is far too loud.

    Digital silence does not count: where it is most of a clip, the limit would be 0, and nothing left to hear.
    """
    sounding = np.abs(samples[samples != 0])
    if not len(sounding):
        return samples
    limit = np.quantile(sounding, 1 - _CUT_SHARE)
    return np.clip(samples, -limit, limit)


def shuffled(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Cut into pieces of about a syllable that come in another order, no piece behind the one it followed."""
    n_pieces = max(3, round(len(samples) / (_PIECE_S * SAMPLE_RATE_HZ)))
    pieces = np.array_split(samples, n_pieces)
    n_fade = min(int(_FADE_S * SAMPLE_RATE_HZ), min(map(len, pieces)) // 2)
    ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
    faded = []
    for piece in pieces:
        soft = piece.copy()
        soft[:n_fade] *= ramp
        soft[len(soft) - n_fade :] *= ramp[::-1]
        faded.append(soft)
    order = rng.permutation(n_pieces)
    while (np.diff(order) == 1).any():
        order = rng.permutation(n_pieces)
    return np.concatenate([faded[k] for k in order])


def flat_tones(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same sounds on one pitch, as a robot would sing them: no tone can be told from another.

    The envelope of each frame's spectrum (low quefrencies of its cepstrum) is put on a train of pulses.
    """
    import torch

    window = torch.hann_window(_N_FFT)
    pulses = torch.zeros(len(samples))
    pulses[:: round(SAMPLE_RATE_HZ / _PITCH_HZ)] = 1.0

    def spectrum(signal: torch.Tensor) -> torch.Tensor:
        return torch.stft(signal, _N_FFT, _HOP, window=window, return_complex=True)

    with torch.inference_mode():
        loud = spectrum(torch.from_numpy(samples)).abs().clamp_min(1e-5).log()
        cepstrum = torch.fft.irfft(loud, dim=0)
        cepstrum[_LIFTER : _N_FFT - _LIFTER + 1] = 0
        envelope = torch.fft.rfft(cepstrum, dim=0).real.exp()
        flat = torch.istft(
            spectrum(pulses) * envelope, _N_FFT, _HOP, window=window, length=len(samples)
        )
    made: NDArray[np.float32] = flat.numpy()
    peak = float(np.abs(made).max())
    return made / np.float32(max(peak, 1e-6)) * np.float32(np.abs(samples).max())
