"""A finished data set to its quality report, as `synth` writes it; makes and changes no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.records import Progress, silent
from thaitool.reports.synth.build import build_report
from thaitool.reports.synth.form import write_synth_report

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config.report import ReportConfig
    from thaitool.reports.synth.contents import SynthReport


@dataclass(frozen=True)
class ReportResult:
    """What was found, and where it was written."""

    report: SynthReport
    files: tuple[Path, ...]


def run(config: ReportConfig, progress: Progress = silent) -> ReportResult:
    """Reads `config.data` and writes report.json and report.html.

    Raises:
        InputError: it is no data set, a file of it or of `against` cannot be read, or `out` cannot be written.
    """
    if not config.data.is_dir():
        raise InputError(f"{config.data} must be the directory of a data set, but is none.")
    report = build_report(
        config.data,
        against=config.against,
        seed=config.seed,
        examples=config.examples,
        progress=progress,
    )
    out = config.data if config.out is None else config.out
    with disk_full_is_explained(out):
        return ReportResult(report, write_synth_report(report, out))
