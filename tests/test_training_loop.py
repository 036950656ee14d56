"""The training loop on a toy objective: splitting a batch, schedule, accounting, and every reason to stop."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tests.toy_training import Objective, go, settings
from thaitool.data.loader import Batch
from thaitool.data.manifest import Manifest
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.errors import EnvironmentProblem, InputError, QuarantineError, TrainingFailed
from thaitool.training import update
from thaitool.training.loop import (
    Loss,
    Step,
    learning_rate_share,
    make_accelerator,
)
from thaitool.training.run_dir import METRICS, RunDir, open_run, resolve
from thaitool.training.sums import Sums


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return scan([tiny.clips(tmp_path_factory.mktemp("audio"), 12)])[0]


def test_learning_rate_schedule(manifest: Manifest, tmp_path: Path) -> None:
    config = settings(updates=100, warmup_share=0.1)
    share = [learning_rate_share(u, config) for u in range(100)]
    assert share[0] == pytest.approx(1 / 11)
    assert share[9] == pytest.approx(10 / 11)
    assert share[10] == pytest.approx(1.0)
    assert share[55] == pytest.approx(0.05 + 0.95 * 0.5)
    assert share[99] == pytest.approx(0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert share[:11] == sorted(share[:11])
    assert share[10:] == sorted(share[10:], reverse=True)
    assert learning_rate_share(0, settings(warmup_share=0.0)) == 1.0
    assert learning_rate_share(5, settings(warmup_share=1.0)) == pytest.approx(6 / 7)
    # And it is what the optimizer gets.
    short = settings(warmup_share=0.5)
    go(Objective(), manifest, tmp_path / "run", short)
    rates = [row["learning_rate"] for row in RunDir(tmp_path / "run").metrics()]
    assert rates == pytest.approx([1e-2 * learning_rate_share(u, short) for u in range(6)])


def test_a_linear_schedule_ends_at_zero() -> None:
    config = settings(updates=100, warmup_share=0.2, schedule="linear")
    share = [learning_rate_share(u, config) for u in range(100)]
    assert share[10] == pytest.approx(11 / 21)
    assert share[20] == 1.0
    assert share[60] == pytest.approx(0.5)
    assert share[99] == pytest.approx(1 / 80)


def test_planned_is_done_and_every_clip_is_seen_once_an_epoch(
    manifest: Manifest, tmp_path: Path
) -> None:
    plan = make_plan(manifest.duration_s, batch_s=2.0, seed=0)
    updates = 2 * plan.batches_per_epoch
    objective = Objective()
    result = go(objective, manifest, tmp_path / "run", settings(updates=updates), plan)
    assert result.planned == {"updates": updates, "batches": updates}
    assert result.done["utterances"] == 24
    assert result.done["epochs"] == 2.0
    assert result.done["hours"] == pytest.approx(2 * manifest.hours, abs=1e-4)
    everyone = sorted(manifest[i].id for i in range(12))
    assert sorted(objective.seen[:12]) == sorted(objective.seen[12:]) == everyone
    assert objective.seen[:12] != objective.seen[12:]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["done"] == result.done
    seeds = [step.seed for step in objective.steps]
    assert len(set(seeds)) == len(seeds)
    assert [step.share for step in objective.steps] == [u / updates for u in range(updates)]


def test_done_that_differs_from_planned_is_an_error(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = update.Updater._account

    def forgetful(self: Any, batch: Batch, sums: Sums) -> None:
        real(self, batch, sums)
        sums.add("batches", -float(batch.cursor == 2))

    monkeypatch.setattr(update.Updater, "_account", forgetful)
    with pytest.raises(TrainingFailed, match=r"batches: planned 6, done 5"):
        go(Objective(), manifest, tmp_path / "run", settings())
    assert not RunDir(tmp_path / "run").finished


def test_a_decoding_process_that_is_killed_ends_the_run_with_a_sentence(
    manifest: Manifest, tmp_path: Path
) -> None:
    class Killing(Objective):
        def forward(self, batch: Batch, step: Step) -> Loss:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
            return super().forward(batch, step)

    with pytest.raises(EnvironmentProblem, match="A process that decodes audio has died"):
        go(Killing(), manifest, tmp_path / "run", settings(updates=50, workers=1))
    assert not RunDir(tmp_path / "run").finished


@pytest.mark.skipif(find_spec("wandb") is not None, reason="asks for what is missing")
def test_a_tracker_that_is_not_installed_is_a_problem_before_training(
    manifest: Manifest, tmp_path: Path
) -> None:
    objective = Objective()
    with pytest.raises(EnvironmentProblem, match="pip install wandb"):
        go(objective, manifest, tmp_path / "run", settings(trackers=["tensorboard", "wandb"]))
    assert objective.steps == []


def test_no_tracker_writes_metrics_only(manifest: Manifest, tmp_path: Path) -> None:
    go(Objective(), manifest, tmp_path / "run", settings(trackers=[]))
    assert len(RunDir(tmp_path / "run").metrics()) == 6
    assert not (tmp_path / "run" / "tb").exists()


def damaged(tmp_path: Path, count: int) -> Manifest:
    """Twelve clips of which `count` lose their second half after the scan."""
    audio = tiny.clips(tmp_path / "audio", 12)
    manifest = scan([audio])[0]
    for path in sorted(audio.iterdir())[:count]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return manifest


def test_a_recording_that_breaks_is_set_aside_counted_and_listed_once(tmp_path: Path) -> None:
    manifest = damaged(tmp_path, 1)
    updates = 2 * make_plan(manifest.duration_s, batch_s=2.0, seed=0).batches_per_epoch
    result = go(Objective(), manifest, tmp_path / "run", settings(updates=updates))
    assert result.done["rejected"] == 2  # once in each epoch
    assert result.done["utterances"] == 22
    lines = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == [manifest[0].audio.path]
    with pytest.raises(QuarantineError, match="1 of 12 recordings are unusable"):
        go(Objective(), manifest, tmp_path / "b", settings(updates=20, max_rejected_share=0.05))


def test_stopping_and_going_on_forgets_no_broken_recording(tmp_path: Path) -> None:
    """Two of twelve, met before and after a stop: together they are too many."""
    manifest = damaged(tmp_path, 2)
    plan = make_plan(manifest.duration_s, batch_s=0.1, seed=0)  # one recording to a batch
    first, second = sorted(k for k in range(12) if int(plan.epoch(0)[k][0]) < 2)
    out = tmp_path / "run"
    config = settings(updates=12, batch_s=0.1, max_rejected_share=0.1, save_every=first + 1)

    class Stopped(Exception):
        pass

    class Stopping(Objective):
        def forward(self, batch: Batch, step: Step) -> Loss:
            if step.update == second - 1:
                raise Stopped
            return super().forward(batch, step)

    with pytest.raises(Stopped):
        go(Stopping(), manifest, out, config)
    assert first < RunDir(out).last_update < second
    with pytest.raises(QuarantineError, match="2 of 12 recordings are unusable"):
        go(Objective(), manifest, out, config)
    # The updates before are kept, and the same command is refused at once.
    assert RunDir(out).last_update == second
    again = Objective()
    with pytest.raises(QuarantineError, match="2 of 12 recordings are unusable"):
        go(again, manifest, out, config)
    assert again.steps == []
    result = go(Objective(), manifest, out, config.model_copy(update={"max_rejected_share": 0.2}))
    assert (result.resumed_from, result.done["rejected"]) == (second, 2)


def test_a_batch_of_nothing_but_broken_recordings_is_an_error(tmp_path: Path) -> None:
    manifest = damaged(tmp_path, 12)
    with pytest.raises(TrainingFailed, match="No update could use any recording"):
        go(Objective(), manifest, tmp_path / "run", settings(max_rejected_share=1.0))
    assert not RunDir(tmp_path / "run").finished


def test_a_batch_of_nothing_but_one_broken_recording_is_skipped(tmp_path: Path) -> None:
    manifest = damaged(tmp_path, 1)
    # Every recording makes a batch of its own, so one of the batches is empty.
    config = settings(updates=12, batch_s=0.1)
    result = go(Objective(), manifest, tmp_path / "run", config)
    assert result.done["rejected"] == result.done["skipped"] == 1
    assert result.done["utterances"] == 11
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) == 1


def test_best_is_the_best_and_old_checkpoints_go(manifest: Manifest, tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0, 4.0, 1.5, 1.2])
    config = settings(eval_every=1, save_every=1, keep=2)
    result = go(
        Objective(),
        manifest,
        tmp_path / "run",
        config,
        evaluate=lambda: {"error": next(values)},
        better=("error", -1),
    )
    run = RunDir(tmp_path / "run")
    assert (result.done["best"], result.done["best_update"]) == (1.0, 2)
    assert [update for update, _ in run.checkpoints()] == [2, 5, 6]
    assert (run.path / "best").readlink() == Path("checkpoint-2")
    assert (run.path / "last").readlink() == Path("checkpoint-6")
    assert resolve(run.path) == run.checkpoint(2)
    assert [row["eval_error"] for row in run.metrics()] == [3.0, 1.0, 2.0, 4.0, 1.5, 1.2]
    assert result.metrics == {"error": 1.2}


def test_a_finished_run_makes_no_update_again(manifest: Manifest, tmp_path: Path) -> None:
    first = go(Objective(), manifest, tmp_path / "run", settings())
    rows = RunDir(tmp_path / "run").metrics()
    again = Objective()
    second = go(again, manifest, tmp_path / "run", settings())
    assert again.steps == []
    assert (second.done, second.resumed_from) == (first.done, 6)
    assert RunDir(tmp_path / "run").metrics() == rows


def test_resume_repairs_what_a_kill_leaves(manifest: Manifest, tmp_path: Path) -> None:
    """Between two system calls: a checkpoint without its name, half a checkpoint, half a line of metrics."""
    config = settings(eval_every=1, save_every=1, keep=9)
    scores: dict[str, Any] = {"evaluate": lambda: {"error": 1.0}, "better": ("error", -1)}
    go(Objective(), manifest, tmp_path / "a", config, **scores)
    whole = RunDir(tmp_path / "a")
    for name in ("last", "best", "result.json", "config.yaml"):
        (whole.path / name).unlink()
    (whole.path / ".checkpoint-7.tmp").mkdir()
    with (whole.path / METRICS).open("a") as file:
        file.write('{"update": 7, "los')
    result = go(Objective(), manifest, tmp_path / "a", config, **scores)
    assert result.resumed_from == 6
    assert (whole.path / "last").readlink() == Path("checkpoint-6")
    assert (whole.path / "best").readlink() == Path("checkpoint-1")
    assert not list(whole.path.glob(".*tmp"))
    assert [row["update"] for row in whole.metrics()] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_other_weights_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    go(Objective(), manifest, tmp_path / "run", settings())
    (tmp_path / "run" / "result.json").unlink()
    wider = Objective()
    wider.extra = nn.Linear(1, 1)
    with pytest.raises(TrainingFailed, match="holds other weights than this run trains"):
        go(wider, manifest, tmp_path / "run", settings())


def test_a_run_directory_belongs_to_one_run(tmp_path: Path) -> None:
    old = {"config": {"train": {"updates": 5, "seed": 0}, "crop_s": 1.0}, "manifest": "aa"}
    open_run(tmp_path / "run", old, "x: 1\n")
    assert open_run(tmp_path / "run", old, "x: 1\n").last_update == 0
    new = {"config": {"train": {"updates": 6, "seed": 0}, "crop_s": 1.0}, "manifest": "bb"}
    with pytest.raises(InputError) as caught:
        open_run(tmp_path / "run", new, "")
    assert "config.train.updates: the run has 5, now 6" in str(caught.value)
    assert "manifest: the run has 'aa', now 'bb'" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert "crop_s" not in str(caught.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in ("other", "file"):
        with pytest.raises(InputError, match="must be new or the directory of the same run"):
            open_run(tmp_path / path, old, "")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    # Killed before it had a name: nothing of value is there.
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".run.json.tmp").write_text("{")
    open_run(tmp_path / "killed", old, "x: 1\n")
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["fingerprint"] == old


def test_resolve_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        resolve(tmp_path / "no")
    open_run(tmp_path / "run", {}, "")
    with pytest.raises(InputError, match="has not come to its end"):
        resolve(tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for the device that is missing")
def test_cuda_where_there_is_none_is_a_problem_of_the_machine() -> None:
    with pytest.raises(EnvironmentProblem, match="no CUDA device; use device: cpu"):
        make_accelerator(settings(device="cuda"))
