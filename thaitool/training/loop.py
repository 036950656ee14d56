"""The one training loop: Accelerate underneath, optimizer updates as the unit, exact resume, honest accounting.

A stage brings an `Objective` (a module from batch to summed loss), functions that evaluate and save, and a plan. The
loop owns order, checkpoints, signals, what happens after a collapse, and the comparison of planned with done; how an
update is made is in `update`.
"""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from thaitool.data.loader import batches
from thaitool.errors import (
    EnvironmentProblem,
    InputError,
    Interrupted,
    QuarantineError,
    TrainingFailed,
)
from thaitool.files import write_json, writing_directory
from thaitool.training.accounting import planned_and_done
from thaitool.training.cost import Meter, add_cost, cost_row, total_flops
from thaitool.training.interrupt import noting_signals
from thaitool.training.ranks import gathered, is_sharded, make_accelerator
from thaitool.training.rollback import (
    finish_rollback,
    place_to_return,
    read_rollbacks,
    roll_back,
)
from thaitool.training.run_dir import RESULT, RunDir
from thaitool.training.schedule import learning_rate_share
from thaitool.training.snapshot import put_back, take
from thaitool.training.state import (
    STATE,
    Done,
    gather_state,
    read_state,
    trained_state,
    write_state,
)
from thaitool.training.task import Loss, Step, Task, TrainingResult
from thaitool.training.trackers import Trackers, require_trackers
from thaitool.training.update import Updater

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from accelerate import Accelerator

    from thaitool.config import Training
    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan
    from thaitool.records import Progress
    from thaitool.training.watch import Finding

