"""The end of the demo: what was measured on this machine, the scores, and where the report is.

Exits 1 if the model did not learn: its intent accuracy on sentences and speakers never trained on must have a 95 %
interval above chance, and one that reaches down to chance when each question is about the audio of another utterance.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from thaitool.records import Score
from thaitool.reports.json_form import read_report
from thaitool.reports.report import Report
from thaitool.reports.table import render_table


def score(report: Report, name: str, *, shuffled: bool = False) -> Score:
    """A score of a report by name."""
    groups = report.shuffled if shuffled else report.tasks
    return next(s for task in groups for s in task.scores if s.name == name)


def times(work: Path) -> dict[str, int]:
    """Seconds of each stage, the last time it ran."""
    rows = [line.split("\t") for line in (work / "times.tsv").read_text().splitlines()]
    return {name: int(seconds) for name, seconds in rows}


def learned(report: Report) -> list[str]:
    """What is wrong with the claim that the model learned; empty if nothing is."""
    ic, other = score(report, "ic_accuracy"), score(report, "ic_accuracy", shuffled=True)
    chance = score(report, "ic_chance")
    if ic.value is None or ic.low is None or other.value is None or chance.value is None:
        return ["the report lacks intent accuracy, its interval, or the shuffled score"]
    problems = []
    if ic.low <= chance.value:
        problems.append(
            f"intent accuracy {ic.value:.1%} has an interval from {ic.low:.1%}, not above chance {chance.value:.1%}"
        )
    if other.value >= ic.low or (other.low is not None and other.low > chance.value):
        problems.append(
            f"with shuffled audio accuracy is {other.value:.1%}: the answers do not come from the audio"
        )
    return problems


def main() -> None:
    """Prints; see the module's text for the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--infer", type=Path, required=True)
    args = parser.parse_args()
    console = Console()
    report = read_report(args.work / "report" / "report.json")
    aligned: dict[str, Any] = json.loads(
        (args.work / "aligned" / "result.json").read_text("utf-8")
    )["metrics"]
    seconds = times(args.work)
    console.print(render_table(report))
    for line in args.infer.read_text("utf-8").splitlines():
        console.print(f"infer: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"align, held-out sentences and speakers: R@1 {aligned['retrieval_r1']:.1%} of {aligned['transcripts']:.0f}"
        f" transcripts, one-frame tokens {aligned['one_frame_share']:.0%}",
        soft_wrap=True,
    )
    listing = ", ".join(f"{name} {s} s" for name, s in seconds.items())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU used"
    console.print(
        f"measured on {machine}: {listing}; {sum(seconds.values())} s in all", soft_wrap=True
    )
    console.print(f"report: {(args.work / 'report' / 'report.html').resolve()}", soft_wrap=True)
    problems = learned(report)
    for problem in problems:
        print(f"demo: did not learn: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
