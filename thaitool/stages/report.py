"""A finished data set to its quality report, as `synth` writes it, or runs to theirs; makes and changes no data."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.records import Progress, silent
from thaitool.reports.align.build import build_align_report
from thaitool.reports.align.form import write_align_report
from thaitool.reports.stored import load_report
from thaitool.reports.synth.build import build_report
from thaitool.reports.synth.form import write_synth_report

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config.report import ReportConfig
    from thaitool.reports.align.build import AlignReport
    from thaitool.reports.synth.contents import SynthReport


@dataclass(frozen=True)
class ReportResult:
    """What was found, and where it was written."""

    report: SynthReport
    files: tuple[Path, ...]


@dataclass(frozen=True)
class RunsResult:
    """The same of runs."""

    report: AlignReport
    files: tuple[Path, ...]


def run(config: ReportConfig, progress: Progress = silent) -> ReportResult:
    """Reads `config.data` and writes report.json and report.html.

    Raises:
        InputError: it is no data set, a file of it or of `against` cannot be read, or `out` cannot be written.
    """
    if config.data is None or not config.data.is_dir():
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


def run_runs(config: ReportConfig) -> RunsResult:
    """Reads the directories in `config.runs` and writes report.json and report.html.

    Raises:
        InputError: one is no run of align or finetune, a report in `scores` is none, or `out` cannot be written.
    """
    report = build_align_report(
        config.runs,
        created=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        scores=[load_report(text) for text in config.scores],
        seed=config.seed,
    )
    out = config.runs[0] if config.out is None else config.out
    with disk_full_is_explained(out):
        return RunsResult(report, write_align_report(report, out))
