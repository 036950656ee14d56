"""The section of `thaitool align`. Knows neither the encoder nor the LLM that it names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from thaitool.config.sections import (
    Count,
    LlmDtype,
    LoosePath,
    Positive,
    Section,
    Share,
    Training,
)


class AlignConfig(Section):
    """`thaitool align`: bring projected speech to the LLM's token embeddings, the LLM not in the loop (U-Align)."""

    data: LoosePath = Field(description="Thai-SUP directory.")
    encoder: LoosePath = Field(
        description="A run of `pretrain` or of `finetune --head`, or the directory of a wav2vec 2.0, HuBERT, WavLM,"
        " wav2vec2-bert or Whisper encoder."
    )
    layer: int | Literal["last", "mix"] = Field(
        "last",
        description="Which layer's frames are read: a number from 1 on, the last, or a learned mix of all.",
    )
    pad_to_window: bool = Field(
        True,
        description="Whisper: pad every clip to 30 s as its published training did; false is cheaper and not the same.",
    )
    feature_cache: LoosePath | None = Field(
        None,
        description="Directory in which frames of a frozen encoder are kept (float16; XLS-R 370 MB an hour); null"
        " computes them every time.",
    )
    llm: LoosePath = Field(
        description="Causal LLM in transformers form; only its token table is read, but by method: asr."
    )
    llm_dtype: LlmDtype = Field(
        "float32", description="Form of the LLM's weights in memory, with method: asr."
    )
    out: LoosePath = Field(description="Run directory.")
    method: Literal["dtw", "ctc", "dtw+ctc", "asr", "none"] = Field(
        "dtw",
        description="U-Align by DTW, by CTC over token embeddings, or both; asr: next-token loss with the frozen LLM in"
        " the loop; none writes an untrained projector (direct training).",
    )
    plain: bool = Field(
        False,
        description="The paper's bare DTW loss; it collapses (tests/bench/collapse.py).",
    )
    allow_untrainable: bool = Field(
        False, description="Train on rows that `synth` marked trainable: false."
    )
    projector: Literal["conv", "stack", "qformer"] = Field(
        "conv",
        description="conv: the paper's strided convolution; stack: neighbouring frames side by side; qformer: queries"
        " that attend to windows of frames.",
    )
    projector_factor: Count = Field(2, description="Encoder frames per LLM embedding.")
    projector_hidden_size: Count = Field(
        256, description="Width inside the projector; qformer: a multiple of 32."
    )
    projector_layers: Count = Field(
        2, description="Linear layers after subsampling (conv, stack), or blocks (qformer)."
    )
    projector_window: Count = Field(
        16, description="qformer: encoder frames per window; a multiple of projector_factor."
    )
    unfreeze_encoder: bool = Field(False, description="Train the encoder's transformer too.")
    unfreeze_layers: Count | None = Field(
        None, description="Train this many of its uppermost layers instead; null trains none."
    )
    unfreeze_convolutions: bool = Field(
        False, description="Train the convolutional feature encoder too."
    )
    encoder_learning_rate: Positive = Field(
        1e-4, description="Peak rate of the encoder if it is trained."
    )
    pool_weight: float = Field(0.5, ge=0, description="Weight of the pooled speech-text contrast.")
    transcript_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast of DTW costs over transcripts."
    )
    temperature: Positive = Field(0.1, description="Of both contrasts.")
    ramp_start: Share = Field(0.2, description="Share of updates before the DTW term sets in.")
    ramp_end: Share = Field(
        0.4, description="Share of updates at which the DTW term has its full weight."
    )
    ctc_weight: Positive = Field(
        0.05, description="dtw+ctc: weight of the CTC loss, in nats per token."
    )
    ctc_score: Literal["cosine", "dot"] = Field(
        "cosine", description="How CTC compares frames with token embeddings."
    )
    ctc_temperature: Positive = Field(0.1, description="CTC's scores are divided by it.")
    select: Literal["retrieval_mrr", "probe_cer"] = Field(
        "retrieval_mrr",
        description="Held-out figure that chooses the best checkpoint; probe_cer does not see a collapse.",
    )
    judge_items: Count = Field(500, description="Held-out rows that are judged, at most.")
    probe_every: int = Field(
        0, ge=0, description="Evaluations between CTC probes of the frames; 0 probes at the end."
    )
    probe_clips: Count = Field(200, description="Training rows that a probe learns from, at most.")
    probe_updates: Count = Field(200, description="Updates of a probe.")
    word_times: LoosePath | None = Field(
        None,
        description="CTM file with true times of words (utterance, channel, start, duration, word): drawn beside the"
        " paths in report.html.",
    )
    train: Training

    @model_validator(mode="after")
    def _fits(self) -> AlignConfig:
        if isinstance(self.layer, int) and self.layer < 1:
            raise ValueError(f"layer must be 1 or more, but is {self.layer}")
        changing = self.unfreeze_encoder or self.unfreeze_layers is not None
        if self.feature_cache is not None and (changing or self.layer == "mix"):
            raise ValueError(
                "feature_cache must be null where frames change in training, with unfreeze_encoder, unfreeze_layers or"
                " layer: mix"
            )
        if self.unfreeze_encoder and self.unfreeze_layers is not None:
            raise ValueError(
                "unfreeze_layers must be null with unfreeze_encoder, which trains all layers"
            )
        if self.unfreeze_convolutions and not self.unfreeze_encoder:
            raise ValueError(
                "unfreeze_convolutions must be false without unfreeze_encoder: what lies above would stay frozen"
            )
        if self.plain and self.method not in {"dtw", "none"}:
            raise ValueError(
                f"plain is the bare DTW loss, so method must be dtw, not {self.method}"
            )
        if self.llm_dtype != "float32" and self.method != "asr":
            raise ValueError(
                f"llm_dtype must be float32 with method: {self.method}, which reads only the LLM's token table"
            )
        if self.select == "probe_cer" and self.probe_every != 1:
            raise ValueError(
                "select: probe_cer needs a probe at every evaluation, so set probe_every: 1"
            )
        return self
