"""Collapse provoked on a small wav2vec 2.0, real audio path and real objective: caught, told, and what then happens."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import training_task
from tests.training_task import Objective, Setup, go, settings, watch
from thaitool.data.loader import Batch
from thaitool.data.manifest import Manifest
from thaitool.errors import TrainingFailed
from thaitool.training.loop import Step
from thaitool.training.rollback import read_rollbacks
from thaitool.training.run_dir import RunDir

#: Within which everything is caught.
UPDATES = 200
Sabotage = Callable[[Any, Step], None]


class Sabotaged(Objective):
    """Something happens to the model or the audio before an update."""

    def __init__(self, sabotage: Sabotage, **prepared: Any) -> None:
        super().__init__(**prepared)
        self.sabotage = sabotage

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        if step is not None:
            with torch.no_grad():
                self.sabotage(self.model, step)
        return super().forward(batch, step, probe=probe)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return training_task.long_clips(tmp_path_factory.mktemp("collapse") / "audio")


@pytest.fixture(scope="module")
def healthy(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Objective:
    """A run that learns, with all monitors on: the first of the false alarms that there must not be."""
    out = tmp_path_factory.mktemp("healthy") / "run"
    config = settings(updates=240, learning_rate=3e-3)
    objective = Objective()
    result = go(Setup(manifest, out, config, objective, watch(config, on_collapse="stop")))
    assert result.done["updates"] == 240
    rows = RunDir(out).metrics()
    assert rows[-1]["contrastive_nats"] < rows[0]["contrastive_nats"] - 1.0
    assert rows[-1]["accuracy"] > 0.15
    return objective


def one_code(group: int, at: int) -> Sabotage:
    """One group's quantizer always takes its first code."""

    def sabotage(model: Any, step: Step) -> None:
        if step.update == at:
            codes = model.quantizer.num_vars
            model.quantizer.weight_proj.bias[group * codes] = 1e3

    return sabotage


def same_vector(model: Any, step: Step) -> None:
    if step.update >= 30:
        model.wav2vec2.encoder.layer_norm.weight.zero_()


def dead_head(model: Any, step: Step) -> None:
    model.project_hid.weight.zero_()
    model.project_hid.bias.zero_()


PROVOCATIONS: dict[str, tuple[Sabotage, float, str, int]] = {
    # what is done: (sabotage, learning rate, kind, found at the latest)
    "rate far too high": (lambda *_: None, 1e3, "contrastive loss is 0.000 nats", 20),
    "rate too high": (lambda *_: None, 0.08, "almost the same vector for everything", 100),
    "one code": (one_code(0, 30), 1e-3, "codebook has collapsed: code_perplexity_g0", 45),
    "same vector": (same_vector, 1e-3, "almost the same vector for everything", 50),
    "dead head": (dead_head, 1e-3, "within 0.03 nats of chance", 130),
}


@pytest.mark.parametrize("provocation", PROVOCATIONS)
def test_a_collapse_is_caught_within_200_updates(
    manifest: Manifest, tmp_path: Path, provocation: str
) -> None:
    sabotage, rate, sentence, latest = PROVOCATIONS[provocation]
    config = settings(updates=UPDATES, learning_rate=rate, batch_s=8.0, probe_every=10)
    judge = watch(config, on_collapse="stop")
    with pytest.raises(TrainingFailed) as caught:
        go(Setup(manifest, tmp_path / "run", config, Sabotaged(sabotage), judge))
    told = str(caught.value)
    assert sentence in told
    assert "update" in told
    assert "lower learning_rate" in told
    run = RunDir(tmp_path / "run")
    assert len(run.metrics()) <= latest
    # It names a checkpoint from before, and that one is there.
    named = int(told.partition("checkpoint-")[2].split()[0])
    assert run.checkpoint(named).exists()
    assert not run.finished


