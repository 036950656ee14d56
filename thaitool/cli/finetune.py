"""`thaitool finetune`: options to config to run to render, for the speech LLM and, with --head, for a recogniser."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

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
    print_json,
    print_training,
    progress_bar,
    say,
)


def finetune(
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Thai-SUP directory or any other listed recordings with labels or transcripts. Repeatable."
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Run of align or finetune.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; the same command resumes it.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: asr,ic,ner,sr,qa, or tasks of --task-file or of the model."
        ),
    ] = None,
    task_file: Annotated[
        Path | None, typer.Option(help="YAML with tasks of your own: prompts, answer, metric.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Shares of the tasks in what is drawn: asr=1,ic=2. None takes every row once an epoch."
        ),
    ] = None,
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
        list[Path] | None, typer.Option(help="Held-out recordings. Repeatable.")
    ] = None,
    drafter: Annotated[
        Path | None,
        typer.Option(
            help="Recogniser whose transcript goes with each prompt: the cascade baseline."
        ),
    ] = None,
    allow_leakage: Annotated[
        list[str] | None,
        typer.Option(
            help="A kind of leakage into held-out rows that does not stop the run, such as text. Repeatable."
        ),
    ] = None,
    show_batch: Annotated[
        bool,
        typer.Option(
            "--show-batch",
            help="Print a training row of each task (audio span, prompt, answer, end, what is in the loss) and stop.",
        ),
    ] = False,
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
        "data": data or None,
        "dev_data": dev_data or None,
        "out": out,
        "train.updates": updates,
        "train.seed": seed,
        "train.device": device,
    }
    of_llm: dict[str, Any] = {
        "model": model,
        "tasks": [name.strip() for name in tasks.split(",")] if tasks else None,
        "task_file": task_file,
        "weights": _shares(weights),
        "lora_rank": lora_rank,
        "drafter": drafter,
        "allow_leakage": allow_leakage or None,
        "llm": llm,
        "show_batch": show_batch or None,
    }
    of_recogniser: dict[str, Any] = {"encoder": encoder}
    _require_fit(head, of_llm if head else of_recogniser)
    of_llm.pop("show_batch")
    if head is None:
        (_show if show_batch else _speech_lm)(common | of_llm, config, set_, json)
    else:
        options = common | of_recogniser | {"head": head}
        _recogniser(options, config, set_, json)


def _require_fit(head: str | None, others: dict[str, Any]) -> None:
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


def _shares(text: str | None) -> dict[str, float] | None:
    """`asr=1,ic=2` as a mapping; raises `ConfigError` if it is none."""
    from thaitool.errors import ConfigError

    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name in found:
            raise ConfigError(f"--weights must name every task once, but names {name} twice.")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise ConfigError(
                f"--weights must name a number for each task, as in asr=1,ic=2, but has {part!r}."
            ) from error
    return found


def _speech_lm(
    options: dict[str, Any], config: str | None, settings: list[str] | None, as_json: bool
) -> None:
    from thaitool.config import FinetuneConfig, load

    loaded = load(FinetuneConfig, "finetune", recipe=config, settings=settings, options=options)
    from thaitool.stages import finetune as stage
    from thaitool.training.finetune_judge import beside

    result = stage.run(loaded, progress_bar, announce)
    rows = ", ".join(f"{t} {n:,} of {result.planned[t]:,}" for t, n in result.drawn.items())
    extra = [
        ("trained", f"{result.trained_parameters:,} of {result.parameters:,} parameters"),
        ("learned from", f"{rows} planned rows"),
    ]
    training = result.training
    if not as_json:
        # All figures, some eighty of four tasks, are in metrics.jsonl.
        extra += [("ALARM", note) for note in training.notes] + beside(training.metrics)
        training = replace(training, metrics={})
    print_training("finetune", result.out, training, extra, as_json)


def _show(
    options: dict[str, Any], config: str | None, settings: list[str] | None, as_json: bool
) -> None:
    from thaitool.config import FinetuneConfig, load

    # Nothing is written, so that a place need not be named.
    options["out"] = options["out"] or Path("unused")
    loaded = load(FinetuneConfig, "finetune", recipe=config, settings=settings, options=options)
    from thaitool.stages.finetune_show import show

    rows = show(loaded)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        say("\n".join(line for row in rows for line in row.lines()))


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
