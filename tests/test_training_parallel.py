"""Several processes: DDP, FSDP2, another number of them after a stop, a process that dies; all with gloo on the CPU.

Started as a user would, by `accelerate launch`. `--multi_gpu` is how it starts several processes, on a CPU too;
with `--cpu` it starts one, and leaves the others to MPI.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny, training_task
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.training.cost import MEASURED
from thaitool.training.run_dir import RunDir

UPDATES = 6
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
DDP = [*LAUNCH, "--multi_gpu"]
FSDP2 = [*LAUNCH, "--use_fsdp", "--fsdp_version", "2"]
#: Dropped layers differ between processes, which is what hangs DDP and FSDP where it is not seen to.
OBJECTIVE = {"layerdrop": 0.3}
#: Under FSDP2 a layer that one process drops is computed all the same, so that these differ.
FLOPS = {"flops", "flops_counted", "layer_flops", "layer_flops_counted"}


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel") / "audio"
    training_task.long_clips(folder, 12)
    return folder


def options(audio: Path, out: Path, accumulation: int, **more: Any) -> Path:
    config = {
        "updates": UPDATES,
        "save_every": 3,
        "accumulation": accumulation,
        "batch_s": 8.0,
        **more.pop("config", {}),
    }
    file = out.with_suffix(".json")
    content = {"audio": str(audio), "out": str(out), "config": config, "objective": OBJECTIVE}
    file.write_text(json.dumps({**content, **more}))
    return file


def start(launcher: list[str], file: Path) -> subprocess.Popen[str]:
    program = [*launcher, "-m", "tests.training_task", str(file)]
    if launcher[1:3] == ["-m", "accelerate.commands.launch"]:
        program[3:3] = ["--main_process_port", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    return subprocess.Popen(
        program, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tiny.ROOT
    )


def finish(process: subprocess.Popen[str]) -> str:
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    return stderr


@pytest.fixture(scope="module")
def alone(audio: Path) -> RunDir:
    """One process that takes two micro-batches an update."""
    out = audio.parent / "alone"
    finish(start([sys.executable], options(audio, out, 2)))
    return RunDir(out)


def weights(run: RunDir, update: int = UPDATES) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(run.checkpoint(update) / "model.safetensors")
    return loaded


def assert_close(run: RunDir, other: RunDir, most: float) -> None:
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= most
    for mine, theirs in zip(run.metrics(), other.metrics(), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - MEASURED - FLOPS:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    done, theirs = (json.loads((r.path / "result.json").read_text())["done"] for r in (run, other))
    unmeasured = dict.fromkeys(MEASURED | FLOPS, 0)
    assert {**done, **unmeasured} == {**theirs, **unmeasured}


def taken(run: RunDir) -> list[list[Any]]:
    """(update, batch number, recordings), of all processes, in the order of the plan."""
    lines = Path(f"{run.path}.seen").read_text().splitlines()
    return sorted(json.loads(line) for line in lines)


@pytest.mark.parametrize(("launcher", "most"), [(DDP, 1e-6), (FSDP2, 1e-5)], ids=["ddp", "fsdp2"])
def test_two_processes_do_what_one_does_with_twice_the_micro_batches(
    audio: Path, alone: RunDir, launcher: list[str], most: float
) -> None:
    out = audio.parent / launcher[-1].strip("-")
    finish(start(launcher, options(audio, out, 1)))
    run = RunDir(out)
    assert_close(run, alone, most)
    assert taken(run) == taken(alone)
    result = json.loads((out / "result.json").read_text())
    # Of all processes together.
    assert result["planned"] == {"updates": UPDATES, "batches": 2 * UPDATES}
    assert result["done"]["utterances"] == sum(len(ids) for _, _, ids in taken(run))


@pytest.mark.parametrize(
    ("first", "second"),
    [(DDP, [sys.executable]), ([sys.executable], FSDP2), (FSDP2, DDP)],
    ids=["ddp to one", "one to fsdp2", "fsdp2 to ddp"],
)
def test_a_stopped_run_goes_on_with_other_processes(
    audio: Path, alone: RunDir, tmp_path: Path, first: list[str], second: list[str]
) -> None:
    """Killed after its first checkpoint, the rest made by another number of processes: same order, same result."""
    run = RunDir(tmp_path / "run")

    def accumulation(launcher: list[str]) -> int:
        return 2 if len(launcher) == 1 else 1

    finish(
        start(
            first,
            options(audio, run.path, accumulation(first), stop_at=3),
        )
    )
    assert run.last_update == 3
    assert not run.finished
    finish(start(second, options(audio, run.path, accumulation(second))))
    assert_close(run, alone, 1e-5)
    assert taken(run) == taken(alone)


def test_a_process_without_a_readable_recording_keeps_step(audio: Path, tmp_path: Path) -> None:
    """One recording to a batch, one of them broken inside: its process has nothing to add, and the others wait."""
    folder = tmp_path / "audio"
    shutil.copytree(audio, folder)
    broken = sorted(folder.iterdir())[4]
    content = bytearray(broken.read_bytes())
    content[2000:-2000] = bytes(len(content) - 4000)
    broken.write_bytes(content)
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    config = {"batch_s": 1.0, "max_rejected_share": 0.2}
    finish(start([sys.executable], options(folder, one.path, 2, config=config)))
    finish(start(DDP, options(folder, two.path, 1, config=config)))
    done = json.loads((two.path / "result.json").read_text())["done"]
    assert (done["rejected"], done["utterances"], done["batches"]) == (1, 11, 12)
    ledger = [json.loads(line)["item"] for line in two.quarantine.read_text().splitlines()]
    assert ledger == [str(broken)]
    assert_close(two, one, 1e-6)


def test_broken_recordings_of_all_processes_count_together(audio: Path, tmp_path: Path) -> None:
    """Each process meets one of the two, and both stop before the same update; one process goes on."""
    folder = tmp_path / "audio"
    shutil.copytree(audio, folder)
    manifest = scan([folder])[0]
    order = make_plan(manifest.duration_s, batch_s=1.0, seed=0).epoch(0)
    for turn in (4, 7):  # of update 3 in process 0, of update 4 in process 1
        path = Path(manifest[int(order[turn][0])].audio.path)
        content = bytearray(path.read_bytes())
        content[2000:-2000] = bytes(len(content) - 4000)
        path.write_bytes(content)
    run = RunDir(tmp_path / "run")
    config = {"batch_s": 1.0, "max_rejected_share": 0.1}
    process = start(DDP, options(folder, run.path, 1, config=config))
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode != 0
    assert stderr.count("QuarantineError: 2 of 12 recordings are unusable") >= 2
    assert run.last_update == 3
    finish(
        start(
            [sys.executable],
            options(folder, run.path, 2, config={**config, "max_rejected_share": 0.2}),
        )
    )
    done = json.loads((run.path / "result.json").read_text())["done"]
    assert (done["rejected"], done["utterances"], done["batches"]) == (2, 10, 12)


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened in 120 s"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_a_process_that_dies_ends_the_run_instead_of_hanging_it(
    audio: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    process = start(DDP, options(audio, run.path, 1, config={"updates": 5000, "save_every": 2}))
    until(lambda: len(run.metrics()) >= 3, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    began = time.monotonic()
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in stderr
    assert time.monotonic() - began < 60
    assert run.last_update >= 2
    assert not run.finished


def test_an_error_of_the_first_process_reaches_all(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from accelerate import Accelerator\n"
        "from thaitool.errors import InputError, ThaitoolError\n"
        "from thaitool.training.ranks import on_main_first\n"
        "accelerator = Accelerator(cpu=True)\n"
        "def work():\n"
        "    if sys.argv[1] == 'fine':\n"
        "        return accelerator.process_index\n"
        "    raise {'told': InputError, 'bug': KeyError}[sys.argv[1]]('there is no audio')\n"
        "try:\n"
        "    sys.stdout.write(f'got {on_main_first(accelerator, work)}\\n')\n"
        "except (ThaitoolError, KeyError) as error:\n"
        "    sys.stdout.write(f'{type(error).__name__}: {error}\\n')\n"
        "sys.stdout.flush()\n"
        "accelerator.end_training()\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    for case, lines in (
        ("fine", ["got 0", "got None"]),
        ("told", ["InputError: there is no audio"] * 2),
        (
            "bug",
            [
                "KeyError: 'there is no audio'",
                "TrainingFailed: The first process stopped with KeyError: 'there is no audio'",
            ],
        ),
    ):
        command = [*DDP, "--main_process_port", "0", str(script), case]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == lines
