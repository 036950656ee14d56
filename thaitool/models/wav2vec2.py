"""The wav2vec 2.0 forward pass for pretraining, on the weights of a transformers model. Holds no weights, no loss.

Same function as `Wav2Vec2Model.forward`, made for training at size: convolutions work on frames-by-channels matrices
(no transposes around their layer norms, products only), the host never waits for the device, and a layer that
layerdrop skips stays in the gradient of DDP and in step under FSDP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import create_bidirectional_mask

from thaitool.models.convolution import strided_convolution

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from thaitool.models.masking import Layout


@dataclass(frozen=True)
class Options:
    """How a model is trained; the function it computes does not depend on it, except through layerdrop."""

    layerdrop: float = 0.0
    feature_grad_scale: float = 1.0
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Encoded:
    """What the objective needs of an encoder."""

    hidden: Tensor
    """Shape (B, I, D): output of the transformer."""
    features: Tensor
    """Shape (B, I, C): layer-normed features that are quantized, unmasked."""
    raw: Tensor
    """Shape (B, I, C): output of the convolutions, for the penalty on its size."""


def prepare(
    model: Any,
    *,
    layerdrop: float | None = None,
    feature_grad_scale: float = 1.0,
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002
) -> None:
    """Sets how `pretraining_loss` runs a `Wav2Vec2ForPreTraining`; before the optimizer and any wrapper are made.

    Args:
        model: Changed in place; weights and their names stay.
        layerdrop: Chance of skipping each transformer layer in training; None keeps that of the configuration. Goes
            into the configuration, as the checkpoint should say what it was trained with.
        feature_grad_scale: Factor on the gradient that enters the convolutional encoder (fairseq: feature_grad_mult).
            0 freezes it: its parameters ask for no gradient and its backward pass is not computed.
        gradient_checkpointing: Computes each convolution and transformer layer a second time in the backward pass
            instead of keeping what happens inside.
        compile: torch.compile for the transformer layers; lengths stay dynamic.
    """
    if layerdrop is not None:
        model.config.layerdrop = layerdrop
    if feature_grad_scale == 0:
        model.freeze_feature_encoder()
    if compile:
        for layer in model.wav2vec2.encoder.layers:
            layer.compile(dynamic=True)
    # A plain attribute of the instance, as transformers keeps its own switches: not in the state dict, not saved.
    model.thaitool_options = Options(
        model.config.layerdrop, feature_grad_scale, gradient_checkpointing
    )


def options_of(model: Any) -> Options:
    """What `prepare` set; of a model that was not prepared, the defaults with its configured layerdrop."""
    found: Options | None = vars(model).get("thaitool_options")
    return found or Options(model.config.layerdrop)


def encode(
    model: Any, audio: Tensor, layout: Layout, options: Options, kept: Sequence[bool]
) -> Encoded:
    """Convolutions, masking, transformer.

    Args:
        model: `Wav2Vec2Model`.
        audio: Shape (B, N), zero after each row's length.
        layout: On the device of the audio: frames that the transformer does not see, and padding.
        options: See `prepare`.
        kept: For each transformer layer, whether it is used.
    """
    run = _recomputed if options.gradient_checkpointing and model.training else _run
    features = conv_features(model, audio, run)
    if options.feature_grad_scale not in {0.0, 1.0}:
        scale = options.feature_grad_scale
        features = _ScaledGradient.apply(features, scale)  # type: ignore[no-untyped-call]
    hidden, normed = model.feature_projection(features)
    embedding = model.masked_spec_embed.to(hidden.dtype)
    hidden = torch.where(layout.mask[..., None], embedding, hidden)
    if layout.valid is not None:
        hidden = hidden.masked_fill(~layout.valid[..., None], 0.0)
    return Encoded(_transformer(model.encoder, hidden, layout.valid, run, kept), normed, features)


def _run(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


def _recomputed(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    out: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return out


def conv_features(model: Any, audio: Tensor, run: Callable[..., Tensor] = _run) -> Tensor:
    """The convolutional encoder of a `Wav2Vec2Model`: audio (B, N) to features (B, I, C)."""
    extractor = model.feature_extractor
    if model.config.feat_extract_norm != "layer":
        # wav2vec 2.0 base norms each channel over time, for which frames-by-channels gains nothing.
        return run(extractor, audio).transpose(1, 2)
    convolutions = [layer.conv for layer in extractor.conv_layers]
    strides = [c.stride[0] for c in convolutions]
    N = audio.shape[1]
    # Rows of whole strides make the batch one long sequence; frames that reach over a row's end are cut off below.
    x = functional.pad(audio, (0, -N % math.prod(strides))).reshape(-1, 1)
    for layer in extractor.conv_layers:
        x = run(_conv_layer, x, layer)
        N = (N - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
    return x.view(len(audio), -1, x.shape[-1])[:, :N]


def _conv_layer(x: Tensor, layer: Any) -> Tensor:
    """Convolution, layer norm, activation; (rows, C) to (rows / stride, C')."""
    conv, norm = layer.conv, layer.layer_norm
    x = strided_convolution(x, conv.weight, conv.bias, conv.stride[0])
    # In the dtype of the convolution, statistics inside in float32, as in fairseq. Autocast would make float32 of these
    # tensors, the largest of all: 3,200 x 512 per second of audio in XLS-R.
    with torch.autocast(x.device.type, enabled=False):
        x = functional.layer_norm(
            x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps
        )
        activated: Tensor = layer.activation(x)
    return activated


def _transformer(
    encoder: Any,
    hidden: Tensor,
    valid: Tensor | None,
    run: Callable[..., Tensor],
    kept: Sequence[bool],
) -> Tensor:
    stable = encoder.config.do_stable_layer_norm
    attention = attention_mask(encoder.config, hidden, valid)
    hidden = hidden + encoder.pos_conv_embed(hidden)
    if not stable:
        hidden = encoder.layer_norm(hidden)
    hidden = encoder.dropout(hidden)
    for layer, keep in zip(encoder.layers, kept, strict=True):
        if keep:
            hidden = run(layer, hidden, attention)
        elif isinstance(layer, FSDPModule):
            # Its weights are gathered from all processes; one that skipped would leave the others waiting.
            hidden = torch.lerp(hidden, run(layer, hidden, attention), 0.0)
        else:
            hidden = skipped(layer, hidden)
    if stable:
        hidden = encoder.layer_norm(hidden)
    return hidden


def attention_mask(config: Any, hidden: Tensor, valid: Tensor | None) -> Tensor | None:
    """The mask that transformers' layers take, from valid frames (B, I); of any family."""
    if valid is None:
        return None
    if config._attn_implementation == "sdpa":  # noqa: SLF001
        # What transformers would make of it, but that would ask the device whether all frames are valid.
        B, I = valid.shape  # noqa: E741
        return valid[:, None, None, :].expand(B, 1, I, I)
    made: Tensor = create_bidirectional_mask(
        config=config, inputs_embeds=hidden, attention_mask=valid
    )
    return made


def skipped(layer: Any, hidden: Tensor) -> Tensor:
    """`hidden` as it is; the layer's weights get a gradient of zero, for which DDP would otherwise wait."""
    trained = [p for p in layer.parameters() if p.requires_grad]
    unchanged: Tensor = _Unused.apply(hidden, *trained)  # type: ignore[no-untyped-call]
    return unchanged


def draw_layers(options: Options, layers: int, generator: torch.Generator) -> list[bool]:
    """Which layers a batch uses, drawn on the CPU, so that resuming and recomputing meet the same ones."""
    kept: list[bool] = (torch.rand(layers, generator=generator) >= options.layerdrop).tolist()
    return kept


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


class _Unused(torch.autograd.Function):
    """Identity that gives parameters a gradient of zero.

    Without one DDP fails at the next step, as parameters were not reduced; so it does with transformers' own layerdrop.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0], *(torch.zeros_like(p) for p in ctx.parameters))
