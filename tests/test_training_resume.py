"""Stopping and going on, through the real command: killed, interrupted, terminated, in a rollback, disk full.

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

from tests import tiny, training_task
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import PretrainConfig, dump
from thaitool.data.manifest import describe_difference, open_manifest
from thaitool.data.scan import scan
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.files import writing_directory
from thaitool.stages import pretrain
from thaitool.training.cost import MEASURED
from thaitool.training.rollback import read_rollbacks
from thaitool.training.run_dir import RunDir
from thaitool.training.state import STATE

UPDATES = 16
#: The command, killed when the state of checkpoint 8 is written and its model is not.
KILLED_IN_CHECKPOINT_8 = """
import os, runpy, signal, sys
from thaitool.training import loop
write = loop.write_state
def killed(folder, saved):
    write(folder, saved)
    if saved.done.updates == 8:
        os.kill(os.getpid(), signal.SIGKILL)
loop.write_state = killed
del sys.argv[0]
runpy.run_module("thaitool", run_name="__main__")
"""
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
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in run.metrics()]


def assert_same(run: RunDir, other: RunDir) -> None:
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert untimed(run) == untimed(other)
    accounts = [json.loads((r.path / "result.json").read_text())["done"] for r in (run, other)]
    assert len({json.dumps({**a, **dict.fromkeys(MEASURED, 0), "hours": 0}) for a in accounts}) == 1


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


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(
    audio: Path, undisturbed: RunDir
) -> None:
    """Three kills at random updates; each time somebody also changes how many processes decode."""
    out = audio.parent / "killed"
    run = RunDir(out)
    for workers in (0, 2, 1):
        update = random.SystemRandom().randint(run.last_update + 1, LATEST)
        process = start(config(audio, out, workers=workers))
        stderr = stop_at(process, run, update, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, stderr
        assert not run.finished
        # At most the updates since the last checkpoint are lost (every 4th; 5th, 10th are evaluated, not saved).
        assert run.last_update >= 4 * ((len(run.metrics()) - 1) // 4)
    kept = run.last_update
    result = pretrain.run(config(audio, out))
    assert result.training.resumed_from == kept
    assert not list(run.path.glob(".*tmp"))
    assert result.training.planned["updates"] == result.training.done["updates"] == UPDATES
    assert_same(run, undisturbed)


def test_a_run_killed_while_it_writes_a_checkpoint_loses_only_that_one(
    audio: Path, undisturbed: RunDir
) -> None:
    cfg = config(audio, audio.parent / "half")
    run = RunDir(cfg.out)
    # Its own kill, between the state and the model: from outside, a loaded machine looks too late.
    process = start(cfg, sys.executable, "-c", KILLED_IN_CHECKPOINT_8)
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == -signal.SIGKILL, stderr
    assert [p.name for p in (cfg.out / ".checkpoint-8.tmp").iterdir()] == [STATE]
    assert run.last_update == 4
    result = pretrain.run(cfg)
    assert result.training.done["updates"] == UPDATES
    assert not list(run.path.glob(".*tmp"))
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
    wanted = {"contrastive_nats", "accuracy", "identical_share", "code_perplexity_g0"}
    assert wanted <= result.training.metrics.keys()
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
    with pytest.raises(InputError, match="manifest: the run has") as caught:
        pretrain.run(config(other, undisturbed.path))
    # Not the digest alone, which tells nobody anything.
    kept, now = open_manifest(undisturbed.path / "manifest.arrow"), scan([other])[0]
    assert describe_difference(kept, now) in str(caught.value)
    assert "20" in describe_difference(kept, now)
    assert undisturbed.metrics() == rows


def test_another_number_of_micro_batches_per_update_is_refused(
    undisturbed: RunDir, audio: Path
) -> None:
    with pytest.raises(
        InputError, match="micro_batches_per_update: the run has 1, now 2"
    ) as caught:
        pretrain.run(config(audio, undisturbed.path, accumulation=2))
    assert "train.accumulation (2) times the number of processes (1)" in str(caught.value)


@pytest.fixture(scope="module")
def collapsing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that collapses once and goes on at half the rate, undisturbed; recordings beside it."""
    base = tmp_path_factory.mktemp("collapsing")
    training_task.long_clips(base / "audio", 6)
    process = collapse(base, "undisturbed")
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    entries = read_rollbacks(RunDir(base / "undisturbed"))
    assert [(entry.kind, entry.to) for entry in entries][:1] == [("representation collapse", 0)]
    return base


def collapse(base: Path, name: str, kill_at: str | None = None) -> subprocess.Popen[str]:
    train = {"updates": 30, "learning_rate": 0.08, "batch_s": 8.0, "probe_every": 10}
    options = {
        "audio": str(base / "audio"),
        "out": str(base / name),
        "config": train,
        "watch": {"on_collapse": "rollback", "max_rollbacks": 5},
        "kill_at": kill_at,
    }
    file = base / f"{name}.json"
    file.write_text(json.dumps(options))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training_task", str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    "moment",
    [
        "before rollback.write_json",  # found, nothing decided yet
        "after rollback.write_json",  # decided
        "before RunDir._delete",  # metrics set aside, checkpoints after the collapse still there
        "after RunDir.set_aside_after",  # all done, but not marked as done
        "after rollback.finish_rollback",  # marked, the older checkpoint not loaded yet
    ],
)
def test_a_kill_at_any_moment_of_a_rollback_changes_nothing(collapsing: Path, moment: str) -> None:
    name = moment.replace(" ", "-")
    killed = collapse(collapsing, name, moment)
    stderr = killed.communicate(timeout=240)[1]
    assert killed.returncode == -signal.SIGKILL, stderr
    again = collapse(collapsing, name)
    stderr = again.communicate(timeout=240)[1]
    assert again.returncode == 0, stderr
    run, other = RunDir(collapsing / name), RunDir(collapsing / "undisturbed")
    assert_same(run, other)
    assert read_rollbacks(run) == read_rollbacks(other)
    for entry in read_rollbacks(other):
        file = f"metrics-rolled-back-{entry.number}.jsonl"
        mine, theirs = (
            [
                {**json.loads(line), **dict.fromkeys(MEASURED, 0)}
                for line in (r.path / file).read_text().splitlines()
            ]
            for r in (run, other)
        )
        assert mine == theirs
    assert not list(run.path.glob(".*tmp"))


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


def test_the_recipe_in_the_run_directory_starts_the_same_run(
    undisturbed: RunDir, audio: Path
) -> None:
    kept = yaml.safe_load((undisturbed.path / "config.yaml").read_text("utf-8"))["pretrain"]
    assert PretrainConfig.model_validate(kept) == config(audio, undisturbed.path)


def test_a_second_run_on_the_same_directory_is_refused_while_the_first_lives(
    audio: Path, tmp_path: Path
) -> None:
    """As when only the launcher was killed, and its processes work on."""
    cfg = config(audio, tmp_path / "run", updates=4)
    pretrain.run(config(audio, tmp_path / "run", updates=4))
    (tmp_path / "run" / "result.json").unlink()
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX);"
        " print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"run is in use by process \d+ on .*; wait until"):
            pretrain.run(cfg)
        holder.kill()
    assert pretrain.run(cfg).training.done["updates"] == 4
