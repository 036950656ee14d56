"""What must be instant and must not break: help, version, completion. Each runs in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from thaitool import __version__
from thaitool.cli.console import EXIT_CODES
from thaitool.errors import ThaitoolError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Program

COMMANDS = (
    *("pretrain", "scan", "synth", "align", "finetune", "eval", "infer"),
    *("compare", "report", "listen", "listen pack", "listen score"),
    *("convert", "convert fairseq", "convert merge", "convert push", "doctor"),
)
HEAVY = (
    "torch",
    "transformers",
    "pythainlp",
    "pyarrow",
    "pydantic",
    "numpy",
    "datasets",
    "matplotlib",
)


def test_version(program: Program) -> None:
    done = program("--version")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"thaitool {__version__}\n".encode(),
        b"",
    )


def test_help_of_everything_exits_0_and_loads_nothing_heavy(tmp_path: Path) -> None:
    """One process for all: each help is printed by the program itself, then the loaded modules are counted."""
    program = f"""
import contextlib, io, sys
from thaitool.cli import main
def loaded():
    return sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r}))
print("imported:", *loaded())
pages = {{}}
for command in {("", *COMMANDS)!r}:
    sys.argv = ["thaitool", *command.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as page:
        try:
            main.main()
        except SystemExit as stop:
            pages[command] = (stop.code, page.getvalue())
for command, (code, page) in pages.items():
    assert code == 0, (command, code)
    assert "Usage: thaitool " + command in page, page
    assert "--help" in page, page
assert len(pages) == {len(COMMANDS) + 1}, pages
for command in {[c for c in COMMANDS if " " not in c]!r}:
    assert command in pages[""][1], command
print("helped:", *loaded())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.stderr, done.returncode) == ("", 0)
    # typer loads pydantic itself to print a help page, also that of a bare program.
    assert done.stdout.replace(" pydantic", "") == "imported:\nhelped:\n"
    assert "imported:\n" in done.stdout


def test_no_arguments_print_the_help_and_exit_2(program: Program) -> None:
    done = program()
    assert done.returncode == 2
    assert b"Usage: thaitool" in done.stdout + done.stderr
    assert b"See --help" not in done.stderr


def test_help_lists_every_exit_code(program: Program) -> None:
    def family(error: type[ThaitoolError]) -> set[int]:
        return {error.exit_code}.union(*map(family, error.__subclasses__()))

    codes = family(ThaitoolError) | {0, 130, 141, 143}
    assert codes >= {0, 1, 2, 3, 4, 5, 6}
    listed = {int(part.split()[0]) for part in EXIT_CODES.removeprefix("Exit codes: ").split(" · ")}
    assert listed == codes
    page = " ".join(program("--help").stdout.decode().split())
    assert EXIT_CODES in page


def test_the_installed_program_is_the_module() -> None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        entries = distribution("thaitool").entry_points
    except PackageNotFoundError:
        pytest.skip("thaitool is not installed here, only importable")
    assert [(e.name, e.value) for e in entries] == [("thaitool", "thaitool.cli.main:main")]


SHELLS = {
    "bash": "complete -o default -F",
    "zsh": "#compdef thaitool",
    "fish": "complete --command",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_is_printed(
    program: Program, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    # What --show-completion prints, without its guess at the shell that runs the tests.
    monkeypatch.setenv("_THAITOOL_COMPLETE", f"source_{shell}")
    done = program()
    script = done.stdout.decode()
    assert done.returncode == 0
    assert SHELLS[shell] in script
    # Also when it was started as `python -m thaitool`: the script is for the name that people type.
    assert f"_THAITOOL_COMPLETE=complete_{shell}" in script
    assert "python" not in script


def test_completion_completes(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_THAITOOL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "thaitool infer --mo")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert program().stdout.split() == [b"--model"]


def best_of_10(*command: str) -> float:
    times = []
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return min(times)


BARE = """
import typer
app = typer.Typer(name="bare")
@app.command()
def a(path: str) -> None: "One."
@app.command()
def b(path: str) -> None: "Two."
app(["--help"])
"""


@pytest.mark.parametrize("arguments", [("--help",), ("align", "--help")])
def test_help_starts_in_under_half_a_second(arguments: tuple[str, ...]) -> None:
    bare_s = best_of_10("-c", BARE)
    if bare_s >= 0.25:  # what a bare typer program takes on a warm machine
        pytest.skip(f"a bare typer program already takes {bare_s:.2f} s here: the machine is busy")
    ours_s = best_of_10("-m", "thaitool", *arguments)
    assert ours_s < 0.5, f"bare typer takes {bare_s:.2f} s"
