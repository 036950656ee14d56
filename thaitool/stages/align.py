"""U-Align: train the projector so that speech lies where the LLM's token embeddings lie (arXiv:2509.14804).

Of the LLM only the token table is read, unless `method: asr` asks for the LLM in the loop. The best checkpoint is
chosen by what held-out speech finds or says, never by the loss, because a collapsed alignment has a lower one.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from thaitool.config import AlignConfig
from thaitool.data.manifest import Manifest, require_trainable
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.data.window import within_window
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json, writing_directory
from thaitool.models.align_judge import alarms, verdict
from thaitool.models.align_shown import FOLDER, Shown, write_shown
from thaitool.models.checkpoint import (
    load_llm,
    load_tokenizer,
    new_processor,
    new_speech_lm_config,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.encoders.interface import SpeechEncoder, load_speech_encoder, set_trained
from thaitool.models.features import STORED
from thaitool.models.hub import locate
from thaitool.models.projector import Projector, ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration
from thaitool.models.token_table import load_embedding_table
from thaitool.records import Progress, Rejected, silent
from thaitool.reports.align.build import build_align_report
from thaitool.reports.align.form import write_align_report
from thaitool.training.align import (
    AsrObjective,
    FrontEnd,
    Objective,
    TokenTable,
    trained_layers,
)
from thaitool.training.align_evaluate import evaluate, hold_out
from thaitool.training.align_shown import hear_shown, read_word_times
from thaitool.training.alignable import Alignable, alignable
from thaitool.training.loop import Task, TrainingResult, make_accelerator, train
from thaitool.training.ranks import gathered
from thaitool.training.run_dir import RESULT, RunDir, claim, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from thaitool.models.align_shown import Span
    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.models.speech_lm import ThaiSpeechConfig

__all__ = ["AlignResult", "run", "verdict"]


@dataclass(frozen=True)
class AlignResult:
    """What `align` did; `training` is None for `method: none`."""

    out: Path
    training: TrainingResult | None
    verdict: str
    """The alignment's diagnosis in words."""
    alarms: tuple[str, ...] = ()
    """What is wrong with it, and what to try."""


@dataclass(frozen=True)
class _Model:
    """The parts of a speech LLM without its LLM, and what a checkpoint needs besides."""

    front_end: FrontEnd
    config: ThaiSpeechConfig
    processor: ThaiSpeechProcessor
    tokenizer: Any
    llm: Path
    llm_sha256: str
    language_model: Any
    """None but for `method: asr`."""
    table: torch.Tensor
    """The LLM's token table (V, D), float32; of a loaded LLM its own parameter, in its form."""

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            config=self.config,
            audio_tower=self.front_end.encoder,
            projector=self.front_end.projector,
            processor=self.processor,
            llm=self.llm,
            llm_sha256=self.llm_sha256,
        )


def run(config: AlignConfig, progress: Progress = silent) -> AlignResult:
    """Trains the projector, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: data, encoder or LLM is not what it must be, or `out` holds another run.
    """
    encoder_path, llm = resolve(config.encoder), locate(config.llm)
    limit = config.train.max_rejected_share
    train_set, rejected = scan([config.data], split="train", max_rejected_share=limit)
    dev_set, dev_rejected = scan([config.data], split="dev", max_rejected_share=limit)
    require_trainable(train_set, allowed=config.allow_untrainable)
    accelerator = make_accelerator(config.train)
    model = _build(config, encoder_path, llm)
    fit = _fitting(model, train_set, config, held_out=False)
    dev_fit = _fitting(model, dev_set, config, held_out=True)
    rejected += [*dev_rejected, *fit.rejected, *dev_fit.rejected]
    inputs: dict[str, str | None] = {
        "encoder": weights_sha256(encoder_path),
        "llm": model.llm_sha256,
        "processor": model.processor.sha256(),
    }
    if config.feature_cache is not None:
        inputs["frames"] = str(STORED)  # rounded, so that a run keeps to them or does without
    out = claim(
        accelerator,
        config,
        "align",
        manifest=fit.manifest,
        inputs=inputs,
        paths=("out", "data", "encoder", "llm", "feature_cache", "word_times"),
        rejected=rejected,
    )
    if config.method == "none":
        if accelerator.is_main_process:
            _write_untrained(model, out)
        return AlignResult(config.out, None, "method none: the projector is untrained")
    training = _train(model, fit, dev_fit, config, out, accelerator, progress)
    # A report that is there may be one of `thaitool report`, which has more.
    if accelerator.is_main_process and not (out.path / "report.html").exists():
        _report(out)
    told = training.metrics
    return AlignResult(config.out, training, verdict(told), tuple(training.notes))


def _build(config: AlignConfig, encoder_path: Path, llm: Path) -> _Model:
    tokenizer = load_tokenizer(llm)
    encoder = load_speech_encoder(
        encoder_path, layer=config.layer, pad_to_window=config.pad_to_window
    )
    if config.unfreeze_layers is not None and config.unfreeze_layers > encoder.layers:
        raise InputError(
            f"unfreeze_layers is {config.unfreeze_layers}, but the encoder has {encoder.layers} layers in use; set"
            " it to that at most."
        )
    settings = ProjectorSettings(
        form=config.projector,
        factor=config.projector_factor,
        hidden_size=config.projector_hidden_size,
        layers=config.projector_layers,
        window=config.projector_window,
    )
    model_config = new_speech_lm_config(
        encoder.config, llm, tokenizer, projector=settings, audio_layer=config.layer
    )
    if config.method == "asr":
        language_model = load_llm(llm, dtype=getattr(torch, config.llm_dtype))
        table = language_model.get_input_embeddings().weight
    else:
        language_model, table = None, load_embedding_table(llm)
    # Loading an LLM may draw random numbers, and every method is to start from the same projector.
    torch.manual_seed(config.train.seed)
    projector = Projector(encoder.hidden_size, table.shape[1], settings)
    return _Model(
        FrontEnd(encoder, projector, config),
        model_config,
        new_processor(model_config, tokenizer),
        tokenizer,
        llm,
        weights_sha256(llm),
        language_model,
        table,
    )


