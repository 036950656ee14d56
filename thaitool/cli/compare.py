"""`thaitool compare`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import ConfigOption, JsonOption, SeedOption, SetOption, say


def compare(
    reports: Annotated[
        list[str],
        typer.Argument(help="Report directories of eval, A then B; NAME=DIR to name one."),
    ],
    view: Annotated[
        str | None,
        typer.Option(
            help="pair: B against A on the same items. transfer: TRAIN/TEST=DIR, with syn, real, mix."
            " paper: Tables 1 and 2; NAME@giga2=DIR and NAME@cv=DIR name a test."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for comparison.json, .md and .html.")
    ] = None,
    cluster_by: Annotated[
        str | None, typer.Option(help="What intervals redraw: source_id, speaker or both.")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Bootstrap draws behind each interval.")] = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Says whether a difference between reports is real."""
    from thaitool.config import load
    from thaitool.config.sections import CompareConfig

    options = {
        "reports": reports,
        "view": view,
        "out": out,
        "cluster_by": cluster_by,
        "draws": draws,
        "seed": seed,
    }
    loaded = load(CompareConfig, "compare", recipe=config, settings=set_, options=options)
    from rich.console import Console

    from thaitool.reports.view import view_json, view_tables
    from thaitool.stages import compare as stage

    result = stage.run(loaded)
    if json:
        say(view_json(result.view))
        return
    console = Console()
    for table in view_tables(result.view):
        console.print(table)
    for note in result.view.notes:
        say(f"- {note}")
    if result.files:
        say(f"comparison: {result.files[-1]}")
