"""`thaitool infer`: options to config to run to one JSON object a line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thaitool.cli.console import (
    ConfigOption,
    DeviceOption,
    LlmOption,
    SeedOption,
    SetOption,
    progress_bar,
    say,
)
from thaitool.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

#: How sound begins, which no list of paths does.
_SOUND = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3")
_PANEL = "What is known beforehand"
_FORM = "What answers may be"
_SERVER = "A server instead of files"


def infer(
    context: typer.Context,
    audio: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Sound files, directories of them, lists as scan reads them; none or - reads paths, or sound, from"
            " stdin."
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model or run directory.")] = None,
    task: Annotated[
        str | None, typer.Option(help="asr, ic, ner, sr, qa, or a task of the model's own.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask this instead of the task's own prompt.")
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Also text as it comes, as lines with `delta`.")
    ] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Texts alone, a line each, instead of JSON.")
    ] = False,
    split_s: Annotated[
        float | None, typer.Option(help="Cut longer recordings at silence; 30 for asr and sr.")
    ] = None,
    hotwords: Annotated[
        str | None,
        typer.Option(
            help="Words that may be said: a file with one a line, or a list with commas.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    scene: Annotated[
        str | None, typer.Option(help="Who speaks, where, about what.", rich_help_panel=_PANEL)
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help="File of earlier turns, one a line.", rich_help_panel=_PANEL),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="free; labels: one of a closed set; json: entities.", rich_help_panel=_FORM
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="File of the closed set, one label a line.", rich_help_panel=_FORM),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Length limit of an answer.", rich_help_panel=_FORM)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: the best token every time.", rich_help_panel=_FORM)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Share of the probability to draw from.", rich_help_panel=_FORM),
    ] = None,
    seed: SeedOption = None,
    rows: Annotated[int | None, typer.Option(help="Answers on their way at a time.")] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="At the end, also the real-time factor, on stderr.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Answer over HTTP, in the form of OpenAI's API and on a page, until stopped.",
            rich_help_panel=_SERVER,
        ),
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; this machine alone.", rich_help_panel=_SERVER),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="8000; 0 takes a free one.", rich_help_panel=_SERVER)
    ] = None,
    open_: Annotated[
        bool,
        typer.Option(
            "--open", help="Answer other machines without a key.", rich_help_panel=_SERVER
        ),
    ] = False,
    llm: LlmOption = None,
    drafter: Annotated[
        Path | None,
        typer.Option(
            help="Recogniser of the model's drafts, if it lies elsewhere than in training."
        ),
    ] = None,
    llm_dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, or int8 on the CPU.")
    ] = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Answers about recordings. One that cannot be used gives a line with `error`, and exit code 3 at the end."""
    if serve:
        from thaitool.cli.serve import serve as run_server

        run_server(context.params)
        return
    if host is not None or port is not None or open_:
        raise ConfigError(
            "--host, --port and --open are for a server: say --serve, or leave them out."
        )
    from thaitool.config import InferConfig, load

    with ExitStack() as stack:
        paths, shown = _inputs(audio or [], stack)
        options: dict[str, Any] = {
            "audio": paths or None,
            "model": model,
            "task": task,
            "prompt": prompt,
            "split_s": split_s,
            "hotwords": None if hotwords is None else _words(hotwords),
            "scene": scene,
            "history": None if history is None else _lines(history, "--history"),
            "form": form or (None if labels is None else "labels"),
            "labels": None if labels is None else _lines(labels, "--labels"),
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "rows": rows,
            "llm": llm,
            "llm_dtype": llm_dtype,
            "drafter": drafter,
            "device": device,
        }
        loaded = load(InferConfig, "infer", recipe=config, settings=set_, options=options)
        _print_answers(loaded, shown, stream=stream, text=text, speed=speed)


def _print_answers(
    loaded: Any, shown: Callable[[str], str], *, stream: bool, text: bool, speed: bool
) -> None:
    from thaitool.stages import infer as stage

    def tell(path: str, delta: str) -> None:
        if text:
            typer.echo(delta, nl=False)
        else:
            say(json.dumps({"path": shown(path), "delta": delta}, ensure_ascii=False))
        sys.stdout.flush()

    failed, count, audio_s, seconds = 0, 0, 0.0, 0.0
    for answer in stage.run(loaded, progress_bar, tell if stream else None):
        count += 1
        failed += answer.error is not None
        audio_s += answer.audio_s
        seconds += answer.seconds
        found = {k: v for k, v in asdict(answer).items() if v is not None}
        found["path"] = shown(answer.path)
        if not text:
            say(json.dumps(found, ensure_ascii=False))
        elif answer.error is not None:
            typer.echo(f"thaitool: {found['path']}: {answer.error}", err=True)
        else:
            say("" if stream else (answer.text or "").replace("\n", " "))
        sys.stdout.flush()
    if speed:
        factor = f"{seconds / audio_s:.4f}" if audio_s else "unknown"
        typer.echo(
            f"thaitool: {audio_s:.1f} s of audio in {seconds:.1f} s, real-time factor {factor} (hearing and answering,"
            " the model being loaded).",
            err=True,
        )
    if failed:
        raise InputError(f"{failed} of {count} recordings could not be used; their lines say why.")


def _inputs(audio: list[Path], stack: ExitStack) -> tuple[list[Path], Callable[[str], str]]:
    """The paths, from stdin if need be, and how each is shown; sound on stdin is a file for as long as it takes."""
    if audio and audio != [Path("-")]:
        return audio, str
    given = sys.stdin.buffer.read()
    is_mpeg = given[:1] == b"\xff" and given[1:2] >= b"\xe0"
    # No path has a zero byte; most other kinds of sound have one.
    if not (given.startswith(_SOUND) or is_mpeg or b"\0" in given):
        lines = given.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
        return [Path(line) for line in lines if line.strip()], str
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="thaitool-"))
    file = Path(folder, "stdin.wav")
    file.write_bytes(given)
    return [file], lambda path: "-" if path == str(file) else path


def _words(given: str) -> list[str]:
    path = Path(given)
    # Not Path.is_file, which raises for texts that are too long for a name. A list that is not there is no word.
    if os.path.isfile(given) or path.suffix in {".txt", ".csv", ".tsv"}:  # noqa: PTH113
        return _lines(path, "--hotwords")
    return [word.strip() for word in given.split(",") if word.strip()]


def _lines(path: Path, option: str) -> list[str]:
    try:
        content = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{option} {path} must be a text file in UTF-8, but is not.") from error
    return [line.strip() for line in content.splitlines() if line.strip()]
