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
    task: Annotated[str | None, typer.Option(help="asr, ic, ner, sr or qa.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask this instead of the task's own prompt.")
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="At the end, also the real-time factor, on stderr.")
    ] = False,
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

    failed, audio_s, seconds = 0, 0.0, 0.0
    for answer in stage.run(loaded, progress_bar):
        failed += answer.error is not None
        audio_s += answer.audio_s
        seconds += answer.seconds
        say(
            json.dumps(
                {k: v for k, v in asdict(answer).items() if v is not None}, ensure_ascii=False
            )
        )
        sys.stdout.flush()
    if speed:
        factor = f"{seconds / audio_s:.4f}" if audio_s else "unknown"
        typer.echo(
            f"thaitool: {audio_s:.1f} s of audio in {seconds:.1f} s, real-time factor {factor} (reading and answering,"
            " the model being loaded).",
            err=True,
        )
    if failed:
        raise InputError(
            f"{failed} of {len(paths)} recordings could not be used; their lines say why."
        )
