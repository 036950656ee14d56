"""Multitask instruction training of the speech LLM: ASR, intents, entities, rephrasing; LoRA or frozen LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from thaitool.config import FinetuneConfig
from thaitool.errors import EnvironmentProblem, Interrupted, QuarantineError, TrainingFailed
from thaitool.files import write_json
from thaitool.models.checkpoint import (
    load_speech_lm,
    locate_base,
    read_base,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.drafter import require_recogniser, save_drafter
from thaitool.models.features import STORED, FeatureCache
from thaitool.records import Progress, silent
from thaitool.stages.finetune_report import write_finetune_report
from thaitool.text.tasks import tasks_sha256
from thaitool.training.accounting import planned_rows, require_rows
from thaitool.training.auxiliary import CtcHead, load_head, new_head, remark_ctc
from thaitool.training.drafts import LEDGER, Drafts, check_drafts, draft_all
from thaitool.training.finetune import CTC, Objective, first_batch
from thaitool.training.finetune_data import (
    Fitting,
    fitting,
    known_tasks,
    plan_batches,
    read_sets,
    row_tasks,
    task_counts,
)
from thaitool.training.finetune_evaluate import evaluate, require_changeable
from thaitool.training.finetune_held_out import HeldOut, closed_sets, hold_out, prepared
from thaitool.training.finetune_judge import evaluations, remark, selection
from thaitool.training.finetune_needs import needs, timed
from thaitool.training.gradients import gradient_report, require_reach, told
from thaitool.training.leaks import check_leaks, record_leaks
from thaitool.training.loop import Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.ranks import gathered, is_sharded, on_main_first
from thaitool.training.run_dir import RunDir, claim, resolve
from thaitool.training.trainable import CTC_HEAD, make_trainable

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor, nn

    from thaitool.data.manifest import Manifest
    from thaitool.data.plan import BatchPlan

#: Called before training with what the run starts from and will need, as rows of (name, text).
Announce = Callable[[Sequence[tuple[str, str]]], None]
#: Which loss moves which part, as measured before update 1.
GRADIENTS = "gradients.json"


def _quiet(rows: Sequence[tuple[str, str]]) -> None:
    """An `Announce` that says nothing."""


@dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` did."""

    out: Path
    training: TrainingResult
    trained_parameters: int
    parameters: int
    planned: dict[str, int]
    """Rows of each task in all batches of the plan, of all processes together."""
    drawn: dict[str, int]
    """Those of them that were learned from."""


@dataclass(frozen=True)
class _Parts:
    """What a run is made of, before it claims its directory."""

    objective: Objective
    groups: list[dict[str, Any]]
    data: Fitting
    plan: BatchPlan
    held: HeldOut
    llm: Path
    drafter: Path | None
    inputs: dict[str, str | None]
    """What the fingerprint holds besides configuration and training rows."""

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for group in self.groups for p in group["params"]]


def run(
    config: FinetuneConfig, progress: Progress = silent, announce: Announce = _quiet
) -> FinetuneResult:
    """Trains, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: data or model is not what it must be, training rows give held-out rows away, or `out` holds another
            run.
        EnvironmentProblem: the run cannot fit into memory.
        TrainingFailed: a loss reaches nothing that is trained.
    """
    accelerator = make_accelerator(config.train)
    parts = _build(config, sharded=is_sharded(accelerator))
    require_changeable(config, parts.held, parts.objective, parts.trained)
    data = parts.data
    leakage = on_main_first(accelerator, lambda: check_leaks(config, data.train, data.dev))
    out = claim(
        accelerator,
        config,
        "finetune",
        manifest=data.train,
        inputs=parts.inputs,
        paths=("out", "data", "dev_data", "model", "llm", "feature_cache", "task_file", "drafter"),
        rejected=data.rejected,
    )
    if leakage is not None:  # in the first process
        record_leaks(out, leakage)
    if not accelerator.is_main_process:
        announce = _quiet
    leaks = [] if leakage is None else leakage.lines
    if not out.finished:
        announce([*_about(data, config), *(("leakage", line) for line in leaks)])
        announce(needs(parts.objective, data, parts.plan, parts.trained, accelerator))
        parts = _with_drafts(config, parts, out, accelerator, progress, announce)
        if not out.last_update:
            announce(told(_gradients(parts, out, accelerator)))
    try:
        watched = timed(progress, announce, after=config.ctc_first_updates)
        training = _train(config, parts, out, accelerator, watched)
        planned, drawn = _rows(config, parts, out, training)
    except (TrainingFailed, QuarantineError, Interrupted) as error:
        if accelerator.is_main_process:
            write_finetune_report(config, out, parts.held, {}, [str(error)])
        raise
    if accelerator.is_main_process:
        account = {"planned": training.planned | planned, "done": training.done | drawn}
        write_finetune_report(config, out, parts.held, account, [*training.notes, *leaks])
    return FinetuneResult(
        config.out,
        training,
        trained_parameters=sum(p.numel() for p in parts.trained),
        parameters=sum(p.numel() for p in parts.objective.parameters()),
        planned=planned,
        drawn=drawn,
    )


