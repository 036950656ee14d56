"""One typed, strict section of configuration per stage. Never asks what machine it is on.

Field descriptions are the documentation of the recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

#: Paths come as strings from YAML and flags, the one place where strictness would only annoy.
LoosePath = Annotated[Path, Strict(strict=False)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LlmDtype = Literal["float32", "bfloat16"]
Task = Literal["asr", "ic", "ner", "sr", "qa"]


class Section(BaseModel):
    """A group of keys: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


class Training(Section):
    """What every training stage has. The unit of progress is the optimizer update."""

    updates: Count = Field(description="Optimizer updates to make.")
    batch_s: Positive = Field(
        description="Padded seconds of audio in one micro-batch of one process."
    )
    accumulation: Count = Field(1, description="Micro-batches of each process per update.")
    learning_rate: Positive = Field(description="Peak rate of AdamW.")
    warmup_share: Share = Field(
        0.1, description="Share of the updates with a linearly rising rate."
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are clipped to this norm.")
    eval_every: Count = Field(100, description="Updates between evaluations on held-out data.")
    save_every: Count = Field(100, description="Updates between checkpoints.")
    keep: Count = Field(2, description="Checkpoints kept; older ones are deleted.")
    workers: int = Field(0, ge=0, description="Processes that decode audio ahead.")
    seed: int = Field(0, ge=0, description="Decides order, masks, dropout and initial weights.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes CUDA if there is one."
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="Precision of the forward pass; heads and losses stay in float32."
    )
    schedule: Literal["cosine", "linear", "tristage"] = Field(
        "cosine",
        description="The rate after warm-up: cosine to 5 %, linear to 0, or tristage: held, then exponentially to 5 %.",
    )
    hold_share: Share = Field(
        0.4, description="tristage: share of the updates at the peak rate, after the warm-up."
    )
    ema_decay: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Average the weights at this rate, and evaluate and save the average; null does not.",
    )
    nonfinite_skips: int = Field(
        0,
        ge=0,
        description="Consecutive updates with NaN or Inf that are skipped before a run stops.",
    )
    probe_every: Count = Field(100, description="Updates between looks at a fixed probe batch.")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        ["tensorboard"], description="Where curves go, beside metrics.jsonl."
    )
    max_rejected_share: Share = Field(
        0.1, description="Share of unusable recordings that stops a run."
    )


class EncoderShape(Section):
    """A new wav2vec 2.0 encoder, used when `init` is null. The defaults are the tiny one of the demo."""

    hidden_size: Count = 128
    layers: Count = 3
    heads: Count = 4
    intermediate_size: Count = 384
    conv_dim: list[Count] = [48, 96, 128]
    conv_kernel: list[Count] = [20, 16, 8]
    conv_stride: list[Count] = [10, 8, 4]
    codevectors_per_group: Count = 80
    codevector_dim: Count = 64
    dropout: Share = 0.05

    @model_validator(mode="after")
    def _fits(self) -> EncoderShape:
        if len({len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}) > 1:
            raise ValueError("conv_dim, conv_kernel and conv_stride must be equally long")
        if self.hidden_size % self.heads or self.hidden_size % 8:
            raise ValueError("hidden_size must be a multiple of heads, and of 8")
        return self


class Recordings(Section):
    """What becomes of raw recordings before training; the same for `scan` and `pretrain`."""

    data: list[LoosePath] = Field(
        description="Directories, sound files, Thai-SUP shards, manifests of thaitool, fairseq, Kaldi, NeMo or lhotse,"
        " WebDataset tars, parquet with audio.",
        min_length=1,
    )
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="Whether audio that occurs twice is set aside."
    )
    min_s: float = Field(0.1, ge=0.1, description="Shorter recordings are set aside.")
    split: Literal["fixed", "silence", "none"] = Field(
        "fixed",
        description="Recordings longer than 1.5 x longest_s: equal pieces, pieces cut at silence (decodes them all"
        " once), or left whole (an epoch then hears one window of each).",
    )
    longest_s: Positive = Field(15.0, description="Length of a piece of a long recording, at most.")
    cache: LoosePath | None = Field(
        None,
        description="Directory for a copy of all audio as int16 at 16 kHz (115 MB an hour); null decodes on the fly.",
    )
    scan_workers: Count = Field(1, description="Processes that read headers, split and cache.")

    @model_validator(mode="after")
    def _pieces_are_long_enough(self) -> Self:
        if self.longest_s < self.min_s:
            raise ValueError(f"longest_s must be min_s ({self.min_s:g}) at least")
        return self


