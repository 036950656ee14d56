"""What a stage hands to the training loop, and what it gets back: values without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from thaitool.training.watch import Watch


@dataclass(frozen=True)
class Step:
    """Where training is, for schedules and for seeding; the same after a resume."""

    update: int
    """Updates made before this one."""
    share: float
    """`update` as a share of the planned updates."""
    seed: int
    """Seed of this micro-batch, from the run's seed and the batch's number in the plan, so that the same batches split
    over more processes draw the same masks and dropout."""


@dataclass(frozen=True)
class Loss:
    """A summed loss and what it is a sum over. Sums, so that splitting a batch changes nothing."""

    total: Tensor
    """Scalar; its gradient is divided once, by the weight over all micro-batches and processes."""
    weight: float
    logs: Mapping[str, tuple[Tensor | float, float]] = field(default_factory=dict)
    """Name to (numerator, denominator). A tensor stays on its device until the update is over."""
    used: int = 0
    """Utterances that contributed."""
    tallies: Mapping[str, Tensor] = field(default_factory=dict)
    """Sums of any shape, always the same one by name; `Task.summarise` makes metrics of them."""


@dataclass(frozen=True)
class Task:
    """What a stage brings to the loop."""

    objective: nn.Module
    """Callable as objective(batch, step) -> Loss."""
    groups: list[dict[str, Any]]
    """Optimizer groups with `params` and peak `lr`; the logged learning rate is that of the first. With `from_update`,
    nothing of the group changes before that update."""
    evaluate: Callable[[], dict[str, float]]
    """On held-out data; every process calls it, with the same data."""
    save: Callable[[Path], None]
    """Writes what the next stage reads. With `ema_decay`, evaluated and saved weights are the averaged ones."""
    better: tuple[str, int] | None = None
    """Held-out metric that chooses `best`, and +1 if larger is better, -1 if smaller."""
    normalised: bool = True
    """Whether training audio comes with zero mean and unit variance, or at its own level."""
    save_whole: Callable[[Path, dict[str, Tensor]], None] | None = None
    """The same as `save` from weights by their names in the objective, whole and on the CPU, as the objective's own are
    shards under FSDP2. A stage without it cannot be sharded."""
    summarise: Callable[[dict[str, Tensor]], dict[str, float]] | None = None
    """Metrics of an update from its tallies, summed over micro-batches and processes."""
    probe: Callable[[], dict[str, float]] | None = None
    """Metrics of a fixed batch, named `probe_...`; called before update 1, and then every `probe_every` updates.
    Under FSDP2 it must compute through the objective's own call, as weights are whole only inside it."""
    watch: Watch | None = None
    """Judges every row of metrics."""
    untrained: Callable[[], tuple[str, ...]] | None = None
    """Parts of the model that look random, for the sentence if `watch` finds that weights were not loaded."""
    remark: Callable[[dict[str, float]], list[str]] | None = None
    """What the last evaluation's metrics say in words; kept with the result."""


@dataclass(frozen=True)
class TrainingResult:
    """Planned against done over all processes, the last evaluation, returns to older checkpoints, and remarks."""

    planned: dict[str, float]
    done: dict[str, Any]
    metrics: dict[str, float]
    resumed_from: int
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
