"""`thaitool convert`: models of other toolkits to transformers, and ours to one directory and to the hub."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import JsonOption, LlmOption, print_json, print_table, progress_bar


class StoredDtype(StrEnum):
    """Forms in which weights are stored."""

    float32 = "float32"
    bfloat16 = "bfloat16"


convert = typer.Typer(
    name="convert",
    no_args_is_help=True,
    help="Models of other toolkits to transformers; ours to one directory, and to the hub.",
)


@convert.callback()
def root() -> None:
    """Models of other toolkits to transformers; ours to one directory, and to the hub."""


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
    dtype: Annotated[
        StoredDtype, typer.Option(help="Form of the LLM's weights on disk.")
    ] = StoredDtype.float32,
    name: Annotated[
        str | None, typer.Option(help="Name on the model card; else that of the directory.")
    ] = None,
    report: Annotated[
        list[str] | None,
        typer.Option(help="[NAME=]DIR of an eval report for the model card. Repeatable."),
    ] = None,
    llm: LlmOption = None,
    drafter: Annotated[
        Path | None, typer.Option(help="Where the recogniser of the model's drafts lies.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """A speech LLM to one directory with its card: LoRA merged, LLM inside, for AutoModel, servers and infer."""
    from thaitool.stages import export as stage

    done = stage.run(
        model, out, llm=llm, drafter=drafter, dtype=dtype.value, name=name, reports=report or ()
    )
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


@convert.command()
def push(
    model: Annotated[Path, typer.Argument(help="A directory that `convert merge` made.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub.")],
    private: Annotated[
        bool, typer.Option("--private/--public", help="Of a repository that is made.")
    ] = True,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Model made by thaitool",
    json: JsonOption = False,
) -> None:
    """Uploads a whole model with its card to the hub, as one commit; the token is that of `hf auth login`."""
    from thaitool.stages import export as stage

    done = stage.push(model, repository, private=private, message=message)
    if json:
        print_json(done)
        return
    rows = [
        ("repository", done.repository),
        ("revision", done.revision),
        ("uploaded", f"{done.files} files, {done.n_bytes / 1e6:,.1f} MB"),
    ]
    print_table("convert push", rows)
