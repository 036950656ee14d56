"""What the commands share: progress bars on stderr, results on stdout, errors to sentences and exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
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
    " · 6 training failed · 130 Ctrl-C · 143 SIGTERM (both resumable)"
)

ConfigOption = Annotated[
    str | None, typer.Option("--config", help="YAML recipe: a file, or a shipped one such as tiny.", rich_help_panel="Recipe")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any recipe key: --set train.updates=500. Repeatable.", rich_help_panel="Recipe"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
UpdatesOption = Annotated[int | None, typer.Option(help="Optimizer updates to make.")]
LlmOption = Annotated[Path | None, typer.Option(help="Base LLM, if it lies elsewhere than in training.")]


@contextmanager
def progress_bar(description: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar with rate and ETA on stderr; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance


def say(text: str) -> None:
    """A line for people, on stdout."""
    typer.echo(text)


def print_json(value: Any) -> None:
    """A result for machines, on stdout."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    typer.echo(json.dumps(plain, ensure_ascii=False, indent=2, default=str))


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    Console(soft_wrap=True).print(table)


def print_training(title: str, out: Path, training: Any, extra: list[tuple[str, str]], as_json: bool) -> None:
    """The end of every training command: planned against done, then the held-out metrics."""
    if as_json:
        print_json({"out": out, **dict(extra), "training": asdict(training) if training else None})
        return
    rows = list(extra)
    if training:
        done, planned = training.done, training.planned
        rows += [
            ("updates", f"{done['updates']} of {planned['updates']} planned"
             + (f", resumed at {training.resumed_from}" if training.resumed_from else "")),
            ("audio", f"{done['hours']:.2f} h in {done['epochs']:.2f} epochs, {done['utterances']} utterances"),
            ("set aside", f"{done['rejected']} unusable, {done['unused']} not alignable"),
            ("time", f"{done['train_s']:.0f} s"),
        ]
        rows += [(name, f"{value:.4f}") for name, value in training.metrics.items()]
    print_table(title, [*rows, ("directory", str(out))])


def _terminated(number: int, frame: Any) -> None:
    raise Interrupted("Stopped by SIGTERM. Files are whole or absent; run the same command again.", number)


def guarded(command: Callable[[], Any]) -> int:
    """Runs the command line and translates what it raises into one sentence on stderr and an exit code."""
    import click

    signal.signal(signal.SIGTERM, _terminated)
    try:
        return int(command() or 0)
    except click.exceptions.Abort:
        return _fail("Stopped by Ctrl-C. Files are whole or absent; run the same command again.", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ThaitoolError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`). Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        return _fail(f"The operating system refused{name}: {error.strerror or error}.", EnvironmentProblem.exit_code)


def _fail(message: str, code: int) -> int:
    typer.echo(f"thaitool: {message}", err=True)
    return code
