"""`thaitool eval`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    LlmOption,
    SeedOption,
    SetOption,
    progress_bar,
    say,
)


def evaluate(
    task: Annotated[str | None, typer.Option(help="slu (all four), asr, ic, ner or sr.")] = None,
    data: Annotated[Path | None, typer.Option(help="Thai-SUP directory.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model or run directory.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Score this JSONL of {id, task, text} instead.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of other predictions to score beside these. Repeatable."),
    ] = None,
    slice_: Annotated[
        str | None,
        typer.Option("--slice", help="Also by these fields: speaker,length,source,... Printed."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Report directory.")] = None,
    split: Annotated[str | None, typer.Option(help="train, dev or test.")] = None,
    limit: Annotated[int | None, typer.Option(help="Utterances per task, spread evenly.")] = None,
    shuffled: Annotated[
        bool | None, typer.Option("--shuffled/--no-shuffled", help="Also answer with other audio.")
    ] = None,
    llm: LlmOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Scores a model or a predictions file."""
    from thaitool.config import EvalConfig, load

    options = {
        "task": task,
        "data": data,
        "model": model,
        "predictions": predictions,
        "also": also or None,
        "slices": None if slice_ is None else [f.strip() for f in slice_.split(",") if f.strip()],
        "out": out,
        "split": split,
        "limit": limit,
        "shuffled": shuffled,
        "llm": llm,
        "seed": seed,
        "device": device,
    }
    loaded = load(EvalConfig, "eval", recipe=config, settings=set_, options=options)
    from rich.console import Console

    from thaitool.reports.table import render_slices, render_table
    from thaitool.stages import evaluate as stage

    result = stage.run(loaded, progress_bar)
    if json:
        say((result.out / "report.json").read_text("utf-8"))
        return
    console = Console()
    console.print(render_table(result.report))
    for table in render_slices(result.report) if slice_ is not None else ():
        console.print(table)
    if result.report.failures:
        say(result.report.notes[-1])
    say(f"report: {result.out / 'report.html'}")
