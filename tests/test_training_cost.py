"""What a run costs: FLOPs as counters and hand counts have them, sums over resumes, and no change of results."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tests import aligning, tiny
from tests.toy_training import Objective, go, settings
from thaitool.data.loader import in_order
from thaitool.data.manifest import Manifest, open_manifest
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.ops.dtw import dtw_alignment
from thaitool.stages import align
from thaitool.training.cost import COUNTED, MEASURED, Cost, Meter, add_cost, cost_row, total_flops
from thaitool.training.loop import Step, make_accelerator
from thaitool.training.run_dir import RunDir
from thaitool.training.state import Done

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cost")


@pytest.fixture(scope="module")
def manifest(base: Path) -> Manifest:
    return scan([tiny.clips(base / "audio", 12)])[0]


def measured(module: nn.Module, work: Callable[[], torch.Tensor]) -> Cost:
    """The cost of forward and backward in one update."""
    meter = Meter(module, 1, CPU)
    with meter.update(0):
        torch.autograd.backward(work())
    return meter.take()


def by_torch(work: Callable[[], torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(work())
    return int(counter.get_total_flops())


@pytest.mark.parametrize("frozen", [(), (0,), (0, 2), (4,)])
def test_layers_by_their_shapes_are_what_torch_counts(frozen: tuple[int, ...]) -> None:
    net = nn.Sequential(
        nn.Conv1d(3, 8, 5, stride=2), nn.GELU(), nn.Conv1d(8, 6, 3), nn.GELU(), nn.Linear(23, 7)
    )
    for place in frozen:
        net[place].requires_grad_(False)
    x = torch.randn(4, 3, 53)

    def work() -> torch.Tensor:
        return torch.as_tensor(net(x)).sum()

    found = measured(net, work)
    assert found.layer_flops == found.layer_flops_counted == found.flops_counted == by_torch(work)
    # By hand: products of the layers, in as many passes as have a gradient.
    sizes = (2 * 4 * 25 * 8 * 15, 2 * 4 * 23 * 6 * 24, 2 * 4 * 6 * 7 * 23)
    trained = [0 not in frozen, 2 not in frozen, 4 not in frozen]
    passes = [1 + trained[k] + any(trained[:k]) for k in range(3)]
    assert found.flops_counted == sum(n * p for n, p in zip(sizes, passes, strict=True))


def test_what_torch_counts_wrong_or_not_at_all() -> None:
    """Grouped convolutions, attention on the CPU, attention of shared keys, DTW."""
    grouped = nn.Conv1d(8, 8, 3, groups=4)
    x = torch.randn(2, 8, 12, requires_grad=True)
    once = 2 * 2 * 8 * 10 * 2 * 3
    assert measured(grouped, lambda: torch.as_tensor(grouped(x)).sum()).flops_counted == 3 * once
    q, k = torch.randn(2, 4, 9, 16, requires_grad=True), torch.randn(2, 2, 11, 16)

    def attend() -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, k, enable_gqa=True).sum()

    cells = 2 * 4 * 9 * 11
    assert measured(nn.Identity(), attend).flops_counted >= 2 * cells * 32
    speech, text = torch.randn(3, 10, 8, requires_grad=True), torch.randn(3, 4, 8)
    lengths = torch.tensor([10, 7, 5]), torch.tensor([4, 2, 1])

    def pairs() -> torch.Tensor:
        return dtw_alignment(speech, text, *lengths).loss.sum()

    found = measured(nn.Identity(), pairs).flops_counted
    assert found == 2 * 3 * 10 * 4 * 8 + 2 * 3 * (10 + 4) * 8


@pytest.mark.parametrize("method", aligning.METHODS)
def test_every_method_is_counted_throughout(method: str, base: Path) -> None:
    """Of a whole update, torch's counter sees what ours sees, but for DTW and attention on the CPU."""
    config = aligning.settings(base, base / "x", method=method)
    model, fit = align_parts(config)
    objective: Any = align._objective(model, fit, config)
    align._groups(model.front_end, config)
    batch = next(in_order(open_manifest(config.data), batch_s=4.0))

    def work() -> torch.Tensor:
        objective.train()
        return torch.as_tensor(objective(batch, Step(3, 0.9, 1)).total)

    found = measured(objective, work)
    theirs = by_torch(work)
    assert theirs <= found.flops_counted <= 1.4 * theirs
    # The convolutions of wav2vec 2.0 are called by no layer of theirs.
    assert 0.4 * found.flops_counted <= found.layer_flops <= found.flops_counted
    if method == "asr":
        # The LLM is frozen, but its input has a gradient: two passes over each of its layers.
        llm: Any = objective.model.language_model
        layers = sum(m.weight.numel() for m in llm.modules() if isinstance(m, nn.Linear))
        clip_tokens = len(batch.utterances) * 8
        assert found.layer_flops > 2 * 2 * layers * clip_tokens


def align_parts(config: Any) -> tuple[Any, Any]:
    model = align._build(config, config.encoder, config.llm)
    return model, align._fitting(model, open_manifest(config.data), config, held_out=False)


