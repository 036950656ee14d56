"""What the commands share: progress bars on stderr, results on stdout, errors to sentences and exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from thaitool.errors import EnvironmentProblem, Interrupted, ThaitoolError
from thaitool.records import Advance

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug in thaitool · 2 wrong option or recipe · 3 wrong data, model or directory"
    " · 4 too many unusable recordings · 5 something is missing on this machine (library, device, disk)"
    " · 6 training failed · 130 Ctrl-C · 143 SIGTERM (training can be resumed) · 141 the reader of the output left"
)

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        help="YAML recipe: a file, or a shipped one such as tiny.",
        rich_help_panel="Recipe",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any recipe key: --set train.updates=500. Repeatable.",
        rich_help_panel="Recipe",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
UpdatesOption = Annotated[int | None, typer.Option(help="Optimizer updates to make.")]
LlmOption = Annotated[
    Path | None, typer.Option(help="Base LLM, if it lies elsewhere than in training.")
]


@contextmanager
def progress_bar(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar with rate and ETA on stderr; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


def announce(rows: Sequence[tuple[str, str]]) -> None:
    """What a run will need, on stderr before it starts: stdout is for results."""
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:<{width}}  {text}", err=True)


def say(text: str) -> None:
    """A line for people, on stdout."""
    typer.echo(text)


def print_json(value: Any) -> None:
    """A result for machines, on stdout."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    typer.echo(json.dumps(plain, ensure_ascii=False, indent=2, default=str))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table on stdout; a long path is never cut or wrapped, as people copy it."""
    width = max((len(name) for name, _ in rows), default=0)
    say("\n".join([title, *(f"{name:<{width}}  {value}" for name, value in rows)]))


def print_training(
    title: str, out: Path, training: Any, extra: list[tuple[str, str]], as_json: bool
) -> None:
    """The end of every training command: planned against done, then the held-out metrics.

    Of several processes under `accelerate launch` the first says it, as all have the same result.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print_json({"out": out, **dict(extra), "training": asdict(training) if training else None})
        return
    rows = list(extra)
    if training:
        done, planned = training.done, training.planned
        rows += [
            (
                "updates",
                f"{done['updates']} of {planned['updates']} planned"
                + (f", resumed at {training.resumed_from}" if training.resumed_from else ""),
            ),
            (
                "audio",
                f"{done['hours']:.2f} h in {done['epochs']:.2f} epochs, {done['utterances']} utterances",
            ),
            ("set aside", f"{done['rejected']} unusable, {done['unused']} not alignable"),
            *_without_step(done),
            ("time", f"{done['train_s']:.0f} s"),
        ]
        rows += [(name, f"{value:.4f}") for name, value in training.metrics.items()]
    print_table(title, [*rows, ("directory", str(out))])


def _without_step(done: dict[str, Any]) -> list[tuple[str, str]]:
    """A line only where there is something to tell."""
    skipped, nonfinite = done.get("skipped", 0), done.get("nonfinite", 0)
    if not skipped + nonfinite:
        return []
    return [("no step made", f"{skipped} updates without usable audio, {nonfinite} not finite")]


def _terminated(number: int, _frame: Any) -> None:
    raise Interrupted(
        "Stopped by SIGTERM. Files are whole or absent; run the same command again.", number
    )


def accept_any_file_name() -> None:
    """Lets file names that are not UTF-8 through stdin and stdout; in our JSON they become escapes."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def guarded(command: Callable[[], Any]) -> int:
    """Runs the command line and translates what it raises into one sentence on stderr and an exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    # Our loaders check what these would report (missing weights are errors), and our own bars show progress.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # peft asks transformers for an attribute under its old name; nothing a user can act on.
    warnings.filterwarnings(
        "ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning
    )
    message = ""
    try:
        code = int(command() or 0)
    except typer.TyperException as error:
        # Without a message it is `thaitool` alone, which has printed its help.
        what = error.format_message().rstrip(".")
        message, code = f"{what}. See --help." if what else "", error.exit_code
    except ThaitoolError as error:
        message, code = str(error), error.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except (BrokenPipeError, SystemExit) as stop:
        # The reader of our output went away (`| head`), for which typer and rich end the program with code 1.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        message = f"The operating system refused{name}: {error.strerror or error}."
        code = EnvironmentProblem.exit_code
    if code == 128 + signal.SIGINT and not message:  # typer's answer to Ctrl-C is this code alone
        message = "Stopped by Ctrl-C. Files are whole or absent; run the same command again."
    if message:
        typer.echo(f"thaitool: {message}", err=True)
    return code
