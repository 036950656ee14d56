"""The report of alignments as one HTML file that needs no network. Computes nothing but places on the page."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.models.align_judge import BASELINES, COLLAPSED, GOOD, verdict
from thaitool.reports.align.boundaries import boundary_errors
from thaitool.reports.align.charts import COLOURS, Line, chart, scatter, si
from thaitool.reports.align.contents import COSTS, values
from thaitool.reports.html import data_url, environment
from thaitool.reports.report import flat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from markupsafe import Markup

    from thaitool.models.align_shown import ShownAlignment, Span
    from thaitool.reports.align.boundaries import Boundaries
    from thaitool.reports.align.build import AlignReport
    from thaitool.reports.align.contents import RunRecord

#: Pictures by update: metric, heading, whether its baselines are drawn, lines across.
BY_UPDATE: tuple[tuple[str, str, bool, tuple[float, ...]], ...] = (
    ("retrieval_r1", "Retrieval R@1, speech to text", True, ()),
    ("text_retrieval_r1", "Retrieval R@1, text to speech", True, ()),
    ("one_frame_share", "Tokens with exactly one frame", True, (GOOD, COLLAPSED)),
    ("largest_share", "Longest token's share of a path", True, ()),
    ("diagonal_drift", "Distance of the path from the straight line", True, ()),
    ("path_cost", "Mean cost of a path", True, ()),
    ("probe_cer", "CER of a CTC probe", True, ()),
    ("ctc_cer", "CER of the CTC head", False, ()),
    ("blank_share", "CTC frames that are blank", False, ()),
)
_RATES = frozenset(name for name, *_ in BY_UPDATE) - {"path_cost", "diagonal_drift"}
#: Pixels that a second and a piece of text need at least.
SECOND_PX, PIECE_PX = 90, 30
#: Thai vowels and marks that stand on, or under, the letter before; Unicode gives most of them no combining class.
HANGING = frozenset(chr(c) for c in (0x0E31, *range(0x0E33, 0x0E3B), *range(0x0E47, 0x0E4F)))
#: Rows over which names are spread, so that neighbours do not cover each other.
NAME_ROWS = 3


@dataclass(frozen=True, slots=True)
class _Figure:
    heading: str
    picture: Markup
    legend: list[tuple[str, str, bool]]
    """(name, colour, dashed) of each line."""


@dataclass(frozen=True, slots=True)
class _Box:
    text: str
    left: float
    width: float
    row: int
    title: str


@dataclass(frozen=True, slots=True)
class _Strip:
    """A clip with its path."""

    one: ShownAlignment
    width_px: int
    boxes: list[_Box]
    words: list[_Box]
    wave: str
    player: str
    bounds: Boundaries | None
    """Of its words, where true times are known."""


def report_html(report: AlignReport) -> str:
    """The text of report.html."""
    aligned = [run for run in report.runs if run.stage == "align"]
    colours = {run.name: COLOURS[number % len(COLOURS)] for number, run in enumerate(report.runs)}
    figures = _by_update(aligned, colours)
    costs = _by_cost(report, colours)
    strips = [(run, [_strip(one) for one in run.shown.alignments]) for run in aligned if run.shown]
    sections = {
        "runs": ("Runs", True),
        "cost": ("Cost", costs),
        "updates": ("By update", figures),
        "vectors": ("Speech among tokens", report.mixes),
        "paths": ("Paths", strips),
    }
    return (
        environment()
        .get_template("align.html.j2")
        .render(
            report=report,
            sections=[(anchor, name) for anchor, (name, there) in sections.items() if there],
            table=run_table(report.runs),
            notes=[(run.name, note) for run in report.runs for note in run.notes],
            verdicts=[(run.name, verdict(run.metrics)) for run in aligned if run.metrics],
            figures=figures,
            costs=costs,
            scored=[run for run in report.runs if run.scores],
            map=_map(report, colours),
            strips=strips,
            tables=[(f"Settings of {run.name}", flat(_told(run.settings))) for run in report.runs],
        )
    )


def run_table(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, (value, values of wrong pairs) of each run) of what some run has."""
    lines = [
        ("stage", [(f"{run.stage} {run.method}".strip(), "") for run in runs]),
        ("seed", [(str(run.seed), "") for run in runs]),
        ("updates", [(f"{run.updates:,} of {run.planned:,}", "") for run in runs]),
    ]
    if any(run.best is not None for run in runs):
        best = [("" if run.best is None else f"{run.best:,}", "") for run in runs]
        lines.append(("best checkpoint", best))
    for name in COSTS:
        cells = [(cost_text(name, r.cost[name]) if name in r.cost else "", "") for r in runs]
        lines.append((COST_NAMES[name], cells))
    lines += [
        (heading, [_with_wrong(run, n) for run in runs]) for n, heading in METRIC_NAMES.items()
    ]
    return [line for line in lines if any(value for value, _ in line[1])]


def _with_wrong(run: RunRecord, name: str) -> tuple[str, str]:
    m = run.metrics
    wrong = [f"{m[f'{name}_{b}']:.1%}" for b in BASELINES if f"{name}_{b}" in m]
    return (f"{m[name]:.1%}", ", ".join(wrong)) if name in m else ("", "")


