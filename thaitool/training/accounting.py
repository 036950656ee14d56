"""Planned against done at the end of a run; a run that did less than it planned is no success. Writes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from thaitool.errors import TrainingFailed

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import Training
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
