"""The `thaitool` command. Loads no torch: each command imports its stage when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from thaitool import __version__
from thaitool.cli.align import align
from thaitool.cli.compare import compare
from thaitool.cli.console import EXIT_CODES, accept_any_file_name, guarded
from thaitool.cli.convert import convert
from thaitool.cli.doctor import doctor
from thaitool.cli.evaluate import evaluate
from thaitool.cli.finetune import finetune
from thaitool.cli.infer import infer
from thaitool.cli.listen import listen
from thaitool.cli.pretrain import pretrain
from thaitool.cli.report import report
from thaitool.cli.scan import scan
from thaitool.cli.synth import synth

app = typer.Typer(
    name="thaitool",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From raw Thai audio and English text to a Thai speech LLM.",
    epilog=EXIT_CODES,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"thaitool {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From raw Thai audio and English text to a Thai speech LLM."""


app.command(help="Unlabelled Thai audio to an encoder (wav2vec 2.0, new or continued).")(pretrain)
app.command(help="Recordings to a manifest, once for many runs.")(scan)
app.command(help="English text to labelled Thai speech (Thai-SUP shards).")(synth)
app.command(help="Projected speech to the LLM's token embeddings (U-Align).")(align)
app.command(help="The speech LLM on several tasks; with --head, a recogniser without an LLM.")(
    finetune
)
app.command("eval", help="Scores with intervals, as a table, JSON and HTML.")(evaluate)
app.command(help="Whether two reports differ by more than chance.")(compare)
app.command(help="Answers about sound files, one JSON object a line.")(infer)
app.command(help="What a data set of synth holds, or what runs of align reached and cost.")(report)
app.add_typer(listen)
app.add_typer(convert)
app.command(help="What this machine has and lacks.")(doctor)


def main() -> None:
    """Entry point: exits with one of the documented codes."""
    accept_any_file_name()
    # The name is given, as completion scripts and usage lines should not say `python -m thaitool`.
    sys.exit(guarded(lambda: app(prog_name="thaitool", standalone_mode=False)))
