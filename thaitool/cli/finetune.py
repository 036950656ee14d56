"""`thaitool finetune`: options to config to run to render."""

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
    UpdatesOption,
    print_training,
    progress_bar,
)


def finetune(
    data: Annotated[Path | None, typer.Option(help="Thai-SUP directory.")] = None,
    model: Annotated[Path | None, typer.Option(help="Run of align or finetune.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; the same command resumes it.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated: asr,ic,ner,sr.")] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="Rank of LoRA on the LLM; 0 freezes it.")
    ] = None,
    llm: LlmOption = None,
    updates: UpdatesOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Trains the speech LLM on several tasks at once."""
    from thaitool.config import FinetuneConfig, load

    options = {
        "data": data,
        "model": model,
        "out": out,
        "tasks": tasks.split(",") if tasks else None,
        "lora_rank": lora_rank,
        "llm": llm,
        "train.updates": updates,
        "train.seed": seed,
        "train.device": device,
    }
    loaded = load(FinetuneConfig, "finetune", recipe=config, settings=set_, options=options)
    from thaitool.stages import finetune as stage

    result = stage.run(loaded, progress_bar)
    extra = [("trained", f"{result.trained_parameters:,} of {result.parameters:,} parameters")]
    print_training("finetune", result.out, result.training, extra, json)
