"""The scores of a report as a table for the terminal. Files are `write_report`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.reports.report import Report, counts, interval, percent, score_rows

if TYPE_CHECKING:
    from rich.table import Table


def render_table(report: Report) -> Table:
    """A rich table, one row per score, shuffled audio beside it where it was measured.

    Cells are plain text: nothing from data is read as console markup.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(report.title), caption=Text(_caption(report)))
    for name in ("task", "score"):
        table.add_column(name)
    table.add_column("value", justify="right")
    table.add_column("95 %", justify="right")
    table.add_column("counts", justify="right")
    if report.shuffled:
        table.add_column("shuffled audio", justify="right")
    for row in score_rows(report):
        cells = [
            row.task,
            row.score.name,
            percent(row.score.value),
            interval(row.score),
            counts(row.score),
        ]
        if report.shuffled:
            cells.append(percent(row.shuffled.value) if row.shuffled else "")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _caption(report: Report) -> str:
    parts = [report.normalizer, report.normalizer_sha256[:12]]
    if report.seed is not None:
        parts.append(f"seed {report.seed}")
    return " ".join(part for part in parts if part)
