"""Unlabelled audio to a wav2vec 2.0 encoder, new or continued (arXiv:2509.14804, XLSR-Thai). Needs no text."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Wav2Vec2ForPreTraining

from thaitool.data.manifest import Manifest, open_manifest
from thaitool.data.plan import BatchPlan, make_plan
from thaitool.data.prepare import prepare
from thaitool.errors import Interrupted, QuarantineError, TrainingFailed
from thaitool.models.checkpoint import weights_sha256
from thaitool.models.encoder import feature_extractor, load_pretraining, new_config
from thaitool.models.estimate import describe, estimate
from thaitool.models.wav2vec2 import prepare as prepare_model
from thaitool.records import Progress, silent
from thaitool.reports.training import training_report
from thaitool.reports.write import write_report
from thaitool.training.loop import Task, TrainingResult, train
from thaitool.training.pretraining import (
    Objective,
    evaluate,
    held_out,
    probe_batch,
    summarise,
)
from thaitool.training.ranks import make_accelerator, on_main_first
from thaitool.training.rollback import read_rollbacks
from thaitool.training.run_dir import MANIFEST, RUN, RunDir, begin, resolve
from thaitool.training.watch import Limits, Watch, untrained_parts

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.config import PretrainConfig

#: Called once before training with what the run will need, as rows of (name, text).
Announce = Callable[[Sequence[tuple[str, str]]], None]


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` did."""

    out: Path
    hours: float
    rejected: int
    training: TrainingResult

    @property
    def rollbacks(self) -> list[str]:
        """What the monitors saw, once for each return to an older checkpoint."""
        return [entry["sentence"] for entry in self.training.rollbacks]


def run(
    config: PretrainConfig,
    progress: Progress = silent,
    announce: Announce = lambda _: None,
) -> PretrainResult:
    """Trains, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: no audio, a model that is none, or an output directory that holds another run.
        QuarantineError: too many unusable recordings.
        Interrupted, TrainingFailed: see `thaitool.training.loop.train`.
    """
    init = resolve(config.init) if config.init else None
    accelerator = make_accelerator(config.train)
    torch.manual_seed(config.train.seed)
    model = _model(config, init)
    out, manifest = _claim(config, init, accelerator, progress)
    is_replay = manifest.part >= len(config.data)
    is_dev = _held_out(config, manifest)
    train_set = manifest.select(~is_dev)
    dev_set, dev_replay = (manifest.select(is_dev & (is_replay == r)) for r in (False, True))
    plan, hours = _plan(config, train_set)
    longest_s = min(float(train_set.duration_s.max()), config.crop_s)
    announce(_needs(config, model.config, accelerator, hours, longest_s))
    task = _task(config, Objective(model, config), out, (train_set, dev_set, dev_replay))
    try:
        training = train(
            task,
            manifest=train_set,
            plan=plan,
            config=config.train,
            run=out,
            accelerator=accelerator,
            progress=progress,
            description="pretrain",
            crop_s=config.crop_s,
        )
    except (TrainingFailed, QuarantineError, Interrupted) as error:
        # A run that ended early is the one whose curves are looked at.
        if accelerator.is_main_process:
            _report(config, out, {}, str(error))
        raise
    if accelerator.is_main_process:
        account = {"planned": training.planned, "done": training.done}
        _report(config, out, account)
    n_rejected = len(out.quarantine.read_bytes().splitlines()) if out.quarantine.exists() else 0
    return PretrainResult(config.out, manifest.hours, n_rejected, training)


def _task(
    config: PretrainConfig,
    objective: Objective,
    out: RunDir,
    sets: tuple[Manifest, Manifest, Manifest],
) -> Task:
    """What the loop trains; `sets` are for training, held out, and held out of replay."""
    train_set, dev_set, dev_replay = sets
    model = objective.model
    probed = probe_batch(dev_set if len(dev_set) else train_set, config)

    def scores() -> dict[str, float]:
        found = evaluate(objective, dev_set, out.quarantine)
        return found | evaluate(objective, dev_replay, out.quarantine, prefix="replay_")

    trained = [p for p in model.parameters() if p.requires_grad]
    return Task(
        objective,
        [{"name": "encoder", "params": trained, "lr": config.train.learning_rate}],
        evaluate=scores,
        save=lambda path: _save(model, path),
        save_whole=lambda path, weights: _save(model, path, _without_prefix(weights)),
        summarise=summarise,
        probe=lambda: objective(probed, None, probe=True),
        watch=_watch(config),
        untrained=lambda: untrained_parts(model),
    )


