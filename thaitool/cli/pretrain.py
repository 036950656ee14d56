"""`thaitool pretrain`: options to config to run to render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    SeedOption,
    SetOption,
    UpdatesOption,
    announce,
    print_training,
    progress_bar,
)


def pretrain(
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Audio directory, shards, tars, or somebody's manifest. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; the same command resumes it.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Encoder to continue from; none makes a new one.")
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="Audio of other languages, mixed in against forgetting. Repeatable."),
    ] = None,
    updates: UpdatesOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Trains an encoder on unlabelled audio."""
    from thaitool.config import PretrainConfig, load

    options = {
        "data": data or None,
        "out": out,
        "init": init,
        "replay": replay or None,
        "train.updates": updates,
        "train.seed": seed,
        "train.device": device,
    }
    loaded = load(PretrainConfig, "pretrain", recipe=config, settings=set_, options=options)
    from thaitool.stages import pretrain as stage

    result = stage.run(loaded, progress_bar, announce)
    extra = [("data", f"{result.hours:.2f} h, {result.rejected} recordings set aside")]
    extra += [("rollbacks", text) for text in result.rollbacks]
    print_training("pretrain", result.out, result.training, extra, json)
