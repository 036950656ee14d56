"""Table 1 for your own data: every head on every encoder with its CER, interval, size and budget.

Reads what `make table1` left in each directory. Exits 1 if the rows do not have the same budget, or were not scored on
the same items under the same normaliser: then they are no table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from thaitool.records import Score
from thaitool.reports.json_form import read_report
from thaitool.training.run_dir import resolve


@dataclass(frozen=True)
class Row:
    """One head on one encoder."""

    name: str
    cer: Score
    items: tuple[str, ...]
    """Ids that were scored."""
    normalizer: str
    parameters: int
    updates: int
    hours: float
    """Heard in training, repetitions counted."""
    train_min: float


def read(run: Path) -> Row:
    """A run of `finetune --head` with the report of `eval` inside."""
    report = read_report(run / "report" / "report.json")
    (task,) = report.tasks
    done = json.loads((run / "result.json").read_text("utf-8"))["done"]
    with safe_open(resolve(run) / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    lines = (run / "report" / "predictions.jsonl").read_text("utf-8").splitlines()
    return Row(
        run.name,
        next(score for score in task.scores if score.name == "cer"),
        tuple(sorted(json.loads(line)["id"] for line in lines)),
        report.normalizer,
        sum(math.prod(shape) for shape in shapes),
        done["updates"],
        done["hours"],
        done["train_s"] / 60,
    )


def unequal(rows: list[Row]) -> list[str]:
    """What keeps the rows from being compared; empty if nothing does."""
    problems = []
    for what, found in (
        ("updates", {row.updates for row in rows}),
        ("normalisers", {row.normalizer for row in rows}),
        ("scored items", {row.items for row in rows}),
    ):
        if len(found) > 1:
            said = " and ".join(str(len(v) if isinstance(v, tuple) else v) for v in sorted(found))
            problems.append(f"the rows must have the same {what}, but have {said}")
    hours = [row.hours for row in rows]
    # One and the same plan: a hundredth is for clips that could not be decoded.
    if max(hours) - min(hours) > 0.01 * max(hours):
        problems.append(
            f"the rows must have heard the same hours, but heard {min(hours):.2f} to {max(hours):.2f}"
        )
    return problems


def percent(value: float | None) -> str:
    """A share as it stands in the table."""
    return "-" if value is None else f"{100 * value:.2f}"


def render(rows: list[Row]) -> Table:
    """Best CER first."""
    first = rows[0]
    title = f"CER in percent on {len(first.items)} items, {first.cer.denominator:.0f} characters"
    table = Table(
        title=title, caption=f"{first.normalizer}; 95 % over test items, not over training seeds"
    )
    for name in ("encoder-head", "CER", "95 %", "parameters", "updates", "hours", "minutes"):
        table.add_column(name, justify="left" if name == "encoder-head" else "right")
    for row in sorted(rows, key=lambda row: math.inf if row.cer.value is None else row.cer.value):
        table.add_row(
            row.name,
            percent(row.cer.value),
            f"{percent(row.cer.low)} to {percent(row.cer.high)}",
            f"{row.parameters / 1e6:.2f}M",
            f"{row.updates:,}",
            f"{row.hours:.2f}",
            f"{row.train_min:.1f}",
        )
    return table


def main() -> None:
    """Prints; see the module's text for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    rows = [read(run) for run in parser.parse_args().runs]
    Console().print(render(rows))
    problems = unequal(rows)
    for problem in problems:
        print(f"table1: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
