"""From a manifest and a plan to padded batches with true lengths. Decodes on the fly; writes no cache.

The order is computed in the calling process only; a worker is told which few utterances to decode, and keeps nothing
between two batches.
"""

from __future__ import annotations

import os
import signal
import threading
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode, normalise
from thaitool.audio.headers import BadAudio
from thaitool.data.manifest import append_quarantine
from thaitool.data.shards import read_audio
from thaitool.errors import EnvironmentProblem, ThaitoolError
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan

Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Batch:
    """Padded audio with the lengths it had before padding. Lengths are never derived from the padding again."""

    cursor: int
    epoch: int
    utterances: tuple[Utterance, ...]
    audio: Tensor
    """Shape (B, N), float32, normalised per utterance unless that was not wanted, 0 in the padding."""
    audio_lengths: Tensor
    """Shape (B,), int64, in samples at 16 kHz."""
    rejected: tuple[Rejected, ...]
    """What was planned for this batch and could not be decoded."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio, without padding."""
        return int(self.audio_lengths.sum()) / SAMPLE_RATE_HZ

    def pin_memory(self) -> Batch:
        """The same with its audio in page-locked memory, from which a copy to a GPU need not be waited for."""
        return replace(self, audio=self.audio.pin_memory())


def load_audio(
    utterance: Utterance, window: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Samples of one utterance, shape (N,), mono, 16 kHz.

    Args:
        utterance: What to read.
        window: Start and end of what is wanted of it, in seconds of the recording; None is all of it.

    Raises:
        BadAudio: it cannot be decoded, or is shorter than the manifest says, too short, silent or not finite.
        InputError: a parquet file is damaged.
    """
    ref, promised_s = utterance.audio, utterance.duration_s
    start_s, end_s = utterance.start_s, utterance.end_s
    if window is not None:
        start_s, end_s = window
        promised_s = end_s - start_s
    samples = decode(
        ref.path if ref.row is None else read_audio(ref),
        str(ref),
        start_s=start_s,
        end_s=end_s,
        offset=ref.offset,
        n_bytes=ref.n_bytes,
    )
    # A lossy coder may be a frame off; a file that changed after the scan is off by more.
    if len(samples) < (0.98 * promised_s - 0.1) * SAMPLE_RATE_HZ:
        detail = f"{len(samples) / SAMPLE_RATE_HZ:.2f} s could be read, the manifest says {promised_s:.2f} s"
        raise BadAudio(str(ref), "truncated", detail)
    return samples


def as_rejected(utterance: Utterance, bad: BadAudio, *, whole: bool = True) -> Rejected:
    """The ledger line of an utterance that cannot be used; `whole` says that all of it was looked at. A silent piece of
    a longer recording is a `pause`, which does not make the recording unusable."""
    is_piece = not whole or utterance.start_s > 0 or utterance.end_s is not None
    reason = "pause" if bad.reason == "silent" and is_piece else bad.reason
    return Rejected(utterance.place, reason, bad.detail)


def crop_window(
    utterance: Utterance, crop_s: float | None, seed: int, epoch: int
) -> tuple[float, float] | None:
    """Which `crop_s` seconds of a longer utterance an epoch takes; None is all. Depends on (seed, epoch, id) alone.

    By the manifest's duration, before decoding: the rest of a recording of hours is never read.
    """
    if crop_s is None or utterance.duration_s <= crop_s:
        return None
    width = int(crop_s * SAMPLE_RATE_HZ)
    n = round(utterance.duration_s * SAMPLE_RATE_HZ)
    # crc32, not hash(): Python's string hash differs between processes.
    rng = np.random.default_rng([seed, epoch, zlib.crc32(utterance.id.encode())])
    start = round(utterance.start_s * SAMPLE_RATE_HZ) + int(rng.integers(0, n - width + 1))
    return start / SAMPLE_RATE_HZ, (start + width) / SAMPLE_RATE_HZ


def collate(
    cursor: int,
    epoch: int,
    utterances: list[Utterance],
    *,
    crop_s: float | None = None,
    seed: int = 0,
    normalised: bool = True,
) -> Batch:
    """Decodes, normalises and pads. `crop_s` takes of longer audio a window that depends only on (seed, epoch, id);
    `normalised=False` leaves audio at its own level."""
    kept: list[Utterance] = []
    clips: list[NDArray[np.float32]] = []
    rejected: list[Rejected] = []
    longest = None if crop_s is None else int(crop_s * SAMPLE_RATE_HZ)
    for utterance in utterances:
        window = crop_window(utterance, crop_s, seed, epoch)
        try:
            samples = load_audio(utterance, window)
        except BadAudio as bad:
            rejected.append(as_rejected(utterance, bad, whole=window is None))
            continue
        except Exception as error:
            error.add_note(f"This happened with {utterance.audio} (utterance {utterance.id!r}).")
            raise
        kept.append(utterance)
        clips.append(samples[:longest])  # an MP3 may be a frame longer than its header says
    audio, lengths = pad(clips, normalised=normalised)
    return Batch(cursor, epoch, tuple(kept), audio, lengths, tuple(rejected))


def pad(clips: list[NDArray[np.float32]], *, normalised: bool = True) -> tuple[Tensor, Tensor]:
    """Clips, normalised or as they are, in one tensor (B, N), zeros after each; and their lengths (B,)."""
    lengths = torch.tensor([len(c) for c in clips], dtype=torch.int64)
    audio = torch.empty(len(clips), int(lengths.max()) if clips else 0)
    for row, clip in zip(audio.numpy(), clips, strict=True):
        if normalised:
            normalise(clip, out=row[: len(clip)])
        else:
            row[: len(clip)] = clip
        row[len(clip) :] = 0
    return audio, lengths


#: Number of the batch, its epoch, what it holds.
_Job = tuple[int, int, list[Utterance]]


class _Jobs(Sampler[_Job]):
    """The batches to make, in order. Of the plan, one epoch is held at a time."""

    def __init__(self, manifest: Manifest, plan: BatchPlan, cursors: range) -> None:
        self.manifest, self.plan, self.cursors = manifest, plan, cursors

    def __len__(self) -> int:
        return len(self.cursors)

    def __iter__(self) -> Iterator[_Job]:
        n_per_epoch = self.plan.batches_per_epoch
        computed, order = -1, None
        for cursor in self.cursors:
            epoch, position = divmod(cursor, n_per_epoch)
            if order is None or epoch != computed:
                order = None  # frees it before the next one is made
                computed, order = epoch, self.plan.epoch(epoch)
            yield cursor, epoch, [self.manifest[int(i)] for i in order[position]]


class _Collating(Dataset[Batch | ThaitoolError]):
    """Makes one batch of one job; a mapping, so that any worker may do any job."""

    def __init__(self, crop_s: float | None, seed: int, *, normalised: bool) -> None:
        self.crop_s, self.seed, self.normalised = crop_s, seed, normalised

    def __getitem__(self, job: _Job) -> Batch | ThaitoolError:
        cursor, epoch, utterances = job
        try:
            return collate(
                cursor,
                epoch,
                utterances,
                crop_s=self.crop_s,
                seed=self.seed,
                normalised=self.normalised,
            )
        except ThaitoolError as error:
            return error


def batches(
    manifest: Manifest,
    plan: BatchPlan,
    cursors: range,
    *,
    workers: int = 0,
    crop_s: float | None = None,
    normalised: bool = True,
    pin: bool = False,
) -> Iterator[Batch]:
    """Batches number `cursors` of the plan, in that order, decoded ahead by `workers` processes.

    `pin` puts them into page-locked memory and needs CUDA; the others are as in `collate`.

    Raises:
        InputError: a parquet file is damaged.
        EnvironmentProblem: a worker was killed.
    """
    jobs = _Jobs(manifest, plan, cursors)
    work = _Collating(crop_s, plan.seed, normalised=normalised)
    return in_processes(work, jobs, workers=workers, pin=pin)


def in_processes(
    work: Dataset[Done | ThaitoolError], jobs: Sampler[Job], *, workers: int, pin: bool = False
) -> Iterator[Done]:
    """`work[job]` for every job, in order, done ahead by `workers` processes; 0 does it here.

    `work` returns a `ThaitoolError` rather than raising it: torch would raise it again with a worker's traceback for a
    message.

    Raises:
        EnvironmentProblem: a worker was killed.
    """
    loader: DataLoader[Done | ThaitoolError] = DataLoader(
        work,
        batch_size=None,
        sampler=jobs,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_obey_the_parent_only,
        pin_memory=pin,
    )
    chosen = signal.getsignal(signal.SIGCHLD)
    results = iter(loader)
    if signal.getsignal(signal.SIGCHLD) is not chosen:
        # torch's handler raises in the middle of whatever the program does when a worker dies. The next call for a
        # result notices it too, within five seconds.
        signal.signal(signal.SIGCHLD, chosen or signal.SIG_DFL)
    try:
        for result in _explained(results, workers):
            if isinstance(result, ThaitoolError):
                raise result
            yield result
    finally:
        if workers:
            # Now, and not when the collector finds the time: it takes apart an iterator that an exception keeps alive
            # in the wrong order, so that the workers do not hear of the end and the program waits for them at its own.
            results._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001


def _explained(results: Iterator[Done], workers: int) -> Iterator[Done]:
    """Turns torch's errors about a dead worker into a sentence."""
    try:
        yield from results
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _death(error) from error
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        # A batch was announced, and its worker died before the memory that holds it was handed over. An error of the
        # work itself starts with "Caught".
        if not workers or str(error).startswith("Caught "):
            raise
        raise _death(error) from error


def _death(error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"A process that decodes audio has died ({' '.join(str(error).split())}). Most often memory or shared memory"
        " (/dev/shm) ran out: use fewer workers, or give the machine or container more; then run the same command"
        " again."
    )


def _unchanged(result: Done) -> Done:
    return result


def _obey_the_parent_only(_worker: int) -> None:
    # Job managers signal the whole group; the parent must live to write its checkpoint, and then ends its workers, by
    # SIGTERM if need be. So it matters who sent it, and that is known only to who waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def listed(source: Iterator[Batch], ledger: Path) -> Iterator[Batch]:
    """Batches that hold something; what could not be decoded goes to the quarantine ledger."""
    for batch in source:
        if batch.rejected:
            append_quarantine(ledger, batch.rejected)
        if batch.utterances:
            yield batch


def in_order(
    manifest: Manifest, *, batch_s: float, crop_s: float | None = None, normalised: bool = True
) -> Iterator[Batch]:
    """Every utterance once, longest first, in batches of at most `batch_s` padded seconds: for evaluation.

    `crop_s` takes a window of longer ones that is always the same; `normalised` is as in `collate`.
    """
    duration_s = np.minimum(manifest.duration_s, np.inf if crop_s is None else crop_s)
    order = np.argsort(-duration_s, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(batch_s // float(duration_s[order[start]])))
        chosen = [manifest[int(i)] for i in order[start : start + size]]
        yield collate(start, 0, chosen, crop_s=crop_s, normalised=normalised)
        start += size
