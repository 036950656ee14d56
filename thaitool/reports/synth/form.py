"""The quality report of a data set as JSON, as tables for the terminal, and as files. Renders no page."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from thaitool.reports.synth.page import report_html
from thaitool.reports.table import plain_table
from thaitool.reports.write import write_texts

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from thaitool.reports.synth.contents import Coverage, SynthReport

FORMAT = "thaitool-synth-report-1"


def write_synth_report(report: SynthReport, out_dir: Path) -> tuple[Path, ...]:
    """report.json and report.html in `out_dir`, each whole or not at all; equal reports give equal bytes.

    Raises:
        InputError: they cannot be written.
    """
    files = {"report.json": report_json(report), "report.html": report_html(report)}
    return write_texts(files, out_dir)


def report_json(report: SynthReport) -> str:
    """Format "thaitool-synth-report-1": the fields of `SynthReport` but for sound; synth.schema.json has them all."""
    value: dict[str, Any] = {"format": FORMAT, **asdict(report)}
    for example in value["examples"]:
        del example["audio"]
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def report_tables(report: SynthReport) -> list[Table]:
    """Rows, losses, sounds, rates and voices for the terminal."""
    parts = [[p.task, p.split, f"{p.rows:,}", f"{p.hours:.2f}"] for p in report.parts]
    parts.append(["all", "", f"{report.rows:,}", f"{report.hours:.2f}"])
    tables = [plain_table("Rows", ["task", "split", "rows", "hours"], parts, left=["split"])]
    funnel = [[step.name, f"{step.count:,}"] for step in report.funnel]
    funnel += [[f"lost, {loss.step}: {loss.reason}", f"{loss.count:,}"] for loss in report.losses]
    if funnel:
        tables.append(plain_table("Funnel", ["step", "count"], funnel))
    columns = ["unit", "tokens", "types", "missing"]
    if report.reference is not None:
        columns += ["distance", "equal size", "chance", "covered"]
    tables.append(
        plain_table(
            "Sounds", columns, [coverage_cells(units, columns) for units in report.coverage]
        )
    )
    measures = [
        [m.name, *(f"{m.quantiles[q]:.4g}" for q in ("p1", "p5", "p50", "p95", "p99"))]
        for m in report.measures
    ]
    if measures:
        heads = ["measure", "1 %", "5 %", "median", "95 %", "99 %"]
        tables.append(plain_table("Distributions over rows", heads, measures))
    return tables


def coverage_cells(units: Coverage, columns: list[str]) -> list[str]:
    """A row of the table of sounds."""
    missing = "" if units.inventory is None else f"{len(units.missing)} of {units.inventory}"
    cells = [units.unit, f"{units.tokens:,}", f"{len(units.counts):,}", missing]
    against = units.against
    if against is not None:
        low, high = against.chance
        cells += [
            f"{against.distance:.3f}",
            f"{against.equal_size:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{100 * against.covered:.1f} %",
        ]
    return [*cells, *[""] * (len(columns) - len(cells))]