METRIC_NAMES = {
    "retrieval_r1": "R@1",
    "retrieval_r5": "R@5",
    "text_retrieval_r1": "R@1 back",
    "one_frame_share": "one-frame tokens",
    "probe_cer": "probe CER",
    "ctc_cer": "CTC CER",
}
COST_NAMES = {
    "flops": "FLOPs",
    "train_s": "training",
    "processor_s": "processor",
    "peak_rss_bytes": "memory",
    "peak_cuda_bytes": "GPU memory",
    "utterances": "samples",
    "audio_s": "audio",
}


def cost_text(name: str, value: float) -> str:
    """A cost as people read it, with its unit."""
    if name == "flops":
        return si(value)
    if name.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB"
    if name == "audio_s":
        return f"{value / 3600:.2f} h"
    return f"{value:,.0f} s" if name.endswith("_s") else f"{value:,.0f}"


def _by_update(runs: Sequence[RunRecord], colours: dict[str, str]) -> list[_Figure]:
    """A picture for each metric; wrong pairs are drawn where there is one run only, as lines would be too many."""
    found = []
    for name, heading, compared, limits in BY_UPDATE:
        lines = [Line(r.name, values(r, name), colours[r.name]) for r in runs]
        if compared and len(runs) == 1:
            lines += [
                Line(b.replace("_", " "), values(runs[0], f"{name}_{b}"), colour, dashed=True)
                for b, colour in zip(BASELINES, ("#8a94a0", "#b58900"), strict=True)
            ]
        lines = [line for line in lines if line.points]
        if not lines:
            continue
        picture = chart(lines, x_name="update", percent=name in _RATES, limits=limits)
        found.append(_Figure(heading, picture, [(w.name, w.colour, w.dashed) for w in lines]))
    return found


def _by_cost(report: AlignReport, colours: dict[str, str]) -> list[_Figure]:
    """CER by FLOPs: of the probe over a run, and of what was finetuned after it."""
    lines = [
        Line(r.name, values(r, "probe_cer", "flops"), colours[r.name])
        for r in report.runs
        if r.stage == "align"
    ]
    after = [
        Line(p.name, ((float(p.flops), p.cer.value),), colours[p.name])
        for p in report.points
        if p.cer.value is not None
    ]
    found = []
    for heading, given in (
        ("CER of a CTC probe on adapter frames, by the FLOPs of training so far", lines),
        ("CER after evaluation, by the FLOPs of all training behind it", after),
    ):
        kept = [line for line in given if line.points]
        if kept:
            picture = chart(kept, x_name="FLOPs", log_x=True, percent=True)
            found.append(_Figure(heading, picture, [(w.name, w.colour, False) for w in kept]))
    return found


def _map(report: AlignReport, colours: dict[str, str]) -> _Figure | None:
    if report.places is None:
        return None
    text, *frames = report.places
    groups = [Line("text tokens", _points(text), "#444444")]
    groups += [
        Line(name, _points(found), colours[name])
        for name, found in zip(report.mapped, frames, strict=True)
    ]
    return _Figure("t-SNE", scatter(groups), [(g.name, g.colour, False) for g in groups])


def _points(places: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(a), float(b)) for a, b in places)


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a table; lists as text."""

    def text(value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    return {
        k: {a: text(b) for a, b in v.items()} if isinstance(v, dict) else text(v)
        for k, v in settings.items()
    }


def _strip(one: ShownAlignment) -> _Strip:
    width = max(320, round(SECOND_PX * one.duration_s), PIECE_PX * len(one.pieces))
    up = [
        f"{100 * k / max(1, len(one.peaks)):.2f},{50 - 48 * v:.1f}" for k, v in enumerate(one.peaks)
    ]
    down = [
        f"{100 * k / max(1, len(one.peaks)):.2f},{50 + 48 * v:.1f}"
        for k, v in reversed(list(enumerate(one.peaks)))
    ]
    return _Strip(
        one,
        width,
        _boxes(one.pieces, one.duration_s),
        _boxes(one.words, one.duration_s),
        " ".join([*up, *down]),
        data_url(one.audio, "audio/flac") if one.audio else "",
        boundary_errors([one]),
    )


def _boxes(spans: Sequence[Span], duration_s: float) -> list[_Box]:
    found = []
    for number, span in enumerate(spans):
        left = 100 * min(1.0, span.start_s / duration_s)
        right = 100 * min(1.0, span.end_s / duration_s)
        title = f"{span.text} {span.start_s:.2f} to {span.end_s:.2f} s"
        place = round(left, 3), round(right - left, 3), number % NAME_ROWS
        found.append(_Box(_alone(span.text), *place, title))
    return found


def _alone(text: str) -> str:
    """A piece as it can be seen without its neighbours: marks need a letter to stand on, spaces a sign."""
    if not text.strip():
        return "␣"
    return f"◌{text}" if unicodedata.combining(text[0]) or text[0] in HANGING else text
