"""From a manifest and a plan to padded batches with true lengths. Decodes on the fly; writes no cache."""

from __future__ import annotations

import functools
import signal
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from thaitool.audio.decode import SAMPLE_RATE_HZ, BadAudio, decode, normalise
from thaitool.data.manifest import append_quarantine
from thaitool.data.shards import read_audio
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan


@dataclass(frozen=True)
class Batch:
    """Padded audio with the lengths it had before padding. Lengths are never derived from the padding again."""

    cursor: int
    epoch: int
    utterances: tuple[Utterance, ...]
    audio: Tensor
    """Shape (B, N), float32, normalised per utterance, 0 in the padding."""
    audio_lengths: Tensor
    """Shape (B,), int64, in samples at 16 kHz."""
    rejected: tuple[Rejected, ...]
    """What was planned for this batch and could not be decoded."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio, without padding."""
        return int(self.audio_lengths.sum()) / SAMPLE_RATE_HZ


def load_audio(utterance: Utterance) -> NDArray[np.float32]:
    """Samples of one utterance, shape (N,), mono, 16 kHz.

    Raises:
        BadAudio: it cannot be decoded, or is truncated, too short, silent or not finite.
    """
    ref = utterance.audio
    source = ref.path if ref.row is None else read_audio(ref)
    return decode(source, str(ref), start_s=utterance.start_s, end_s=utterance.end_s)


def collate(
    cursor: int,
    epoch: int,
    utterances: list[Utterance],
    *,
    crop_s: float | None = None,
    seed: int = 0,
) -> Batch:
    """Decodes, normalises and pads. `crop_s` cuts longer audio to a window that depends only on (seed, epoch, id)."""
    kept: list[Utterance] = []
    clips: list[NDArray[np.float32]] = []
    rejected: list[Rejected] = []
    for utterance in utterances:
        try:
            samples = load_audio(utterance)
        except BadAudio as bad:
            rejected.append(Rejected(str(utterance.audio), bad.reason, bad.detail))
            continue
        kept.append(utterance)
        clips.append(normalise(_crop(samples, utterance.id, crop_s, seed, epoch)))
    lengths = torch.tensor([len(c) for c in clips], dtype=torch.int64)
    audio = torch.zeros(len(clips), int(lengths.max()) if clips else 0)
    for row, clip in enumerate(clips):
        audio[row, : len(clip)] = torch.from_numpy(clip)
    return Batch(cursor, epoch, tuple(kept), audio, lengths, tuple(rejected))


def _crop(
    samples: NDArray[np.float32], item: str, crop_s: float | None, seed: int, epoch: int
) -> NDArray[np.float32]:
    if crop_s is None or len(samples) <= crop_s * SAMPLE_RATE_HZ:
        return samples
    width = int(crop_s * SAMPLE_RATE_HZ)
    # crc32, not hash(): Python's string hash differs between processes.
    rng = np.random.default_rng([seed, epoch, zlib.crc32(item.encode())])
    start = int(rng.integers(0, len(samples) - width + 1))
    return samples[start : start + width]


class _Planned(Dataset[Batch]):
    """Batch number k of a plan; a mapping, so that any worker may compute any batch."""

    def __init__(self, manifest: Manifest, plan: BatchPlan, crop_s: float | None) -> None:
        self.manifest, self.plan, self.crop_s = manifest, plan, crop_s
        self._epoch = functools.lru_cache(maxsize=1)(plan.epoch)

    def __getitem__(self, cursor: int) -> Batch:
        epoch, position = divmod(cursor, self.plan.batches_per_epoch)
        utterances = [self.manifest[int(i)] for i in self._epoch(epoch)[position]]
        return collate(cursor, epoch, utterances, crop_s=self.crop_s, seed=self.plan.seed)


def batches(
    manifest: Manifest,
    plan: BatchPlan,
    cursors: range,
    *,
    workers: int = 0,
    crop_s: float | None = None,
) -> Iterator[Batch]:
    """Batches number `cursors` of the plan, in that order, decoded ahead by `workers` processes."""
    loader: DataLoader[Batch] = DataLoader(
        _Planned(manifest, plan, crop_s),
        batch_size=None,
        sampler=cursors,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
    )
    yield from loader


def _leave_signals_to_parent(_worker: int) -> None:
    # Job managers signal the whole group; the parent must live to write its checkpoint, and then ends its workers.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def listed(source: Iterator[Batch], ledger: Path) -> Iterator[Batch]:
    """Batches that hold something; what could not be decoded goes to the quarantine ledger."""
    for batch in source:
        if batch.rejected:
            append_quarantine(ledger, batch.rejected)
        if batch.utterances:
            yield batch


def in_order(manifest: Manifest, *, batch_s: float) -> Iterator[Batch]:
    """Every utterance once, longest first, in batches of at most `batch_s` padded seconds: for evaluation."""
    order = np.argsort(-manifest.duration_s, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(batch_s // float(manifest.duration_s[order[start]])))
        chosen = [manifest[int(i)] for i in order[start : start + size]]
        yield collate(start, 0, chosen)
        start += size
