"""The section of `thaitool finetune --head`: an encoder with a CTC or attention head. Knows no speech LLM.

Field descriptions are the documentation of the recipes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thaitool.config.sections import (
    Count,
    HeldOutShare,
    LoosePath,
    Positive,
    Section,
    Share,
    Training,
)


class SpeechEncoderShape(Section):
    """A new speech encoder, used when `encoder` is null. The defaults suit an hour of speech on a CPU."""

    family: Annotated[
        Literal["wav2vec2", "wav2vec2-bert", "whisper"],
        Field(
            description="wav2vec2 hears samples; wav2vec2-bert (conformer) and whisper hear log-mels, and learn from"
            " little data."
        ),
    ] = "wav2vec2-bert"
    hidden_size: Count = 144
    layers: Count = 4
    heads: Count = 4
    intermediate_size: Count = 576
    dropout: Share = 0.1
    conv_dim: list[Count] = Field([48, 96, 128], description="wav2vec2: width of each convolution.")
    conv_kernel: list[Count] = Field([20, 16, 8], description="wav2vec2: their kernels.")
    conv_stride: list[Count] = Field([10, 8, 4], description="wav2vec2: their strides.")
    depthwise_kernel: Annotated[
        Count, Field(description="wav2vec2-bert: frames of the convolution in each layer.")
    ] = 31
    mel_bins: Annotated[Count, Field(description="Bins of the log-mel.")] = 80

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len({len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}) > 1:
            raise ValueError("conv_dim, conv_kernel and conv_stride must be equally long")
        if self.hidden_size % self.heads or self.hidden_size % 8:
            raise ValueError("hidden_size must be a multiple of heads, and of 8")
        return self


class DecoderShape(Section):
    """The attention decoder of `head: aed`; it is as wide as the encoder's frames."""

    layers: Count = 2
    heads: Count = 4
    intermediate_size: Count = 576
    dropout: Share = 0.1


class RecogniseConfig(HeldOutShare):
    """`thaitool finetune --head ctc|aed`: recordings with transcripts to a recogniser."""

    data: list[LoosePath] = Field(
        description="Recordings with transcripts: manifests of thaitool, Kaldi, NeMo or lhotse, Common Voice or"
        " GigaSpeech2 TSVs, WebDataset tars, parquet, Thai-SUP shards. Rows of their test split are not used.",
        min_length=1,
    )
    dev_data: list[LoosePath] = Field(
        [],
        description="Held-out recordings; empty takes the dev split of data, or dev_share of it.",
    )
    out: LoosePath = Field(description="Run directory.")
    head: Literal["ctc", "aed"] = Field(
        "ctc", description="ctc, or aed: an attention decoder trained jointly with CTC."
    )
    encoder: LoosePath | None = Field(
        None, description="Run of `pretrain` or model directory; null makes a new encoder."
    )
    encoder_shape: SpeechEncoderShape = Field(
        SpeechEncoderShape.model_validate({}), description="Shape of a new encoder."
    )
    layer: int | Literal["last", "mix"] = Field(
        "last",
        description="Which layer's frames are read: a number from 1 on, the last, or a learned mix of all.",
    )
    units: Literal["thai", "characters"] = Field(
        "thai",
        description="thai: a base character with its marks is one unit; or plain characters.",
    )
    min_unit_frequency: Count = Field(
        1, description="Units that are rarer in the training text become <unk>."
    )
    longest_s: Positive = Field(30.0, description="Longer recordings are set aside.")
    freeze_updates: int = Field(
        0, ge=0, description="Updates in which the head trains alone, the encoder being frozen."
    )
    train_convolutions: bool = Field(
        False,
        description="Train the convolutions of a given encoder too; those of a new one always are.",
    )
    encoder_learning_rate: Positive | None = Field(
        None, description="Peak rate of the encoder; null is that of the head."
    )
    mask_prob: Share = Field(
        0.075,
        description="Expected number of masked spans of frames times mask_span, as a share of frames; above 0 it is one"
        " span a recording at least.",
    )
    mask_span: Count = Field(10, description="Frames of one masked span.")
    channel_mask_prob: Share = Field(
        0.0,
        description="The same over channels: of the features (wav2vec2), of the log-mel (others).",
    )
    channel_mask_span: Count = Field(64, description="Channels of one masked span.")
    speeds: list[Positive] = Field(
        [1.0],
        description="Factors on the speed, drawn for each recording and epoch.",
        min_length=1,
    )
    ctc_weight: Share = Field(
        0.3, description="aed: weight of the CTC loss; the rest is attention."
    )
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="aed: of the attention loss.")
    decoder: DecoderShape = Field(DecoderShape(), description="aed: shape of the decoder.")
    allow_untrainable: bool = Field(
        False, description="Train on rows that `synth` marked trainable: false."
    )
    train: Training

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.encoder is None and self.freeze_updates:
            raise ValueError(
                "freeze_updates must be 0 for a new encoder, which knows nothing worth keeping; name an encoder"
            )
        if self.freeze_updates > self.train.updates:
            raise ValueError(
                f"freeze_updates ({self.freeze_updates}) must be at most train.updates ({self.train.updates})"
            )
        if isinstance(self.layer, int) and self.layer < 1:
            raise ValueError(f"layer must be 1 or more, but is {self.layer}")
        steps = [100 * speed for speed in self.speeds]
        bad = [n / 100 for n in steps if not 50 <= n <= 200 or abs(n - round(n)) > 1e-6]
        if bad:
            raise ValueError(f"speeds must be 0.5 to 2 in steps of 0.01, but {bad[0]:g} is not")
        return self
