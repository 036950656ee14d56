"""Multitask instruction training of the speech LLM: ASR, intents, entities, rephrasing; LoRA or frozen LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from thaitool.config import FinetuneConfig
from thaitool.data.loader import Batch, in_order, listed
from thaitool.data.manifest import Manifest, require_trainable
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.data.window import within_window
from thaitool.errors import InputError
from thaitool.models.checkpoint import (
    load_speech_lm,
    locate_base,
    read_base,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.encoders.interface import set_trained
from thaitool.models.features import STORED, FeatureCache
from thaitool.models.processor import IGNORED, ThaiSpeechProcessor
from thaitool.records import Progress, silent
from thaitool.text.prompts import task_prompt
from thaitool.training.loop import Loss, Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.run_dir import claim, resolve

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` did."""

    out: Path
    training: TrainingResult
    trained_parameters: int
    parameters: int


class _Objective(nn.Module):
    """Cross entropy of the answers, summed over supervised tokens."""

    def __init__(
        self,
        model: Any,
        processor: ThaiSpeechProcessor,
        *,
        train_encoder: bool,
        kept: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        self.model, self.processor, self.train_encoder = model, processor, train_encoder
        self.kept = kept

    def train(self, mode: bool = True) -> _Objective:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.train_encoder:
            self.model.audio_tower.eval()
        return self

    def forward(self, batch: Batch, step: Step | None) -> Loss:  # noqa: ARG002
        """One micro-batch; every row is asked for the task it is labelled for."""
        device = self.model.device
        tokens = self.processor.tokens(
            [task_prompt(u.task or "asr") for u in batch.utterances],
            batch.audio_lengths.tolist(),
            [u.label or "" for u in batch.utterances],
        )
        assert tokens.labels is not None  # noqa: S101 (answers were given; narrows the type)
        supervised = int((tokens.labels[:, 1:] != IGNORED).sum())
        audio: dict[str, Any] = (
            {
                "input_values": batch.audio.to(device),
                "input_lengths": batch.audio_lengths.to(device),
            }
            if self.kept is None
            else {"audio_frames": self.kept.encode(batch.audio, batch.audio_lengths)}
        )
        out = self.model(
            input_ids=tokens.input_ids.to(device),
            attention_mask=tokens.attention_mask.to(device),
            **audio,
            labels=tokens.labels.to(device),
            num_items_in_batch=1,
        )
        logs = {"answer_nats": (float(out.loss.detach()), float(supervised))}
        return Loss(out.loss, float(supervised), logs, used=len(batch.utterances))


def run(config: FinetuneConfig, progress: Progress = silent) -> FinetuneResult:
    """Trains, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: data or model is not what it must be, or `out` holds another run.
    """
    model_path = resolve(config.model)
    base = read_base(model_path)
    train_set, rejected = _read(config, "train")
    dev_set, dev_rejected = _read(config, "dev")
    require_trainable(train_set, allowed=config.allow_untrainable)
    accelerator = make_accelerator(config.train)
    torch.manual_seed(config.train.seed)
    dtype = getattr(torch, config.llm_dtype)
    model, processor = load_speech_lm(model_path, llm=config.llm, dtype=dtype)
    groups = _prepare(model, config)
    kept = _kept_frames(config, model)
    inputs: dict[str, str | None] = {
        "model": weights_sha256(model_path),
        "llm": base["sha256"],
        "processor": processor.sha256(),
    }
    if kept is not None:
        inputs["frames"] = str(STORED)  # rounded, so that a run keeps to them or does without
    longest, limit = model.audio_tower.longest_samples, config.train.max_rejected_share
    train_set, too_long = within_window(train_set, longest, max_rejected_share=limit)
    dev_set, dev_too_long = within_window(dev_set, longest, max_rejected_share=limit)
    rejected += [*dev_rejected, *too_long, *dev_too_long]
    out = claim(
        accelerator,
        config,
        "finetune",
        manifest=train_set,
        inputs=inputs,
        paths=("out", "data", "model", "llm", "feature_cache"),
        rejected=rejected,
    )
    llm = locate_base(model_path, config.llm)
    objective = _Objective(model, processor, train_encoder=config.unfreeze_encoder, kept=kept)
    training = train(
        Task(
            objective,
            groups,
            evaluate=lambda: evaluate(objective, dev_set, config.train.batch_s, out.quarantine),
            save=lambda path: _save(path, model, processor, llm, base["sha256"]),
            better=("answer_nats", -1),
            normalised=model.audio_tower.normalises,
        ),
        manifest=train_set,
        plan=make_plan(train_set.duration_s, batch_s=config.train.batch_s, seed=config.train.seed),
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description="finetune",
    )
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for g in groups for p in g["params"])
    return FinetuneResult(config.out, training, trained, total)


