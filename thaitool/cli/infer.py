"""`thaitool infer`: options to config to run to one JSON object a line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import ConfigOption, DeviceOption, LlmOption, SetOption, progress_bar, say
from thaitool.errors import InputError


def infer(
    audio: Annotated[
        list[Path] | None, typer.Argument(help="Sound files; none or - reads paths from stdin.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model or run directory.")] = None,
    task: Annotated[str | None, typer.Option(help="asr, ic, ner or sr.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask this instead of the task's own prompt.")
    ] = None,
    llm: LlmOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Answers about sound files. A file that cannot be used gives a line with `error`, and exit code 3 at the end."""
    from thaitool.config import InferConfig, load

    paths = audio or []
    if not paths or paths == [Path("-")]:
        paths = [Path(line) for line in sys.stdin.read().split("\n") if line.strip()]
    options = {
        "audio": paths or None,
        "model": model,
        "task": task,
        "prompt": prompt,
        "llm": llm,
        "device": device,
    }
    loaded = load(InferConfig, "infer", recipe=config, settings=set_, options=options)
    from thaitool.stages import infer as stage

    failed = 0
    for answer in stage.run(loaded, progress_bar):
        failed += answer.error is not None
        say(
            json.dumps(
                {k: v for k, v in asdict(answer).items() if v is not None}, ensure_ascii=False
            )
        )
        sys.stdout.flush()
    if failed:
        raise InputError(
            f"{failed} of {len(paths)} recordings could not be used; their lines say why."
        )
