"""A report as one HTML file that needs no network: plots and players are embedded, a content policy forbids the rest.

Text from data is escaped by the template engine, and no script is allowed, so nothing in a report can run.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2

from thaitool.reports import report as shown
from thaitool.reports.difference import Piece, difference
from thaitool.reports.plots import Mark, Scale, curve_svg, scale_of
from thaitool.reports.report import MARKS, Report, Row, monitor_rows, score_rows, slice_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.records import Score

#: Intents in a confusion matrix; more are a list of the most frequent confusions only.
MOST_INTENTS = 60
MOST_CONFUSIONS = 15


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a plot. `hollow` is the control beside it."""

    name: str
    detail: str
    value: str
    interval: str
    mark: Mark | None
    hollow: Mark | None = None


@dataclass(frozen=True, slots=True)
class _Card:
    """An example with its differences marked."""

    kind: str
    task: str
    id: str
    error: str
    reference: list[Piece]
    hypothesis: list[Piece]
    player: str


def to_html(report: Report) -> str:
    """The text of report.html."""
    rows = score_rows(report)
    sections = {
        "scores": ("Scores", report.tasks),
        "slices": ("By part", report.slices),
        "confusion": ("Confusions", report.confusion),
        "examples": ("Examples", report.examples),
        "failures": ("Without an answer", report.failures),
        "curves": ("Curves", report.curves),
        "monitors": ("Monitors", report.tasks),
        "gates": ("Gates", report.instruments),
    }
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            sections=[(anchor, heading) for anchor, (heading, there) in sections.items() if there],
            rows=rows,
            monitors=monitor_rows(report),
            score_plots=_score_plots(rows),
            slice_plots=_slice_plots(report),
            matrix=_matrix(report),
            confused=_confused(report),
            cards=[_card(example) for example in report.examples],
            tables=[
                (heading, shown.flat(table))
                for heading, table in (
                    ("Accounting", report.accounting),
                    ("Settings", report.settings),
                    ("Versions", report.versions),
                )
                if table
            ],
            curves=[
                (name, data_url(curve_svg(points).encode(), "image/svg+xml"))
                for name, points in report.curves.items()
            ],
            rate=shown.rate,
            interval=shown.interval,
            counts=shown.counts,
            difference_cells=shown.difference_cells,
            gate_rows=shown.gate_rows,
        )
    )


def environment() -> jinja2.Environment:
    """Templates of this package; what they print is escaped, and an unknown name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("thaitool.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(content: bytes, media_type: str) -> str:
    """A file as a part of the page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def ends_of(scale: Scale, unit: str = "%") -> tuple[str, str, bool]:
    """Labels of both ends, and whether 0 lies between them."""
    return f"{scale.low:g} {unit}", f"{scale.high:g} {unit}", scale.low < 0


def _bar(name: str, detail: str, score: Score, shuffled: Score | None, scale: Scale) -> Bar:
    mark, hollow = _mark(score, scale), _mark(shuffled, scale)
    return Bar(name, detail, shown.rate(score), shown.interval(score), mark, hollow)


def _mark(score: Score | None, scale: Scale) -> Mark | None:
    if score is None or score.value is None:
        return None
    return scale.place(score.value, score.low, score.high)


def _score_plots(
    rows: Sequence[Row],
) -> list[tuple[str, int, tuple[str, str, bool], list[Bar]]]:
    plots = []
    for task in dict.fromkeys(row.task for row in rows):
        # Marks from 1 to 5 have another scale; they stand in the table.
        mine = [
            row
            for row in rows
            if row.task == task and row.score.value is not None and row.score.name not in MARKS
        ]
        if not mine:
            continue
        scale = scale_of([s for row in mine for s in (row.score, row.shuffled)])
        bars = [_bar(r.score.name, r.system, r.score, r.shuffled, scale) for r in mine]
        plots.append((task, mine[0].count, ends_of(scale), bars))
    return plots


def _slice_plots(
    report: Report,
) -> list[tuple[str, str, str, tuple[str, str, bool], list[Bar]]]:
    plots = []
    for (field, task), parts in slice_rows(report).items():
        scored = [(value, scores) for value, scores in parts if scores.scores]
        if len(scored) < 2:
            continue  # one value is the whole set again
        scale = scale_of([scores.scores[0] for _, scores in scored])
        bars = [
            _bar(value, f"{scores.count} items", scores.scores[0], None, scale)
            for value, scores in scored
        ]
        plots.append((field, task, scored[0][1].scores[0].name, ends_of(scale), bars))
    return plots


def _matrix(report: Report) -> list[tuple[str, list[tuple[int, float, bool]]]]:
    """Rows of (name, cells); a cell is its count, its shade by share of the row, and whether that is dark."""
    table = report.confusion
    if table is None or len(table.names) > MOST_INTENTS:
        return []
    rows = []
    for name, counts in zip(table.names, table.counts, strict=True):
        shares = [count / max(1, sum(counts)) for count in counts]
        cells = [(n, round(0.9 * s, 3), s > 0.5) for n, s in zip(counts, shares, strict=True)]
        rows.append((name, cells))
    return rows


def _confused(report: Report) -> list[tuple[str, str, int]]:
    """(right, answered, count) of the most frequent confusions; no name stands for an answer outside the set."""
    if report.confusion is None:
        return []
    names = report.confusion.names
    pairs = [
        (names[i], names[k] if k < len(names) else "", count)
        for i, row in enumerate(report.confusion.counts)
        for k, count in enumerate(row)
        if count and i != k
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:MOST_CONFUSIONS]


def _card(example: shown.Example) -> _Card:
    wanted, given = difference(example.reference, example.hypothesis)
    return _Card(
        example.kind,
        example.task,
        example.id,
        f"{example.error:.3g}",
        wanted,
        given,
        data_url(example.audio, example.audio_type) if example.audio else "",
    )