def _claim(
    config: PretrainConfig, init: Path | None, accelerator: Accelerator, progress: Progress
) -> tuple[RunDir, Manifest]:
    """Scans in the first process, and claims the run directory; all then read the manifest from there."""

    def claim() -> None:
        manifest, rejected = prepare(
            config,
            [*config.data, *config.replay],
            max_rejected_share=config.train.max_rejected_share,
            split="train",
            progress=progress,
        )
        _held_out(
            config, manifest
        )  # what cannot be split is refused before the directory is claimed
        begin(
            config,
            "pretrain",
            manifest=manifest,
            inputs={"init": weights_sha256(init) if init else None},
            # Where things lie, and what is done about a collapse, which a run that stopped may change.
            paths=(
                *("out", "data", "replay", "init", "cache", "scan_workers"),
                *("on_collapse", "max_rollbacks"),
            ),
            rejected=rejected,
        )

    on_main_first(accelerator, claim)
    return RunDir(config.out), open_manifest(config.out / MANIFEST)


def _model(config: PretrainConfig, init: Path | None) -> Any:
    shape = new_config(**config.encoder.model_dump())
    model: Any = load_pretraining(init) if init else Wav2Vec2ForPreTraining(shape)
    prepare_model(
        model,
        layerdrop=config.layerdrop,
        feature_grad_scale=config.feature_grad_scale,
        gradient_checkpointing=config.gradient_checkpointing,
        compile=config.compile,
    )
    return model


def _save(model: Any, path: Path, weights: dict[str, Tensor] | None = None) -> None:
    model.save_pretrained(path, state_dict=weights)
    feature_extractor(model.config).save_pretrained(path)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the model has them; the objective holds it as `model`."""
    return {name.removeprefix("model."): value for name, value in weights.items()}


def _watch(config: PretrainConfig) -> Watch:
    limits = Limits.of_run(config.train.updates, config.train.warmup_share, config.negatives)
    return Watch(
        limits,
        continued=config.init is not None,
        on_collapse=config.on_collapse,
        max_rollbacks=config.max_rollbacks,
    )


def _held_out(config: PretrainConfig, manifest: Manifest) -> NDArray[np.bool_]:
    """Which rows are for validation; of data and of replay each their share, as forgetting shows on the latter."""
    is_replay = manifest.part >= len(config.data)
    is_dev = np.zeros(len(manifest), bool)
    for what, mine in (("the data", ~is_replay), ("replay", is_replay)):
        if mine.any():
            is_dev[mine] = held_out(
                manifest.select(mine),
                share=config.dev_share,
                limit_s=3600 * config.dev_hours,
                what=what,
            )
    return is_dev


def _plan(config: PretrainConfig, train_set: Manifest) -> tuple[BatchPlan, float]:
    """The plan, and the hours that an epoch of it holds."""
    duration_s = np.minimum(train_set.duration_s, config.crop_s)
    n_data, n_parts = len(config.data), len(config.data) + len(config.replay)
    hours = np.bincount(train_set.part, weights=duration_s, minlength=n_parts) / 3600
    repeat = np.ones(n_parts)
    repeat[:n_data] = config.weights or 1.0
    of_data, of_replay = float(repeat[:n_data] @ hours[:n_data]), float(hours[n_data:].sum())
    if of_replay:
        share = config.replay_share
        repeat[n_data:] = share / (1 - share) * of_data / of_replay
    plan = make_plan(
        duration_s,
        batch_s=config.train.batch_s,
        seed=config.train.seed,
        part=train_set.part,
        repeat=repeat.tolist(),
    )
    return plan, float(repeat @ hours)


def _needs(
    config: PretrainConfig, shape: Any, accelerator: Accelerator, hours: float, longest_s: float
) -> Sequence[tuple[str, str]]:
    found = estimate(
        shape,
        updates=config.train.updates,
        accumulation=config.train.accumulation,
        batch_s=max(config.train.batch_s, longest_s),  # a longer recording is a batch of its own
        crop_s=config.crop_s,
        processes=accelerator.num_processes,
        keep=config.train.keep,
        checkpointing=config.gradient_checkpointing,
        bf16=config.train.mixed_precision == "bf16",
        device=accelerator.device,
    )
    rows = describe(
        found, device=accelerator.device.type, processes=accelerator.num_processes, hours=hours
    )
    if config.init is None:
        return rows
    return [("continues", f"{config.init}; its shape counts, not that in `encoder`"), *rows]


def _report(
    config: PretrainConfig, out: RunDir, accounting: dict[str, Any], failure: str = ""
) -> None:
    """`report.html`: curves of the monitors, what was planned and done, what went wrong."""
    kept = json.loads((out.path / RUN).read_text("utf-8"))
    rollbacks = [entry.sentence for entry in read_rollbacks(out)]
    report = training_report(
        "pretrain",
        out.metrics(),
        created=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        seed=config.train.seed,
        settings=config.model_dump(mode="json", include={"init", "crop_s", "on_collapse", "train"}),
        accounting=accounting,
        versions=kept["versions"],
        notes=[*rollbacks, *([failure] if failure else [])],
    )
    write_report(report, out.path)