class ScanConfig(Recordings):
    """`thaitool scan`: recordings to a manifest, once for many runs."""

    out: LoosePath = Field(
        description="Directory of manifest.arrow, quarantine.jsonl and summary.json."
    )
    max_rejected_share: Share = Field(
        0.1, description="Share of unusable recordings that stops the scan."
    )


class PretrainConfig(Recordings):
    """`thaitool pretrain`: unlabelled Thai audio to an encoder."""

    out: LoosePath = Field(description="Run directory.")
    weights: list[Positive] | None = Field(
        None,
        description="How often an epoch takes each entry of data: 2 is twice, 0.5 a fresh half; null is once each.",
    )
    replay: list[LoosePath] = Field(
        [], description="Audio of other languages, mixed in against forgetting (arXiv:2312.13026)."
    )
    replay_share: float = Field(
        0.05, gt=0, lt=1, description="Share of replay in the hours of an epoch."
    )
    init: LoosePath | None = Field(
        None, description="Encoder to continue from; null makes a new one of `encoder`."
    )
    encoder: EncoderShape = Field(EncoderShape(), description="Shape of a new encoder.")
    crop_s: float = Field(
        15.0, ge=0.1, description="Longer audio is cut to a random window of this length."
    )
    dev_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the sources held out for validation."
    )
    dev_hours: Positive = Field(2.0, description="Hours held out, at most; one source at least.")
    mask_prob: float = Field(
        0.65,
        gt=0,
        le=1,
        description="Expected number of masked spans times mask_span, as a share of frames.",
    )
    mask_span: Count = Field(10, description="Frames of one masked span.")
    negatives: Count = Field(100, description="Frames that each masked frame is told apart from.")
    diversity_weight: float = Field(0.1, ge=0, description="Weight of the codebook diversity term.")
    feature_penalty: float = Field(
        0.0, ge=0, description="Weight of the mean square of the convolutional features."
    )
    gumbel_start: Positive = Field(2.0, description="Gumbel temperature at update 0.")
    gumbel_end: Positive = Field(0.5, description="Gumbel temperature at the last update.")
    layerdrop: float | None = Field(
        None, ge=0, lt=1, description="Chance to skip a transformer layer; null is the model's own."
    )
    feature_grad_scale: float = Field(
        1.0, ge=0, le=1, description="Factor on gradients into the convolutions; 0 freezes them."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass: less memory, more time."
    )
    compile: bool = Field(False, description="torch.compile the encoder.")
    on_collapse: Literal["rollback", "stop"] = Field(
        "rollback",
        description="On a collapse: go back to the last good checkpoint with half the rate, or stop.",
    )
    max_rollbacks: int = Field(3, ge=0, description="Rollbacks before the run stops.")
    train: Training

    @model_validator(mode="after")
    def _weights_fit(self) -> PretrainConfig:
        if self.weights is not None and len(self.weights) != len(self.data):
            raise ValueError(
                f"weights must have one number for each entry of data, but has {len(self.weights)} for {len(self.data)}"
            )
        return self


class HeldOutShare(Section):
    """How much is held out of data that has no dev split."""

    dev_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the speakers held out where data has no dev split and dev_data is empty.",
    )
    dev_hours: Positive = Field(
        2.0, description="Hours held out by dev_share, at most; one speaker at least."
    )


class Decoding(Section):
    """How a recogniser (`finetune --head`) searches for its text; a speech LLM does not look at these."""

    decoding: Literal["greedy", "beam", "joint"] | None = Field(
        None,
        description="greedy, prefix beam of CTC, or attention and CTC together; null: joint if there is attention.",
    )
    beam: Count = Field(10, description="Prefixes kept by beam and joint.")
    ctc_weight: Share = Field(0.3, description="joint: weight of CTC's log probability.")
    lm: LoosePath | None = Field(
        None, description="beam: n-gram model over units (ARPA or KenLM), white space as <space>."
    )
    lm_weight: float = Field(0.5, ge=0, description="beam: weight of the n-gram's log probability.")

    @model_validator(mode="after")
    def _lm_is_used(self) -> Self:
        if self.lm is not None and self.decoding != "beam":
            raise ValueError("lm is for decoding: beam, so set that too, or leave lm out")
        return self


