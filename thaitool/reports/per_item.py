"""per_item.jsonl: every item of a report with what the intervals resample, so that scores can be made again from it.

A line has id, task, reference, hypothesis, error, source_id and speaker, and `spoken` (the transcript) where there was
something to rephrase or to answer; `marks` has what a judge or an embedder gave. Scores nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thaitool.errors import InputError
from thaitool.records import Prediction, Reference
from thaitool.reports.report import BY_INSTRUMENT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thaitool.reports.report import Report

PER_ITEM = "per_item.jsonl"
#: Tasks whose answers are read beside what was said.
SPOKEN = ("sr", "qa")


def lines(report: Report) -> Iterator[str]:
    """The file, line by line. Without `report.references` an item is its own source, of an unknown speaker."""
    for task in report.tasks:
        known = [r for r in report.references if r.task == task.task]
        marks = [column for column in task.columns if column.name in BY_INSTRUMENT]
        for k, item in enumerate(task.items):
            source, speaker = (
                (known[k].source_id, known[k].speaker) if known else (item.id, "unknown")
            )
            if known and known[k].id != item.id:
                raise ValueError(
                    f"Item {k} of {task.task} must be {known[k].id!r}, but is {item.id!r}."
                )
            row: dict[str, Any] = {
                "id": item.id,
                "task": item.task,
                "reference": item.reference,
                "hypothesis": item.hypothesis,
                "error": item.error,
                "source_id": source,
                "speaker": speaker,
            }
            if item.task in SPOKEN and item.id in report.spoken:
                row["spoken"] = report.spoken[item.id]
            given = {c.name: float(c.numerators[k]) for c in marks if c.denominators[k]}
            if given:
                row["marks"] = given
            yield json.dumps(row, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Items:
    """What per_item.jsonl holds."""

    references: list[Reference]
    predictions: list[Prediction]
    spoken: dict[str, str]
    marks: dict[str, dict[tuple[str, str], float]]
    """By score and (id, task)."""


def read_items(path: Path) -> Items:
    """References and predictions as they were scored, transcripts by id, and marks.

    Raises:
        InputError: there is no such file, or a line lacks a field.
    """
    found = Items([], [], {}, {})
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                row = json.loads(line)
                item, task = row["id"], row["task"]
                found.references.append(
                    Reference(item, task, row["reference"], row["source_id"], row["speaker"])
                )
                found.predictions.append(Prediction(item, task, row["hypothesis"]))
                if "spoken" in row:
                    found.spoken[item] = row["spoken"]
                for name, value in row.get("marks", {}).items():
                    found.marks.setdefault(name, {})[item, task] = float(value)
    except OSError as error:
        raise InputError(
            f"{path} must hold the items of a report, but cannot be read: {error.strerror or error}. Run"
            " `thaitool eval` again to write it."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}:{len(found.references) + 1} must be an item of a report, but is not: {type(error).__name__}"
            f" {error}. Run `thaitool eval` again to write it."
        ) from error
    return found
