"""U-Align: train the projector so that speech lies where the LLM's token embeddings lie (arXiv:2509.14804).

Only the LLM's token table is read; the LLM itself is never loaded. The best checkpoint is chosen by retrieval of
held-out transcripts, never by the loss, because a collapsed alignment has a lower one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from thaitool.config import AlignConfig
from thaitool.data.loader import Batch, in_order, listed
from thaitool.data.manifest import Manifest, require_trainable
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.data.window import within_window
from thaitool.errors import InputError
from thaitool.files import write_json, writing_directory
from thaitool.models.alignment import (
    alignment_terms,
    count_tokens,
    masked_mean,
    monitors,
    pooled,
    ramp,
    retrieval,
    same,
    token_ids,
    token_weights,
)
from thaitool.models.checkpoint import (
    load_embedding_table,
    load_tokenizer,
    new_processor,
    new_speech_lm_config,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.encoder import length_mask
from thaitool.models.encoders.interface import SpeechEncoder, load_speech_encoder, set_trained
from thaitool.models.features import STORED, FeatureCache
from thaitool.models.hub import locate
from thaitool.models.projector import Projector
from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.path import one_frame_share, token_durations
from thaitool.records import Progress, silent
from thaitool.training.loop import Loss, Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.run_dir import RESULT, RunDir, claim, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.models.speech_lm import ThaiSpeechConfig

#: Share of the old value that the running mean of speech keeps at each update.
MOMENTUM = 0.99


@dataclass(frozen=True)
class AlignResult:
    """What `align` did; `training` is None for `method: none`."""

    out: Path
    training: TrainingResult | None
    verdict: str
    """The alignment's diagnosis in words."""


class _Objective(nn.Module):
    """Encoder, projector and the loss against a fixed token table."""

    def __init__(
        self,
        encoder: SpeechEncoder,
        projector: Projector,
        table: Tensor,
        tokenizer: Any,
        config: AlignConfig,
    ) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector
        self.kept = None
        if config.feature_cache is not None:
            precision = config.train.mixed_precision
            self.kept = FeatureCache(config.feature_cache, encoder, precision=precision)
        self.tokenizer, self.config = tokenizer, config
        self.register_buffer("table", table, persistent=False)
        # Of tokens; `weigh_tokens` sets them from the training transcripts.
        self.register_buffer("weights", torch.ones(len(table)), persistent=False)
        if not config.plain:
            projector.text_mean.copy_(table.mean(0))

    def train(self, mode: bool = True) -> _Objective:
        """Dropout only where something is learned: a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.config.unfreeze_encoder:
            self.encoder.eval()
        return self

    def weigh_tokens(self, train_set: Manifest) -> None:
        """Weights from the counts of the training transcripts: a function of the manifest, also on resume."""
        weights: Tensor = self.weights  # type: ignore[assignment]
        texts = [text or "" for text in train_set.column("text").to_pylist()]
        weights.copy_(token_weights(count_tokens(self.tokenizer, texts, len(weights))))

    def embed_audio(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Raw projections (B, I, D) and their true counts (B,)."""
        if self.kept is not None:
            frames, counts = self.kept.encode(batch.audio, batch.audio_lengths)
        else:
            device = self.projector.gain.device
            frames, counts = self.encoder(batch.audio.to(device), batch.audio_lengths)
        return self.projector.aligned(frames), self.projector.output_lengths(counts)

    def embed_text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Token embeddings (B, J, D), true counts (B,) and, unless plain, token weights (B, J)."""
        table: Tensor = self.table  # type: ignore[assignment]
        weights: Tensor = self.weights  # type: ignore[assignment]
        rows = token_ids(self.tokenizer, texts)
        lengths = torch.tensor([len(row) for row in rows], device=table.device)
        padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for place, row in zip(padded, rows, strict=True):
            place[: len(row)] = torch.tensor(row)
        padded = padded.to(table.device)
        return table[padded], lengths, None if self.config.plain else weights[padded]

    def forward(self, batch: Batch, step: Step) -> Loss:
        """Summed loss over the utterances that can be aligned (at least one frame per token)."""
        cfg = self.config
        raw, frames = self.embed_audio(batch)
        text, tokens, weights = self.embed_text([u.text or "" for u in batch.utterances])
        keep = (tokens > 0) & (frames >= tokens)
        if not bool(keep.any()):
            return Loss(raw.sum() * 0.0, 0.0)  # counted as unused by the loop
        raw, frames, text, tokens = raw[keep], frames[keep], text[keep], tokens[keep]
        n = len(raw)
        texts = [u.text for u, k in zip(batch.utterances, keep.tolist(), strict=True) if k]
        mean = (
            torch.zeros_like(self.projector.speech_mean) if cfg.plain else masked_mean(raw, frames)
        )
        self._track(raw.detach(), mean.detach(), frames)
        terms = alignment_terms(
            raw,
            text,
            frames,
            tokens,
            same(texts, raw.device),
            temperature=cfg.temperature,
            transcripts=3 if cfg.transcript_weight and not cfg.plain else 0,
            speech_mean=mean,
            text_mean=self.projector.text_mean,
            text_weights=None if weights is None else weights[keep],
        )
        total = terms.dtw
        if not cfg.plain:
            # One utterance has no other transcript, and nothing else keeps DTW from collapsing.
            alone = n == 1
            weight = 0.0 if alone else ramp(step.share, cfg.ramp_start, cfg.ramp_end)
            total = weight * terms.dtw
            total = total + cfg.pool_weight * terms.pool + cfg.transcript_weight * terms.transcript
        # The path's cost without the weights of tokens: that of different batches compares.
        losses = {
            "dtw": terms.costs[:, 0].mean(),
            "pool": terms.pool.detach(),
            "transcript": terms.transcript.detach(),
        }
        found = losses | monitors(terms, tokens)
        # All figures in one copy: each would wait for the device.
        values = torch.stack([value.float() for value in found.values()]).tolist()
        logs = {name: (v * n, float(n)) for name, v in zip(found, values, strict=True)}
        return Loss(total * n, float(n), logs, used=n)

    @torch.no_grad()
    def _track(self, raw: Tensor, mean: Tensor, frames: Tensor) -> None:
        """Running mean of speech and the gain that gives it the token table's norm: what inference uses."""
        p = self.projector
        fresh = float(p.gain) == 1.0  # its value before the first update
        p.speech_mean.copy_(mean if fresh else MOMENTUM * p.speech_mean + (1 - MOMENTUM) * mean)
        norm = (raw - mean)[length_mask(frames, raw.shape[1])].norm(dim=-1).mean()
        target = (self.table - p.text_mean).norm(dim=-1).mean()  # type: ignore[operator]
        gain = target / norm.clamp_min(1e-6)
        p.gain.copy_(gain if fresh else MOMENTUM * p.gain + (1 - MOMENTUM) * gain)


