"""`thaitool synth`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    JsonOption,
    SeedOption,
    SetOption,
    print_json,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from thaitool.stages.synth import SynthDone
    from thaitool.synth.estimate import Estimate

_LLM = "Labels and varies the rows: embedded:, openai:URL#MODEL, hf:PATH, batch:DIR#MODEL or replay:FILE#MODEL."
_FORMATS = "alpaca, snips, bio, wikiann, slurp, tsv, text, rows or speech"
_TTS = "Voices: espeak:, speech:URL#MODEL, hf-vits:PATH, piper:PATH or command:PROGRAM."


def synth(
    source: Annotated[
        Path | None, typer.Option(help="Sentences, or recordings with transcripts; see --format.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help=f"Of the source, if not clear: {_FORMATS}.")
    ] = None,
    lang: Annotated[
        str | None, typer.Option(help="Of the source: en, or th (spoken as it stands).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the shards.")] = None,
    llm: Annotated[str | None, typer.Option(help=_LLM)] = None,
    translator: Annotated[
        str | None, typer.Option(help="embedded:, memory:PATH, or a model as for --llm.")
    ] = None,
    tts: Annotated[str | None, typer.Option(help=_TTS)] = None,
    variants: Annotated[int | None, typer.Option(help="Variants per source row.")] = None,
    cache: Annotated[Path | None, typer.Option(help="File of answers to share.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="USD at which to stop; needs calls.prices.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="local, or ray: clips are made on a Ray cluster.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes (with ray: actors) that speak.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw unfinished work for OUT away.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate calls, tokens, money, hours, GB.")
    ] = False,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Makes Thai speech data with labels from English or Thai text."""
    from thaitool.config import SynthConfig, load

    options = {
        "source": source,
        "format": format_,
        "language": lang,
        "out": out,
        "llm": llm,
        "translator": translator,
        "tts": tts,
        "variants": variants,
        "cache": cache,
        "calls.max_cost_usd": max_cost,
        "engine": engine,
        "workers": workers,
        "restart": restart or None,
        "seed": seed,
    }
    loaded = load(SynthConfig, "synth", recipe=config, settings=set_, options=options)
    from thaitool.stages import synth as stage

    if dry_run:
        plan = stage.plan(loaded)
        print_json(plan) if json else _print_plan(plan)
        return
    done = stage.make(loaded, progress_bar)
    print_json(done.result) if json else _print_done(done)


def _print_done(done: SynthDone) -> None:
    result = done.result
    rows = [
        (f"{task} {split}", f"{n} rows, {hours:.2f} h") for (task, split, n, hours) in result.counts
    ]
    rows += [(f"rejected: {reason}", str(n)) for reason, n in result.rejected]
    casts = (
        ("train", result.train_voices),
        ("dev", result.dev_voices),
        ("test", result.test_voices),
    )
    rows += [(f"speakers of {split}", ", ".join(voices)) for split, voices in casts]
    rows += [("source", note) for note in done.notes]
    if done.resumed_rows:
        rows.append(("resumed", f"{done.resumed_rows} rows were made before"))
    if done.spending is not None:
        spent = done.spending
        tokens = f"{spent.prompt_tokens} + {spent.completion_tokens} tokens"
        calls = f"{spent.calls}, {spent.failed} of them failed; {tokens}; {spent.usd:.4f} USD"
        rows.append(("calls", calls))
    rows.append(("directory", str(result.out)))
    page = result.out / "report.html"
    if page.is_file():  # sets that an older version made have none; `thaitool report` makes it
        rows.append(("report", str(page)))
    print_table("synth", rows)


def _print_plan(plan: Estimate) -> None:
    rows = [
        (
            stage.stage,
            f"{stage.calls} calls, {stage.prompt_tokens} + {stage.completion_tokens} tokens,"
            f" {_usd(stage.usd)} ({stage.model})",
        )
        for stage in plan.stages
    ]
    rows += [
        ("all calls", f"{plan.calls}, {_usd(plan.usd)}"),
        ("data set", f"{plan.rows} rows, {plan.hours:.1f} h, {plan.gigabytes:.2f} GB"),
    ]
    print_table("synth would take, roughly", rows)


def _usd(value: float | None) -> str:
    return "price unknown" if value is None else f"{value:.2f} USD"
