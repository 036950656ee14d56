"""`thaitool scan`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    JsonOption,
    SetOption,
    print_json,
    print_table,
    progress_bar,
)


def scan(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Audio directory, shards, tars, or somebody's manifest. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the manifest.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Long recordings: fixed, silence or none.")
    ] = None,
    longest_s: Annotated[
        float | None, typer.Option(help="Length of a piece of a long recording, at most.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory for a 16 kHz int16 copy of all audio.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Lists recordings in a manifest."""
    from thaitool.config import ScanConfig, load

    options = {
        "data": data or None,
        "out": out,
        "split": split,
        "longest_s": longest_s,
        "cache": cache,
        "scan_workers": workers,
    }
    loaded = load(ScanConfig, "scan", recipe=config, settings=set_, options=options)
    from thaitool.stages import scan as stage

    result = stage.run(loaded, progress_bar)
    if json:
        print_json(result)
        return
    set_aside = ", ".join(f"{n} {reason}" for reason, n in result.rejected.items()) or "none"
    rows = [
        ("utterances", f"{result.utterances:,}"),
        ("audio", f"{result.hours:,.2f} h"),
        *((f"  {path}", f"{hours:,.2f} h") for path, hours in result.hours_of.items()),
        ("length", ", ".join(f"{name} {value:g} s" for name, value in result.duration_s.items())),
        ("rates", ", ".join(f"{n:,} at {rate} Hz" for rate, n in result.sample_rates_hz.items())),
        ("set aside", set_aside),
        ("digest", result.digest[:16]),
        ("manifest", str(result.manifest)),
    ]
    print_table("scan", rows)
