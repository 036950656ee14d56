"""One optimizer update: micro-batches, sums over processes, one check that all is finite, clipping, the step.

Knows neither checkpoints nor evaluation. Waits for the device once, between the last backward and the step.
"""

from __future__ import annotations

import json
import math
import zlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor

from thaitool.data.loader import Batch, batches
from thaitool.data.manifest import append_quarantine, check_share, unusable
from thaitool.errors import TrainingFailed
from thaitool.files import disk_full_is_explained
from thaitool.training.ranks import gathered, is_sharded, shard_by_layer
from thaitool.training.schedule import Average, learning_rate_share
from thaitool.training.sums import Exchange, Sums
from thaitool.training.task import Loss, Step, Task
from thaitool.training.watch import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch import Tensor

    from thaitool.config import Training
    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan
    from thaitool.records import Rejected
    from thaitool.training.run_dir import RunDir
    from thaitool.training.state import Done

NONFINITE = "nonfinite.jsonl"
#: How many recordings a sentence names.
NAMED = 5


class Updater:
    """Objective, optimizer and weight average of a run, and how they make an update."""

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
        shard_by_layer(accelerator, task.objective)
        self.objective, self.optimizer = accelerator.prepare(task.objective, optimizer)
        decay = config.ema_decay
        self.average = None if decay is None else Average(self.parameters, decay)
        self.exchange = Exchange(accelerator)
        self.rate = 1.0
        """On the learning rate, after rollbacks."""
        self.unusable: dict[str, Rejected] = {}
        """Bad recordings that training has met, by item, of all processes; what a checkpoint keeps."""
        self._fresh: list[Rejected] = []

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [p for g in self.optimizer.param_groups for p in g["params"]]

    def precision(self) -> Any:
        """The forward pass's precision; without sharding Accelerate has put it around the objective."""
        return self.accelerator.autocast() if is_sharded(self.accelerator) else nullcontext()

    def make(
        self, update: int, source: Iterator[Batch], done: Done
    ) -> tuple[dict[str, float], Finding | None]:
        """Makes update number `update`, counted from 0; returns its metrics, and what was not finite, if anything."""
        self.objective.train()
        sums = Sums()
        seen: list[tuple[list[str], Tensor]] = []
        for micro in range(self.config.accumulation):
            batch = next(source)
            self._account(batch, sums)
            synchronised = micro + 1 == self.config.accumulation
            total = self._micro_batch(batch, update, sums, synchronised=synchronised)
            if total is not None:
                seen.append(([u.id for u in batch.utterances], total))
        return self._finish(update, sums, seen, done)

    def _account(self, batch: Batch, sums: Sums) -> None:
        sums.add("batches", 1.0)
        sums.add("audio_s", batch.audio_s)
        sums.add("rejected", float(len(batch.rejected)))
        if batch.rejected:
            append_quarantine(self.run.quarantine, batch.rejected)
            fresh = [r for r in unusable(batch.rejected) if r.item not in self.unusable]
            self._fresh += fresh
            sums.add("fresh_unusable", float(len(fresh)))

    def require_usable(self) -> None:
        """Raises `QuarantineError` if too many recordings are bad: the same ones, at the same update, everywhere."""
        known = list(self.unusable.values())
        check_share(known, len(self.manifest), self.config.max_rejected_share)

    def _micro_batch(
        self, batch: Batch, update: int, sums: Sums, *, synchronised: bool
    ) -> Tensor | None:
        """Forward and backward; returns the loss, or None where no recording of the batch could be read."""
        empty = not batch.utterances
        if empty and self.accelerator.num_processes == 1:
            return None  # counted and listed; the rest of the update goes on without it
        if empty:
            batch = self._stand_in(batch)
        seed = zlib.crc32(f"{self.config.seed}/{batch.cursor}".encode())
        torch.manual_seed(seed)
        step = Step(update, update / self.config.updates, seed)
        with nullcontext() if synchronised else self.accelerator.no_sync(self.objective):
            with self.precision():
                loss: Loss = self.objective(batch, step)
            self.accelerator.backward(loss.total * 0.0 if empty else loss.total)
        if empty:
            return None
        sums.add("total", loss.total)
        sums.add("weight", loss.weight)
        sums.add("utterances", float(loss.used))
        sums.add("unused", float(len(batch.utterances) - loss.used))
        for name, (numerator, denominator) in loss.logs.items():
            sums.add(f"numerator {name}", numerator)
            sums.add(f"denominator {name}", denominator)
        for name, tally in loss.tallies.items():
            sums.add(f"tally {name}", tally)
        return loss.total.detach()

    def _stand_in(self, empty: Batch) -> Batch:
        """A batch for a process that has none: the others wait for its gradient, which is multiplied by 0."""
        following = range(empty.cursor + 1, empty.cursor + 1 + self.plan.batches_per_epoch)
        source = batches(
            self.manifest,
            self.plan,
            following,
            crop_s=self.crop_s,
            normalised=self.task.normalised,
        )
        for batch in source:
            if batch.utterances:
                return batch
        raise TrainingFailed(
            f"No recording of an epoch can be read any more ({empty.rejected[0].detail}); see {self.run.quarantine}."
        )

    def _finish(
        self, update: int, sums: Sums, seen: list[tuple[list[str], Tensor]], done: Done
    ) -> tuple[dict[str, float], Finding | None]:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        # The same number everywhere, so that no rounding makes processes differ in what they do with it.
        if self.accelerator.is_main_process:
            sums.add("norm", norm)
        found = self.exchange.total(sums)
        numbers = {name: float(value) for name, value in found.items() if value.ndim == 0}
        if numbers.get("fresh_unusable"):
            # Before the step: the checkpoint that follows is that of the updates before this one.
            everyone = gathered(self.accelerator, self._fresh)
            self.unusable |= {r.item: r for mine in everyone for r in mine}
            self._fresh = []
            self.require_usable()
        _count(done, numbers)
        weight = numbers.get("weight", 0.0)
        # One division for the whole update; DDP and FSDP average over processes, which `num_processes` undoes.
        scale = self.accelerator.num_processes / weight if weight else 0.0
        total, norm_now = numbers.get("total", 0.0), numbers["norm"] * scale
        if not math.isfinite(total) or not math.isfinite(numbers["norm"]):
            self.optimizer.zero_grad()
            done.nonfinite += 1
            done.nonfinite_in_a_row += 1
            done.unused += round(numbers["utterances"])
            done.utterances -= round(numbers["utterances"])
            return {"skipped": 1.0}, self._not_finite(update, total, numbers["norm"], seen)
        done.nonfinite_in_a_row = 0
        if not weight:
            self.optimizer.zero_grad()
            done.skipped += 1
            return {"skipped": 1.0}, None
        self._step(
            update, gradients, scale * min(1.0, self.config.max_grad_norm / (norm_now + 1e-6))
        )
        logs = {
            name.removeprefix("numerator "): value
            / numbers[name.replace("numerator", "denominator", 1)]
            for name, value in numbers.items()
            if name.startswith("numerator ")
            and numbers[name.replace("numerator", "denominator", 1)]
        }
        tallies = {
            name.removeprefix("tally "): value
            for name, value in found.items()
            if name.startswith("tally ")
        }
        if self.task.summarise is not None:
            logs |= self.task.summarise(tallies)
        rate = self.optimizer.param_groups[0]["lr"]
        return {"loss": total / weight, "grad_norm": norm_now, "learning_rate": rate, **logs}, None

    def _step(self, update: int, gradients: list[Tensor], factor: float) -> None:
        for gradient in gradients:
            gradient.mul_(factor)
        share = learning_rate_share(update, self.config) * self.rate
        for group in self.optimizer.param_groups:
            frozen = update < group.get("from_update", 0)
            group["lr"] = 0.0 if frozen else group["peak"] * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(update)

    def _not_finite(
        self, update: int, total: float, norm: float, seen: list[tuple[list[str], Tensor]]
    ) -> Finding:
        """Writes down the recordings of an update that is not finite, of all processes; the worst ones lead."""
        mine = [(ids, math.isfinite(float(value))) for ids, value in seen]
        everyone = [part for process in gathered(self.accelerator, mine) for part in process]
        # A loss that is NaN names its micro-batches; a gradient alone could be of any.
        suspects = [ids for ids, fine in everyone if not fine] or [ids for ids, _ in everyone]
        names = [name for ids in suspects for name in ids]
        what = "gradient norm" if math.isfinite(total) else "loss"
        value = norm if math.isfinite(total) else total
        line = {"update": update + 1, what: str(value), "utterances": names}
        if self.accelerator.is_main_process:
            file = self.run.path / NONFINITE
            with disk_full_is_explained(file), file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")
        listing = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        return Finding(
            "not finite",
            f"The {what} of update {update + 1} is {value}; its batch holds {listing} ({NONFINITE} lists all"
            f" {len(names)}).",
            {what.replace(" ", "_"): value},
            onset=update + 1,
            advice="Look at these recordings, or start a new --out with a lower learning_rate.",
        )


def _count(done: Done, numbers: dict[str, float]) -> None:
    done.batches += round(numbers.get("batches", 0.0))
    done.utterances += round(numbers.get("utterances", 0.0))
    done.rejected += round(numbers.get("rejected", 0.0))
    done.unused += round(numbers.get("unused", 0.0))
    done.audio_s += numbers.get("audio_s", 0.0)