__all__ = [
    "Loss",
    "Step",
    "Task",
    "TrainingResult",
    "learning_rate_share",
    "make_accelerator",
    "train",
    "trained_state",
]


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
        TrainingFailed: a loss or gradient is not finite, the monitors found a collapse and there is no going back, or
            done differs from planned.
        EnvironmentProblem: a tracker is not installed, or a decoding process died.
        QuarantineError: too many recordings cannot be used.
    """
    if run.finished:
        stored = json.loads((run.path / RESULT).read_text("utf-8"))
        return TrainingResult(**{**stored, "resumed_from": config.updates})
    require_trackers(config.trackers)
    with run.alone(main=accelerator.is_main_process):
        loop = _Loop(task, Updater(task, manifest, plan, config, run, accelerator, crop_s))
        return _run(loop, progress, description)


def _run(loop: _Loop, progress: Progress, description: str) -> TrainingResult:
    updates = loop.config.updates
    resumed_from = loop.resume()
    with (
        noting_signals() as received,
        progress(description, updates, resumed_from) as advance,
    ):
        loop.evaluate_again()
        for steps, note in _kept_on_quarantine(loop):
            advance(steps, note)
            if loop.anyone(received.number is not None):
                loop.checkpoint()
                loop.trackers.close()
                number = received.number or 15
                raise Interrupted(
                    f"Stopped by signal {number} after update {loop.done.updates} of {updates}; the checkpoint"
                    f" is in {loop.run.path}. Run the same command again to go on.",
                    number,
                )
    return loop.finish(resumed_from)


def _kept_on_quarantine(loop: _Loop) -> Iterator[tuple[int, str]]:
    """The updates; if too many recordings break, what was trained up to then is kept."""
    try:
        yield from loop.updates()
    except QuarantineError:
        loop.checkpoint()
        raise


class _Loop:
    """State of one run of `train`; a class only because every step touches the same ten things."""

    def __init__(self, task: Task, updater: Updater) -> None:
        self.task, self.updater = task, updater
        self.config, self.run, self.accelerator = updater.config, updater.run, updater.accelerator
        self.done = Done()
        self.metrics: dict[str, float] = {}
        self.trackers = Trackers(self.config.trackers, self.run.path)
        self.objective = self.accelerator.unwrap_model(updater.objective)
        self.meter = Meter(self.objective, self.config.updates, self.accelerator.device)
        if is_sharded(self.accelerator) and task.save_whole is None:
            raise EnvironmentProblem(
                "This stage cannot shard its model; leave --use_fsdp out of `accelerate launch`."
            )

    def anyone(self, mine: bool) -> bool:
        """Whether any process says yes."""
        if self.accelerator.num_processes == 1:
            return mine
        flag = torch.tensor(float(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag) > 0)

    def resume(self) -> int:
        """Finishes what a kill cut short and loads the newest checkpoint, if there is one; returns its update."""
        if self.accelerator.is_main_process:
            finish_rollback(self.run)
        self.accelerator.wait_for_everyone()
        update = self.run.last_update
        self._load(update)
        if self.accelerator.is_main_process:
            self.run.forget_after(update)
            self._point()
        self.accelerator.wait_for_everyone()
        return update

    def _load(self, update: int) -> None:
        folder = self.run.checkpoint(update)
        for entry in read_rollbacks(self.run):
            self.updater.rate = entry.factor**entry.number
        if not (folder / STATE).exists():
            return  # a new run
        saved = read_state(folder)
        self.done, self.metrics = saved.done, saved.metrics
        self.meter.take()  # what was spent on updates that are taken back
        put_back(saved, self.updater, self.objective, folder)
        if self.done.best_update and not self.run.checkpoint(self.done.best_update).exists():
            # It was replaced by a better one, which a rollback took back.
            self.done.best, self.done.best_update = None, 0

    def updates(self) -> Iterator[tuple[int, str]]:
        """Makes the remaining updates; yields how many are done now (a rollback: minus some) and a note."""
        self._judge_start()
        while self.done.updates < self.config.updates:
            before = self.done.updates
            source = self._source()
            for update in range(before, self.config.updates):
                row, finding = self._one(update, source)
                if finding is not None:
                    break
                yield 1, f"loss {row['loss']:.3f}" if "loss" in row else "skipped"
            else:
                return
            found_at = self.done.updates
            self._return(finding, found_at)
            yield self.done.updates - found_at + 1, f"{finding.kind}, back to {self.done.updates}"

    def _source(self) -> Any:
        config, world = self.config, self.accelerator.num_processes
        per_update = config.accumulation * world
        start = self.done.updates * per_update + self.accelerator.process_index
        return batches(
            self.updater.manifest,
            self.updater.plan,
            range(start, config.updates * per_update, world),
            workers=config.workers,
            crop_s=self.updater.crop_s,
            normalised=self.task.normalised,
        )

    def _one(self, update: int, source: Any) -> tuple[dict[str, float], Finding | None]:
        """One update, its metrics, their judgement, and a checkpoint if it is time and nothing is wrong."""
        config = self.config
        began = time.perf_counter()
        probed = self._probe() if update % config.probe_every == 0 else {}
        with self.meter.update(update):
            row, trouble = self.updater.make(update, source, self.done)
        self.done.updates = update + 1
        self.done.train_s += time.perf_counter() - began
        row |= {"update": update + 1, "train_s": round(self.done.train_s, 3), **probed}
        improved, judged = False, self._evaluation_is_due()
        if judged:
            try:
                improved = self._evaluate(row)
            except InputError:
                # Held-out audio that cannot be read must not cost what was trained since the last checkpoint.
                self._record(row)
                self.checkpoint()
                raise
        finding = self.task.watch.judge(row) if self.task.watch is not None else None
        if self.done.nonfinite_in_a_row > config.nonfinite_skips:
            finding = trouble
        if trouble is not None and self.task.watch is None and finding is not None:
            raise TrainingFailed(
                f"{finding.sentence} The last checkpoint is intact. {finding.advice}"
            )
        # Before the checkpoint: a run killed in between would resume without this line.
        self._record(row, judged=judged)
        saves = improved or update + 1 == config.updates or (update + 1) % config.save_every == 0
        if finding is None and saves:
            self.checkpoint()
        return row, finding

    def _record(self, row: dict[str, float], *, judged: bool = False) -> None:
        if self.accelerator.is_main_process:
            alarms = self._remarks() if judged else []
            self.run.append_metrics({**row, "alarms": alarms} if alarms else row)
            self.trackers.log(row)

    def _remarks(self) -> list[str]:
        return [] if self.task.remark is None else self.task.remark(self.metrics)

    def _probe(self) -> dict[str, float]:
        """Metrics of the probe batch, those of the first process for all, so that all judge alike."""
        if self.task.probe is None:
            return {}
        self.objective.eval()
        with torch.no_grad(), self.updater.precision():
            return gathered(self.accelerator, self.task.probe())[0]

    def _judge_start(self) -> None:
        """Before update 1 of a run with monitors: are the weights what they should be? Then checkpoint 0."""
        watch = self.task.watch
        if watch is None or self.done.updates or self.run.checkpoint(0).exists():
            return
        untrained = self.task.untrained() if self.task.untrained is not None else ()
        finding = watch.begin(self._probe(), untrained)
        if finding is not None:
            raise TrainingFailed(f"{finding.sentence} {finding.advice}")
        self.checkpoint()

    def _return(self, finding: Finding, found_at: int) -> None:
        """After a collapse: back to the newest checkpoint before it, with a lower rate.

        Raises:
            TrainingFailed: the run is not to go back, or cannot.
        """
        watch = self.task.watch
        allowed = (
            watch.max_rollbacks if watch is not None and watch.on_collapse == "rollback" else 0
        )
        self.accelerator.wait_for_everyone()
        try:
            to = place_to_return(self.run, finding, allowed)
        except TrainingFailed:
            self.trackers.close()
            raise
        if self.accelerator.is_main_process:
            roll_back(self.run, finding, found_at, to)
            self.trackers.rewind()
        self.accelerator.wait_for_everyone()
        self._load(to)
        if self.accelerator.is_main_process:
            self._point()

    def _averaged(self) -> Any:
        average = self.updater.average
        return nullcontext() if average is None else average.in_place()

    def _evaluation_is_due(self) -> bool:
        """After the updates that are done; always after the last."""
        done, config = self.done.updates, self.config
        return done % config.eval_every == 0 or done == config.updates

    def evaluate_again(self) -> None:
        """The evaluation that a run was stopped in, once it is resumed: its figures are no older ones."""
        if self.done.evaluated != self.done.updates > 0 and self._evaluation_is_due():
            row: dict[str, float] = {"update": self.done.updates}
            self._evaluate(row)
            self._record(row, judged=True)
            if self.accelerator.is_main_process:
                self._point()

    def _account(self) -> None:
        """Adds what all processes have spent to what is done."""
        for cost in gathered(self.accelerator, self.meter.take()):
            add_cost(self.done, cost)

    def _evaluate(self, row: dict[str, float]) -> bool:
        """Adds held-out metrics and the cost so far to the row; returns whether they are the best so far."""
        self.objective.eval()
        with torch.no_grad(), self._averaged(), self.updater.precision():
            self.metrics = self.task.evaluate()
        self.done.evaluated = self.done.updates
        self._account()
        row |= {f"eval_{k}": v for k, v in self.metrics.items()} | cost_row(self.done)
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
        final = self.run.checkpoint(self.done.updates)
        self._account()
        self.accelerator.wait_for_everyone()
        main = self.accelerator.is_main_process
        if not self.anyone(main and final.exists()):
            saved = take(self.updater, self.objective, self.done, self.metrics, keep=main)
            with writing_directory(final) if main else nullcontext() as temporary:
                # The training's own weights first: what follows puts their average in their place.
                if temporary is not None:
                    write_state(temporary, saved)
                with self._averaged():
                    weights = self._whole_model(keep=main)
                    if temporary is not None:
                        self._save(temporary, weights)
        if main:
            self._point()
            watch = self.task.watch
            self.run.prune(self.config.keep, None if watch is None else watch.sound_before)
        self.accelerator.wait_for_everyone()

    def _whole_model(self, *, keep: bool) -> dict[str, torch.Tensor] | None:
        if not is_sharded(self.accelerator):
            return None
        return gather_state(self.objective.state_dict(), keep=keep)

    def _save(self, path: Path, weights: dict[str, torch.Tensor] | None) -> None:
        if weights is None or self.task.save_whole is None:
            self.task.save(path)
        else:
            self.task.save_whole(path, weights)

    def _point(self) -> None:
        """`last` and `best`; again after a resume, as a run may be killed between a checkpoint and its names."""
        for link, update in (("last", self.done.updates), ("best", self.done.best_update)):
            if update and self.run.checkpoint(update).exists():
                self.run.point(link, update)
            elif not (self.run.path / link).exists():
                (self.run.path / link).unlink(missing_ok=True)  # what it named was rolled back

    def finish(self, resumed_from: int) -> TrainingResult:
        """Compares planned with done and writes `result.json`."""
        planned, done = planned_and_done(
            self.done,
            self.config,
            processes=self.accelerator.num_processes,
            batches_per_epoch=self.updater.plan.batches_per_epoch,
            ledger=self.run.quarantine,
        )
        rollbacks = [asdict(entry) for entry in read_rollbacks(self.run)]
        done |= {"flops": total_flops(self.done)}
        result = TrainingResult(
            planned, done, self.metrics, resumed_from, rollbacks, self._remarks()
        )
        self.trackers.close()
        if self.accelerator.is_main_process:
            write_json(self.run.path / RESULT, asdict(result))
        return result
