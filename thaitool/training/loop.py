"""The one training loop: Accelerate underneath, optimizer updates as the unit, exact resume, honest accounting.

A stage brings an `Objective` (a module from batch to summed loss), functions that evaluate and save, and a plan. The
loop owns order, accumulation, clipping, schedule, checkpoints, signals and the comparison of planned with done.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from thaitool.data.loader import Batch, batches
from thaitool.data.manifest import append_quarantine, check_share
from thaitool.errors import Interrupted, TrainingFailed
from thaitool.files import write_json, writing_directory
from thaitool.models.device import choose_device
from thaitool.training.interrupt import noting_signals
from thaitool.training.run_dir import RESULT, RunDir

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from thaitool.config import Training
    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan
    from thaitool.records import Progress, Rejected

STATE = "training_state.pt"


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
    logs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name to (numerator, denominator)."""
    used: int = 0
    """Utterances that contributed."""


@dataclass(frozen=True)
class Task:
    """What a stage brings to the loop."""

    objective: nn.Module
    """Callable as objective(batch, step) -> Loss."""
    groups: list[dict[str, Any]]
    """Optimizer groups with `params` and peak `lr`; the logged learning rate is that of the first."""
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[Path], None]
    better: tuple[str, int] | None = None
    """Held-out metric that chooses `best`, and +1 if larger is better, -1 if smaller."""


@dataclass
class Done:
    """What has been done so far; saved in every checkpoint."""

    updates: int = 0
    batches: int = 0
    utterances: int = 0
    rejected: int = 0
    unused: int = 0
    skipped: int = 0
    """Updates in which nothing could be used, so that no step was made."""
    audio_s: float = 0.0
    train_s: float = 0.0
    best: float | None = None
    best_update: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """Planned against done, and the last evaluation."""

    planned: dict[str, float]
    done: dict[str, Any]
    metrics: dict[str, float]
    resumed_from: int


def make_accelerator(config: Training) -> Accelerator:
    """Accelerate with our precision and device; reads the environment of `accelerate launch`."""
    return Accelerator(
        cpu=choose_device(config.device) == "cpu", mixed_precision=config.mixed_precision
    )


def learning_rate_share(update: int, config: Training) -> float:
    """Share of the peak rate: linear warm-up, then cosine to 5 %."""
    warmup = config.warmup_share * config.updates
    if update < warmup:
        return (update + 1) / (warmup + 1)
    left = (update - warmup) / max(1.0, config.updates - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, left)))


