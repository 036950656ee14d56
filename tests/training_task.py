"""The pretraining objective on a tiny wav2vec 2.0, as a task for the training loop. Holds no tests."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn
from transformers.utils import logging

from tests import tiny
from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.config import Training
from thaitool.data.loader import Batch, in_order
from thaitool.data.manifest import Manifest
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.models.pretraining import perplexities, pretraining_loss
from thaitool.models.representation import representation
from thaitool.models.wav2vec2 import prepare
from thaitool.records import silent
from thaitool.training import loop, rollback
from thaitool.training.loop import Loss, Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.ranks import on_main_first
from thaitool.training.run_dir import NOT_COMPUTED, RunDir, open_run
from thaitool.training.watch import Limits, Watch, untrained_parts


class Objective(nn.Module):
    """Loss and tallies of a batch; the probe's metrics with `probe`."""

    def __init__(self, seed: int = 0, **prepared: Any) -> None:
        super().__init__()
        self.model = tiny.pretraining_model(seed, dropout=0.0)
        prepare(self.model, **prepared)

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        out = pretraining_loss(
            self.model,
            batch.audio,
            batch.audio_lengths,
            generator=torch.Generator().manual_seed(0 if step is None else step.seed),
            temperature=None if step is None else 2.0 * 0.25**step.share,
        )
        n = float(out.masked)
        if probe:
            hidden = self.model.wav2vec2(batch.audio).last_hidden_state
            found = representation(hidden.flatten(0, 1))
            return {f"probe_{name}": value for name, value in found.items()} | {
                "probe_contrastive_nats": float(out.contrastive) / n,
                "probe_accuracy": float(out.correct) / n,
                "probe_identical_share": float(out.twins) / out.negatives,
            }
        logs = {
            "contrastive_nats": (out.contrastive, n),
            "accuracy": (out.correct, n),
            "identical_share": (out.twins, float(out.negatives)),
        }
        tallies = {"code": out.code_counts, "prob": out.prob_sums}
        return Loss(out.total, n, logs, len(batch.utterances), tallies)


def summarise(tallies: dict[str, torch.Tensor]) -> dict[str, float]:
    return {
        f"{kind}_perplexity_g{group}": value
        for kind, tally in tallies.items()
        for group, value in enumerate(perplexities(tally))
    }


def settings(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "updates": 6,
        "batch_s": 16.0,
        "learning_rate": 1e-3,
        "device": "cpu",
        "eval_every": 1000,
        "save_every": 10,
        "probe_every": 20,
    }
    return Training(**{**values, **changes})


@dataclass
class Setup:
    """What `go` needs; a test changes what it is about."""

    manifest: Manifest
    out: Path
    config: Training
    objective: nn.Module
    watch: Watch | None = None

    def task(self) -> Task:
        objective: Any = self.objective
        probe_batch = next(in_order(self.manifest, batch_s=16.0))
        groups = [
            {
                "name": "all",
                "params": [*objective.parameters()],
                "lr": self.config.learning_rate,
            }
        ]

        def save_whole(path: Path, weights: dict[str, torch.Tensor]) -> None:
            named = {name.removeprefix("model."): value for name, value in weights.items()}
            objective.model.save_pretrained(path, state_dict=named)

        return Task(
            objective,
            groups,
            evaluate=dict,
            save=objective.model.save_pretrained,
            save_whole=save_whole,
            summarise=summarise,
            probe=lambda: objective(probe_batch, None, probe=True),
            watch=self.watch,
            untrained=lambda: untrained_parts(objective.model),
        )


def watch(config: Training, **changes: Any) -> Watch:
    return Watch(Limits.of_run(config.updates, config.warmup_share), **changes)


def go(setup: Setup) -> TrainingResult:
    config = setup.config
    fingerprint = config.model_dump(exclude=NOT_COMPUTED)
    accelerator = make_accelerator(config)
    on_main_first(accelerator, lambda: open_run(setup.out, fingerprint, "test: {}\n"))
    return train(
        setup.task(),
        manifest=setup.manifest,
        plan=make_plan(setup.manifest.duration_s, batch_s=config.batch_s, seed=config.seed),
        config=config,
        run=RunDir(setup.out),
        accelerator=accelerator,
        progress=silent,
        description="test",
    )


def long_clips(folder: Path, count: int = 24) -> Manifest:
    """Speech-like enough: syllables of changing pitch, 3 to 4 s, so that a frame has a hundred others beside it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        parts = []
        for _ in range(int(rng.integers(12, 17))):
            t = np.arange(4_000) / SAMPLE_RATE_HZ
            tone = np.sin(2 * np.pi * rng.uniform(80, 600) * t * (1 + rng.uniform(-0.5, 0.5) * t))
            parts.append(rng.uniform(0.1, 0.4) * tone * np.hanning(len(t)))
        samples = np.concatenate(parts)
        samples += 0.02 * rng.standard_normal(len(samples))
        soundfile.write(folder / f"long-{number:02d}.flac", samples, SAMPLE_RATE_HZ)
    return scan([folder])[0]


def main() -> None:
    """`python -m tests.training_task OPTIONS.json`: the same in a process of its own, to be launched or killed."""
    options = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    config = settings(**options.get("config", {}))
    objective = Recorded(
        Path(options["out"] + ".seen"), options.get("stop_at"), **options.get("objective", {})
    )
    judge = watch(config, **options["watch"]) if "watch" in options else None
    with cut_short(options.get("kill_at")):
        try:
            go(
                Setup(
                    scan([Path(options["audio"])])[0],
                    Path(options["out"]),
                    config,
                    objective,
                    judge,
                )
            )
        except Stopped:
            os._exit(0)


class Stopped(Exception):
    """All processes leave before this update, without a word to each other."""


class Recorded(Objective):
    """Writes down which recordings each process takes, by update."""

    def __init__(self, file: Path, stop_at: int | None, **prepared: Any) -> None:
        super().__init__(**prepared)
        self.file, self.stop_at = file, stop_at

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        if step is not None and step.update == self.stop_at:
            raise Stopped
        if step is not None:
            line = [step.update, batch.cursor, [u.id for u in batch.utterances]]
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
        return super().forward(batch, step, probe=probe)


@contextmanager
def cut_short(moment: str | None) -> Iterator[None]:
    """SIGKILL at a moment inside a rollback or a checkpoint: `MODULE.FUNCTION` or `CLASS.METHOD`, before or after."""
    if moment is None:
        yield
        return
    when, _, where = moment.partition(" ")
    owner, _, name = where.rpartition(".")
    owners: dict[str, Any] = {"loop": loop, "rollback": rollback, "RunDir": RunDir}
    real = getattr(owners[owner], name)

    def killing(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owners[owner], name, killing)
    try:
        yield
    finally:
        setattr(owners[owner], name, real)


if __name__ == "__main__":
    main()
