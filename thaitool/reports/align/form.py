"""The report of alignments as JSON, as a table for the terminal, and as files. Renders no page."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from thaitool.reports.align.contents import values
from thaitool.reports.align.page import report_html, run_table
from thaitool.reports.table import plain_table
from thaitool.reports.write import write_texts

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from thaitool.reports.align.build import AlignReport
    from thaitool.reports.align.contents import RunRecord

FORMAT = "thaitool-align-report-1"


def write_align_report(report: AlignReport, out_dir: Path) -> tuple[Path, ...]:
    """report.json and report.html in `out_dir`, each whole or not at all; equal reports give equal bytes.

    Raises:
        InputError: they cannot be written.
    """
    files = {"report.json": report_json(report), "report.html": report_html(report)}
    return write_texts(files, out_dir)


def report_json(report: AlignReport) -> str:
    """Format "thaitool-align-report-1", without sounds, vectors and pictures.

    Keys: format, title, created, remarks, runs [{name, stage, method, seed, planned, updates, cost, metrics, notes,
    versions, probe_cer_by_flops [[flops, cer]], mixing, boundaries, alignments}], points [{name, flops, cer}]. What is
    not finite is null.
    """
    mixes, boundaries = dict(report.mixes), dict(report.boundaries)
    value = {
        "format": FORMAT,
        "title": report.title,
        "created": report.created,
        "remarks": report.remarks,
        "runs": [
            {
                **{k: getattr(run, k) for k in ("name", "stage", "method", "seed")},
                **{k: getattr(run, k) for k in ("planned", "updates", "cost", "metrics", "notes")},
                "versions": run.versions,
                "probe_cer_by_flops": values(run, "probe_cer", "flops"),
                "mixing": asdict(mixes[run.name]) if run.name in mixes else None,
                "boundaries": asdict(boundaries[run.name]) if run.name in boundaries else None,
                "alignments": _alignments(run),
            }
            for run in report.runs
        ],
        "points": [asdict(point) for point in report.points],
    }
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def align_table(report: AlignReport) -> Table:
    """What each run cost and reached, a column a run, for the terminal."""
    rows = [
        [heading, *(f"{value} ({wrong})" if wrong else value for value, wrong in cells)]
        for heading, cells in run_table(report.runs)
    ]
    return plain_table("Runs", ["", *(run.name for run in report.runs)], rows)


def _alignments(run: RunRecord) -> list[dict[str, Any]]:
    if run.shown is None:
        return []
    dropped = ("audio", "peaks")
    return [
        {k: v for k, v in asdict(one).items() if k not in dropped} for one in run.shown.alignments
    ]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
