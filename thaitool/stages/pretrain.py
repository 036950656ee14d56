"""Unlabelled audio to a wav2vec 2.0 encoder, new or continued (arXiv:2509.14804, XLSR-Thai). Needs no text."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2ForPreTraining

from thaitool.config import PretrainConfig
from thaitool.data.loader import Batch, in_order, listed
from thaitool.data.manifest import Manifest, scan
from thaitool.data.plan import make_plan
from thaitool.errors import InputError
from thaitool.models.checkpoint import weights_sha256
from thaitool.models.encoder import feature_extractor, load_pretraining, new_config
from thaitool.models.pretraining import PretrainingLoss, pretraining_loss
from thaitool.records import Progress, silent
from thaitool.training.loop import Loss, Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.run_dir import begin, resolve

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PretrainResult:
    """What `pretrain` did."""

    out: Path
    hours: float
    rejected: int
    training: TrainingResult


class _Objective(nn.Module):
    """Contrastive plus diversity loss of a batch, summed over masked frames."""

    def __init__(self, model: Any, gumbel_start: float, gumbel_end: float) -> None:
        super().__init__()
        self.model = model
        self.gumbel = (gumbel_start, gumbel_end)

    def forward(self, batch: Batch, step: Step | None) -> Loss:
        """Training with a step, evaluation (best code, masks fixed by the batch's own number) without."""
        device = self.model.device
        start, end = self.gumbel
        temperature = None if step is None else start * (end / start) ** step.share
        seed = zlib.crc32(f"eval/{batch.cursor}".encode()) if step is None else step.seed
        out: PretrainingLoss = pretraining_loss(
            self.model,
            batch.audio.to(device),
            batch.audio_lengths.to(device),
            generator=torch.Generator().manual_seed(seed),
            temperature=temperature,
        )
        n = float(out.masked)
        logs = {
            "contrastive_nats": (out.contrastive, n),
            "accuracy": (float(out.correct), n),
            "code_perplexity": (out.code_perplexity * n, n),
        }
        return Loss(out.total, n, logs, used=len(batch.utterances))


def run(config: PretrainConfig, progress: Progress = silent) -> PretrainResult:
    """Trains, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: no audio, a model that is none, or an output directory that holds another run.
        QuarantineError: too many unusable recordings.
        Interrupted, TrainingFailed: see `thaitool.training.loop.train`.
    """
    limit = config.train.max_rejected_share
    manifest, rejected = scan(config.data, split="train", max_rejected_share=limit)
    train_set, dev_set = hold_out(manifest, config.dev_share)
    init = resolve(config.init) if config.init else None
    accelerator = make_accelerator(config.train)
    torch.manual_seed(config.train.seed)
    shape = new_config(**config.encoder.model_dump())
    model = load_pretraining(init) if init else Wav2Vec2ForPreTraining(shape)
    out = begin(
        config,
        "pretrain",
        manifest=manifest,
        inputs={"init": weights_sha256(init) if init else None},
        paths=("out", "data", "init"),
        rejected=rejected,
        main=accelerator.is_main_process,
    )
    objective = _Objective(model, config.gumbel_start, config.gumbel_end)

    def save(path: Path) -> None:
        model.save_pretrained(path)
        feature_extractor(model.config).save_pretrained(path)

    training = train(
        Task(
            objective,
            [
                {
                    "name": "encoder",
                    "params": [*model.parameters()],
                    "lr": config.train.learning_rate,
                }
            ],
            evaluate=lambda: _evaluate(objective, dev_set, config.train.batch_s, out.quarantine),
            save=save,
        ),
        manifest=train_set,
        plan=make_plan(
            np.minimum(train_set.duration_s, config.crop_s),
            batch_s=config.train.batch_s,
            seed=config.train.seed,
        ),
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description="pretrain",
        crop_s=config.crop_s,
    )
    return PretrainResult(config.out, manifest.hours, len(rejected), training)


def hold_out(manifest: Manifest, share: float) -> tuple[Manifest, Manifest]:
    """Splits off whole speakers, or whole sources where speakers are unknown, for validation.

    Raises:
        InputError: there is one speaker or source only, so that nothing can be held out.
    """
    speakers = manifest.table.column("speaker").to_pylist()
    groups = [
        s or i
        for s, i in zip(speakers, manifest.table.column("source_id").to_pylist(), strict=True)
    ]
    # By rank of a hash, not by its value: a small set must still hold out at least one group.
    ranked = sorted(set(groups), key=lambda g: zlib.crc32(str(g).encode()))
    if share > 0 and len(ranked) < 2:
        raise InputError(
            f"Validation needs two speakers or recordings at least, but the data has {len(ranked)}; set dev_share: 0."
        )
    held = set(ranked[: math.ceil(share * len(ranked))]) if share > 0 else set()
    is_dev = np.array([g in held for g in groups])
    return manifest.select(~is_dev), manifest.select(is_dev)


def _evaluate(
    objective: _Objective, dev_set: Manifest, batch_s: float, ledger: Path
) -> dict[str, float]:
    if len(dev_set) == 0:
        return {}
    sums: dict[str, tuple[float, float]] = {}
    for batch in listed(in_order(dev_set, batch_s=batch_s), ledger):
        for name, (n, d) in objective(batch, None).logs.items():
            a, b = sums.get(name, (0.0, 0.0))
            sums[name] = (a + n, b + d)
    if not sums:
        raise InputError(
            f"None of the {len(dev_set)} held-out recordings could be read; see {ledger}."
        )
    return {name: n / d for name, (n, d) in sums.items()}
