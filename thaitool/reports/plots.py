"""Plots as SVG text, by matplotlib without a display. No words from data: captions are HTML's job.

Thai needs shaping that matplotlib does not do, so plots hold numbers and our own score names only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from thaitool.records import Score
from thaitool.reports.report import Row

_INK, _PALE = "#1f5fa8", "#c0562b"


def curve_svg(points: Sequence[tuple[int, float]]) -> str:
    """Value by update. Values that are not finite break the line."""
    figure, axes = _figure(3.0)
    updates = [update for update, _ in points]
    values = [value for _, value in points]
    marker = "o" if len(points) < 40 else None
    axes.plot(updates, values, color=_INK, linewidth=1.3, marker=marker, markersize=3)
    axes.set_xlabel("update")
    return _svg(figure)


def scores_svg(rows: Sequence[Row]) -> str:
    """Scores in percent with their 95 % intervals; hollow squares are shuffled audio.

    Rows without a value are left out.
    """
    shown = [row for row in rows if row.score.value is not None]
    figure, axes = _figure(0.8 + 0.32 * len(shown))
    for y, row in enumerate(reversed(shown)):
        _point(axes, y + 0.12, row.score, hollow=False)
        if row.shuffled is not None:
            _point(axes, y - 0.18, row.shuffled, hollow=True)
    axes.set_yticks(range(len(shown)))
    names = [f"{row.task}: {row.score.name}" for row in reversed(shown)]
    axes.set_yticklabels(names, parse_math=False, fontsize=8)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("%")
    return _svg(figure)


def _point(axes: Any, y: float, score: Score, *, hollow: bool) -> None:
    if score.value is None:
        return
    colour, marker, fill = (_PALE, "s", "none") if hollow else (_INK, "o", "full")
    if score.low is not None and score.high is not None:
        axes.plot([100 * score.low, 100 * score.high], [y, y], color=colour, linewidth=1.6)
    axes.plot(
        [100 * score.value],
        [y],
        color=colour,
        marker=marker,
        fillstyle=fill,
        markersize=5,
        clip_on=False,
    )


def _figure(height_inches: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, height_inches), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    # Text stays text (browser fonts); fixed salt and no date give the same bytes every time.
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thaitool"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
