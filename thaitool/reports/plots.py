"""What a page draws: curves as SVG by matplotlib, scores with intervals as positions on a scale for HTML to place.

Scores are no picture, because matplotlib does not shape Thai and a picture's text shrinks with a phone's screen: the
browser writes the names. Curves hold numbers only.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from thaitool.records import Score

_INK = "#1f5fa8"
#: Ends of a scale, in percent.
_ENDS = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with its interval on a scale, in percent of its width. `left` is None without an interval."""

    at: float
    left: float | None
    width: float


@dataclass(frozen=True, slots=True)
class Scale:
    """From `low` to `high`, both in percent."""

    low: float
    high: float

    def place(self, value: float, low: float | None, high: float | None) -> Mark:
        """Where a rate (not in percent) and its interval lie; what lies outside is drawn at the edge."""
        at = self._at(value)
        if low is None or high is None:
            return Mark(at, None, 0.0)
        left = self._at(low)
        return Mark(at, left, round(self._at(high) - left, 2))

    def _at(self, value: float) -> float:
        share = (100 * value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def scale_of(scores: Iterable[Score | None]) -> Scale:
    """From 0 to a round number above every value and interval."""
    return Scale(0, _above(reach for s in scores for reach in _reaches(s)))


def scale_around_zero(numbers: Iterable[float | None]) -> Scale:
    """As wide below 0 as above."""
    end = _above(abs(number) for number in numbers if number is not None)
    return Scale(-end, end)


def curve_svg(points: Sequence[tuple[int, float]]) -> str:
    """Value by update. Values that are not finite break the line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Not wider than a phone shows at full size: a browser that shrinks a picture shrinks its text.
    figure = Figure(figsize=(4.6, 2.6), layout="constrained")
    axes: Any = figure.subplots()
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    updates = [update for update, _ in points]
    values = [value for _, value in points]
    marker = "o" if len(points) < 40 else None
    axes.plot(updates, values, color=_INK, linewidth=1.3, marker=marker, markersize=3)
    axes.set_xlabel("update")
    # Text stays text (browser fonts); fixed salt and no date give the same bytes every time.
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thaitool"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()


def _reaches(score: Score | None) -> list[float]:
    found = [] if score is None else [score.value, score.high]
    return [number for number in found if number is not None]


def _above(numbers: Iterable[float]) -> float:
    top = 100 * max(numbers, default=0.0)
    return next((end for end in _ENDS if end >= top - 1e-9), float(_ENDS[-1]))
