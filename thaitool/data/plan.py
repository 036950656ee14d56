"""The order of training: which utterances make batch k, as a pure function of (durations, seed, epoch).

Nothing here reads audio or keeps state: resuming a run needs one integer, the number of batches already taken, and the
order is the same for every number of processes (process r of W takes batches r, r + W, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thaitool.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchPlan:
    """Buckets of similar duration, cut into batches of at most `batch_s` padded seconds.

    The buckets, and with them the number of batches of an epoch, do not depend on the epoch; only the order inside
    each bucket and the order of the batches do.
    """

    buckets: tuple[NDArray[np.int64], ...]
    """Utterance indices, shortest bucket first; bucket k holds `sizes[k]` utterances a batch."""
    sizes: tuple[int, ...]
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        """Batches that one epoch has."""
        return sum(-(-len(b) // n) for b, n in zip(self.buckets, self.sizes, strict=True))

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """All batches of an epoch, in order; each an array of utterance indices."""
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[NDArray[np.int64]] = []
        for bucket, size in zip(self.buckets, self.sizes, strict=True):
            order = rng.permutation(bucket)
            batches.extend(order[i : i + size] for i in range(0, len(order), size))
        return [batches[i] for i in rng.permutation(len(batches))]


def make_plan(
    duration_s: NDArray[np.float64], *, batch_s: float, seed: int, n_buckets: int = 20
) -> BatchPlan:
    """Plans batches of at most `batch_s` seconds after padding (a single longer utterance makes its own batch).

    Raises:
        InputError: there is nothing to plan.
    """
    if len(duration_s) == 0:
        raise InputError("A batch plan needs at least one utterance, but the manifest is empty.")
    order = np.argsort(duration_s, kind="stable").astype(np.int64)
    # More buckets than that would leave each with less than a few batches of choice.
    wanted = int(min(n_buckets, max(1, duration_s.sum() / (4 * batch_s))))
    buckets = tuple(np.array_split(order, min(wanted, len(order))))
    sizes = tuple(max(1, int(batch_s // float(duration_s[b].max()))) for b in buckets)
    return BatchPlan(buckets, sizes, seed)
