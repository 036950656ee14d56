"""Planned against done at the end of a run; a run that did less than it planned is no success. Writes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import TrainingFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from thaitool.config import Training
    from thaitool.data.plan import BatchPlan
    from thaitool.training.state import Done


def planned_and_done(
    done: Done, config: Training, *, processes: int, batches_per_epoch: int, ledger: Path
) -> tuple[dict[str, float], dict[str, Any]]:
    """What a run planned, and what all processes did, with `epochs` and `hours`.

    Args:
        done: Counts of all processes.
        config: The plan.
        processes: Number of them.
        batches_per_epoch: Of the batch plan.
        ledger: Where recordings that were left out are listed, for the sentence.

    Raises:
        TrainingFailed: the two differ, or more than half of the updates could use nothing.
    """
    n_batches = config.updates * config.accumulation * processes
    planned: dict[str, float] = {"updates": config.updates, "batches": n_batches}
    counts = asdict(done)
    counts["epochs"] = round(n_batches / batches_per_epoch, 3)
    counts["hours"] = round(done.audio_s / 3600, 4)
    differs = [k for k, v in planned.items() if counts[k] != v]
    if differs:
        listing = ", ".join(f"{k}: planned {planned[k]}, done {counts[k]}" for k in differs)
        raise TrainingFailed(f"The run did not do what it planned ({listing}).")
    without = done.skipped + done.nonfinite
    if without > config.updates / 2:
        raise TrainingFailed(
            f"{'No update' if without == config.updates else 'Less than half of the updates'} could use any"
            f" recording: {done.skipped} of {config.updates} had none, {done.nonfinite} were not finite; see"
            f" {ledger}, and whether transcripts, if there are any, are longer than their audio can carry."
        )
    return planned, counts


def planned_rows(
    plan: BatchPlan, n_batches: int, kinds: NDArray[np.integer], n_kinds: int
) -> NDArray[np.int64]:
    """Rows of each kind in the first `n_batches` batches of a plan, shape (n_kinds,), repetitions counted.

    Every epoch takes as many of a kind, so that one is computed however many there are; that is so without weights, and
    with weights that are by kind.

    Args:
        plan: The order of training.
        n_batches: Of all processes together.
        kinds: Number of each utterance's kind, shape (N,).
        n_kinds: How many kinds there are.
    """
    epochs, rest = divmod(n_batches, plan.batches_per_epoch)
    order = plan.epoch(epochs)
    whole = np.bincount(kinds[order.utterances], minlength=n_kinds)
    begun = [np.bincount(kinds[order[k]], minlength=n_kinds) for k in range(rest)]
    total: NDArray[np.int64] = epochs * whole + np.sum([np.zeros_like(whole), *begun], axis=0)
    return total


def require_rows(
    planned: Mapping[str, int], learned: Mapping[str, int], done: Mapping[str, Any]
) -> None:
    """Compares the rows of each task that were planned with those that updates learned from.

    Args:
        planned: By task, as of `planned_rows`.
        learned: By task, the rows in updates that made a step.
        done: Counts of the run; its `rejected` and `unused` rows, whatever their task, make the difference.

    Raises:
        TrainingFailed: more was learned than planned, or what is missing is not accounted for.
    """
    in_all, met = sum(planned.values()), sum(done[k] for k in ("utterances", "rejected", "unused"))
    learned_in_all = sum(learned.values())
    if (
        met == in_all
        and in_all - done["rejected"] >= learned_in_all >= done["utterances"]
        and all(learned[task] <= planned[task] for task in planned)
    ):
        return
    listing = ", ".join(
        f"{task}: planned {planned[task]}, done {learned[task]}" for task in planned
    )
    raise TrainingFailed(
        f"The run did not learn from the rows that it planned ({listing}; in all planned {in_all}, met {met}, of which"
        f" {done['rejected']} could not be read and {done['unused']} were not used)."
    )
