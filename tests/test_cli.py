"""The command line: options reach the configuration, results go to stdout, trouble is a sentence and an exit code."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile
import typer

from thaitool import config as configuration
from thaitool.cli.console import guarded, print_table, print_training, progress_bar
from thaitool.cli.main import app
from thaitool.errors import (
    ConfigError,
    EnvironmentProblem,
    InputError,
    Interrupted,
    OpNotBuiltError,
    QuarantineError,
    ThaitoolError,
    TrainingFailed,
)
from thaitool.files import disk_full_is_explained, write_json, writing_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Program, Tone

pytestmark = pytest.mark.usefixtures("signals")


def run(*args: str) -> int:
    """The command line in this process, where a test has replaced a stage."""
    return guarded(lambda: app(list(args), prog_name="thaitool", standalone_mode=False))


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


DISK_FULL = OSError(errno.ENOSPC, "No space left on device", "/data/out")
ENDS: list[tuple[BaseException, int, str]] = [
    (ConfigError("The recipe is wrong."), 2, "thaitool: The recipe is wrong.\n"),
    (
        typer.BadParameter("No such thing."),
        2,
        "thaitool: Invalid value: No such thing. See --help.\n",
    ),
    (InputError("No audio."), 3, "thaitool: No audio.\n"),
    (QuarantineError("Too many."), 4, "thaitool: Too many.\n"),
    (EnvironmentProblem("No disk."), 5, "thaitool: No disk.\n"),
    (OpNotBuiltError("No kernel."), 5, "thaitool: No kernel.\n"),
    (DISK_FULL, 5, "thaitool: The operating system refused /data/out: No space left on device.\n"),
    (TrainingFailed("Not finite."), 6, "thaitool: Not finite.\n"),
    (Interrupted("Stopped.", signal.SIGTERM), 143, "thaitool: Stopped.\n"),
    (
        KeyboardInterrupt(),
        130,
        "thaitool: Stopped by Ctrl-C. Files are whole or absent; run the same command again.\n",
    ),
]


@pytest.mark.parametrize(("error", "code", "stderr"), ENDS)
def test_every_kind_of_trouble_is_a_sentence_and_a_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, stderr: str
) -> None:
    assert guarded(raising(error)) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", stderr)


def test_success_is_0_and_a_bug_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: None) == 0
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        guarded(raising(SystemExit(7)))


USAGE = [
    (["nosuch"], "No such command 'nosuch'. See --help."),
    (["infer", "--nosuch"], "No such option: --nosuch. See --help."),
    (["infer", "--model"], "Option '--model' requires an argument. See --help."),
    (["synth", "--seed", "x"], "Invalid value for '--seed'"),
    (["pretrain"], "'data' must be given, by a recipe, an option or --set, but is not."),
    (["pretrain", "--config", "nosuch"], "nosuch must be a YAML file or a shipped recipe ("),
    (["align", "--set", "a"], "--set a: must be key=value."),
    (
        ["finetune", "--tasks", "asr,asr"],
        "option --tasks: 'tasks': Value error, must name every task once, but is ['asr', 'asr'].",
    ),
    (["finetune", "--weights", "asr"], "--weights must name a number for each task, as in asr=1"),
    (["doctor", "--config", "nosuch"], "nosuch must be a YAML file or a shipped recipe ("),
]


@pytest.mark.parametrize(("args", "phrase"), USAGE)
def test_wrong_usage_exits_2(
    capsys: pytest.CaptureFixture[str], args: list[str], phrase: str
) -> None:
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("thaitool: ")
    assert phrase in captured.err


def test_wrong_usage_in_a_process_of_its_own(program: Program) -> None:
    done = program("infer", "--nosuch")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"thaitool: No such option: --nosuch. See --help.\n"


OPTIONS = {
    "scan": "--data a --data b --out o --split silence --longest-s 9 --cache c --workers 2",
    "pretrain": "--data a --data b --out o --init i --replay r --updates 3 --seed 4 --device cpu",
    "synth": (
        "--source s --out o --llm embedded: --translator memory:m --tts espeak: --variants 2 --cache c --max-cost 9"
        " --format rows --lang th --engine ray --workers 2 --restart --seed 4"
    ),
    "align": "--data d --encoder e --llm l --out o --method none --plain --updates 3 --seed 4 --device cpu",
    "finetune": (
        "--data d --data e --dev-data v --model m --out o --tasks asr,ner --lora-rank 4 --llm l --updates 3 --seed 4"
        " --device cpu --task-file t --weights asr=1,ner=2 --drafter r --allow-leakage text --allow-leakage near"
    ),
    "finetune --head ctc": "--data a --data b --dev-data d --encoder e --out o --updates 3 --seed 4 --device cpu",
    "eval": (
        "--task ic --data d --model m --predictions p --out o --split dev --limit 7 --no-shuffled --llm l"
        " --task-file tf --context both --hotwords 9 --drafter dr"
        " --also v=p --slice speaker,length --cluster-by speaker --trained-on t --keywords k --judge http://j/v1"
        " --judge-model jm --judge-key-variable JK --embedder e --embedder-model em --embedder-key-variable EK"
        " --seed 4 --device cpu"
    ),
    "infer": (
        "a.wav b.wav --model m --task ner --prompt p --split-s 9 --hotwords w,x --scene s --history {lines}"
        " --form labels --labels {lines} --max-new-tokens 7 --temperature 0.5 --top-p 0.5 --seed 4 --rows 3"
        " --drafter r --llm l --llm-dtype int8 --device cpu"
    ),
}
WANTED: dict[str, dict[str, Any]] = {
    "scan": {
        "data": [Path("a"), Path("b")],
        "split": "silence",
        "longest_s": 9.0,
        "cache": Path("c"),
        "scan_workers": 2,
    },
    "pretrain": {
        "data": [Path("a"), Path("b")],
        "init": Path("i"),
        "replay": [Path("r")],
        "train": {"updates": 3, "seed": 4},
    },
    "synth": {
        "source": Path("s"),
        "translator": "memory:m",
        "variants": 2,
        "cache": Path("c"),
        "calls": {"max_cost_usd": 9.0},
        "format": "rows",
        "language": "th",
        "engine": "ray",
        "workers": 2,
        "restart": True,
        "seed": 4,
    },
    "align": {"encoder": Path("e"), "llm": Path("l"), "method": "none", "plain": True},
    "finetune": {
        "data": [Path("d"), Path("e")],
        "dev_data": [Path("v")],
        "tasks": ["asr", "ner"],
        "task_file": Path("t"),
        "weights": {"asr": 1.0, "ner": 2.0},
        "drafter": Path("r"),
        "allow_leakage": ["text", "near"],
        "lora_rank": 4,
        "llm": Path("l"),
        "train": {"device": "cpu"},
    },
    "finetune --head ctc": {
        "head": "ctc",
        "data": [Path("a"), Path("b")],
        "dev_data": [Path("d")],
        "encoder": Path("e"),
        "train": {"updates": 3, "seed": 4},
    },
    "eval": {
        "task": "ic",
        "predictions": Path("p"),
        "split": "dev",
        "limit": 7,
        "shuffled": False,
        "task_file": Path("tf"),
        "context": "both",
        "hotwords": 9,
        "drafter": Path("dr"),
        "also": ["v=p"],
        "slices": ["speaker", "length"],
        "cluster_by": "speaker",
        "trained_on": [Path("t")],
        "keywords": Path("k"),
        "judge": "http://j/v1",
        "judge_model": "jm",
        "judge_key_variable": "JK",
        "embedder": "e",
        "embedder_model": "em",
        "embedder_key_variable": "EK",
        "llm": Path("l"),
    },
    "infer": {
        "audio": [Path("a.wav"), Path("b.wav")],
        "task": "ner",
        "prompt": "p",
        "split_s": 9.0,
        "hotwords": ["w", "x"],
        "scene": "s",
        "history": ["ก"],
        "form": "labels",
        "labels": ["ก"],
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.5,
        "seed": 4,
        "rows": 3,
        "drafter": Path("r"),
        "llm": Path("l"),
        "llm_dtype": "int8",
        "device": "cpu",
    },
}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_reaches_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("ก\n", "utf-8")
    seen: list[Any] = []
    real = configuration.load

    def load(*args: Any, **kwargs: Any) -> Any:
        assert None not in kwargs["options"].values()  # the test gives every option
        seen.append(real(*args, **kwargs))
        raise InputError("far enough")

    monkeypatch.setattr(configuration, "load", load)
    extra = ["--set", "train.batch_s=4", "--set", "train.learning_rate=1e-4"]
    trains = command.split(maxsplit=1)[0] in {"pretrain", "align", "finetune"}
    options = OPTIONS[command].format(lines=lines).split()
    assert run(*command.split(), *options, *(extra if trains else [])) == 3, capsys.readouterr().err
    (found,) = seen
    values = found.model_dump()
    for key, value in WANTED[command].items():
        got = {k: values[key][k] for k in value} if isinstance(value, dict) else values[key]
        assert (key, got) == (key, value)


def test_a_model_that_is_none_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    assert run("infer", "--model", str(gone), "a.wav") == 3
    assert capsys.readouterr().err == (
        f"thaitool: {gone} must be a model or run directory, but does not exist.\n"
    )
    assert run("infer", "--model", str(tmp_path), "a.wav") == 3
    assert "must be a model made by `thaitool align` or `finetune`" in capsys.readouterr().err


def test_cuda_asked_for_and_absent_exits_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert run("infer", "--model", str(tmp_path), "--device", "cuda", "a.wav") == 5
    assert "torch finds no CUDA device; use device: cpu" in capsys.readouterr().err


def test_unusable_data_exits_3_or_4_and_leaves_nothing_behind(
    tmp_path: Path, tone: Tone, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    command = ["pretrain", "--data", str(data), "--out", str(out), "--config", "tiny"]
    assert run(*command) == 3
    assert f"{data} must hold audio" in capsys.readouterr().err
    soundfile.write(data / "a.wav", tone(1.0), 16_000)
    (data / "b.wav").write_bytes(b"")
    assert run(*command) == 4
    captured = capsys.readouterr()
    assert (
        "1 of 2 recordings are unusable (empty), more than the allowed share of 0.1" in captured.err
    )
    assert (captured.out, out.exists()) == ("", False)


def test_doctor_reports_as_json_and_exits_5_if_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thaitool.stages import doctor

    assert run("doctor", "--json", "--config", "tiny") == 0
    checks = json.loads(capsys.readouterr().out)
    assert len(checks) == 8
    assert {c["state"] for c in checks} <= {"ok", "note"}
    assert checks[-1]["name"] == "recipe"
    assert "parameters" in checks[-1]["detail"]

    def broken() -> str:
        raise AttributeError("module 'torch' has no attribute 'x'")

    found = doctor._guard("torch", broken)
    assert found == doctor.Check(
        "torch", "missing", "AttributeError: module 'torch' has no attribute 'x'"
    )
    monkeypatch.setattr(doctor, "run", lambda _: [found])
    for as_json in (["--json"], []):
        assert run("doctor", *as_json) == 5
        captured = capsys.readouterr()
        assert "no attribute 'x'" in captured.out
        assert captured.err.startswith("thaitool: This machine lacks what thaitool needs: torch;")
        assert ("FAIL  torch" in captured.out) is (as_json == [])


@dataclass(frozen=True)
class Trained:
    """As `thaitool.training.loop.TrainingResult`, which would load torch."""

    planned: dict[str, float]
    done: dict[str, float]
    metrics: dict[str, float]
    resumed_from: int


TRAINING = Trained(
    planned={"updates": 10},
    done={
        "updates": 10,
        "hours": 1.5,
        "epochs": 2.0,
        "utterances": 40,
        "rejected": 1,
        "unused": 2,
        "train_s": 9.0,
    },
    metrics={"loss": 0.25},
    resumed_from=4,
)


def test_a_result_is_a_table_for_people_or_json_for_machines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_training("pretrain", Path("runs/ก"), TRAINING, [("data", "1.50 h")], as_json=False)
    table = capsys.readouterr()
    for phrase in (
        "10 of 10 planned, resumed at 4",
        "1 unusable, 2 not alignable",
        "0.2500",
        "runs/ก",
    ):
        assert phrase in table.out
    print_training("pretrain", Path("runs/ก"), TRAINING, [("data", "1.50 h")], as_json=True)
    as_json = capsys.readouterr()
    value = json.loads(as_json.out)
    assert (value["out"], value["data"], value["training"]["done"]["hours"]) == (
        "runs/ก",
        "1.50 h",
        1.5,
    )
    print_training("align", Path("o"), None, [("verdict", "[none]")], as_json=False)
    assert "verdict    [none]\n" in capsys.readouterr().out  # not taken for rich mark-up
    assert (table.err, as_json.err) == ("", "")


def test_a_table_shows_brackets_and_long_lines_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    detail = "/a/very/long/path" * 20 + " [x]"
    print_table("title", [("name [b]", detail)])
    assert f"name [b]  {detail}" in capsys.readouterr().out


def test_progress_is_silent_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("pretrain", 10) as advance:
        advance(5, "loss 0.1")
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_bar_with_rate_and_eta_on_a_terminal() -> None:
    program = (
        "import time; from thaitool.cli.console import progress_bar\n"
        "with progress_bar('pretrain', 10, done=2) as advance:\n"
        "    for _ in range(8): advance(1, 'loss 0.1'); time.sleep(0.05)\n"
    )
    main, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=child,
        env=environment,
        check=True,
    )
    os.close(child)  # so that reading fails, rather than waits, if nothing was shown
    shown = os.read(main, 100_000).decode()
    os.close(main)
    assert done.stdout == b""
    for phrase in ("pretrain", "10/10", "/s", "0:00:00", "loss 0.1"):
        assert phrase in shown


def test_a_full_disk_is_explained_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(
            EnvironmentProblem, match=r"out could not be written, the disk is full.*free some space"
        ),
        writing_directory(tmp_path / "out") as temporary,
    ):
        (temporary / "part").write_text("half", "utf-8")
        full()
    with pytest.raises(PermissionError), disk_full_is_explained(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert list(tmp_path.iterdir()) == []
    with writing_directory(tmp_path / "out") as temporary:
        (temporary / "part").write_text("whole", "utf-8")
        assert not (tmp_path / "out").exists()
    write_json(tmp_path / "a.json", {"ก": Path("p")})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "out"]
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"ก": "p"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_exits_5() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "thaitool", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 5
    assert done.stderr == b"thaitool: The operating system refused: No space left on device.\n"


def test_the_table_of_ends_covers_the_family() -> None:
    def family(error: type[ThaitoolError]) -> set[type[ThaitoolError]]:
        return {error}.union(*map(family, error.__subclasses__()))

    ours = {e for e in family(ThaitoolError) if e.__module__ == "thaitool.errors"} - {ThaitoolError}
    assert ours <= {type(error) for error, _, _ in ENDS}


@pytest.mark.parametrize("as_json", [False, True])
def test_of_several_processes_one_says_the_result(
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "1")
    print_training("align", tmp_path, None, [("verdict", "aligned")], as_json)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    print_training("align", tmp_path, None, [("verdict", "aligned")], as_json)
    assert capsys.readouterr().out.count("verdict") == 1
