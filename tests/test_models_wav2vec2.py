"""The forward pass of pretraining: convolutions, gradient scaling, layerdrop, checkpointing, compiling."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from tests import tiny
from tests.bench.pretraining import mib
from thaitool.models.convolution import strided_convolution
from thaitool.models.pretraining import pretraining_loss
from thaitool.models.wav2vec2 import conv_features, prepare

SAMPLES = (16_000, 12_345)


def backward(model: Any, samples: tuple[int, ...] = SAMPLES, seed: int = 3) -> float:
    """Loss of a batch; gradients are added to the model's."""
    audio, lengths = tiny.ragged_audio(*samples)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    loss = pretraining_loss(model, audio, lengths, generator=generator, temperature=1.0)
    torch.autograd.backward(loss.total)
    return float(loss.total.detach())


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(a: Any, b: Any, tolerance: float) -> None:
    one, two = gradients(a), gradients(b)
    assert one.keys() == two.keys()
    scale = max(float(g.norm()) for g in two.values())
    for name, gradient in one.items():
        assert float((gradient - two[name]).norm()) <= tolerance * scale, name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "channels"),
    [
        (10, 5, 1),
        (20, 10, 1),
        (7, 4, 1),
        (3, 2, 6),
        (2, 2, 6),
        (8, 4, 6),
        (16, 8, 6),
        (5, 2, 3),
        (2, 3, 4),
        (1, 1, 4),
    ],
)
def test_strided_convolution_is_conv1d(kernel: int, stride: int, channels: int, bias: bool) -> None:
    torch.manual_seed(0)
    reference = nn.Conv1d(channels, 5, kernel, stride, bias=bias).double()
    x = torch.randn(12 * stride, channels, dtype=torch.float64, requires_grad=True)
    out = strided_convolution(x, reference.weight, reference.bias, stride)
    wanted = reference(x.t()[None])[0].t()
    torch.testing.assert_close(out[: len(wanted)], wanted)
    assert len(out) - len(wanted) == -(-kernel // stride) - 1 if kernel >= stride else True
    weights = torch.randn_like(wanted)
    leaves = [x, *reference.parameters()]
    mine = torch.autograd.grad((out[: len(wanted)] * weights).sum(), leaves)
    theirs = torch.autograd.grad((wanted * weights).sum(), leaves)
    torch.testing.assert_close(mine, theirs)


def test_strided_convolution_has_the_gradient_of_its_garbage_too() -> None:
    # The last frame lacks the taps beyond the end; as a function it is still differentiable.
    torch.manual_seed(0)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, w, b: strided_convolution(x, w, b, 2), (x, weight, bias))


@pytest.mark.parametrize("samples", [16_000, 15_999, 4_001, 1_600])
def test_features_equal_those_of_transformers(samples: int) -> None:
    model = tiny.pretraining_model().wav2vec2
    audio = tiny.ragged_audio(samples, samples)[0]
    with torch.no_grad():
        wanted = model.feature_extractor(audio).transpose(1, 2)
        torch.testing.assert_close(conv_features(model, audio), wanted)


@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_feature_gradient_is_scaled_and_zero_freezes(scale: float) -> None:
    plain, scaled = tiny.pretraining_model(dropout=0.0), tiny.pretraining_model(dropout=0.0)
    prepare(scaled, feature_grad_scale=scale)
    assert backward(plain.train()) == backward(scaled.train())
    found, wanted = gradients(scaled), gradients(plain)
    convolutions = {n for n in wanted if ".feature_extractor." in n}
    assert convolutions
    for name, gradient in wanted.items():
        if name not in convolutions:
            assert torch.equal(found[name], gradient), name
        elif scale:
            torch.testing.assert_close(found[name], scale * gradient, rtol=1e-4, atol=1e-6)
    assert (convolutions <= found.keys()) == (scale > 0)
    assert all(
        p.requires_grad == (scale > 0) for p in scaled.wav2vec2.feature_extractor.parameters()
    )


@pytest.mark.parametrize("layerdrop", [0.0, 0.5])
def test_checkpointing_has_the_same_gradients(layerdrop: float) -> None:
    plain, saving = (tiny.pretraining_model(dropout=0.1, layers=4).train() for _ in range(2))
    prepare(plain, layerdrop=layerdrop)
    prepare(saving, layerdrop=layerdrop, gradient_checkpointing=True)
    assert backward(plain) == backward(saving)
    assert_same_gradients(saving, plain, 1e-6)