def _kept_frames(config: FinetuneConfig, model: Any) -> FeatureCache | None:
    if config.feature_cache is None:
        return None
    precision = config.train.mixed_precision
    return FeatureCache(config.feature_cache, model.audio_tower, precision=precision)


def _save(
    path: Path, model: Any, processor: ThaiSpeechProcessor, llm: Path, llm_sha256: str
) -> None:
    save_checkpoint(
        path,
        config=model.config,
        audio_tower=model.audio_tower,
        projector=model.multi_modal_projector,
        processor=processor,
        llm=llm,
        llm_sha256=llm_sha256,
        language_model=model.language_model,
    )


def _read(config: FinetuneConfig, split: str) -> tuple[Manifest, list[Any]]:
    manifest, rejected = scan(
        [config.data], split=split, max_rejected_share=config.train.max_rejected_share
    )
    tasks = manifest.column("task").to_pylist()
    chosen = manifest.select(np.array([t in config.tasks for t in tasks]))
    if missing := [t for t in config.tasks if t not in tasks]:
        raise InputError(
            f"{config.data} must have {split} rows for every task asked for, but has none for {', '.join(missing)}."
        )
    return chosen, rejected


def _prepare(model: Any, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Freezes and adapts; returns the optimizer groups."""
    model.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        if not hasattr(model.language_model, "peft_config"):
            model.language_model = get_peft_model(
                model.language_model,
                LoraConfig(
                    r=config.lora_rank,
                    lora_alpha=config.lora_alpha,
                    target_modules=config.lora_targets,
                    task_type="CAUSAL_LM",
                ),
            )
        rank = model.language_model.peft_config["default"].r
        if rank != config.lora_rank:
            raise InputError(
                f"{config.model} has a LoRA adapter of rank {rank}, which goes on being trained, but lora_rank is"
                f" {config.lora_rank}; set it to {rank}."
            )
        lora = [p for n, p in model.language_model.named_parameters() if "lora_" in n]
        for p in lora:
            p.requires_grad_(True)
        groups.append({"name": "lora", "params": lora, "lr": config.train.learning_rate})
    model.multi_modal_projector.requires_grad_(True)
    projector = list(model.multi_modal_projector.parameters())
    groups.append({"name": "projector", "params": projector, "lr": config.projector_learning_rate})
    if config.unfreeze_encoder:
        encoder = set_trained(model.audio_tower, transformer=True, convolutions=True)
        groups.append({"name": "encoder", "params": encoder, "lr": config.encoder_learning_rate})
    return groups


def evaluate(
    objective: _Objective, dev_set: Manifest, batch_s: float, ledger: Path
) -> dict[str, float]:
    """Cross entropy per answer token on held-out rows, over all tasks and per task."""
    nats, tokens = 0.0, 0.0
    source = in_order(dev_set, batch_s=batch_s, normalised=objective.model.audio_tower.normalises)
    for batch in listed(source, ledger):
        n, d = objective(batch, None).logs["answer_nats"]
        nats, tokens = nats + n, tokens + d
    if not tokens:
        raise InputError("Finetuning is judged on the dev split, but its audio could not be read.")
    return {"answer_nats": nats / tokens}