def _build(config: FinetuneConfig, *, sharded: bool) -> _Parts:
    """Reads the data, loads the model, and freezes and adapts it."""
    if sharded:
        _require_alike(config)
    model_path = resolve(config.model)
    base = read_base(model_path)
    tasks = known_tasks(config, model_path)
    sets = read_sets(config, tasks)
    torch.manual_seed(config.train.seed)
    dtype = getattr(torch, config.llm_dtype)
    model, processor = load_speech_lm(model_path, llm=config.llm, dtype=dtype)
    data = fitting(config, sets, tasks, model.audio_tower, model.config, processor)
    ctc = _ctc_head(config, model, model_path, data.train)
    groups = make_trainable(model, config, ctc)
    kept = None
    if config.feature_cache is not None:
        precision = config.train.mixed_precision
        kept = FeatureCache(config.feature_cache, model.audio_tower, precision=precision)
    inputs: dict[str, str | None] = {
        "model": weights_sha256(model_path),
        "llm": base["sha256"],
        "processor": processor.sha256(),
        "tasks": tasks_sha256({name: tasks[name] for name in config.tasks}),
        "held_out": data.dev.digest(),
    }
    if kept is not None:
        inputs["frames"] = str(STORED)  # rounded, so that a run keeps to them or does without
    drafter = None if config.drafter is None else resolve(config.drafter)
    if drafter is not None:
        require_recogniser(drafter)
        inputs["drafter"] = weights_sha256(drafter)
    mine = {name: tasks[name] for name in config.tasks}
    held = hold_out(data.dev, config, mine, closed_sets=closed_sets(data.train, data.dev, mine))
    return _Parts(
        Objective(
            model,
            processor,
            config,
            tasks,
            contexts=sets.contexts,
            kept=kept,
            ctc=ctc,
            sharded=sharded,
        ),
        groups,
        data,
        plan_batches(data.train, data.tokens, config),
        held,
        locate_base(model_path, config.llm),
        drafter,
        inputs,
    )


def _train(
    config: FinetuneConfig,
    parts: _Parts,
    out: RunDir,
    accelerator: Accelerator,
    progress: Progress,
) -> TrainingResult:
    objective, held = parts.objective, parts.held
    # A run that was stopped in an evaluation makes it before it goes on.
    objective.update = out.last_update

    def judge() -> dict[str, float]:
        found = evaluate(objective, held, config, out, accelerator)
        # Of the first process for all: rounding must not make them choose different checkpoints.
        return gathered(accelerator, found)[0]

    def remarks(metrics: dict[str, float]) -> list[str]:
        rows = out.metrics()
        earlier = evaluations(rows, before=objective.update)
        return [*remark(metrics, earlier, config.select), *remark_ctc(rows)]

    return train(
        Task(
            objective,
            parts.groups,
            evaluate=judge,
            save=lambda path: _save(path, parts, None),
            save_whole=lambda path, weights: _save(path, parts, weights),
            better=selection(config.select, held.tasks),
            normalised=objective.model.audio_tower.normalises,
            summarise=objective.summarise,
            remark=remarks,
        ),
        manifest=parts.data.train,
        plan=parts.plan,
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description="finetune",
    )


def _require_alike(config: FinetuneConfig) -> None:
    """Raises `EnvironmentProblem` for what makes processes call the layers that they share unequally often."""
    if config.feature_cache is not None:
        raise EnvironmentProblem(
            "feature_cache cannot be used with --use_fsdp: a process that finds its frames would leave out layers that"
            " the others wait for. Leave one of them out."
        )
    if config.ctc_first_updates:
        raise EnvironmentProblem(
            "ctc_first_updates cannot be used with --use_fsdp, under which an LLM that does not run has no gradients"
            " for the optimizer to count. Leave one of them out."
        )


