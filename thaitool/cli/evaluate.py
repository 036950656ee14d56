"""`thaitool eval`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from thaitool.reports.report import Report

_MORE = "Further scores"
TaskOption = Annotated[
    str | None,
    typer.Option(help="slu (asr, ic, ner, sr; qa if there), one of them, or one of --task-file."),
]
TaskFileOption = Annotated[
    Path | None, typer.Option(help="YAML of tasks that the model does not bring.")
]
PredictionsOption = Annotated[
    Path | None, typer.Option(help="Score this JSONL of {id, task, text} instead.")
]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=PATH of other predictions to score beside these. Repeatable."),
]
SliceOption = Annotated[
    str | None,
    typer.Option("--slice", help="Also by these fields: speaker,length,source,... Printed."),
]
ShuffledOption = Annotated[
    bool | None, typer.Option("--shuffled/--no-shuffled", help="Also answer with other audio.")
]
ContextOption = Annotated[
    str | None,
    typer.Option(help="Ask with what rows say is known beforehand, without, or both ways."),
]
HotwordsOption = Annotated[
    int | None,
    typer.Option(help="Names listed with each item: its own and others'.", rich_help_panel=_MORE),
]
HotwordsFileOption = Annotated[
    Path | None,
    typer.Option(help="Words, one a line, listed with each item.", rich_help_panel=_MORE),
]
DrafterOption = Annotated[
    Path | None,
    typer.Option(help="Where the recogniser of the model's drafts lies.", rich_help_panel=_MORE),
]
ClusterOption = Annotated[
    str | None, typer.Option(help="What intervals redraw: source_id, speaker or both.")
]
TrainedOnOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Training data to look for the test items in. Repeatable.", rich_help_panel=_MORE
    ),
]
KeywordsOption = Annotated[
    Path | None,
    typer.Option(help="Words, one a line: asr also by their hit rate.", rich_help_panel=_MORE),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="URL up to /v1 of a server that grades sr, 1 to 5.", rich_help_panel=_MORE),
]
JudgeModelOption = Annotated[str | None, typer.Option(help="Its model.", rich_help_panel=_MORE)]
JudgeKeyOption = Annotated[
    str | None,
    typer.Option(help="Environment variable with its key.", rich_help_panel=_MORE),
]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        help="Model directory, or URL up to /v1: asr, sr, qa by likeness.", rich_help_panel=_MORE
    ),
]
EmbedderModelOption = Annotated[
    str | None, typer.Option(help="The server's model.", rich_help_panel=_MORE)
]
EmbedderKeyOption = Annotated[
    str | None,
    typer.Option(help="Environment variable with its key.", rich_help_panel=_MORE),
]


def evaluate(
    task: TaskOption = None,
    task_file: TaskFileOption = None,
    data: Annotated[Path | None, typer.Option(help="Thai-SUP directory.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model or run directory.")] = None,
    predictions: PredictionsOption = None,
    also: AlsoOption = None,
    slices: SliceOption = None,
    out: Annotated[Path | None, typer.Option(help="Report directory.")] = None,
    split: Annotated[str | None, typer.Option(help="train, dev or test.")] = None,
    limit: Annotated[int | None, typer.Option(help="Utterances per task, spread evenly.")] = None,
    shuffled: ShuffledOption = None,
    context: ContextOption = None,
    hotwords: HotwordsOption = None,
    hotwords_file: HotwordsFileOption = None,
    drafter: DrafterOption = None,
    cluster_by: ClusterOption = None,
    trained_on: TrainedOnOption = None,
    keywords: KeywordsOption = None,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_key_variable: JudgeKeyOption = None,
    embedder: EmbedderOption = None,
    embedder_model: EmbedderModelOption = None,
    embedder_key_variable: EmbedderKeyOption = None,
    llm: LlmOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Scores a model or a predictions file."""
    # Options bear the names of their keys; those that are left out, or given as nothing, change nothing.
    options = {
        name: value
        for name, value in locals().items()
        if name not in {"config", "set_", "json"} and value not in (None, [])
    }
    if slices is not None:
        options["slices"] = [field.strip() for field in slices.split(",") if field.strip()]
    from thaitool.config import EvalConfig, load
    from thaitool.stages import evaluate as stage

    loaded = load(EvalConfig, "eval", recipe=config, settings=set_, options=options)
    result = stage.run(loaded, progress_bar)
    if json:
        say((result.out / "report.json").read_text("utf-8"))
        return
    _render(result.report, with_slices=slices is not None)
    say(f"report: {result.out / 'report.html'}")


def _render(report: Report, *, with_slices: bool) -> None:
    """Tables on stdout; the notes are findings, and go with them."""
    from rich.console import Console

    from thaitool.reports.table import render_slices, render_table

    console = Console()
    console.print(render_table(report))
    for table in render_slices(report) if with_slices else ():
        console.print(table)
    for note in report.notes:
        say(f"- {note}")
