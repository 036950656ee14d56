"""One update: splitting a batch, sums over micro-batches, clipping, averaged weights, what is not finite."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.toy_training import SPLIT, WHOLE, Objective, go, settings
from thaitool.data.loader import Batch, batches
from thaitool.data.manifest import Manifest
from thaitool.data.scan import scan
from thaitool.errors import TrainingFailed
from thaitool.training.loop import Loss, Step, learning_rate_share
from thaitool.training.run_dir import RunDir
from thaitool.training.watch import Finding, Limits, Watch


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return scan([tiny.clips(tmp_path_factory.mktemp("audio"), 12)])[0]


def test_splitting_a_batch_over_micro_batches_changes_nothing(
    manifest: Manifest, tmp_path: Path
) -> None:
    whole, split = Objective(), Objective()
    go(whole, manifest, tmp_path / "a", settings(), WHOLE)
    go(split, manifest, tmp_path / "b", settings(accumulation=2), SPLIT)
    start = Objective()
    for a, b, c in zip(whole.parameters(), split.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        assert not torch.equal(a, c)
    # And the gradient is that of the mean over clips.
    batch = next(batches(manifest, WHOLE, range(1)))
    loss = start(batch, Step(0, 0.0, 0))
    torch.autograd.backward(loss.total / 4)
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in start.parameters() if p.grad is not None)
    )
    for run in ("a", "b"):
        assert RunDir(tmp_path / run).metrics()[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    together = [row["loss"] for row in RunDir(tmp_path / "a").metrics()]
    assert [row["loss"] for row in RunDir(tmp_path / "b").metrics()] == pytest.approx(together)


class Averaged(Objective):
    """Notes its weights after each update, as the next forward pass sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.trail: list[torch.Tensor] = []

    def forward(self, batch: Batch, step: Step) -> Loss:
        self.trail.append(self.first_layer().clone())
        return super().forward(batch, step)


def test_averaged_weights_are_evaluated_saved_and_resumed_and_do_not_train(
    manifest: Manifest, tmp_path: Path
) -> None:
    plain, objective = Averaged(), Averaged()
    go(plain, manifest, tmp_path / "plain", settings())
    seen: list[torch.Tensor] = []

    def evaluate() -> dict[str, float]:
        seen.append(objective.first_layer().clone())
        return {}

    config = settings(ema_decay=0.5, save_every=3)
    go(objective, manifest, tmp_path / "run", config, evaluate=evaluate)
    # The weights themselves go on as without an average.
    assert all(torch.equal(a, b) for a, b in zip(plain.trail, objective.trail, strict=True))
    after = [*objective.trail[1:], objective.first_layer()]
    average = objective.trail[0].clone()
    for number, weight in enumerate(after):
        average.lerp_(weight, 1 - min(0.5, (1 + number) / (10 + number)))
    torch.testing.assert_close(seen[-1], average)
    saved = torch.load(RunDir(tmp_path / "run").checkpoint(6) / "weights.pt")
    assert torch.equal(saved["net.0.weight"], seen[-1])
    assert not torch.equal(saved["net.0.weight"], objective.first_layer())
    # And a run that goes on from update 3 comes to the same average, to the bit.
    run = RunDir(tmp_path / "run")
    (run.path / "result.json").unlink()
    shutil.rmtree(run.checkpoint(6))
    assert go(Averaged(), manifest, run.path, config).resumed_from == 3
    again = torch.load(run.checkpoint(6) / "weights.pt")
    assert all(torch.equal(again[name], saved[name]) for name in saved)


