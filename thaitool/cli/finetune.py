"""`thaitool finetune`: options to config to run to render, for the speech LLM and, with --head, for a recogniser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thaitool.cli.console import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    LlmOption,
    SeedOption,
    SetOption,
    UpdatesOption,
    announce,
    print_training,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def finetune(
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Thai-SUP directory; with --head any recordings with transcripts. Repeatable with --head."
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Run of align or finetune.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; the same command resumes it.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma-separated: asr,ic,ner,sr,qa.")] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="Rank of LoRA on the LLM; 0 freezes it.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="ctc or aed: train a recogniser of an encoder and this head; no LLM."),
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="With --head: encoder to train; none makes a new one.")
    ] = None,
    dev_data: Annotated[
        list[Path] | None, typer.Option(help="With --head: held-out recordings. Repeatable.")
    ] = None,
    llm: LlmOption = None,
    updates: UpdatesOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Trains the speech LLM on several tasks at once, or, with --head, a recogniser."""
    common: dict[str, Any] = {
        "out": out,
        "train.updates": updates,
        "train.seed": seed,
        "train.device": device,
    }
    of_llm: dict[str, Any] = {
        "model": model,
        "tasks": tasks.split(",") if tasks else None,
        "lora_rank": lora_rank,
        "llm": llm,
    }
    of_recogniser: dict[str, Any] = {"dev_data": dev_data or None, "encoder": encoder}
    _require_fit(head, of_llm if head else of_recogniser, data or [])
    if head is None:
        options = common | of_llm | {"data": data[0] if data else None}
        _speech_lm(options, config, set_, json)
    else:
        options = common | of_recogniser | {"data": data or None, "head": head}
        _recogniser(options, config, set_, json)


def _require_fit(head: str | None, others: dict[str, Any], data: Sequence[Path]) -> None:
    """Raises `ConfigError` if any of `others`, the options of the other kind of training, was given."""
    from thaitool.errors import ConfigError

    wrong = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if wrong and head is None:
        raise ConfigError(
            f"{', '.join(wrong)} can only be given with --head ctc or --head aed, which trains a recogniser; without"
            " --head the speech LLM is trained."
        )
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} cannot be given with --head {head}, which trains an encoder without an LLM; leave out"
            " --head to train the speech LLM."
        )
    if head is None and len(data) > 1:
        raise ConfigError(
            f"--data must be given once without --head, but is given {len(data)} times."
        )


def _speech_lm(
    options: dict[str, Any], config: str | None, settings: list[str] | None, as_json: bool
) -> None:
    from thaitool.config import FinetuneConfig, load

    loaded = load(FinetuneConfig, "finetune", recipe=config, settings=settings, options=options)
    from thaitool.stages import finetune as stage

    result = stage.run(loaded, progress_bar)
    extra = [("trained", f"{result.trained_parameters:,} of {result.parameters:,} parameters")]
    print_training("finetune", result.out, result.training, extra, as_json)


def _recogniser(
    options: dict[str, Any], config: str | None, settings: list[str] | None, as_json: bool
) -> None:
    from thaitool.config import RecogniseConfig, load

    loaded = load(RecogniseConfig, "recognise", recipe=config, settings=settings, options=options)
    from thaitool.stages import finetune_asr as stage

    result = stage.run(loaded, progress_bar, announce)
    extra = [
        ("trained", f"{result.trained_parameters:,} of {result.parameters:,} parameters"),
        ("result", result.verdict),
    ]
    print_training(f"finetune --head {loaded.head}", result.out, result.training, extra, as_json)
