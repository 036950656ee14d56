"""Log-mel features of padded batches, on the device, with true lengths: Kaldi's filter bank, and Whisper's.

Padding changes no valid frame. Learns nothing. The filters are those of transformers' feature extractors.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.models.encoder import frame_lengths, length_mask

if TYPE_CHECKING:
    from torch import Tensor

WINDOW, HOP = 400, 160
"""25 ms and 10 ms at 16 kHz, of both."""


@cache
def _kaldi_filters(bins: int) -> Tensor:
    return torch.from_numpy(
        mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=bins,
            min_frequency=20,
            max_frequency=SAMPLE_RATE_HZ // 2,
            sampling_rate=SAMPLE_RATE_HZ,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    ).float()


@cache
def _whisper_filters(bins: int) -> Tensor:
    return torch.from_numpy(
        mel_filter_bank(
            num_frequency_bins=1 + WINDOW // 2,
            num_mel_filters=bins,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE_HZ / 2,
            sampling_rate=SAMPLE_RATE_HZ,
            norm="slaney",
            mel_scale="slaney",
        )
    ).float()


def kaldi_log_mel(audio: Tensor, lengths: Tensor, *, bins: int) -> tuple[Tensor, Tensor]:
    """Kaldi's log filter bank, each bin of each clip at zero mean and unit variance: scale-free.

    As in SeamlessM4T and w2v-BERT 2.0 (Seamless Communication 2023): 25 ms frames every 10 ms that lie wholly in the
    audio, without their mean, pre-emphasis 0.97, Povey window, power spectrum of 512 points, no dither.

    Args:
        audio: Shape (B, N), samples in [-1, 1], zero after each row's length; N >= 400.
        lengths: Shape (B,), in samples.
        bins: Mel filters from 20 Hz to 8 kHz.

    Returns:
        Features (B, T, bins), zero after each row's count, and these counts (B,).
    """
    with torch.autocast(audio.device.type, enabled=False):
        # In the range of 16-bit samples, for which the floor of the logarithm is made.
        frames = audio.float().unfold(1, WINDOW, HOP) * 2**15
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        window = torch.hann_window(WINDOW, periodic=False, device=audio.device).pow(0.85)
        power = torch.fft.rfft((frames - 0.97 * before) * window, 512).abs().square()
        mel = power @ _kaldi_filters(bins).to(audio.device)
        log_mel = mel.clamp_min(torch.finfo(torch.float32).eps).log()
        counts = frame_lengths([WINDOW], [HOP], lengths)
        valid = length_mask(counts, log_mel.shape[1])[..., None]
        n = counts[:, None, None]
        # In float64, as the order of a sum depends on the padding.
        exact = log_mel.double().masked_fill(~valid, 0.0)
        mean = exact.sum(1, keepdim=True) / n.clamp_min(1)
        centred = (exact - mean).masked_fill(~valid, 0.0)
        variance = centred.square().sum(1, keepdim=True) / (n - 1).clamp_min(1)
        return (centred / (variance + 1e-7).sqrt()).float(), counts


def whisper_log_mel(audio: Tensor, *, bins: int, counts: Tensor | None = None) -> Tensor:
    """Whisper's log-mel features (B, N // 160, bins) of audio (B, N) at its own level.

    25 ms frames centred on every 160th sample, base 10, at most 8 below the clip's largest, then (x + 4) / 4
    (Radford et al. 2022, section 2.2).

    Args:
        audio: Zero after each clip.
        bins: Mel filters from 0 to 8 kHz.
        counts: Shape (B,): frames after each count are zero, and do not enter the largest; None takes all frames.
    """
    with torch.autocast(audio.device.type, enabled=False):
        window = torch.hann_window(WINDOW, device=audio.device)
        spectrum = torch.stft(
            audio.float(), WINDOW, HOP, window=window, pad_mode="reflect", return_complex=True
        )
        power = spectrum[..., :-1].abs().square().transpose(1, 2)
        log_mel = (power @ _whisper_filters(bins).to(audio.device)).clamp_min(1e-10).log10()
        if counts is None:
            return _compressed(log_mel)
        valid = length_mask(counts, log_mel.shape[1])[..., None]
        floor = torch.finfo(log_mel.dtype).min
        return _compressed(log_mel.masked_fill(~valid, floor)).masked_fill(~valid, 0.0)


def _compressed(log_mel: Tensor) -> Tensor:
    largest = log_mel.amax((1, 2), keepdim=True)
    return (torch.maximum(log_mel, largest - 8.0) + 4.0) / 4.0


def padded_to(audio: Tensor, samples: int) -> Tensor:
    """Audio (B, N) with zeros up to `samples` >= N."""
    return functional.pad(audio, (0, samples - audio.shape[1]))
