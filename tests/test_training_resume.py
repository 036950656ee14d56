"""Stopping and going on, through the real command: killed, interrupted, terminated, disk full, two processes.

Whatever happened to a run, finishing it gives the weights and metrics of one that was never disturbed, to the bit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests import tiny
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import PretrainConfig, dump
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.files import writing_directory
from thaitool.stages import pretrain
from thaitool.training.run_dir import RunDir

UPDATES = 16
#: The last update that still leaves a stopped run something to do.
LATEST = 12


def config(audio: Path, out: Path, **train: Any) -> PretrainConfig:
    values = {
        "updates": UPDATES,
        "batch_s": 4.0,
        "learning_rate": 1e-3,
        "eval_every": 5,
        "save_every": 4,
        "device": "cpu",
    }
    return PretrainConfig.model_validate(
        {
            "data": [audio],
            "out": out,
            "encoder": tiny.SHAPE,
            "dev_share": 0.2,
            "train": {**values, **train},
        }
    )


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clips(tmp_path_factory.mktemp("resume") / "audio", 20)


@pytest.fixture(scope="module")
def undisturbed(audio: Path) -> RunDir:
    result = pretrain.run(config(audio, audio.parent / "undisturbed"))
    assert result.training.done["updates"] == UPDATES
    assert result.training.done["epochs"] > 2
    return RunDir(result.out)


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(run.path / "last" / "model.safetensors")
    return loaded


def untimed(run: RunDir) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "train_s"} for row in run.metrics()]


def assert_same(run: RunDir, other: RunDir) -> None:
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert untimed(run) == untimed(other)
    accounts = [json.loads((r.path / "result.json").read_text())["done"] for r in (run, other)]
    assert len({json.dumps({**a, "train_s": 0, "hours": 0}) for a in accounts}) == 1


def start(cfg: PretrainConfig, *before: str, own_group: bool = False) -> subprocess.Popen[str]:
    """`thaitool pretrain` on a recipe, as somebody would start it."""
    recipe = cfg.out.with_suffix(".yaml")
    recipe.write_text(dump(cfg, "pretrain"), "utf-8")
    command = [*(before or (sys.executable, "-m")), "thaitool", "pretrain", "--config", str(recipe)]
    # As many threads as here: another number adds in another order.
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": str(tiny.ROOT),
    }
    return subprocess.Popen(
        command,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=own_group,
    )


def stop_at(
    process: subprocess.Popen[str], run: RunDir, update: int, number: int, *, group: bool = False
) -> str:
    """Sends a signal once `update` is in the metrics; returns what the process wrote to stderr."""
    deadline = time.monotonic() + 120
    while len(run.metrics()) < update and process.poll() is None:
        assert time.monotonic() < deadline, "the run made no progress in 120 s"
        time.sleep(0.002)
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=120)[1]


def test_a_killed_run_ends_as_if_nothing_had_happened(audio: Path, undisturbed: RunDir) -> None:
    cfg = config(audio, audio.parent / "killed")
    run = RunDir(cfg.out)
    update = random.SystemRandom().randint(1, LATEST)
    process = start(cfg)
    stderr = stop_at(process, run, update, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, stderr
    assert not run.finished
    assert len(run.metrics()) < UPDATES
    # At most the updates since the last checkpoint are lost (every 4th; 5th, 10th are evaluated, not saved).
    assert run.last_update >= 4 * ((len(run.metrics()) - 1) // 4)
    kept = run.last_update
    result = pretrain.run(cfg)
    assert result.training.resumed_from == kept
    assert not list(run.path.glob(".*tmp"))
    assert result.training.planned["updates"] == result.training.done["updates"] == UPDATES
    assert_same(run, undisturbed)


def test_ctrl_c_and_sigterm_write_a_checkpoint_and_the_same_command_goes_on(
    audio: Path, undisturbed: RunDir
) -> None:
    cfg = config(audio, audio.parent / "stopped", save_every=100)
    # `save_every` is part of the run, so its own undisturbed twin has the same metrics and weights, not the same files.
    run = RunDir(cfg.out)
    stops = []
    for number, code, update in ((signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 7)):
        process = start(cfg)
        stderr = stop_at(process, run, update, number)
        assert process.returncode == code, stderr
        assert f"Stopped by signal {int(number)} after update" in stderr
        assert "Run the same command again to go on." in stderr
        assert "Traceback" not in stderr
        stops.append(run.last_update)
        assert (run.path / "last").readlink() == Path(f"checkpoint-{run.last_update}")
        assert f"after update {run.last_update} of {UPDATES}" in stderr
        assert len(run.metrics()) == run.last_update
        assert not list(run.path.glob(".*tmp"))
    assert 2 <= stops[0] < stops[1] < UPDATES
    result = pretrain.run(cfg)
    assert result.training.resumed_from == stops[1]
    assert_same(run, undisturbed)


def test_a_finished_run_is_not_run_again(undisturbed: RunDir, audio: Path) -> None:
    rows, stamp = undisturbed.metrics(), (undisturbed.path / "last").stat().st_mtime_ns
    result = pretrain.run(config(audio, undisturbed.path))
    assert result.training.resumed_from == UPDATES
    assert result.training.metrics.keys() == {"contrastive_nats", "accuracy", "code_perplexity"}
    assert undisturbed.metrics() == rows
    assert (undisturbed.path / "last").stat().st_mtime_ns == stamp
    # What does not change the result may change: where it runs ahead, how much is kept.
    assert pretrain.run(config(audio, undisturbed.path, keep=1)).training.resumed_from == UPDATES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_spares_the_workers(audio: Path, number: int) -> None:
    cfg = config(audio, audio.parent / f"group-{number}", workers=2)
    process = start(cfg, own_group=True)
    stderr = stop_at(process, RunDir(cfg.out), 2, number, group=True)
    assert process.returncode == 128 + number, stderr
    assert RunDir(cfg.out).last_update >= 2


def test_other_settings_or_data_in_the_same_directory_are_refused(
    undisturbed: RunDir, audio: Path, tmp_path: Path
) -> None:
    rows = undisturbed.metrics()
    with pytest.raises(InputError) as caught:
        pretrain.run(config(audio, undisturbed.path, learning_rate=2e-3))
    assert "config.train.learning_rate: the run has 0.001, now 0.002" in str(caught.value)
    assert "Choose another --out" in str(caught.value)
    other = tiny.clips(tmp_path / "audio", 20, seed=1)
    with pytest.raises(InputError, match="manifest: the run has"):
        pretrain.run(config(other, undisturbed.path))
    assert undisturbed.metrics() == rows


def test_a_directory_with_other_files_is_left_alone(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="must be new or the directory of the same run"):
        pretrain.run(config(audio, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_continuing_from_an_encoder(undisturbed: RunDir, audio: Path, tmp_path: Path) -> None:
    base = config(audio, tmp_path / "more", updates=1)
    cfg = base.model_copy(update={"init": undisturbed.path})
    pretrain.run(cfg)
    before, after = weights(undisturbed), weights(RunDir(cfg.out))
    # One update moves a weight by about the learning rate, a new start by much more.
    distance = max(float((before[n] - after[n]).abs().max()) for n in before)
    assert 0 < distance < 5e-3
    recorded = json.loads((cfg.out / "run.json").read_text())["fingerprint"]["init"]
    assert len(recorded) == 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system that the first checkpoint fits on and the second does not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs more rights than this process has")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_with_a_sentence_and_keeps_what_was_whole(
    audio: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(audio, small_disk / "run", updates=4, save_every=1, eval_every=10, keep=9)
    recipe = small_disk.parent / "recipe.yaml"
    recipe.write_text(dump(cfg, "pretrain"), "utf-8")
    command = ["pretrain", "--config", str(recipe)]
    assert guarded(lambda: app(command, standalone_mode=False)) == EnvironmentProblem.exit_code
    assert "the disk is full" in capsys.readouterr().err
    run = RunDir(cfg.out)
    assert 1 <= run.last_update < 4
    assert not list(run.path.glob(".*tmp"))
    weights(run)
    remount = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(remount, check=True, capture_output=True)
    stopped_at = run.last_update
    assert guarded(lambda: app(command, standalone_mode=False)) == 0
    assert json.loads((run.path / "result.json").read_text())["resumed_from"] == stopped_at
    twin = pretrain.run(
        config(audio, small_disk.parent / "twin", updates=4, save_every=1, eval_every=10, keep=9)
    )
    assert_same(run, RunDir(twin.out))


@pytest.mark.parametrize("library", ["safetensors", "torch"])
def test_libraries_that_hide_a_full_disk_are_understood(small_disk: Path, library: str) -> None:
    large = {"weights": torch.zeros(1_000_000)}

    def write(folder: Path) -> None:
        if library == "safetensors":
            save_file(large, folder / "weights.safetensors")
            return
        with (folder / "weights.pt").open("wb") as file:
            torch.save(large, file)

    with (
        pytest.raises(EnvironmentProblem, match=r"checkpoint-1 could not be written, the disk is"),
        writing_directory(small_disk / "checkpoint-1") as folder,
    ):
        write(folder)
    assert list(small_disk.iterdir()) == []


def test_two_processes_do_what_one_does_with_twice_the_micro_batches(
    audio: Path, tmp_path: Path
) -> None:
    train = {"updates": 4, "batch_s": 2.0, "eval_every": 4, "save_every": 4}
    one = config(audio, tmp_path / "one", accumulation=2, **train)
    pretrain.run(one)
    two = config(audio, tmp_path / "two", **train)
    # torchrun and not `accelerate launch --cpu`, which starts a single process unless MPI is installed.
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    process = start(two, sys.executable, "-m", *launcher)
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    a, b = weights(RunDir(one.out)), weights(RunDir(two.out))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-4, msg=name)
    result = json.loads((two.out / "result.json").read_text())
    assert result["planned"] == {"updates": 4, "batches": 4}
    both = json.loads((one.out / "result.json").read_text())
    assert result["done"]["epochs"] == both["done"]["epochs"]
    ours, theirs = (RunDir(c.out).metrics()[-1]["eval_contrastive_nats"] for c in (one, two))
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_the_recipe_in_the_run_directory_starts_the_same_run(
    undisturbed: RunDir, audio: Path
) -> None:
    kept = yaml.safe_load((undisturbed.path / "config.yaml").read_text("utf-8"))["pretrain"]
    assert PretrainConfig.model_validate(kept) == config(audio, undisturbed.path)
