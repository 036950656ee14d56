"""The quality report of a data set as one HTML file that needs no network. Counts nothing."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from thaitool.reports.html import Bar, data_url, environment
from thaitool.reports.players import media_type
from thaitool.reports.plots import Scale
from thaitool.reports.synth.coverage import DRAWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thaitool.reports.synth.contents import Coverage, Measure, SynthExample, SynthReport

#: Longest lists on the page; report.json has everything.
MOST_MISSING = 60
MOST_LABELS = 80
MOST_VOICES = 60
#: Bars that make a picture; what fits into fewer is said in its caption.
FEWEST_BARS = 4
_INK = "#1f5fa8"
#: What a page calls the distributions, in the order in which they stand.
HEADINGS = {
    "duration_s": "Duration",
    "chars_per_s": "Speaking rate in characters",
    "syllables_per_s": "Speaking rate in syllables",
    "level_dbfs": "Level",
    "peak_dbfs": "Peak",
    "clipped_share": "Clipped",
    "silence_share": "Silence",
    "lead_s": "Silence at the start",
    "tail_s": "Silence at the end",
    "asr_cer": "Round trip through a recogniser",
    "asr_entity_cer": "Round trip, within entities",
    "mos": "Predicted naturalness",
}


def report_html(report: SynthReport) -> str:
    """The text of report.html."""
    sections = {
        "rows": ("Rows", report.parts),
        "funnel": ("Funnel", report.funnel or report.losses),
        "labels": ("Labels", report.labels),
        "sounds": ("Sounds", report.coverage),
        "distributions": ("Distributions", report.measures),
        "voices": ("Voices", report.voices),
        "repeats": ("Repeats and leaks", True),
        "cost": ("Cost", True),
        "licences": ("Licences", report.licences),
        "examples": ("Examples", report.examples),
        "settings": ("Settings", report.settings),
    }
    splits = list(dict.fromkeys(part.split for part in report.parts))
    by_name = {measure.name: measure for measure in report.measures}
    measures = [by_name[name] for name in HEADINGS if name in by_name]
    return (
        environment()
        .get_template("synth.html.j2")
        .render(
            report=report,
            sections=[(anchor, heading) for anchor, (heading, there) in sections.items() if there],
            parts=_parts(report, splits),
            splits=splits,
            leaks=[loss for loss in report.losses if _is_leak(loss.reason)],
            balances=_balances(report, splits),
            bars=[(c, *_bars(c)) for c in report.coverage if c.unit in ("phone", "tone")],
            missing=_missing(report),
            histograms=[(HEADINGS[m.name], m, _histogram(m)) for m in measures],
            tracks={measure.name: _tracks(measure) for measure in measures},
            effective_voices=2**report.voice_entropy_bits,
            cards=[_card(example) for example in report.examples],
            settings=_flat(report.settings),
            canary=_canary(report),
            gate_settings=_flat({k: v for k, v in (report.gates or {}).items() if k != "canary"}),
            most_voices=MOST_VOICES,
            draws=DRAWS,
        )
    )


def _parts(
    report: SynthReport, splits: Sequence[str]
) -> list[tuple[str, list[tuple[int, float]], int, float]]:
    """(task, (rows, hours) of each split, rows, hours), and a last line of all tasks."""
    cells = {(p.task, p.split): (p.rows, p.hours) for p in report.parts}
    lines = []
    for task in dict.fromkeys(p.task for p in report.parts):
        own = [cells.get((task, split), (0, 0.0)) for split in splits]
        lines.append((task, own, sum(n for n, _ in own), sum(h for _, h in own)))
    whole = [
        (
            sum(p.rows for p in report.parts if p.split == s),
            sum(p.hours for p in report.parts if p.split == s),
        )
        for s in splits
    ]
    return [*lines, ("all", whole, report.rows, report.hours)]


def _is_leak(reason: str) -> bool:
    return reason.startswith(("duplicate", "leaked"))


def _balances(
    report: SynthReport, splits: Sequence[str]
) -> list[tuple[str, int, list[tuple[str, str, int, float, list[int]]]]]:
    """For each task with labels from a closed list: how many, and (label, id, count, share, count of each split)."""
    tables = []
    for task in dict.fromkeys(b.task for b in report.balance):
        mine = [b for b in report.balance if b.task == task]
        total = max(1, sum(sum(b.splits.values()) for b in mine))
        lines = []
        for b in mine[:MOST_LABELS]:
            count = sum(b.splits.values())
            lines.append((b.name, b.id, count, count / total, [b.splits.get(s, 0) for s in splits]))
        tables.append((task, len(mine), lines))
    return tables


def _canary(report: SynthReport) -> list[tuple[str, str, str, str]]:
    """(voice, pair of words, semitones apart, passed) of each voice that was asked to tell tones apart."""
    return [
        (
            one["voice"],
            " ".join(one["pair"]),
            f"{one['semitones']:.2f}",
            "yes" if one["passed"] else "no",
        )
        for one in (report.gates or {}).get("canary", ())
    ]


def _bars(units: Coverage) -> tuple[list[Bar], tuple[str, str, bool]]:
    """Shares of the types of a closed list, the real text's beside them, and the ends of their scale."""
    real = Counter(units.against.counts) if units.against else Counter[str]()
    real_tokens = max(1, units.against.tokens if units.against else 0)
    own = {**units.counts, **dict.fromkeys(units.missing, 0)}
    shares = {name: count / max(1, units.tokens) for name, count in own.items()}
    top = max([*shares.values(), *(count / real_tokens for count in real.values())], default=1.0)
    scale = Scale(0, max(1.0, 100 * top))
    bars = [
        Bar(
            name,
            f"{own[name]:,}",
            f"{100 * share:.2f} %",
            f"real {100 * real[name] / real_tokens:.2f} %" if units.against else "",
            scale.place(share, None, None),
            scale.place(real[name] / real_tokens, None, None) if units.against else None,
        )
        for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    ]
    return bars, ("0 %", f"{scale.high:.3g} %", False)


