"""A report as Markdown for terminals and code review. Everything from data is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from thaitool.reports.report import (
    Report,
    Row,
    counts,
    flat,
    interval,
    monitor_rows,
    percent,
    score_rows,
)

# What CommonMark reads inside a line or a table cell; an underscore within a word is no markup.
_SPECIAL = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")


def to_markdown(report: Report) -> str:
    """The text of report.md: scores beside shuffled audio, monitors, accounting, worst items."""
    parts = [f"# {escape(report.title)}", _table(("", ""), _facts(report))]
    parts += [f"> {escape(note)}" for note in report.notes]
    if report.tasks:
        parts += ["## Scores", _scores(score_rows(report))]
        parts += ["## Monitors", _scores(monitor_rows(report))]
    for heading, rows in (
        ("Accounting", flat(report.accounting)),
        ("Settings", flat(report.settings)),
        ("Versions", list(report.versions.items())),
    ):
        if rows:
            parts += [f"## {heading}", _table(("", ""), ((k, str(v)) for k, v in rows))]
    if report.examples:
        rows_of_examples = (
            (e.task, e.id, f"{e.error:.3g}", e.reference, e.hypothesis) for e in report.examples
        )
        header = ("task", "id", "error", "reference", "hypothesis")
        parts += ["## Worst items", _table(header, rows_of_examples)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, no markup, no HTML."""
    one_line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", html.escape(one_line, quote=False))


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("stage", report.stage), ("created", report.created)]
    if report.seed is not None:
        facts.append(("seed", str(report.seed)))
    if report.normalizer:
        facts.append(("normaliser", f"{report.normalizer} sha256 {report.normalizer_sha256}"))
    return facts


def _scores(rows: Iterable[Row]) -> str:
    header = ("task", "score", "value", "95 %", "counts", "shuffled audio", "95 %", "note")
    cells = (
        (
            row.task,
            row.score.name,
            percent(row.score.value),
            interval(row.score),
            counts(row.score),
            percent(row.shuffled.value) if row.shuffled else "",
            interval(row.shuffled),
            row.score.note,
        )
        for row in rows
    )
    return _table(header, cells)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header)]
    lines += [" | ".join(escape(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
