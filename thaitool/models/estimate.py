"""What a pretraining run will need, before it starts: memory, disk, arithmetic, hours. Allocates no weights.

An estimate, and printed as one: activations are counted by formula, and the time assumes a share of the matrix
multiplication rate that is measured on the device at hand.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.models.encoder import output_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Share of the measured matrix multiplication rate that training is assumed to reach (issue C asks for 40 % at least).
ASSUMED_UTILISATION = 0.4
#: Bytes of a weight, its gradient and its two AdamW moments, all float32.
STATE_BYTES = 16
#: A checkpoint holds the weights twice (for users, for resuming) and the moments.
CHECKPOINT_BYTES = 16


@dataclass(frozen=True)
class Estimate:
    """Needs of one process; `device_hours` is of all processes together."""

    parameters: int
    state_bytes: int
    """Weights, gradients, optimizer."""
    activation_bytes: int
    """What the backward pass of one micro-batch keeps."""
    disk_bytes: int
    """Checkpoints at once, while a new one is written."""
    audio_hours: float
    """Padded audio of all updates of all processes."""
    flop_per_audio_s: float
    matmul_flop_per_s: float
    device_hours: float


def count_parameters(config: Any) -> int:
    """Parameters of `Wav2Vec2ForPreTraining`, counted on the meta device."""
    from transformers import Wav2Vec2ForPreTraining

    with torch.device("meta"):
        return sum(p.numel() for p in Wav2Vec2ForPreTraining(config).parameters())


def flop_per_audio_s(config: Any, crop_s: float, *, checkpointing: bool) -> float:
    """Floating point operations of forward and backward pass for one second of audio (multiply and add are two).

    The backward pass costs twice the forward pass; checkpointing computes the transformer forward once more. Heads
    and losses, under 2 %, are left out.
    """
    convolutions, rate = 0.0, float(SAMPLE_RATE_HZ)
    for (c_in, c_out), kernel, stride in zip(
        itertools.pairwise((1, *config.conv_dim)),
        config.conv_kernel,
        config.conv_stride,
        strict=True,
    ):
        rate /= stride
        convolutions += 2 * rate * kernel * c_in * c_out
    D = config.hidden_size
    frames = output_lengths(config, int(crop_s * SAMPLE_RATE_HZ))
    layer = 4 * D * D + 2 * D * config.intermediate_size + 2 * frames * D
    position = config.num_conv_pos_embeddings * D * D / config.num_conv_pos_embedding_groups
    transformer = 2 * rate * (config.num_hidden_layers * layer + position)
    projection = 2 * rate * config.conv_dim[-1] * D
    forward = convolutions + transformer + projection
    return float(3 * forward + (transformer if checkpointing else 0.0))


def activation_bytes(config: Any, batch_s: float, *, checkpointing: bool, bf16: bool) -> int:
    """What autograd keeps of one micro-batch of `batch_s` padded seconds.

    Per convolution: the inputs of the convolution, the layer norm and the activation. Per transformer layer and frame:
    eleven tensors of width D (norms, query, key, value, residuals) and two of width F (feed-forward); attention is
    computed in tiles. With checkpointing the input of every layer, and one layer in full while it is computed again.
    Compared with what autograd really keeps in tests/test_models_estimate.py.
    """
    width = 2 if bf16 else 4
    samples = int(batch_s * SAMPLE_RATE_HZ)
    convolutions = []
    for c_out, stride in zip(config.conv_dim, config.conv_stride, strict=True):
        samples //= stride
        convolutions.append(samples * c_out)
    D, F = config.hidden_size, config.intermediate_size
    # Layer norms compute in float32 whatever the precision of the pass, and so the residuals are float32, too.
    layer = samples * (D * (7 * width + 4 * 4) + F * 2 * width)
    per_convolution = 2 * width + 4
    if checkpointing:
        inputs = sum(convolutions) * width + config.num_hidden_layers * samples * D * 4
        return int(inputs + max(layer, max(convolutions) * per_convolution))
    return int(sum(convolutions) * per_convolution + config.num_hidden_layers * layer)


def matmul_flop_per_s(device: torch.device, *, bf16: bool, seconds: float = 0.3) -> float:
    """Measured rate of a large matrix product on `device`, the best of what fits into `seconds`."""
    n = 4096 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        best = max(best, 2 * n**3 / (now - began))
        if now > end:
            return best


def estimate(
    config: Any,
    *,
    updates: int,
    accumulation: int,
    batch_s: float,
    crop_s: float,
    processes: int,
    keep: int,
    checkpointing: bool,
    bf16: bool,
    device: torch.device,
) -> Estimate:
    """Needs of a whole run of `pretrain`.

    Args:
        config: `Wav2Vec2Config`.
        updates, accumulation, batch_s, crop_s, keep: As in the stage's configuration.
        processes: Over how many processes the run goes.
        checkpointing, bf16: As the model will run.
        device: Where the rate of matrix products is measured.
    """
    n = count_parameters(config)
    work = flop_per_audio_s(config, crop_s, checkpointing=checkpointing)
    rate = matmul_flop_per_s(device, bf16=bf16)
    audio_s = updates * accumulation * batch_s * processes
    return Estimate(
        parameters=n,
        state_bytes=STATE_BYTES * n,
        activation_bytes=activation_bytes(config, batch_s, checkpointing=checkpointing, bf16=bf16),
        # `keep` newest, the best or first one, and the one being written.
        disk_bytes=(keep + 2) * CHECKPOINT_BYTES * n,
        audio_hours=audio_s / 3600,
        flop_per_audio_s=work,
        matmul_flop_per_s=rate,
        device_hours=audio_s * work / (ASSUMED_UTILISATION * rate) / 3600,
    )


def describe(
    e: Estimate, *, device: str, processes: int, hours: float | None
) -> Sequence[tuple[str, str]]:
    """Rows for people: what a run needs. `hours`: audio of one epoch, None if unknown."""
    gib = 2**30
    epochs = f", {e.audio_hours / hours:.2f} epochs of {hours:,.2f} h" if hours else ""
    of_all = f", {processes} together" if processes > 1 else ""
    return (
        ("model", f"{e.parameters:,} parameters"),
        ("audio to hear", f"at most {e.audio_hours:,.2f} h{epochs}"),
        (
            "memory",
            f"{e.state_bytes / gib:.2f} GiB weights, optimizer; about {e.activation_bytes / gib:.2f} GiB activations",
        ),
        ("disk", f"{e.disk_bytes / gib:.2f} GiB of checkpoints"),
        (
            "time",
            f"about {span(e.device_hours)} of {device}{of_all}: {e.flop_per_audio_s / 1e9:,.1f} GFLOP per second of"
            f" audio, at {ASSUMED_UTILISATION:.0%} of the {e.matmul_flop_per_s / 1e12:,.2f} TFLOP/s of a matrix"
            " product here",
        ),
    )


def span(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.0f} minutes" if hours * 60 >= 2 else f"{3600 * hours:.0f} seconds"