class Changed(Objective):
    """The audio is noise, another at each update, or the loss is scaled down to nothing."""

    def __init__(self, *, noise: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.noise, self.scale = noise, scale

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        if step is None:
            return super().forward(batch, step, probe=probe)
        if self.noise:
            batch.audio.copy_(torch.randn_like(batch.audio))
        loss = super().forward(batch, step)
        return dataclasses.replace(loss, total=loss.total * self.scale)


@pytest.mark.parametrize(
    ("change", "sentence", "latest"),
    [
        ({"noise": True}, "within 0.03 nats of chance", 190),
        ({"scale": 1e-12}, "nothing is learned any more", 15),
    ],
)
def test_learning_nothing_is_caught_within_200_updates(
    manifest: Manifest, tmp_path: Path, change: dict[str, Any], sentence: str, latest: int
) -> None:
    config = settings(updates=UPDATES, learning_rate=1e-3)
    judge = watch(config, on_collapse="stop")
    with pytest.raises(TrainingFailed) as caught:
        go(Setup(manifest, tmp_path / "run", config, Changed(**change), judge))
    assert sentence in str(caught.value)
    assert "since update" in str(caught.value)
    assert len(RunDir(tmp_path / "run").metrics()) <= latest


def test_heads_that_were_not_loaded_are_found_before_the_first_update(
    manifest: Manifest, healthy: Objective, tmp_path: Path
) -> None:
    config = settings(updates=2, batch_s=8.0)

    def carry_on(out: Path, objective: Objective) -> Any:
        judge = watch(config, continued=True, on_collapse="rollback")
        return go(Setup(manifest, out, config, objective, judge))

    whole = Objective(seed=1)
    whole.load_state_dict(healthy.state_dict())
    assert carry_on(tmp_path / "whole", whole).done["updates"] == 2
    headless = Objective(seed=1)
    encoder = {k: v for k, v in healthy.state_dict().items() if k.startswith("model.wav2vec2")}
    headless.load_state_dict(encoder, strict=False)
    with pytest.raises(TrainingFailed) as caught:
        carry_on(tmp_path / "headless", headless)
    told = str(caught.value)
    assert "no better than chance before the first update" in told
    assert "the quantizer and the head project_q and the head project_hid look random" in told
    run = RunDir(tmp_path / "headless")
    assert run.metrics() == []
    assert run.checkpoints() == []


def test_a_rollback_takes_half_the_rate_and_the_run_ends_well(
    manifest: Manifest, tmp_path: Path
) -> None:
    config = settings(updates=60, learning_rate=0.08, batch_s=8.0, probe_every=10)
    judge = watch(config, on_collapse="rollback", max_rollbacks=4)
    result = go(Setup(manifest, tmp_path / "run", config, Objective(), judge))
    run = RunDir(tmp_path / "run")
    entries = read_rollbacks(run)
    assert 1 <= len(entries) <= 3
    assert all(entry.to < entry.onset <= entry.found_at and entry.done for entry in entries)
    assert [entry["kind"] for entry in result.rollbacks] == [entry.kind for entry in entries]
    # What came after is kept apart, and the run's own metrics are those of one line of updates.
    assert [row["update"] for row in run.metrics()] == [*range(1, 61)]
    aside: list[dict[str, float]] = []
    for entry in entries:
        file = run.path / f"metrics-rolled-back-{entry.number}.jsonl"
        aside = [json.loads(line) for line in file.read_text().splitlines()]
        assert [row["update"] for row in aside] == [*range(entry.to + 1, entry.found_at + 1)]
    before, after = aside[0], run.metrics()[entries[-1].to]
    assert after["update"] == before["update"]
    assert after["learning_rate"] == pytest.approx(before["learning_rate"] / 2)
    assert result.done["updates"] == 60
    assert result.done["batches"] == 60
    probed = [row["probe_feature_std"] for row in run.metrics() if "probe_feature_std" in row]
    assert min(probed) > 0.1 * probed[0]


def test_rollbacks_come_to_an_end(manifest: Manifest, tmp_path: Path) -> None:
    config = settings(updates=60, learning_rate=1e3, batch_s=8.0)
    judge = watch(config, on_collapse="rollback", max_rollbacks=2)
    with pytest.raises(TrainingFailed, match="was rolled back 2 times before"):
        go(Setup(manifest, tmp_path / "run", config, Objective(), judge))
    assert len(read_rollbacks(RunDir(tmp_path / "run"))) == 2


class Poisoned(Objective):
    """Some recordings make NaN of the loss."""

    def __init__(self, poison: set[str]) -> None:
        super().__init__()
        self.poison = poison

    def forward(self, batch: Batch, step: Step | None, *, probe: bool = False) -> Any:
        if step is not None:
            bad = [u.id in self.poison for u in batch.utterances]
            batch.audio[torch.tensor(bad)] = math.nan
        return super().forward(batch, step, probe=probe)


def test_a_recording_that_makes_nan_is_skipped_and_written_down(
    manifest: Manifest, tmp_path: Path
) -> None:
    config = settings(updates=24, batch_s=4.0, nonfinite_skips=1)
    poison = manifest[3].id
    judge = watch(config, on_collapse="rollback")
    result = go(Setup(manifest, tmp_path / "run", config, Poisoned({poison}), judge))
    # 24 clips of 3 to 4 s make 24 batches of one, so each recording is met once.
    assert result.done["nonfinite"] == 1
    assert result.done["utterances"] == 23
    lines = (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()
    assert [json.loads(line)["utterances"] for line in lines] == [[poison]]
    skipped = [row for row in RunDir(tmp_path / "run").metrics() if row.get("skipped")]
    assert [row["update"] for row in skipped] == [json.loads(lines[0])["update"]]
    assert "loss" not in skipped[0]
    last = torch.load(RunDir(tmp_path / "run").checkpoint(24) / "training_state.pt")
    assert all(bool(value.isfinite().all()) for value in last["trained"].values())


def test_nan_without_end_rolls_back_and_then_stops(manifest: Manifest, tmp_path: Path) -> None:
    config = settings(updates=24, batch_s=4.0, nonfinite_skips=2, save_every=2)
    everyone = {manifest[i].id for i in range(len(manifest))}
    poison = everyone - {manifest[0].id, manifest[1].id}
    judge = watch(config, on_collapse="rollback", max_rollbacks=1)
    with pytest.raises(
        TrainingFailed, match=r"The loss of update .* is nan; its batch holds long-"
    ):
        go(Setup(manifest, tmp_path / "run", config, Poisoned(poison), judge))
    assert [entry.kind for entry in read_rollbacks(RunDir(tmp_path / "run"))] == ["not finite"]
