"""A report as Markdown for terminals and code review. Everything from data is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from thaitool.reports.report import (
    Report,
    Row,
    counts,
    difference_cells,
    flat,
    gate_rows,
    interval,
    monitor_rows,
    rate,
    score_rows,
    slice_rows,
)

# What CommonMark reads inside a line or a table cell; an underscore within a word is no markup.
_SPECIAL = re.compile(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))")


def to_markdown(report: Report) -> str:
    """The text of report.md: scores beside shuffled audio, slices, monitors, accounting, failures, examples."""
    parts = [f"# {escape(report.title)}", markdown_table(("", ""), _facts(report))]
    parts += [f"> {escape(note)}" for note in report.notes]
    if report.tasks:
        parts += ["## Scores", _scores(score_rows(report), with_system=bool(report.sources))]
    parts += _slices(report)
    if report.tasks:
        parts += ["## Monitors", _scores(monitor_rows(report))]
    parts += _gates(report)
    for heading, rows in (
        ("Accounting", flat(report.accounting)),
        ("Settings", flat(report.settings)),
        ("Versions", list(report.versions.items())),
    ):
        if rows:
            parts += [f"## {heading}", markdown_table(("", ""), ((k, str(v)) for k, v in rows))]
    parts += _items(report)
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, no markup, no HTML."""
    one_line = " ".join(text.split())
    return _SPECIAL.sub(r"\\\1", html.escape(one_line, quote=False))


def _slices(report: Report) -> list[str]:
    parts = []
    for (field, task), values in slice_rows(report).items():
        heads = [(value, scores.count, scores.scores[0]) for value, scores in values]
        rows = [
            (value, str(count), rate(score), interval(score), counts(score), score.note)
            for value, count, score in heads
        ]
        header = (field, "items", "value", "95 %", "counts", "note")
        parts += [f"## {escape(task)}: {heads[0][2].name} by {escape(field)}"]
        parts += [markdown_table(header, rows)]
    return parts


def _gates(report: Report) -> list[str]:
    parts = []
    for instrument in report.instruments:
        header = ("answers", "value", "place", "wanted", "passed")
        parts += [f"## Gate of {instrument.score}: {escape(instrument.by)}"]
        parts += [markdown_table(header, gate_rows(instrument))]
    return parts


def _items(report: Report) -> list[str]:
    parts = []
    if report.failures:
        rows = [(task, item, reason) for item, task, reason in report.failures]
        table = markdown_table(("task", "id", "reason"), rows)
        parts += ["## Items without an answer", table]
    for kind, heading in (("worst", "## Worst items"), ("random", "## Items by chance")):
        chosen = [
            (e.task, e.id, f"{e.error:.3g}", e.reference, e.hypothesis)
            for e in report.examples
            if e.kind == kind
        ]
        if chosen:
            header = ("task", "id", "error", "reference", "hypothesis")
            parts += [heading, markdown_table(header, chosen)]
    return parts


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("stage", report.stage), ("created", report.created)]
    if report.seed is not None:
        facts.append(("seed", str(report.seed)))
    if report.normalizer:
        facts.append(("normaliser", f"{report.normalizer} sha256 {report.normalizer_sha256}"))
    return facts


def _scores(rows: Iterable[Row], *, with_system: bool = False) -> str:
    header = ["task", "score", "value", "95 %", "counts", "shuffled audio", "95 %", "note"]
    if with_system:
        header.insert(2, "system")
        header[-1:-1] = ["minus this, points", "verdict"]
    lines = []
    for row in rows:
        cells = [
            row.task,
            row.score.name,
            rate(row.score),
            interval(row.score),
            counts(row.score),
            rate(row.shuffled) if row.shuffled else "",
            interval(row.shuffled),
            row.score.note,
        ]
        if with_system:
            cells.insert(2, row.system or "this")
            cells[-1:-1] = difference_cells(row)
        lines.append(cells)
    return markdown_table(header, lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped texts."""
    lines = [" | ".join(escape(cell) for cell in header), " | ".join("---" for _ in header)]
    lines += [" | ".join(escape(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
