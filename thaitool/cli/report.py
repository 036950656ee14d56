"""`thaitool report`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    JsonOption,
    SeedOption,
    SetOption,
    progress_bar,
    say,
)


def report(
    data: Annotated[
        Path | None, typer.Argument(help="Directory that synth wrote, or published Thai-SUP.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Real Thai text, one sentence a line, to compare with. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the report; else that of the data.")
    ] = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Says what a data set holds: rows, losses, labels, sounds, rates, voices, repeats, cost."""
    from thaitool.config import load
    from thaitool.config.report import ReportConfig

    options = {"data": data, "against": against or None, "out": out, "seed": seed}
    loaded = load(ReportConfig, "report", recipe=config, settings=set_, options=options)
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
