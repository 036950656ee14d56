"""The one length arithmetic from samples to frames; wav2vec 2.0 configurations, and loading for pretraining.

Does not train and does not know the LLM; `encoders` has all families as one interface. Source: Baevski et al. 2020;
XLS-R (Babu et al. 2021) uses the layer-norm extractor with stable layer norm, and so do encoders made here, because it
makes padding inert.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
)

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

Length = TypeVar("Length", int, "Tensor")


def frame_lengths(kernels: Sequence[int], strides: Sequence[int], samples: Length) -> Length:
    """Frames that a stack of unpadded convolutions makes of `samples` samples; ints or int64 tensors of any shape."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples - kernel) // stride + 1
    # A clip shorter than the receptive field gives no frame, not a negative number of frames.
    return samples.clamp_min(0) if isinstance(samples, torch.Tensor) else max(0, samples)


def length_arithmetic(config: Any) -> tuple[list[int], list[int]]:
    """Kernels and strides of unpadded convolutions that make as many frames of samples as the encoder does.

    - wav2vec 2.0, HuBERT, WavLM: the convolutions themselves.
    - wav2vec2-bert: filter bank frames of 25 ms every 10 ms (Kaldi's, none reaches over the end), then whole pairs.
    - Whisper: mel frames are centred on every 160th sample, and a convolution with padding takes every second, so
      that each begun 20 ms gives a frame; what 30 s of padding would add is not counted.
    """
    if config.model_type == "whisper":
        return [1], [320]
    if config.model_type == "wav2vec2-bert":
        return [400, 2], [160, 2]
    return list(config.conv_kernel), list(config.conv_stride)


def output_lengths(config: Any, samples: Length) -> Length:
    """Frames of an encoder for `samples` samples at 16 kHz. The only such arithmetic in the package."""
    return frame_lengths(*length_arithmetic(config), samples)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Boolean mask, shape (B, size): true where position < length."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def new_config(
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    intermediate_size: int,
    conv_dim: Sequence[int],
    conv_kernel: Sequence[int],
    conv_stride: Sequence[int],
    codevectors_per_group: int,
    codevector_dim: int,
    dropout: float = 0.05,
) -> Wav2Vec2Config:
    """A wav2vec 2.0 configuration in XLS-R's form (layer-norm extractor, stable layer norm) at any size."""
    return Wav2Vec2Config(
        vocab_size=32,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        conv_dim=tuple(conv_dim),
        conv_kernel=tuple(conv_kernel),
        conv_stride=tuple(conv_stride),
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=8,
        num_codevectors_per_group=codevectors_per_group,
        codevector_dim=codevector_dim,
        proj_codevector_dim=codevector_dim,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        feat_quantizer_dropout=0.0,
        layerdrop=0.0,
        # False would make transformers ignore the masks of pretraining, too.
        apply_spec_augment=True,
    )


def normalises(config: Any) -> bool:
    """Whether an encoder wants zero mean and unit variance audio, or audio at its own level (Whisper, wav2vec2-bert).

    `do_normalize` is the key of `preprocessor_config.json`; loading copies it into the configuration where it says no.
    """
    own_level = config.model_type in {"whisper", "wav2vec2-bert"}
    return bool(getattr(config, "do_normalize", not own_level))


def feature_extractor(config: Any) -> Wav2Vec2FeatureExtractor:
    """The matching feature extractor of transformers, audio to audio: encoders that see log-mel compute it themselves.

    Layer-norm encoders need the mask (transformers #10117).
    """
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE_HZ,
        padding_value=0.0,
        do_normalize=normalises(config),
        return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer",
    )


def read_model_type(path: Path) -> str:
    """`model_type` of a transformers directory.

    Raises:
        InputError: it is no transformers model directory.
    """
    if path.is_file():
        raise InputError(
            f"{path} must be a model directory, but is a file. If it is a fairseq checkpoint, run"
            f" `thaitool convert fairseq {path} --out DIR` and name DIR."
        )
    file = path / "config.json"
    if not file.is_file():
        raise InputError(
            f"{path} must be a transformers model directory (config.json and safetensors), but has no config.json."
        )
    try:
        model_type = json.loads(file.read_text("utf-8"))["model_type"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} must be a transformers configuration, but is not: {error!r}."
        ) from error
    return str(model_type)


def _require_wav2vec2(path: Path) -> None:
    model_type = read_model_type(path)
    if model_type != "wav2vec2":
        raise InputError(
            f"{path} must hold a wav2vec 2.0 encoder, but its model_type is {model_type!r}."
        )
    if not any(path.glob("*.safetensors")) and not (path / "pytorch_model.bin").is_file():
        raise InputError(
            f"{path} must hold weights (safetensors or pytorch_model.bin), but has none."
        )
    preprocessor = path / "preprocessor_config.json"
    if (
        preprocessor.is_file()
        and json.loads(preprocessor.read_text("utf-8")).get("do_normalize") is False
    ):
        raise InputError(
            f"{path} was trained on audio that is not normalised (do_normalize: false), but `pretrain` feeds zero mean"
            " and unit variance, as XLS-R expects. Choose another encoder."
        )


@contextmanager
def damage_is_explained(path: Path) -> Iterator[None]:
    """Turns the error of a cut or overwritten safetensors file into a sentence."""
    try:
        yield
    except SafetensorError as error:
        raise InputError(
            f"{path} must hold readable safetensors, but is damaged: {error}. Copy or make it again."
        ) from error


def load_pretraining(path: Path) -> Wav2Vec2ForPreTraining:
    """Encoder, quantizer and heads, all from weights.

    Raises:
        InputError: not a wav2vec 2.0 directory, or a weight is missing, which would otherwise start at random.
    """
    _require_wav2vec2(path)
    config = Wav2Vec2Config.from_pretrained(path)
    if config.mask_time_prob == 0:
        # transformers would leave out the embedding of masked frames; the share itself is not used here.
        config.mask_time_prob = Wav2Vec2Config().mask_time_prob
    with damage_is_explained(path):
        model, report = Wav2Vec2ForPreTraining.from_pretrained(
            path, config=config, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    in_encoder = [name for name in missing if name.startswith("wav2vec2.")]
    if in_encoder:
        raise InputError(
            f"{path} must hold full pretraining weights (encoder, quantizer, heads), but lacks {len(in_encoder)} of"
            f" the encoder, e.g. {in_encoder[0]}; is its config.json that of another model?"
        )
    if missing:
        raise InputError(
            f"{path} must hold full pretraining weights: the encoder is complete, but it lacks {len(missing)} of the"
            f" heads, e.g. {missing[0]}. Fine-tuned checkpoints have none, and new ones would start at chance and"
            " undo the encoder; take the checkpoint from before fine-tuning."
        )
    # False would make transformers ignore the masks of pretraining.
    model.config.apply_spec_augment = True
    model.config.mask_feature_prob = (
        0.0  # would come from numpy's global state, which no resume brings back
    )
    return model