@dataclass(frozen=True)
class _Model:
    """What is trained and what a checkpoint needs."""

    objective: _Objective
    config: ThaiSpeechConfig
    processor: ThaiSpeechProcessor
    llm: Path
    llm_sha256: str

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            config=self.config,
            audio_tower=self.objective.encoder,
            projector=self.objective.projector,
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
    torch.manual_seed(config.train.seed)
    model = _build(config, encoder_path, llm)
    encoder = model.objective.encoder
    longest = encoder.longest_samples
    train_set, too_long = within_window(train_set, longest, max_rejected_share=limit)
    dev_set, dev_too_long = within_window(dev_set, longest, max_rejected_share=limit)
    rejected += [*dev_rejected, *too_long, *dev_too_long]
    inputs: dict[str, str | None] = {
        "encoder": weights_sha256(encoder_path),
        "llm": model.llm_sha256,
    }
    if config.feature_cache is not None:
        inputs["frames"] = str(STORED)  # rounded, so that a run keeps to them or does without
    out = claim(
        accelerator,
        config,
        "align",
        manifest=train_set,
        inputs=inputs,
        paths=("out", "data", "encoder", "llm", "feature_cache"),
        rejected=rejected,
    )
    if config.method == "none":
        if accelerator.is_main_process:
            _write_untrained(model, out)
        return AlignResult(config.out, None, "method none: the projector is untrained")
    if not config.plain:
        model.objective.weigh_tokens(train_set)
    training = train(
        Task(
            model.objective,
            _groups(encoder, model.objective.projector, config),
            evaluate=lambda: evaluate(
                model.objective, dev_set, config.train.batch_s, out.quarantine
            ),
            save=model.save,
            better=("retrieval_mrr", 1),
            normalised=encoder.normalises,
        ),
        manifest=train_set,
        plan=make_plan(train_set.duration_s, batch_s=config.train.batch_s, seed=config.train.seed),
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description="align",
    )
    return AlignResult(config.out, training, verdict(training.metrics))


