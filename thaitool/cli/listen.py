"""`thaitool listen`: blind listening packs for people, and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thaitool.cli.console import JsonOption, print_json, print_table, progress_bar, say

listen = typer.Typer(
    name="listen", no_args_is_help=True, help="People rate clips, blind and offline."
)
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]


@listen.callback()
def root() -> None:
    """People rate clips, blind and offline."""


@listen.command()
def pack(
    data: Annotated[Path, typer.Argument(help="Thai-SUP directory, or other listed data.")],
    out: Annotated[Path, typer.Option(help="Directory to make: one page for each rater.")],
    items: Annotated[int, typer.Option(help="Clips of the data.")] = 200,
    raters: Annotated[int, typer.Option(help="Pages; each has all clips.")] = 3,
    anchors: Annotated[
        Path | None, typer.Option(help="Recordings of people with texts, hidden among the others.")
    ] = None,
    anchor_items: Annotated[int, typer.Option(help="How many of them.")] = 20,
    canaries: Annotated[int, typer.Option(help="Clips that are spoilt in a known way.")] = 12,
    written_share: Annotated[
        float, typer.Option(help="Share of clips that raters write down.")
    ] = 0.25,
    split: Annotated[str | None, typer.Option(help="train, dev or test; all if left out.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """A page for each rater, and beside the directory the key that they must not see."""
    from thaitool.stages import listen as stage

    made = stage.pack(
        data,
        out,
        items=items,
        raters=raters,
        anchors=anchors,
        anchor_items=anchor_items,
        canaries=canaries,
        written_share=written_share,
        split=split,
        seed=seed,
        progress=progress_bar,
    )
    if json:
        print_json(made)
        return
    rows = [
        ("pack", made.pack),
        ("clips", f"{made.clips} on each page, {made.minutes:g} minutes of speech"),
        ("pages", f"{', '.join(made.pages)} (up to {made.largest_mb:g} MB)"),
        ("directory", str(made.out)),
        ("key", f"{made.key} (keep it from the raters)"),
    ]
    if made.set_aside:
        rows.append(
            ("set aside", f"{made.set_aside} unusable recordings; `thaitool scan` lists them")
        )
    print_table("listen pack", rows)


@listen.command()
def score(
    pack_dir: Annotated[Path, typer.Argument(metavar="DIR", help="What `listen pack` made.")],
    ratings: Annotated[list[Path], typer.Argument(help="CSV files that raters sent back.")],
    key: Annotated[Path | None, typer.Option(help="The key, if not DIR.key.json.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for report.json, .md and .html.")
    ] = None,
    exclude_failed: Annotated[
        bool, typer.Option("--exclude-failed", help="Leave out raters who fail the spoilt clips.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Bootstrap draws behind each interval.")] = 2000,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """What raters heard: naturalness, tones, intelligibility, agreement, each with its interval."""
    from rich.console import Console

    from thaitool.listening.result import notes, result_tables
    from thaitool.reports.table import plain_table
    from thaitool.stages import listen as stage

    found = stage.score(
        pack_dir,
        ratings,
        key=key,
        out=out,
        exclude_failed=exclude_failed,
        draws=draws,
        seed=seed,
    )
    if json:
        say(found.to_json())
        return
    console = Console()
    for table in result_tables(found.heard):
        left = table.columns[: table.left]
        console.print(plain_table(table.heading, table.columns, table.rows, left=left))
    for note in notes(found.heard):
        say(f"- {note}")
    if found.files:
        say(f"report: {found.files[-1]}")
