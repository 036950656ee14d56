"""`thaitool report`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    JsonOption,
    SeedOption,
    SetOption,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from thaitool.config.report import ReportConfig


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Directory that synth wrote, or published Thai-SUP; or runs of align, and of finetune after them."
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Real Thai text, one sentence a line, to compare with. Repeatable."),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(help="RUN=DIR: the report of eval for one of the runs. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the report; else that of the data or of the only run."),
    ] = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Says what a data set holds: rows, losses, labels, sounds, rates, voices, repeats, cost.

    Given runs of align: what each reached and cost, paths to check by eye and ear, speech among tokens.
    """
    from thaitool.config import load
    from thaitool.config.report import ReportConfig

    given = paths or []
    of_runs = len(given) > 1 or any((path / "run.json").is_file() for path in given)
    options = {
        "data": given[0] if given and not of_runs else None,
        "runs": given if of_runs else None,
        "against": against or None,
        "scores": scores or None,
        "out": out,
        "seed": seed,
    }
    loaded = load(ReportConfig, "report", recipe=config, settings=set_, options=options)
    if loaded.runs:
        _of_runs(loaded, json)
    else:
        _of_data(loaded, json)


def _of_data(loaded: ReportConfig, json: bool) -> None:
    from rich.console import Console

    from thaitool.reports.synth.form import report_json, report_tables
    from thaitool.stages import report as stage

    result = stage.run(loaded, progress_bar)
    if json:
        say(report_json(result.report))
        return
    console = Console()
    for table in report_tables(result.report):
        console.print(table)
    for note in result.report.notes:
        say(f"- {note}")
    say(f"report: {result.files[-1]}")


def _of_runs(loaded: ReportConfig, json: bool) -> None:
    from rich.console import Console

    from thaitool.reports.align.form import align_table, report_json
    from thaitool.stages import report as stage

    result = stage.run_runs(loaded)
    if json:
        say(report_json(result.report))
        return
    Console().print(align_table(result.report))
    for run in result.report.runs:
        for note in run.notes:
            say(f"- {run.name}: {note}")
    for remark in result.report.remarks:
        say(f"- {remark}")
    say(f"report: {result.files[-1]}")
