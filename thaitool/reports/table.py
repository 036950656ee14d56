"""The scores of a report as tables for the terminal. Files are `write_report`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.reports.report import (
    Report,
    counts,
    difference_cells,
    interval,
    rate,
    score_rows,
    slice_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table


def render_table(report: Report) -> Table:
    """A rich table, one row per score, shuffled audio beside it where it was measured.

    With other sources, each score has a row for each of them, named in a column.
    """
    columns = ["task", "score", "value", "95 %", "counts"]
    if report.sources:
        columns.insert(2, "system")
    if report.shuffled:
        columns.append("shuffled audio")
    if report.sources:
        columns += ["minus this, points", "verdict"]
    rows = []
    for row in score_rows(report):
        cells = [
            row.task,
            row.score.name,
            rate(row.score),
            interval(row.score),
            counts(row.score),
        ]
        if report.sources:
            cells.insert(2, row.system or "this")
        if report.shuffled:
            cells.append(rate(row.shuffled) if row.shuffled else "")
        if report.sources:
            cells += difference_cells(row)
        rows.append(cells)
    return plain_table(report.title, columns, rows, caption=_caption(report))


def render_slices(report: Report) -> list[Table]:
    """For each field and task a table of the first score, one row per value of the field."""
    tables = []
    for (field, task), parts in slice_rows(report).items():
        heads = [(value, scores.count, scores.scores[0]) for value, scores in parts]
        rows = [
            [value, str(count), rate(score), interval(score), counts(score)]
            for value, count, score in heads
        ]
        title = f"{task}: {heads[0][2].name} by {field}"
        tables.append(plain_table(title, [field, "items", "value", "95 %", "counts"], rows))
    return tables


def plain_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    left: Iterable[str] = ("task", "score", "system", "verdict"),
) -> Table:
    """A rich table whose cells are plain text: nothing from data is read as console markup.

    The first column and those named in `left` are aligned left, all others right.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(caption) if caption else None)
    for name in columns:
        is_left = name == columns[0] or name in left
        # Names of scores are never cut (sr_proxy_c... could be three of them), numbers neither.
        table.add_column(
            Text(name),
            justify="left" if is_left else "right",
            no_wrap=name in {"task", "score"},
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _caption(report: Report) -> str:
    parts = [report.normalizer, report.normalizer_sha256[:12]]
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    return " ".join(part for part in parts if part)
