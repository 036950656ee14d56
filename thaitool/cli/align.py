"""`thaitool align`: options to config to run to render."""

from __future__ import annotations

from dataclasses import replace
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
    print_training,
    progress_bar,
)


def align(
    data: Annotated[Path | None, typer.Option(help="Thai-SUP directory.")] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Run of pretrain, or the directory of an encoder (wav2vec 2.0, Whisper and others)."
        ),
    ] = None,
    llm: Annotated[Path | None, typer.Option(help="Causal LLM in transformers form.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; the same command resumes it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="dtw, ctc, dtw+ctc, asr or none.")] = None,
    plain: Annotated[
        bool | None, typer.Option("--plain", help="The paper's bare DTW loss, which collapses.")
    ] = None,
    updates: UpdatesOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Aligns speech with the LLM's token embeddings."""
    from thaitool.config import AlignConfig, load

    options = {
        "data": data,
        "encoder": encoder,
        "llm": llm,
        "out": out,
        "method": method,
        "plain": plain,
        "train.updates": updates,
        "train.seed": seed,
        "train.device": device,
    }
    loaded = load(AlignConfig, "align", recipe=config, settings=set_, options=options)
    from thaitool.stages import align as stage

    result = stage.run(loaded, progress_bar)
    extra, training = [("verdict", result.verdict)], result.training
    if training is not None and not json:
        extra += [("ALARM", sentence) for sentence in result.alarms]
        # The metrics are shown here, those of wrong pairs on the line of the true ones.
        from thaitool.models.align_judge import beside

        extra += beside(training.metrics)
        training = replace(training, metrics={})
    print_training("align", result.out, training, extra, json)