def _fitting(
    model: _Model, manifest: Manifest, config: AlignConfig, *, held_out: bool
) -> Alignable:
    """The rows that the encoder can hear and the method can align; of held-out rows, all with text that it can hear."""
    limit = config.train.max_rejected_share
    longest = model.front_end.encoder.longest_samples
    heard, too_long = within_window(manifest, longest, max_rejected_share=limit)
    compares = config.method in {"dtw", "ctc", "dtw+ctc"}
    found = alignable(
        heard,
        model.tokenizer,
        vocabulary=len(model.table),
        max_rejected_share=limit,
        frames=None if held_out or not compares else model.front_end.output_lengths,
        repeats="ctc" in config.method,
    )
    rejected: list[Rejected] = [*too_long, *found.rejected]
    return Alignable(found.manifest, rejected, found.token_counts)


def _train(
    model: _Model,
    fit: Alignable,
    dev_fit: Alignable,
    config: AlignConfig,
    out: RunDir,
    accelerator: Accelerator,
    progress: Progress,
) -> TrainingResult:
    groups = _groups(model.front_end, config)
    objective = _objective(model, fit, config)
    if isinstance(objective, Objective) and objective.ctc is not None:
        groups[0]["params"].append(objective.ctc.blank)
    frames = model.front_end.output_lengths
    held = hold_out(dev_fit.manifest, fit.manifest, config, frames)
    words = {} if config.word_times is None else _word_times(config.word_times, held.manifest)

    def judge() -> dict[str, float]:
        # A run that was resumed to be judged again has made no update yet.
        update = max(objective.update, out.last_update)
        probed = _probe_is_due(update, config)
        found = evaluate(objective, held, config, out.quarantine, probed=probed)
        if update == config.train.updates and accelerator.is_main_process:
            write_shown(
                out.path / FOLDER, Shown(update, *hear_shown(objective, held, config, words))
            )
        # Of the first process for all: rounding must not make them choose different checkpoints.
        return gathered(accelerator, found)[0]

    return train(
        Task(
            objective,
            groups,
            evaluate=judge,
            save=model.save,
            better=(config.select, -1 if config.select == "probe_cer" else 1),
            normalised=model.front_end.encoder.normalises,
            summarise=objective.summarise if isinstance(objective, Objective) else None,
            remark=alarms,
        ),
        manifest=fit.manifest,
        plan=make_plan(
            fit.manifest.duration_s, batch_s=config.train.batch_s, seed=config.train.seed
        ),
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description=f"align, {config.method}",
    )


def _word_times(path: Path, held_out: Manifest) -> dict[str, tuple[Span, ...]]:
    words = read_word_times(path)
    if not any(held_out[row].id in words for row in range(len(held_out))):
        raise InputError(
            f"{path}, word_times, names none of the {len(held_out)} held-out utterances, whose first is"
            f" {held_out[0].id!r}. Name each by the id of its row."
        )
    return words


def _objective(model: _Model, fit: Alignable, config: AlignConfig) -> Objective | AsrObjective:
    counts = fit.token_counts
    tokens = TokenTable(model.table, model.tokenizer, counts, weighted=not config.plain)
    if model.language_model is None:
        return Objective(model.front_end, tokens, config, counts.nonzero()[:, 0].tolist())
    whole = ThaiSpeechForConditionalGeneration(
        model.config, model.front_end.encoder, model.language_model
    )
    whole.multi_modal_projector = model.front_end.projector
    return AsrObjective(model.front_end, tokens, whole, model.processor)


def _probe_is_due(update: int, config: AlignConfig) -> bool:
    """At the end, and at every `probe_every`-th evaluation; depends on the update alone, as a run may be resumed."""
    if update == config.train.updates:
        return True
    number = -(-update // config.train.eval_every)
    return config.probe_every > 0 and number % config.probe_every == 0


def _report(out: RunDir) -> None:
    """`report.html` of the run; `thaitool report` adds a map of the vectors, which takes time, and other runs."""
    created = dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds")
    with disk_full_is_explained(out.path):
        write_align_report(build_align_report([out.path], created=created, mapped=False), out.path)


def _write_untrained(model: _Model, out: RunDir) -> None:
    """Direct multitask training starts from an untrained projector, in the LLM's own space."""
    if not out.checkpoint(0).exists():
        with writing_directory(out.checkpoint(0)) as path:
            model.save(path)
        out.point("last", 0)
    write_json(
        out.path / RESULT, {"planned": {"updates": 0}, "done": {"updates": 0}, "metrics": {}}
    )


def _groups(front_end: FrontEnd, config: AlignConfig) -> list[dict[str, Any]]:
    """Optimizer groups; what is in none of them is frozen."""
    encoder: SpeechEncoder = front_end.encoder
    set_trained(
        encoder, transformer=config.unfreeze_encoder, convolutions=config.unfreeze_convolutions
    )
    for layer in trained_layers(encoder, config):
        layer.requires_grad_(True)
    mix = [] if encoder.mix is None else [encoder.mix]
    groups: list[dict[str, Any]] = [
        {
            "name": "projector",
            "params": [*front_end.projector.parameters(), *mix],
            "lr": config.train.learning_rate,
        }
    ]
    trained = [p for p in encoder.model.parameters() if p.requires_grad]
    if trained:
        groups.append({"name": "encoder", "params": trained, "lr": config.encoder_learning_rate})
    return groups