def test_checkpointing_saves_memory() -> None:
    shape: dict[str, Any] = {
        "hidden_size": 128,
        "layers": 16,
        "intermediate_size": 1024,
        "dropout": 0.0,
    }
    peaks = []
    for checkpointing in (False, True):
        model = tiny.pretraining_model(**shape).train()
        prepare(model, gradient_checkpointing=checkpointing)
        backward(model, (8_000,))
        peaks.append(mib(partial(backward, model, (100_000,))))
    plain, saved = peaks
    assert saved < 0.6 * plain


def test_layerdrop_skips_the_drawn_share_in_training_only() -> None:
    model = tiny.pretraining_model(layers=4)
    prepare(model, layerdrop=0.25)
    assert model.config.layerdrop == 0.25
    called: list[int] = []
    for number, layer in enumerate(model.wav2vec2.encoder.layers):
        layer.register_forward_hook(lambda *_, n=number: called.append(n))
    backward(model.eval(), (1_600,))
    assert called == [0, 1, 2, 3]
    model.train()
    called.clear()
    for seed in range(50):
        backward(model, (1_600,), seed)
    assert 0.66 * 200 < len(called) < 0.84 * 200
    seen = list(called)
    called.clear()
    for seed in range(50):
        backward(model, (1_600,), seed)
    assert called == seen


def test_a_skipped_layer_has_a_gradient_of_zero() -> None:
    model = tiny.pretraining_model().train()
    prepare(model, layerdrop=1.0)
    backward(model)
    for layer in model.wav2vec2.encoder.layers:
        assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_compute_the_same_at_any_length(checkpointing: bool) -> None:
    plain, compiled = (tiny.pretraining_model(dropout=0.0).train() for _ in range(2))
    prepare(plain)
    prepare(compiled, compile=True, gradient_checkpointing=checkpointing)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    for samples in ((16_000, 12_345), (9_000, 9_000, 8_000), (20_000,)):
        assert backward(compiled, samples) == pytest.approx(backward(plain, samples), rel=1e-6)
        assert_same_gradients(compiled, plain, 1e-5)


class Objective(nn.Module):
    """What a stage hands to DDP."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, seed: int) -> torch.Tensor:
        audio, lengths = tiny.ragged_audio(*SAMPLES, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        loss = pretraining_loss(self.model, audio, lengths, generator=generator, temperature=1.0)
        return loss.total


#: How the model is trained in two processes: wrapper, gradient checkpointing.
KINDS = [("ddp", False), ("ddp", True), ("fsdp", False)]


def dropping() -> Objective:
    """Without dropout: a layer that runs and is not used (FSDP) draws numbers, too."""
    return Objective(tiny.pretraining_model(layers=4, dropout=0.0).train())


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for kind, checkpointing in KINDS:
        plain = dropping()
        prepare(plain.model, layerdrop=0.5, gradient_checkpointing=checkpointing)
        objective: nn.Module = plain
        if kind == "ddp":
            objective = DistributedDataParallel(plain)
        else:
            mesh = init_device_mesh("cpu", (2,))
            for layer in plain.model.wav2vec2.encoder.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(plain, mesh=mesh)
        for seed in range(6):  # different layers in each process
            torch.autograd.backward(objective(2 * seed + rank))
        found = {n.removeprefix("module."): p.grad for n, p in objective.named_parameters()}
        whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}
        torch.save(whole, folder / f"{kind}-{checkpointing}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_layerdrop_in_two_processes(tmp_path: Path) -> None:
    # Each process drops other layers. With parameters out of the graph, DDP fails at the second step and FSDP hangs.
    start_processes(_process, (tmp_path,), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]
    alone = dropping()
    prepare(alone.model, layerdrop=0.5)
    for seed in range(12):
        torch.autograd.backward(alone(seed))
    wanted = {n: p.grad / 2 for n, p in alone.named_parameters() if p.grad is not None}
    scale = max(float(g.norm()) for g in wanted.values())
    for kind, checkpointing in KINDS:
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{kind}-{checkpointing}-{rank}.pt")
            assert found.keys() == wanted.keys()
            for name, gradient in found.items():
                difference = float((gradient - wanted[name]).norm())
                assert difference < 1e-5 * scale, (kind, checkpointing, name)


def test_options_are_copied_but_not_saved(tmp_path: Path) -> None:
    model = tiny.pretraining_model().train()
    prepare(model, feature_grad_scale=0.1, layerdrop=0.05)
    twin = copy.deepcopy(model)
    assert backward(twin) == backward(model)
    assert_same_gradients(twin, model, 0.0)
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text("utf-8")
    assert '"layerdrop": 0.05' in text
    assert "thaitool" not in text