def train(
    task: Task,
    *,
    manifest: Manifest,
    plan: BatchPlan,
    config: Training,
    run: RunDir,
    accelerator: Accelerator,
    progress: Progress,
    description: str,
    crop_s: float | None = None,
) -> TrainingResult:
    """Runs a task to its planned end, or resumes it from the newest checkpoint of `run`.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        TrainingFailed: a loss or gradient is not finite, or done differs from planned.
        QuarantineError: too many recordings cannot be used.
    """
    if run.finished:
        stored = json.loads((run.path / RESULT).read_text("utf-8"))
        return TrainingResult(**{**stored, "resumed_from": config.updates})
    loop = _Loop(task, manifest, plan, config, run, accelerator, crop_s)
    resumed_from = loop.resume()
    with (
        noting_signals() as received,
        progress(description, config.updates, resumed_from) as advance,
    ):
        for row in loop.updates():
            advance(1, f"loss {row['loss']:.3f}")
            if loop.anyone(received.number is not None):
                loop.checkpoint()
                loop.close()
                number = received.number or 15
                raise Interrupted(
                    f"Stopped by signal {number} after update {loop.done.updates} of {config.updates}; the checkpoint"
                    f" is in {run.path}. Run the same command again to go on.",
                    number,
                )
    return loop.finish(resumed_from)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and all buffers; frozen weights are not copied into every checkpoint."""
    frozen = {
        name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class _Loop:
    """State of one run of `train`; a class only because every step touches the same ten things."""

    def __init__(
        self,
        task: Task,
        manifest: Manifest,
        plan: BatchPlan,
        config: Training,
        run: RunDir,
        accelerator: Accelerator,
        crop_s: float | None,
    ) -> None:
        self.task, self.manifest, self.plan, self.config = task, manifest, plan, config
        self.run, self.accelerator, self.crop_s = run, accelerator, crop_s
        groups = [{**g, "peak": g["lr"]} for g in task.groups]
        optimizer = torch.optim.AdamW(
            groups, weight_decay=config.weight_decay, betas=(0.9, 0.98), eps=1e-6
        )
        self.objective, self.optimizer = accelerator.prepare(task.objective, optimizer)
        self.done = Done()
        self.metrics: dict[str, float] = {}
        self.rejected: list[Rejected] = []
        self.board: SummaryWriter | None = None

    @property
    def parameters(self) -> list[Tensor]:
        return [p for g in self.optimizer.param_groups for p in g["params"]]

    def anyone(self, mine: bool) -> bool:
        """Whether any process says yes."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor(float(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag) > 0)

    def resume(self) -> int:
        """Loads the newest checkpoint, if there is one; returns its update."""
        update = self.run.last_update
        if update:
            state = torch.load(
                self.run.checkpoint(update) / STATE, map_location="cpu", weights_only=True
            )
            objective = self.accelerator.unwrap_model(self.objective)
            objective.load_state_dict(state["trained"], strict=False)
            if sorted(state["trained"]) != sorted(trained_state(objective)):
                raise TrainingFailed(
                    f"{self.run.checkpoint(update)} holds other weights than this run trains."
                )
            self.optimizer.load_state_dict(state["optimizer"])
            self.done = Done(**state["done"])
            self.metrics = state["metrics"]
        if self.accelerator.is_main_process:
            self.run.forget_after(update)
            self._point()
        return update

    def updates(self) -> Any:
        """Makes the remaining updates, yielding a row of metrics after each."""
        cfg, world = self.config, self.accelerator.num_processes
        per_update = cfg.accumulation * world
        start = self.done.updates * per_update + self.accelerator.process_index
        cursors = range(start, cfg.updates * per_update, world)
        source = batches(self.manifest, self.plan, cursors, workers=cfg.workers, crop_s=self.crop_s)
        for update in range(self.done.updates, cfg.updates):
            began = time.perf_counter()
            row = self._update(update, source)
            self.done.updates = update + 1
            self.done.train_s += time.perf_counter() - began
            row |= {"update": update + 1, "train_s": round(self.done.train_s, 3)}
            last = update + 1 == cfg.updates
            improved = False
            if last or (update + 1) % cfg.eval_every == 0:
                improved = self._evaluate(row)
            # Before the checkpoint: a run killed in between would resume without this line.
            if self.accelerator.is_main_process:
                self._log(row)
            if last or improved or (update + 1) % cfg.save_every == 0:
                self.checkpoint()
            yield row

    def _log(self, row: dict[str, float]) -> None:
        self.run.append_metrics(row)
        if self.board is None:
            # Points that a resumed run makes again replace those of the run that was stopped.
            self.board = SummaryWriter(str(self.run.path / "tb"), purge_step=int(row["update"]))
        for name, value in row.items():
            self.board.add_scalar(name, value, int(row["update"]))

    def _update(self, update: int, source: Any) -> dict[str, float]:
        self.objective.train()
        weight, total = 0.0, 0.0
        sums: dict[str, tuple[float, float]] = {}
        for micro in range(self.config.accumulation):
            batch: Batch = next(source)
            self._account(batch)
            if not batch.utterances and self.accelerator.num_processes == 1:
                continue  # counted and listed; the rest of the update goes on without it
            if not batch.utterances:
                raise TrainingFailed(
                    f"Every recording of batch {batch.cursor} is unusable ({batch.rejected[0].detail}), and processes"
                    f" must stay in step; take what quarantine.jsonl in {self.run.path} lists out of the data."
                )
            seed = zlib.crc32(f"{self.config.seed}/{batch.cursor}".encode())
            torch.manual_seed(seed)
            step = Step(update, update / self.config.updates, seed)
            sync = micro + 1 == self.config.accumulation
            with nullcontext() if sync else self.accelerator.no_sync(self.objective):
                loss: Loss = self.objective(batch, step)
                if not torch.isfinite(loss.total):
                    raise TrainingFailed(
                        f"The loss of update {update + 1} is {float(loss.total.detach())}; its batch holds"
                        f" {', '.join(u.id for u in batch.utterances[:5])}, … The last checkpoint is intact; look"
                        " at these recordings, or start a new --out with a lower learning rate."
                    )
                self.accelerator.backward(loss.total)
            weight += loss.weight
            total += float(loss.total.detach())
            self.done.utterances += loss.used
            self.done.unused += len(batch.utterances) - loss.used
            for name, (n, d) in loss.logs.items():
                a, b = sums.get(name, (0.0, 0.0))
                sums[name] = (a + n, b + d)
        norm = self._step(update, weight)
        logs = {name: n / d for name, (n, d) in sums.items() if d}
        rate = self.optimizer.param_groups[0]["lr"]
        return {"loss": total / max(weight, 1e-9), "grad_norm": norm, "learning_rate": rate, **logs}

    def _step(self, update: int, weight: float) -> float:
        world = self.accelerator.num_processes
        sums = torch.tensor(weight, device=self.accelerator.device, dtype=torch.float64)
        everyone = float(self.accelerator.reduce(sums)) if world > 1 else weight
        if not everyone:
            self.optimizer.zero_grad()
            self.done.skipped += 1
            return 0.0
        # One division for the whole update; DDP has averaged over processes, which the factor `world` undoes.
        for p in self.parameters:
            if p.grad is not None:
                p.grad.mul_(world / everyone)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not math.isfinite(norm):
            raise TrainingFailed(
                f"The gradient norm of update {update + 1} is {norm}; the last checkpoint is intact."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate_share(update, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _account(self, batch: Batch) -> None:
        self.done.batches += 1
        self.done.audio_s += batch.audio_s
        self.done.rejected += len(batch.rejected)
        if batch.rejected:
            self.rejected.extend(batch.rejected)
            append_quarantine(self.run.path / "quarantine.jsonl", batch.rejected)
            seen = {r.item: r for r in self.rejected}
            check_share(list(seen.values()), len(self.manifest), self.config.max_rejected_share)

    def _evaluate(self, row: dict[str, float]) -> bool:
        """Adds held-out metrics to the row; returns whether they are the best so far."""
        self.objective.eval()
        with torch.no_grad():
            self.metrics = self.task.evaluate()
        row |= {f"eval_{k}": v for k, v in self.metrics.items()}
        if not self.task.better:
            return False
        name, sign = self.task.better
        value = self.metrics[name]
        improved = self.done.best is None or sign * value > sign * self.done.best
        if improved:
            self.done.best, self.done.best_update = value, self.done.updates
        return improved

    def checkpoint(self) -> None:
        """Writes the model and everything that resuming needs, then `last` and `best`."""
        update = self.done.updates
        final = self.run.checkpoint(update)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if not final.exists():
                with writing_directory(final) as temporary:
                    self.task.save(temporary)
                    state = {
                        "trained": trained_state(self.accelerator.unwrap_model(self.objective)),
                        "optimizer": self.optimizer.state_dict(),
                        "done": asdict(self.done),
                        "metrics": self.metrics,
                    }
                    # To a file object: of a path, torch does not say that the disk is full.
                    with (temporary / STATE).open("wb") as file:
                        torch.save(state, file)
            self._point()
            self.run.prune(self.config.keep)
        self.accelerator.wait_for_everyone()

    def _point(self) -> None:
        """`last` and `best`; again after a resume, as a run may be killed between a checkpoint and its names."""
        for link, update in (("last", self.done.updates), ("best", self.done.best_update)):
            if update and self.run.checkpoint(update).exists():
                self.run.point(link, update)

    def close(self) -> None:
        """Writes out what TensorBoard has not got yet."""
        if self.board is not None:
            self.board.close()

    def finish(self, resumed_from: int) -> TrainingResult:
        """Compares planned with done and writes `result.json`."""
        n_batches = self.config.updates * self.config.accumulation
        planned: dict[str, float] = {"updates": self.config.updates, "batches": n_batches}
        done = asdict(self.done)
        # Of one process: with several, each takes its share of the plan.
        n_per_epoch = self.plan.batches_per_epoch
        done["epochs"] = round(n_batches * self.accelerator.num_processes / n_per_epoch, 3)
        done["hours"] = round(done["audio_s"] / 3600, 4)
        differs = [k for k, v in planned.items() if done[k] != v]
        if differs:
            listing = ", ".join(f"{k}: planned {planned[k]}, done {done[k]}" for k in differs)
            raise TrainingFailed(f"The run did not do what it planned ({listing}).")
        if self.done.skipped == self.config.updates:
            raise TrainingFailed(
                f"No update could use any recording; see {self.run.quarantine}, and whether the transcripts"
                " are longer than their audio can carry."
            )
        result = TrainingResult(planned, done, self.metrics, resumed_from)
        self.close()
        if self.accelerator.is_main_process:
            write_json(self.run.path / RESULT, asdict(result))
        return result
