"""`thaitool synth`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def synth(
    source: Annotated[
        Path | None, typer.Option(help="alpaca JSONL or JSON, or SNIPS JSON.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the shards.")] = None,
    llm: Annotated[str | None, typer.Option(help="Augmenting backend: embedded:")] = None,
    translator: Annotated[str | None, typer.Option(help="embedded: or memory:PATH")] = None,
    tts: Annotated[str | None, typer.Option(help="Voice backend: espeak:")] = None,
    variants: Annotated[int | None, typer.Option(help="Variants per source row.")] = None,
    seed: SeedOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Makes Thai speech data with labels from English text."""
    from thaitool.config import SynthConfig, load

    options = {
        "source": source,
        "out": out,
        "llm": llm,
        "translator": translator,
        "tts": tts,
        "variants": variants,
        "seed": seed,
    }
    loaded = load(SynthConfig, "synth", recipe=config, settings=set_, options=options)
    from thaitool.stages import synth as stage

    result = stage.run(loaded, progress_bar)
    if json:
        print_json(result)
        return
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
    print_table("synth", [*rows, ("directory", str(result.out))])