class Varying(Objective):
    """Its cost changes from batch to batch: clips as they are, and a product that is no layer."""

    def forward(self, batch: Any, step: Step) -> Any:
        loss = super().forward(batch, step)
        deep = self.net[2](self.net[1](self.net[0](batch.audio[:, :6000].reshape(-1, 4))))
        return type(loss)(loss.total + 0 * (deep @ deep.T).sum(), loss.weight, used=loss.used)


def test_a_long_run_is_estimated_from_some_of_its_updates(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(updates=24, batch_s=1.0)
    exact = go(Varying(), manifest, tmp_path / "exact", config).done
    assert exact["flops"] == exact["flops_counted"]
    monkeypatch.setattr("thaitool.training.cost.COUNTED", 6)
    told = go(Varying(), manifest, tmp_path / "told", config).done
    assert told["flops_counted"] < 0.4 * exact["flops"]
    assert told["layer_flops"] == exact["layer_flops"]
    assert told["flops"] == pytest.approx(exact["flops"], rel=0.05)
    assert COUNTED == 32


def test_counting_changes_no_result(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        out = tmp_path / name
        go(Objective(), manifest, out, settings(eval_every=2))
        unlike = {*MEASURED, "flops"}
        return [{k: v for k, v in r.items() if k not in unlike} for r in RunDir(out).metrics()]

    counted = rows("counted")
    monkeypatch.setattr(Meter, "__init__", no_counting)
    assert rows("not") == counted
    assert "flops" not in RunDir(tmp_path / "not").metrics()[-1]


def no_counting(self: Any, module: nn.Module, updates: int, device: torch.device) -> None:
    compiled = nn.Module()
    compiled._compiled_call_impl = object()  # type: ignore[assignment]
    original(self, compiled, updates, device)


original = Meter.__init__


def test_sums_go_on_over_a_resume(manifest: Manifest, tmp_path: Path) -> None:
    config = settings(eval_every=2, save_every=3)
    whole = go(Objective(), manifest, tmp_path / "whole", config)

    def stop(update: int) -> Any:
        calls: list[int] = []

        def evaluate() -> dict[str, float]:
            calls.append(1)
            if len(calls) == update:
                raise KeyboardInterrupt
            return {}

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        go(Objective(), manifest, tmp_path / "cut", config, evaluate=stop(2))
    resumed = go(Objective(), manifest, tmp_path / "cut", config)
    assert resumed.resumed_from == 3
    for name in ("flops", "flops_counted", "layer_flops", "utterances", "audio_s"):
        assert resumed.done[name] == whole.done[name] > 0
    lines = [
        [{k: v for k, v in r.items() if k not in MEASURED} for r in RunDir(out).metrics()]
        for out in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert lines[0] == lines[1]
    costs = [row["flops"] for row in lines[0] if "flops" in row]
    assert len(costs) == 3
    assert costs == sorted(costs)
    assert costs[-1] == whole.done["flops"]
    last = RunDir(tmp_path / "cut").metrics()[-1]
    assert last["processor_s"] > 0
    assert last["peak_rss_bytes"] > 100 * 2**20


def test_an_evaluation_that_was_cut_short_is_made_again(manifest: Manifest, tmp_path: Path) -> None:
    """Otherwise the result would have the figures of an older one."""
    broken = [True]
    calls: list[int] = []

    def evaluate() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3 and broken[0]:
            raise InputError("held-out audio is broken")
        return {"quality": float(len(calls))}

    def told(metrics: dict[str, float]) -> list[str]:
        return [f"quality {metrics['quality']}"]

    parts: dict[str, Any] = {"evaluate": evaluate, "better": ("quality", 1), "remark": told}
    config = settings(eval_every=2)
    with pytest.raises(InputError):
        go(Objective(), manifest, tmp_path / "run", config, **parts)
    result = go(Objective(), manifest, tmp_path / "run", config, **parts)
    assert result.metrics == {"quality": 4.0}
    assert result.notes == ["quality 4.0"]
    run = RunDir(tmp_path / "run")
    assert (run.path / "best").resolve().name == "checkpoint-6"
    judged = [(r["update"], r["eval_quality"]) for r in run.metrics() if "eval_quality" in r]
    assert judged == [(2, 1.0), (4, 2.0), (6, 4.0)]
    assert [r["alarms"] for r in run.metrics() if "alarms" in r] == [
        ["quality 1.0"],
        ["quality 2.0"],
        ["quality 4.0"],
    ]
    # A finished run is returned as it is.
    assert go(Objective(), manifest, run.path, config, **parts).metrics == result.metrics
    assert len(calls) == 4


def test_processes_add_up_but_for_memory() -> None:
    done = Done()
    for memory in (5, 3):
        add_cost(done, Cost(10, 8, 80, 1.5, memory, 2 * memory))
    assert (done.processor_s, done.peak_rss_bytes, done.peak_cuda_bytes) == (3.0, 5, 10)
    assert total_flops(done) == 20 + (160 - 16) * 20 // 16
    assert cost_row(done)["flops"] == 200
    assert total_flops(Done()) is None
    assert math.isfinite(json.loads(json.dumps(cost_row(done)))["flops"])


def test_every_device_is_asked_for_its_memory() -> None:
    assert make_accelerator(settings()).device.type == "cpu"
    assert Meter(nn.Linear(2, 2), 1, CPU).take().peak_cuda_bytes == 0
