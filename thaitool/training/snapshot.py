"""Takes what a checkpoint keeps from the parts of a run, and puts it back. Reads and writes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thaitool.records import Rejected
from thaitool.training.state import (
    Done,
    Saved,
    gather_optimizer,
    gather_state,
    like,
    put_optimizer,
    put_weights,
    trained_state,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.training.update import Updater


def take(
    updater: Updater, objective: Any, done: Done, metrics: dict[str, float], *, keep: bool
) -> Saved:
    """The state of a run, in the processes that keep it. Collective where weights are sharded."""
    average, watch = updater.average, updater.task.watch
    return Saved(
        trained=gather_state(trained_state(objective), keep=keep),
        optimizer=gather_optimizer(updater.optimizer, keep=keep),
        average=None if average is None else [whole(v, keep=keep) for v in average.values],
        done=done,
        metrics=metrics,
        watch=None if watch is None else watch.snapshot(),
        unusable=[(r.item, r.reason, r.detail) for r in updater.unusable.values()],
    )


def put_back(saved: Saved, updater: Updater, objective: Any, origin: Path) -> None:
    """Gives weights, optimizer, average, monitors and bad recordings what they had; `origin` is named in errors.

    Raises:
        TrainingFailed: the state is of other weights.
        QuarantineError: too many recordings are bad by now.
    """
    put_weights(objective, saved.trained, origin)
    put_optimizer(updater.optimizer, saved.optimizer)
    average, watch = updater.average, updater.task.watch
    if average is not None and saved.average is not None:
        pairs = zip(saved.average, average.values, strict=True)
        average.values = [like(value, old).to(old.device) for value, old in pairs]
    if watch is not None and saved.watch is not None:
        watch.restore(saved.watch)
    updater.unusable = {row[0]: Rejected(*row) for row in saved.unusable}
    updater.require_usable()
