"""A comparison of reports, laid out: tables, plots around zero, examples; as JSON, Markdown, HTML, terminal tables.

It compares nothing: `pairing`, `transfer` and `paper` do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from thaitool.reports.difference import difference
from thaitool.reports.html import Bar, ends_of, environment
from thaitool.reports.markdown import escape, markdown_table
from thaitool.reports.plots import scale_around_zero
from thaitool.reports.report import MARKS
from thaitool.reports.table import plain_table
from thaitool.reports.write import write_texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

FORMAT = "thaitool-comparison-1"


@dataclass(frozen=True, slots=True)
class ViewTable:
    """A table of texts. The first `left` columns are names."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """A rate minus another, to be drawn on a scale around zero."""

    name: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class PairedExample:
    """One item that two systems answered differently."""

    kind: Literal["better", "worse"]
    task: str
    id: str
    reference: str
    answers: tuple[tuple[str, str, float], ...]
    """(system, answer, error) of each."""


@dataclass(frozen=True)
class View:
    """What is shown, and the same as plain values for JSON."""

    kind: Literal["pair", "transfer", "paper"]
    title: str
    created: str
    tables: tuple[ViewTable, ...]
    data: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    plot_heading: str = ""
    differences: tuple[Difference, ...] = ()
    examples: tuple[PairedExample, ...] = field(default=(), repr=False)


def write_view(view: View, out_dir: Path) -> tuple[Path, ...]:
    """comparison.json, comparison.md and comparison.html in `out_dir`, each whole or not at all.

    Raises:
        InputError: they cannot be written.
    """
    files = {
        "comparison.json": view_json(view),
        "comparison.md": view_markdown(view),
        "comparison.html": view_html(view),
    }
    return write_texts(files, out_dir)


def view_json(view: View) -> str:
    """Format "thaitool-comparison-1": view, title, created, notes, and the values of the view."""
    value = {
        "format": FORMAT,
        "view": view.kind,
        "title": view.title,
        "created": view.created,
        "notes": list(view.notes),
        **view.data,
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def view_markdown(view: View) -> str:
    """Tables and notes; everything from data is escaped."""
    parts = [f"# {escape(view.title)}", escape(view.created)]
    for table in view.tables:
        parts += [f"## {escape(table.heading)}", markdown_table(table.columns, table.rows)]
    parts += [f"> {escape(note)}" for note in view.notes]
    return "\n\n".join(parts) + "\n"


def view_tables(view: View) -> list[Table]:
    """The tables for the terminal."""
    return [
        plain_table(
            table.heading, table.columns, table.rows, left=(*table.columns[: table.left], "verdict")
        )
        for table in view.tables
    ]


def view_html(view: View) -> str:
    """One file that needs no network."""
    numbers = [n for d in view.differences for n in (d.value, d.low, d.high)]
    scale = scale_around_zero(numbers)
    bars = [
        Bar(
            d.name,
            "",
            points(d.value),
            points_interval(d.low, d.high),
            scale.place(d.value, d.low, d.high),
        )
        for d in view.differences
    ]
    cards = [
        (
            example,
            [
                (name, f"{error:.3g}", difference(example.reference, text)[1])
                for name, text, error in example.answers
            ],
        )
        for example in view.examples
    ]
    ends = ends_of(scale, "points")
    template = environment().get_template("comparison.html.j2")
    return template.render(view=view, bars=bars, ends=ends, cards=cards)


def points(difference: float | None, name: str = "") -> str:
    """A difference of rates in percentage points, with its sign; of marks, in marks."""
    return "-" if difference is None else f"{_unit(name) * difference:+.2f}"


def points_interval(low: float | None, high: float | None, name: str = "") -> str:
    """The interval of a difference, in points or marks."""
    return "" if low is None or high is None else f"{points(low, name)} to {points(high, name)}"


def _unit(name: str) -> int:
    return 1 if name in MARKS else 100


def p_text(p: float | None) -> str:
    """A p value as people read it."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rows_of(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Rows that cannot change."""
    return tuple(tuple(row) for row in rows)