def _build(config: AlignConfig, encoder_path: Path, llm: Path) -> _Model:
    table = load_embedding_table(llm)
    tokenizer = load_tokenizer(llm)
    encoder = load_speech_encoder(
        encoder_path, layer=config.layer, pad_to_window=config.pad_to_window
    )
    model_config = new_speech_lm_config(
        encoder.config,
        llm,
        tokenizer,
        projector_factor=config.projector_factor,
        projector_hidden_size=config.projector_hidden_size,
        audio_layer=config.layer,
    )
    projector = Projector(
        encoder.hidden_size,
        table.shape[1],
        factor=config.projector_factor,
        hidden_width=config.projector_hidden_size,
    )
    objective = _Objective(encoder, projector, table, tokenizer, config)
    processor = new_processor(model_config, tokenizer)
    return _Model(objective, model_config, processor, llm, weights_sha256(llm))


def _write_untrained(model: _Model, out: RunDir) -> None:
    """Direct multitask training starts from an untrained projector, in the LLM's own space."""
    model.objective.projector.text_mean.zero_()
    if not out.checkpoint(0).exists():
        with writing_directory(out.checkpoint(0)) as path:
            model.save(path)
        out.point("last", 0)
    write_json(
        out.path / RESULT, {"planned": {"updates": 0}, "done": {"updates": 0}, "metrics": {}}
    )


def _groups(
    encoder: SpeechEncoder, projector: Projector, config: AlignConfig
) -> list[dict[str, Any]]:
    """Optimizer groups; what is in none of them is frozen."""
    set_trained(
        encoder, transformer=config.unfreeze_encoder, convolutions=config.unfreeze_convolutions
    )
    mix = [] if encoder.mix is None else [encoder.mix]
    groups = [
        {
            "name": "projector",
            "params": [*projector.parameters(), *mix],
            "lr": config.train.learning_rate,
        }
    ]
    if config.unfreeze_encoder:
        trained = [p for p in encoder.model.parameters() if p.requires_grad]
        groups.append({"name": "encoder", "params": trained, "lr": config.encoder_learning_rate})
    return groups


def evaluate(
    objective: _Objective, dev_set: Manifest, batch_s: float, ledger: Path
) -> dict[str, float]:
    """Retrieval and the share of one-frame tokens on the plain path, with the means that inference uses."""
    speech, text, texts = [], [], []
    ones, tokens_total = 0.0, 0
    source = in_order(dev_set, batch_s=batch_s, normalised=objective.encoder.normalises)
    for batch in listed(source, ledger):
        raw, frames = objective.embed_audio(batch)
        embedded, tokens, weights = objective.embed_text([u.text or "" for u in batch.utterances])
        means = objective.projector.speech_mean, objective.projector.text_mean
        path = dtw_alignment(
            *(raw, embedded.to(raw.dtype), frames, tokens), speech_mean=means[0], text_mean=means[1]
        )
        count = int(tokens.sum())
        durations = token_durations(path.intervals, embedded.shape[1])
        ones += float(one_frame_share(durations, tokens)) * count
        tokens_total += count
        speech.append(pooled(raw - means[0], frames))
        text.append(pooled(embedded - means[1], tokens, weights))
        texts += [u.text for u in batch.utterances]
    if not texts:
        raise InputError("Alignment is judged on the dev split, but its audio could not be read.")
    found = retrieval(torch.cat(speech), torch.cat(text), same(texts, speech[0].device))
    return {
        **found,
        "one_frame_share": ones / max(1, tokens_total),
        "transcripts": float(len(set(texts))),
    }


def verdict(metrics: dict[str, float]) -> str:
    """The diagnosis in words; its limits come from toy problems with known alignments, with several frames a token."""
    share, r1 = metrics["one_frame_share"], metrics["retrieval_r1"]
    chance = 1 / max(1.0, metrics["transcripts"])
    found = f"one-frame tokens {share:.0%}, retrieval R@1 {r1:.0%} (chance {chance:.1%})"
    if share > 0.5 or r1 < 2 * chance:
        return f"COLLAPSED or not aligned: {found}. Use the default losses (no --plain) or more updates."
    if share > 0.15:
        return f"partly aligned: {found}; tokens with few frames raise the first figure"
    return f"aligned: {found}"