class EvalConfig(Decoding):
    """`thaitool eval`: scores with intervals for a model or a predictions file."""

    task: str = Field(
        "slu",
        description="asr, ic, ner, sr, qa, or a task of the model or of task_file; slu is the four published ones, and"
        " qa where the split has rows of it.",
    )
    task_file: LoosePath | None = Field(
        None, description="YAML of tasks that the model does not bring: prompts, metric, labels."
    )
    data: LoosePath = Field(
        description="Thai-SUP directory, or any other listed data with labels or transcripts."
    )
    out: LoosePath = Field(description="Report directory.")
    model: LoosePath | None = Field(
        None, description="Model directory; either this or predictions."
    )
    predictions: LoosePath | None = Field(
        None, description="JSONL of {id, task, text}; nothing is generated, no model is loaded."
    )
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    llm_dtype: LlmDtype = Field("float32", description="Form of the LLM's weights in memory.")
    split: Literal["train", "dev", "test"] = Field("test", description="Split to score.")
    shuffled: bool = Field(True, description="Also answer with the audio of other utterances.")
    context: Literal["with", "without", "both"] = Field(
        "with",
        description="Ask with what rows say is known beforehand, without it, or both ways, which are then compared.",
    )
    hotwords: Count | None = Field(
        None,
        description="List so many names with each item: its own by the ner rows of the data, and those of others.",
    )
    hotwords_file: LoosePath | None = Field(
        None, description="Words, one a line, that are given with each item."
    )
    drafter: LoosePath | None = Field(
        None,
        description="Where the recogniser lies now whose drafts the model was trained with, if not where it was.",
    )
    limit: Count | None = Field(
        None, description="At most this many utterances per task, spread evenly."
    )
    batch_s: Positive = Field(60.0, description="Padded seconds of audio per batch.")
    max_new_tokens: Count = Field(128, description="Length limit of an answer.")
    max_rejected_share: Share = Field(
        0.1, description="Share of unusable recordings that stops the run."
    )
    slices: list[str] = Field(
        ["length", "speaker"],
        description="Fields of the manifest by whose values the scores are also given; length is duration in steps.",
    )
    also: list[str] = Field(
        [],
        description="NAME=PATH of other predictions (a teacher, a vote) that are scored beside these.",
    )
    trained_on: list[LoosePath] = Field(
        [],
        description="Training data to look for the test items in: by recording id, text, near text.",
    )
    judge: str | None = Field(
        None, description="URL, up to /v1, of an OpenAI-compatible server that grades rephrasings."
    )
    judge_model: str = Field("", description="Model that the judge's server is asked for.")
    judge_key_variable: str = Field(
        "", description="Environment variable with the server's key; empty sends none."
    )
    embedder: str | None = Field(
        None,
        description="Directory of a transformers model, or URL up to /v1, for the likeness of meaning of asr, sr, qa.",
    )
    embedder_model: str = Field("", description="Model that the embedder's server is asked for.")
    embedder_key_variable: str = Field(
        "", description="Environment variable with that server's key; empty sends none."
    )
    keywords: LoosePath | None = Field(
        None, description="Words, one a line, whose hit rate transcriptions are scored by too."
    )
    draws: Count = Field(2000, description="Bootstrap draws behind each interval.")
    cluster_by: Literal["both", "source_id", "speaker"] = Field(
        "both", description="What the draws take whole: source item, speaker, or both."
    )
    seed: int = Field(0, ge=0, description="Decides the shuffle and the draws.")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.hotwords is not None and self.hotwords_file is not None:
            raise ValueError("hotwords and hotwords_file are two lists for one place")
        return self


class CompareConfig(Section):
    """`thaitool compare`: whether reports differ by more than chance."""

    reports: list[str] = Field(
        description="Report directories, each [NAME=]DIR; for `pair` A and B.", min_length=1
    )
    view: Literal["pair", "transfer", "paper"] = Field(
        "pair",
        description="pair: B against A; transfer: train by test speech; paper: Tables 1 and 2.",
    )
    out: LoosePath | None = Field(None, description="Directory for JSON, Markdown and HTML.")
    draws: Count = Field(2000, description="Bootstrap draws behind each interval.")
    cluster_by: Literal["both", "source_id", "speaker"] = Field(
        "both", description="What the draws take whole: source item, speaker, or both."
    )
    seed: int = Field(0, ge=0, description="Decides the draws.")
