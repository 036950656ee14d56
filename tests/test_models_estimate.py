"""The estimate before a run: arithmetic against published and counted figures, memory against what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from thaitool.models.encoder import new_config
from thaitool.models.estimate import (
    activation_bytes,
    count_parameters,
    describe,
    estimate,
    flop_per_audio_s,
    matmul_flop_per_s,
)

#: XLS-R 300M (Babu et al. 2021): 24 layers of width 1024, seven convolutions of 512 channels.
XLS_R: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "codevector_dim": 768,
    "proj_codevector_dim": 768,
}
MEDIUM = new_config(
    hidden_size=256,
    layers=4,
    heads=4,
    intermediate_size=1024,
    conv_dim=[128] * 7,
    conv_kernel=[10, 3, 3, 3, 3, 2, 2],
    conv_stride=[5, 2, 2, 2, 2, 2, 2],
    codevectors_per_group=16,
    codevector_dim=16,
    dropout=0.0,
)


def test_xls_r_has_its_published_size_and_costs_what_was_computed_for_it() -> None:
    config = Wav2Vec2Config(**XLS_R)
    assert count_parameters(config) == pytest.approx(317.4e6, rel=2e-3)
    # 6 x 317 M x 50 Hz, the convolutions: some 110 GFLOP per second of audio, and attention comes on top.
    assert flop_per_audio_s(config, 1.0, checkpointing=False) == pytest.approx(110e9, rel=0.03)
    assert flop_per_audio_s(config, 15.0, checkpointing=False) == pytest.approx(119e9, rel=0.03)
    # A second forward pass of the transformer, a third of its share.
    assert flop_per_audio_s(config, 15.0, checkpointing=True) == pytest.approx(153e9, rel=0.03)


def test_the_arithmetic_agrees_with_a_counter() -> None:
    seconds = 10.0
    model = Wav2Vec2ForPreTraining(MEDIUM).wav2vec2
    model.config._attn_implementation = "eager"  # the counter sees its matrix products
    counter = FlopCounterMode(display=False)
    audio = torch.randn(1, int(16_000 * seconds))
    with counter:
        model(audio).last_hidden_state.sum().backward()
    counted = counter.get_total_flops() / seconds
    assert flop_per_audio_s(MEDIUM, seconds, checkpointing=False) == pytest.approx(counted, rel=0.1)


def kept_bytes(model: Any, compute: Any) -> int:
    """Bytes of the tensors that autograd keeps besides weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = compute()
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_is_near_what_autograd_keeps(checkpointing: bool) -> None:
    seconds = 10.0
    model = Wav2Vec2ForPreTraining(MEDIUM).wav2vec2.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    measured = kept_bytes(
        model, lambda: model(torch.randn(1, int(16_000 * seconds))).last_hidden_state
    )
    guess = activation_bytes(MEDIUM, seconds, checkpointing=checkpointing, bf16=False)
    # The forward pass shows nothing of the layer that is alive while it is computed again, here the first convolution.
    alive = 16_000 * seconds / 5 * 128 * 12 if checkpointing else 0
    assert 0.75 < (guess - alive) / measured < 1.33


def test_a_run_is_the_sum_of_its_updates() -> None:
    found = estimate(
        MEDIUM,
        updates=90,
        accumulation=4,
        batch_s=20.0,
        crop_s=10.0,
        processes=2,
        keep=2,
        checkpointing=False,
        bf16=False,
        device=torch.device("cpu"),
    )
    assert found.audio_hours == pytest.approx(90 * 4 * 20 * 2 / 3600)
    assert found.state_bytes == 16 * count_parameters(MEDIUM)
    assert found.device_hours == pytest.approx(
        found.audio_hours * found.flop_per_audio_s / (0.4 * found.matmul_flop_per_s)
    )
    rows = dict(describe(found, device="cpu", processes=2, hours=2.0))
    assert rows["audio to hear"] == "at most 4.00 h, 2.00 epochs of 2.00 h"
    assert " of cpu, 2 together: " in rows["time"]


def test_the_rate_is_measured_here() -> None:
    # Any machine that runs these tests does between 0.1 GFLOP/s and 10 PFLOP/s.
    assert 1e8 < matmul_flop_per_s(torch.device("cpu"), bf16=False, seconds=0.02) < 1e16
