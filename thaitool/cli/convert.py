"""`thaitool convert`: models of other toolkits to the form that thaitool and transformers read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import JsonOption, LlmOption, print_json, print_table, progress_bar

convert = typer.Typer(
    name="convert", no_args_is_help=True, help="Models of other toolkits to transformers."
)


@convert.callback()
def root() -> None:
    """Models of other toolkits to transformers."""


@convert.command()
def fairseq(
    checkpoint: Annotated[
        Path, typer.Argument(help="A wav2vec 2.0 checkpoint of fairseq (.pt), pretrained or CTC.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    dictionary: Annotated[
        Path | None, typer.Option(help="dict.ltr.txt of a CTC model that does not carry it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """A fairseq checkpoint to a transformers directory, without fairseq; nothing in the file is run."""
    from thaitool.stages import convert as stage

    done = stage.run(checkpoint, out, dictionary=dictionary, progress=progress_bar)
    if json:
        print_json(done)
        return
    dropped = [f"{d.entry} ({d.n_bytes / 1e6:,.1f} MB)" for d in done.dropped if d.n_bytes]
    rows = [
        ("model", f"{done.architecture}, {done.parameters:,} parameters in {done.tensors} tensors"),
        ("training", "unknown" if done.updates is None else f"{done.updates:,} updates"),
        ("audio", "normalised" if done.normalize else "not normalised"),
        ("left out", ", ".join(dropped) or "no tensors"),
        ("source", f"sha256 {done.source_sha256}"),
        ("weights", f"sha256 {done.weights_sha256}"),
        ("directory", str(done.out)),
    ]
    print_table("convert fairseq", rows)


@convert.command()
def merge(
    model: Annotated[Path, typer.Argument(help="A run or checkpoint of align or finetune.")],
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    llm: LlmOption = None,
    json: JsonOption = False,
) -> None:
    """A speech LLM to one directory: LoRA merged, LLM inside, as AutoModel and servers load it."""
    from thaitool.stages import export as stage

    done = stage.run(model, out, llm=llm)
    if json:
        print_json(done)
        return
    rows = [
        ("checkpoint", str(done.checkpoint)),
        ("size", f"{done.n_bytes / 1e6:,.1f} MB"),
        ("weights", f"sha256 {done.weights_sha256}"),
        ("directory", str(done.out)),
    ]
    print_table("convert merge", rows)