def _ctc_head(
    config: FinetuneConfig, model: Any, model_path: Path, train_set: Manifest
) -> CtcHead | None:
    """The head of the model that training starts from, or a new one."""
    if not config.ctc_weight:
        return None
    width = model.config.text_config.hidden_size
    # Again: what was loaded may have drawn numbers.
    torch.manual_seed(config.train.seed)
    return load_head(model_path, width) or new_head(width, train_set)


def _gradients(parts: _Parts, out: RunDir, accelerator: Accelerator) -> dict[str, dict[str, float]]:
    """Which loss moves which part, on the first batch that can be read, kept in the run directory.

    Raises:
        TrainingFailed: a loss reaches nothing, or nothing reaches a part.
    """
    batch = first_batch(parts.objective, parts.data.train, parts.plan)
    parts.objective.to(accelerator.device).train()
    torch.manual_seed(0)
    named = {group["name"]: group["params"] for group in parts.groups}
    with accelerator.autocast():
        report = gradient_report(parts.objective.losses(batch, Step(0, 0.0, 0)), named)
    if accelerator.is_main_process:
        ids = [u.id for u in batch.utterances]
        write_json(out.path / GRADIENTS, {"utterances": ids, "norms": report})
    require_reach(report, {CTC: CTC_HEAD})
    return report


def _about(data: Fitting, config: FinetuneConfig) -> list[tuple[str, str]]:
    counts = {"training": task_counts(data.train), "held out": task_counts(data.dev)}
    return [
        (name, ", ".join(f"{task} {found[task]:,}" for task in config.tasks) + " rows")
        for name, found in counts.items()
    ]


def _rows(
    config: FinetuneConfig,
    parts: _Parts,
    out: RunDir,
    training: TrainingResult,
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows by task as planned, and as learned from.

    Raises:
        TrainingFailed: they differ by more than the rows that could not be used.
    """
    n_batches = round(training.planned["batches"])
    kinds = row_tasks(parts.data.train, config)
    counts = planned_rows(parts.plan, n_batches, kinds, len(config.tasks)).tolist()
    planned = dict(zip(config.tasks, counts, strict=True))
    rows = out.metrics()
    drawn = {task: round(sum(row.get(f"rows_{task}", 0) for row in rows)) for task in config.tasks}
    require_rows(planned, drawn, training.done)
    return planned, drawn


def _with_drafts(
    config: FinetuneConfig,
    parts: _Parts,
    out: RunDir,
    accelerator: Accelerator,
    progress: Progress,
    announce: Announce,
) -> _Parts:
    """If asked for, drafts of all rows go into every prompt; the first process makes them, the others read them."""
    recogniser = parts.drafter
    if recogniser is None:
        return parts
    sets = {"training": parts.data.train, "held out": parts.data.dev}

    def make() -> Drafts:
        return draft_all(
            recogniser,
            list(sets.values()),
            out.path / LEDGER,
            batch_s=config.train.batch_s,
            progress=progress,
            device=accelerator.device,
        )

    def first() -> tuple[Drafts, list[tuple[str, str]]]:
        # The check is made here, where the others hear of its failure; else they would wait for ever.
        drafts = make()
        checked = not out.last_update
        return drafts, check_drafts(drafts, sets, device=accelerator.device) if checked else []

    drafts, lines = on_main_first(accelerator, first) or (make(), [])
    if lines:
        announce(lines)
    parts.objective.prepare = drafts.put
    return replace(parts, held=prepared(parts.held, parts.objective.tasks, drafts.put))


def _save(path: Path, parts: _Parts, weights: dict[str, Tensor] | None) -> None:
    """Of the objective's own weights, or of whole ones by their names in it."""
    objective = parts.objective
    model = objective.model
    save_checkpoint(
        path,
        config=model.config,
        audio_tower=model.audio_tower,
        projector=model.multi_modal_projector,
        processor=objective.processor,
        llm=parts.llm,
        llm_sha256=parts.inputs["llm"] or "",
        language_model=model.language_model,
        tasks=objective.tasks,
        weights=None if weights is None else _below(weights, "model."),
    )
    if objective.ctc is not None:
        head = objective.ctc.state_dict() if weights is None else _below(weights, "ctc.")
        objective.ctc.save(path, head)
    if parts.drafter is not None:
        save_drafter(path, parts.drafter, parts.inputs["drafter"] or "")


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
