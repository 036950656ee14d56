"""The section of `thaitool finetune` for the speech LLM. Knows neither the encoder nor the LLM that it names."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from thaitool.config.sections import (
    Count,
    HeldOutShare,
    LlmDtype,
    LoosePath,
    Positive,
    Share,
    Training,
)

Leakage = Literal["audio", "recording", "source", "speaker", "text", "near"]


class FinetuneConfig(HeldOutShare):
    """`thaitool finetune`: multitask instruction training of the speech LLM."""

    data: list[LoosePath] = Field(
        description="Thai-SUP directories, `messages` and `audios` JSONL, SLAM, wenet, NeMo or Qwen3-ASR lists, or any"
        " other listed recordings; a row without a task is a transcription.",
        min_length=1,
    )
    dev_data: list[LoosePath] = Field(
        [],
        description="Held-out rows; empty takes the dev split of data, or dev_share of what has no split.",
    )
    model: LoosePath = Field(description="A run of `align` or `finetune`.")
    out: LoosePath = Field(description="Run directory.")
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    llm_dtype: LlmDtype = Field("float32", description="Form of the LLM's weights in memory.")
    tasks: list[str] = Field(
        ["asr", "ic", "ner", "sr"], description="Tasks to train.", min_length=1
    )
    task_file: LoosePath | None = Field(
        None, description="YAML with tasks of your own, which may then be named in tasks."
    )
    weights: dict[str, float] | None = Field(
        None,
        description="By task, its share of the rows that are drawn ({asr: 1, ic: 2}: two intents for each transcript);"
        " null takes every row once an epoch.",
    )
    allow_untrainable: bool = Field(
        False, description="Train on rows that `synth` marked trainable: false."
    )
    lora_rank: int = Field(16, ge=0, description="Rank of LoRA on the LLM; 0 keeps the LLM frozen.")
    lora_alpha: Positive = Field(32.0, description="LoRA scale times rank.")
    lora_targets: str = Field(
        r".*(q|k|v|o|gate|up|down)_proj$",
        description="Regex of the LLM's linear layers that get LoRA.",
    )
    train_projector: bool = Field(True, description="Train the projector.")
    unfreeze_encoder: bool = Field(False, description="Train the encoder too.")
    unfreeze_layers: Count | None = Field(
        None, description="Train this many of its uppermost layers instead; null trains none."
    )
    encoder_learning_rate: Positive = Field(
        1e-4, description="Peak rate of the encoder if it is trained."
    )
    projector_learning_rate: Positive = Field(5e-4, description="Peak rate of the projector.")
    ctc_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of an auxiliary CTC loss on the projector's frames, in nats of the transcript beside nats"
        " of the answer; 0 has none. Its head is kept beside the model, which does without it.",
    )
    ctc_first_updates: int = Field(
        0,
        ge=0,
        description="Updates at the start with the CTC loss alone, in which the LLM does not run.",
    )
    ctc_learning_rate: Positive = Field(1e-3, description="Peak rate of the CTC head.")
    packing: bool = Field(
        True,
        description="Rows share sequences without hearing each other; false pads each row to the longest.",
    )
    batch_tokens: Count | None = Field(
        None,
        description="Audio embeddings and text tokens of a micro-batch, at most: each row counts with its longest"
        " wording and list of words; null bounds it by train.batch_s seconds.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute the LLM's layers again in the backward pass: less memory, more time.",
    )
    feature_cache: LoosePath | None = Field(
        None,
        description="Directory in which frames of a frozen encoder are kept, as in align, which may share it; null"
        " computes them every time.",
    )
    judge_items: Count = Field(
        64,
        description="Held-out rows of each task that every evaluation answers, the same ones each time.",
    )
    max_new_tokens: Count = Field(128, description="Length limit of an answer at evaluations.")
    paraphrases: bool = Field(
        True,
        description="Draw the wording of each training prompt from all that the task has; false asks by the first, as"
        " evaluation does.",
    )
    hotword_share: Share = Field(
        0.0,
        description="Share of training prompts that get a drawn list of words that may be said: some are, most not.",
    )
    hotwords: Count = Field(50, description="Words of the longest such list.")
    select: str = Field(
        "answer_nats",
        description="Held-out metric that chooses the best checkpoint: answer_nats, error (the mean of the tasks' main"
        " errors), or a task's own, such as asr_cer or ic_accuracy.",
    )
    allow_leakage: list[Leakage] = Field(
        [],
        description="Kinds of leakage between training and held-out rows that do not stop the run.",
    )
    drafter: LoosePath | None = Field(
        None,
        description="Recogniser (`finetune --head`) whose transcript is given with each prompt: the cascade baseline.",
    )
    train: Training

    @model_validator(mode="after")
    def _fits(self) -> FinetuneConfig:
        if self.unfreeze_encoder and self.unfreeze_layers is not None:
            raise ValueError(
                "unfreeze_layers must be null with unfreeze_encoder, which trains all layers"
            )
        for name in ("unfreeze_encoder", "unfreeze_layers"):
            if self.feature_cache is not None and getattr(self, name):
                raise ValueError(
                    f"feature_cache must be null with {name}, as frames change in training"
                )
        if self.ctc_first_updates and not self.ctc_weight:
            raise ValueError("ctc_first_updates needs a CTC loss, so set ctc_weight above 0 too")
        if self.ctc_first_updates >= self.train.updates:
            raise ValueError(
                f"ctc_first_updates must be below train.updates ({self.train.updates}), or the answers are never"
                f" learned, but is {self.ctc_first_updates}"
            )
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> FinetuneConfig:
        weights = self.weights or {}
        if weights and {*weights} != {*self.tasks}:
            raise ValueError(
                f"weights must name every task once ({', '.join(self.tasks)}), but names {', '.join(weights)}"
            )
        if wrong := [n for n, w in weights.items() if not (math.isfinite(w) and w > 0)]:
            raise ValueError(
                f"weights must be above 0, but that of {wrong[0]} is {weights[wrong[0]]}; leave a task out of tasks to"
                " train without it"
            )
        return self

    @field_validator("data", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [value] if isinstance(value, str | Path) else value

    @field_validator("tasks")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("must name every task once")
        return value

    @field_validator("lora_targets")
    @classmethod
    def _is_regex(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return value