class Tallied(Objective):
    """Logs tensors and tallies, some of them in some batches only."""

    def forward(self, batch: Batch, step: Step) -> Loss:
        loss = super().forward(batch, step)
        lengths = batch.audio_lengths
        logs: dict[str, tuple[torch.Tensor | float, float]] = {
            "length": (lengths.sum(), float(len(lengths))),
            "from_host": (2.0, 1.0),
        }
        if batch.cursor % 2:
            logs["rare"] = (torch.tensor(5.0), 2.0)
        tallies = {"bins": torch.bincount(lengths // 2000, minlength=10).float()}
        return dataclasses.replace(loss, logs=logs, tallies=tallies)


def test_metrics_are_sums_over_the_micro_batches_of_an_update(
    manifest: Manifest, tmp_path: Path
) -> None:
    def summarise(tallies: dict[str, torch.Tensor]) -> dict[str, float]:
        return {"clips": float(tallies["bins"].sum())}

    config = settings(updates=3, accumulation=2)
    go(Tallied(), manifest, tmp_path / "run", config, SPLIT, summarise=summarise)
    rows = RunDir(tmp_path / "run").metrics()
    frames = [round(d * 16_000) for d in manifest.duration_s]
    for number, row in enumerate(rows):
        assert row["clips"] == 4
        assert row["length"] == pytest.approx(sum(frames[4 * number : 4 * number + 4]) / 4)
        assert row["from_host"] == 2.0
        assert row["rare"] == 2.5


def test_a_gradient_is_clipped_to_its_norm(manifest: Manifest, tmp_path: Path) -> None:
    """AdamW does not care about a constant factor, so a norm that changes must show in its first moment."""
    whole = go(Objective(), manifest, tmp_path / "a", settings(updates=1, max_grad_norm=1e3), WHOLE)
    go(Objective(), manifest, tmp_path / "b", settings(updates=1, max_grad_norm=1e-3), WHOLE)
    assert whole.done["updates"] == 1
    moments = []
    for name in ("a", "b"):
        run = RunDir(tmp_path / name)
        state = torch.load(run.checkpoint(1) / "training_state.pt")["optimizer"]["state"]
        squares = sum(float((entry["exp_avg"] / 0.1).square().sum()) for entry in state.values())
        moments.append((math.sqrt(squares), run.metrics()[0]["grad_norm"]))
    assert moments[0][0] == pytest.approx(moments[0][1], rel=1e-4)  # not clipped
    assert moments[1][0] == pytest.approx(1e-3, rel=1e-3)
    assert moments[1][1] == moments[0][1]  # what is logged is the norm before


class _Scaled(torch.autograd.Function):
    """The value as it is, its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.factor, None


class Poisoned(Objective):
    """Goes wrong at the third update."""

    def __init__(self, value: float, where: str) -> None:
        super().__init__()
        self.value, self.where = value, where

    def forward(self, batch: Batch, step: Step) -> Loss:
        loss = super().forward(batch, step)
        if step.update == 2:
            if self.where == "gradient":
                return dataclasses.replace(loss, total=_Scaled.apply(loss.total, self.value))  # type: ignore[no-untyped-call]
            return dataclasses.replace(loss, total=loss.total * self.value)
        return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    manifest: Manifest, tmp_path: Path, value: float, where: str
) -> None:
    objective = Poisoned(value, where)
    with pytest.raises(TrainingFailed, match=f"{where}.* of update 3 is") as caught:
        go(objective, manifest, tmp_path / "run", settings(save_every=1))
    if where == "loss":
        assert objective.seen[-1] in str(caught.value)
    assert "last checkpoint is intact" in str(caught.value)
    run = RunDir(tmp_path / "run")
    assert run.last_update == 2
    weights = torch.load(run.checkpoint(2) / "weights.pt")
    assert all(bool(w.isfinite().all()) for w in weights.values())
    assert [row["update"] for row in run.metrics()] == [1, 2]


def test_updates_that_are_not_finite_may_be_skipped(manifest: Manifest, tmp_path: Path) -> None:
    objective = Poisoned(math.nan, "loss")
    result = go(objective, manifest, tmp_path / "run", settings(nonfinite_skips=1), WHOLE)
    assert (result.done["nonfinite"], result.done["utterances"], result.done["unused"]) == (
        1,
        20,
        4,
    )
    line = json.loads((tmp_path / "run" / "nonfinite.jsonl").read_text())
    assert line == {
        "update": 3,
        "loss": "nan",
        "utterances": [manifest[i].id for i in range(8, 12)],
    }
    rows = RunDir(tmp_path / "run").metrics()
    assert [row.get("skipped", 0) for row in rows] == [0, 0, 1, 0, 0, 0]
    assert all(bool(p.isfinite().all()) for p in objective.parameters())
    with pytest.raises(TrainingFailed, match="loss of update 3 is nan"):
        go(Poisoned(math.nan, "loss"), manifest, tmp_path / "strict", settings(), WHOLE)


class Alarm(Watch):
    """Finds something at the same update, a few times over."""

    times = 2

    def judge(self, row: dict[str, float]) -> Finding | None:
        if row["update"] < 5 or not self.times:
            return None
        self.times -= 1
        return Finding("alarm", "It is 5 o'clock.", {}, onset=5)


def test_a_collapse_that_comes_again_is_followed_by_a_longer_way_back(
    manifest: Manifest, tmp_path: Path
) -> None:
    watch = Alarm(Limits(), on_collapse="rollback")
    config = settings(updates=8, save_every=2, keep=9)
    result = go(Objective(), manifest, tmp_path / "run", config, watch=watch)
    assert [(entry["to"], entry["found_at"]) for entry in result.rollbacks] == [(4, 5), (2, 5)]
    run = RunDir(tmp_path / "run")
    assert [update for update, _ in run.checkpoints()] == [0, 2, 4, 6, 8]
    rates = [row["learning_rate"] for row in run.metrics()]
    whole = [1e-2 * learning_rate_share(u, config) for u in range(8)]
    assert rates == pytest.approx([*whole[:2], *(rate / 4 for rate in whole[2:])])
