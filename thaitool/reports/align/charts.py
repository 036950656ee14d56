"""Lines and points as SVG inside a page: numbers only, the page writes names. Knows nothing of what they mean.

By hand rather than by matplotlib, as every run of `align` draws them at its end and they take no time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Told apart by people who see few colours, too (Okabe and Ito 2008, dark ones first).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#444444")
#: Not wider than a phone shows at full size: what shrinks a picture shrinks its text.
WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40
_PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) in a colour; points that are not finite are left out."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers between both ends, three to eight of them."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
            inside = [v for v in found if self.low <= v <= self.high]
            if len(inside) >= 3:
                return inside if len(inside) <= 6 else inside[:: math.ceil(len(inside) / 6)]
        step = _round_up((self.high - self.low) / 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_of(values: Iterable[float], *, log: bool = False, zero: bool = False) -> Axis:
    """An axis that holds all values with some room; with `zero`, from 0 on."""
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not known:
        return Axis(1, 10, log=True) if log else Axis(0, 1)
    low, high = min(known), max(known)
    if log:
        room = max((high / low) ** 0.06, 1.25)
        return Axis(low / room, high * room, log=True)
    low = min(low, 0.0) if zero else low
    room = 0.05 * ((high - low) or abs(high) or 1.0)
    return Axis(low if zero else low - room, high + room)


def chart(
    lines: Sequence[Line],
    *,
    x_name: str,
    log_x: bool = False,
    percent: bool = False,
    limits: Sequence[float] = (),
) -> Markup:
    """Lines by x, y from 0 on; `limits` are values of y that are drawn across."""
    x = axis_of((a for line in lines for a, _ in line.points), log=log_x)
    y = axis_of([*(b for line in lines for _, b in line.points), *limits], zero=True)
    write: Callable[[float], str] = si if log_x else "{:,.6g}".format
    parts = [_frame(x, y, x_name, write, "{:.0%}".format if percent else "{:.3g}".format)]
    parts += [
        f'<path d="M{_LEFT} {_down(y, v)}H{WIDTH - _RIGHT}" stroke="#888" stroke-dasharray="1 3"/>'
        for v in limits
    ]
    for line in lines:
        at = [
            (_across(x, a), _down(y, b))
            for a, b in line.points
            if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)
        ]
        if not at:
            continue
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        path = " ".join(f"{a},{b}" for a, b in at)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"{dash}/>'
        )
        if len(at) <= 40 and not line.dashed:
            parts += [f'<circle cx="{a}" cy="{b}" r="2.6" fill="{line.colour}"/>' for a, b in at]
    return _svg(parts)


def scatter(groups: Sequence[Line]) -> Markup:
    """Points without axes, for maps whose directions mean nothing; the first group is drawn as squares."""
    x = axis_of(a for group in groups for a, _ in group.points)
    y = axis_of(b for group in groups for _, b in group.points)
    parts = []
    for number, group in enumerate(groups):
        for a, b in group.points:
            across, down = round(WIDTH * x.share(a), 1), round(WIDTH * (1 - y.share(b)), 1)
            if number:
                parts.append(
                    f'<circle cx="{across}" cy="{down}" r="2.4" fill="{group.colour}" fill-opacity=".65"/>'
                )
            else:
                parts.append(
                    f'<rect x="{across - 2.5:.1f}" y="{down - 2.5:.1f}" width="5" height="5" fill="{group.colour}"/>'
                )
    return _svg(parts, WIDTH)


def si(value: float) -> str:
    """A number with the prefix of its size, e.g. 3.2 T."""
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def _frame(
    x: Axis, y: Axis, x_name: str, write_x: Callable[[float], str], write_y: Callable[[float], str]
) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks():
        down = _down(y, tick)
        parts.append(f'<path d="M{_LEFT} {down}H{WIDTH - _RIGHT}" stroke="#dde3ea"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{down + 4}" text-anchor="end">{write_y(tick)}</text>'
        )
    for tick in x.ticks():
        across = _across(x, tick)
        parts.append(f'<path d="M{across} {bottom}v4" stroke="#888"/>')
        parts.append(
            f'<text x="{across}" y="{bottom + 17}" text-anchor="middle">{write_x(tick)}</text>'
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}" stroke="#888" fill="none"/>')
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{x_name}</text>')
    return "".join(parts)


def _across(axis: Axis, value: float) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * axis.share(value), 1)


def _down(axis: Axis, value: float) -> float:
    bottom = HEIGHT - _BOTTOM
    return round(bottom - (bottom - _TOP) * axis.share(value), 1)


def _round_up(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(m * size for m in (1, 2, 5, 10) if m * size >= step * (1 - 1e-9))


def _svg(parts: Sequence[str], height: int = HEIGHT) -> Markup:
    # Nothing in it comes from data but numbers; names are the caller's own words.
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-size="12" fill="#3c4856"'
        f' role="img">{"".join(parts)}</svg>'
    )
