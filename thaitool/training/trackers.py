"""Curves of a run for TensorBoard and Weights & Biases, by the update. `metrics.jsonl` is the record, not these.

After a resume or a rollback, updates are drawn again: TensorBoard drops the old points, W&B shows the new ones on top.
"""

from __future__ import annotations

import json
import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any

from accelerate.tracking import WandBTracker
from torch.utils.tensorboard import SummaryWriter

from thaitool.errors import EnvironmentProblem
from thaitool.files import write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WANDB = "wandb.json"


def require_trackers(names: Sequence[str]) -> None:
    """Checks, before anything is trained, that what was asked for is there.

    Raises:
        EnvironmentProblem: a library is not installed, or not whole.
    """
    if "wandb" not in names:
        return
    try:
        import_module("wandb")
    except ImportError as error:
        raise EnvironmentProblem(
            f"train.trackers names wandb, which cannot be imported ({error}); run `pip install wandb`, or leave it out"
            " of train.trackers."
        ) from error


class Trackers:
    """Opens what was asked for at the first row; only for the process that writes."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = names, folder
        self.board: SummaryWriter | None = None
        self.wandb: Any = None

    def log(self, row: dict[str, float]) -> None:
        """Adds the numbers of a row of metrics."""
        update = int(row["update"])
        if "tensorboard" in self.names:
            if self.board is None:
                # Points that a resumed run makes again replace those of the run that was stopped.
                self.board = SummaryWriter(str(self.folder / "tb"), purge_step=update)
            for name, value in row.items():
                self.board.add_scalar(name, value, update)
        if "wandb" in self.names:
            if self.wandb is None:
                self.wandb = self._start_wandb()
            self.wandb.log(dict(row))

    def rewind(self) -> None:
        """The next row is an update that was drawn before."""
        if self.board is not None:
            self.board.close()
            self.board = None

    def close(self) -> None:
        """Writes out what has not been written yet."""
        self.rewind()
        if self.wandb is not None:
            self.wandb.finish()
            self.wandb = None

    def _start_wandb(self) -> Any:
        # A run that is resumed goes on with its curves, so its name there is kept with it.
        file = self.folder / WANDB
        if not file.exists():
            write_json(file, {"id": uuid.uuid4().hex[:8]})
        known = json.loads(file.read_text("utf-8"))["id"]
        tracker = WandBTracker(
            "thaitool", id=known, name=self.folder.name, dir=str(self.folder), resume="allow"
        )
        tracker.start()
        # W&B's own step must never fall, so the update is a value of its own.
        tracker.tracker.define_metric("*", step_metric="update")
        return tracker
