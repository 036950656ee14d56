"""The README is executed: its commands parse, its help blocks are what the program prints, its files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
#: ```console blocks: lines that begin with `$ ` are commands, the others what they print.
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
THAITOOL = [c for c in COMMANDS if c.startswith("thaitool ")]
STAGES = {"pretrain", "synth", "align", "finetune", "eval", "infer"}


def run(*arguments: str) -> str:
    """Standard output of the command line, 80 columns wide, without colour."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "thaitool", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def test_readme_has_a_real_command_for_every_stage() -> None:
    assert {c.split()[1] for c in THAITOOL} >= STAGES | {"doctor", "--help"}
    assert len(THAITOOL) >= 8


@pytest.mark.parametrize("command", [c for c in THAITOOL if c.split()[1] in STAGES])
def test_command_parses(command: str) -> None:
    from typer.main import get_command

    from thaitool.cli.main import app

    words = shlex.split(re.split(r" [<|] ", command, maxsplit=1)[0])[1:]
    group = get_command(app)
    stage = group.commands[words[0]]  # type: ignore[attr-defined]
    # Raises UsageError for an unknown option, a missing value or a wrong type.
    context = stage.make_context(words[0], words[1:])
    assert {name for name, value in context.params.items() if value}


def test_help_block_is_what_the_program_prints() -> None:
    block = next(b for b in BLOCKS if b.startswith("$ thaitool --help"))
    printed = "\n".join(line.rstrip() for line in block.splitlines()[1:]).strip()
    assert printed == run("--help")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_file_tree_names_what_exists() -> None:
    tree = re.search(r"```text\n(thaitool/\n.*?)```", README, flags=re.DOTALL)
    assert tree is not None
    paths: list[Path] = []
    folders: list[str] = []
    for line in tree[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.strip().split()[0]
        folders = [*folders[:depth], name]
        paths.append(Path(*folders))
    assert len(paths) >= 20
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_figures_are_those_of_the_results_file() -> None:
    results = json.loads((ROOT / "examples" / "results" / "demo.json").read_text("utf-8"))

    def score(group: str, name: str) -> dict[str, float]:
        scores = [s for task in results["report"][group] for s in task["scores"]]
        return next(s for s in scores if s["name"] == name)

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    accuracy, shuffled = score("tasks", "ic_accuracy"), score("shuffled", "ic_accuracy")
    low, high = percent(accuracy["low"]), percent(accuracy["high"])
    assert f"{percent(accuracy['value'])} (95 % interval {low} to {high}," in README
    low, high = percent(shuffled["low"]), percent(shuffled["high"])
    assert f"{percent(shuffled['value'])} ({low} to {high})" in README
    assert f"character error rate {percent(score('tasks', 'cer')['value'])}" in README
    minutes = sum(results["seconds"].values()) / 60
    assert f"about {minutes:.0f} minutes on two cores" in README


def results(name: str) -> dict[str, Any]:
    path = ROOT / "tests" / "bench" / "results" / name
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_speed_is_that_of_the_results_file() -> None:
    for shape, found in results("dtw-cpu.json")["shapes"].items():
        default, tuned = found["default allocator"], found["tuned allocator"]
        memory = found["memory"]["op"]
        cells = [
            shape.replace(",", ", "),
            f"{default['milliseconds']['op']['total']:.1f}",
            f"{default['ratios']['numba / op']:.1f}",
            f"{tuned['ratios']['numba / op']:.1f}",
            f"{default['ratios']['op / floor, write_fresh']:.2f}",
            f"{memory['peak_bytes'] / memory['gradient_bytes']:.2f}",
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_alignment_accuracies_are_those_of_the_results_file() -> None:
    runs = results("collapse.json")["runs"]
    assert set(runs) == {"base", "a", "b", "c", "d", "e", "u", "g"}
    for recipes in runs.values():
        cells = [
            " ".join(f"{run['accuracy']:.2f}".lstrip("0") for run in recipes[name])
            for name in ("plain", "shipped", "supervised")
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_python_blocks_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thaitool.stages import infer

    monkeypatch.setattr(
        infer, "run", lambda config: [infer.Answer(str(config.audio[0]), config.task, "said")]
    )
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(block, {})  # noqa: S102 (our own README)
    assert capsys.readouterr().out == "said\n(8, 250, 2)\n"


def test_source_row_is_read_and_translated(tmp_path: Path) -> None:
    from thaitool.synth.sources import read_source
    from thaitool.synth.translate import open_translator

    (block,) = re.findall(r"```json\n(.*?)```", README, flags=re.DOTALL)
    source = tmp_path / "alpaca.jsonl"
    source.write_text(block, "utf-8")
    (row,) = read_source(source).rows
    assert (row.intent, [e.text for e in row.entities]) == ("make_call", ["Somchai"])
    assert isinstance(open_translator("embedded:").translate(row), tuple)