def _missing(report: SynthReport) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(unit, (type, tokens in the real text) of those that the data lacks, how many more)."""
    found = []
    for units in report.coverage:
        against = units.against
        if against is not None and against.missing:
            shown = [(name, against.counts[name]) for name in against.missing[:MOST_MISSING]]
            found.append((units.unit, shown, len(against.missing) - len(shown)))
    return found


def _histogram(measure: Measure) -> str:
    """A picture of the distribution, with the 5th, 50th and 95th percentile; none of values that are all alike."""
    if len(measure.bins) < FEWEST_BARS:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Not wider than a phone shows at full size: a browser that shrinks a picture shrinks its text.
    figure = Figure(figsize=(4.6, 2.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    left = [measure.bin_low + k * measure.bin_width for k in range(len(measure.bins))]
    axes.bar(left, measure.bins, width=measure.bin_width, align="edge", color=_INK)
    for quantile in ("p5", "p50", "p95"):
        axes.axvline(measure.quantiles[quantile], color="#c0562b", linewidth=1)
    axes.set_ylabel("rows")
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    # Text stays text (browser fonts); fixed salt and no date give the same bytes every time.
    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "thaitool"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return data_url(target.getvalue().encode(), "image/svg+xml")


def _tracks(measure: Measure) -> tuple[list[Bar], tuple[str, str, bool]]:
    """Each voice's median with its 5th to 95th percentile, on one scale; none where there is one voice."""
    if len(measure.voices) < 2:
        return [], ("", "", False)
    low = min(voice.p5 for voice in measure.voices)
    high = max(voice.p95 for voice in measure.voices)
    margin = 0.05 * (high - low) or 1.0
    scale = Scale(100 * (low - margin), 100 * (high + margin))  # a Scale is in percent
    bars = [
        Bar(
            voice.voice or "(unknown)",
            f"{voice.count:,} rows",
            f"{voice.p50:.3g}",
            f"{voice.p5:.3g} to {voice.p95:.3g}",
            scale.place(voice.p50, voice.p5, voice.p95),
        )
        for voice in sorted(measure.voices, key=lambda voice: (voice.p50, voice.voice))
    ]
    return bars[:MOST_VOICES], (f"{low - margin:.3g}", f"{high + margin:.3g}", False)


def _card(example: SynthExample) -> dict[str, Any]:
    """An example with its player, and what was measured as a line."""
    player = ""
    if example.audio:
        player = data_url(example.audio, media_type(example.audio) or "audio/flac")
    lines = {
        "text": example.text,
        "spoken": example.spoken if example.spoken != example.text else "",
        "label": example.label if example.label != example.text else "",
    }
    return {
        "example": example,
        "player": player,
        "thai": [(name, value) for name, value in lines.items() if value],
        "gates": _measured(example.gates),
        "effects": _measured(example.effects),
    }


def _measured(text: str) -> str:
    if not text:
        return ""
    value = json.loads(text)
    return " · ".join(
        f"{name} {number:.4g}" if isinstance(number, float) else f"{name} {number}"
        for name, number in value.items()
    )


def _flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Leaves of nested settings, named by their way down."""
    rows: dict[str, str] = {}
    for name, below in value.items():
        if isinstance(below, dict) and below:
            rows |= _flat(below, f"{above}{name}.")
        else:
            rows[f"{above}{name}"] = (
                below if isinstance(below, str) else json.dumps(below, ensure_ascii=False)
            )
    return list(rows.items())
