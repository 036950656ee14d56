"""A report as JSON and back. Audio and per-item scores are not part of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from thaitool.errors import InputError
from thaitool.metrics.compare import Comparison
from thaitool.metrics.gate import GateRow
from thaitool.metrics.paired import TaskComparison
from thaitool.metrics.tasks import TaskScores
from thaitool.records import Score
from thaitool.reports.report import (
    Confusion,
    Example,
    Instrument,
    Report,
    Scalar,
    Slice,
    Source,
    Table,
)

FORMAT = "thaitool-report-2"


def to_json(report: Report) -> str:
    """The text of report.json.

    Keys: format ("thaitool-report-2"), title, stage, created, normalizer, normalizer_sha256, seed,
    versions {name: version}, settings and accounting {name: scalar or {name: scalar}},
    notes [text], tasks and shuffled [{task, count, scores, monitors}], where a score is {name,
    value, low, high, numerator, denominator, note} (value null when denominator is 0; low and high
    null without an interval), slices [{field, value, tasks}], sources [{name, failed, tasks, against}],
    where against is [{task, comparisons}] of the fields of `metrics.compare.Comparison`, instruments
    [{score, by, gate}] with the fields of `metrics.gate.GateRow`,
    confusion {names, counts} or null (counts[gold][answered], the last column outside the set),
    intents [name], failures [{id, task, reason}], examples [{id, task, reference, hypothesis, error, kind}],
    curves {name: [[update, value or null]]}. Numbers that are not finite are null.
    The same as a JSON Schema: report.schema.json beside this file.
    """
    value = {
        "format": FORMAT,
        "title": report.title,
        "stage": report.stage,
        "created": report.created,
        "normalizer": report.normalizer,
        "normalizer_sha256": report.normalizer_sha256,
        "seed": report.seed,
        "versions": dict(report.versions),
        "settings": _plain(report.settings),
        "accounting": _plain(report.accounting),
        "notes": list(report.notes),
        "tasks": [_task_value(task) for task in report.tasks],
        "shuffled": [_task_value(task) for task in report.shuffled],
        "slices": [
            {"field": s.field, "value": s.value, "tasks": [_task_value(task) for task in s.tasks]}
            for s in report.slices
        ],
        "sources": [_source_value(source) for source in report.sources],
        "instruments": [
            {"score": i.score, "by": i.by, "gate": [_plain(asdict(row)) for row in i.gate]}
            for i in report.instruments
        ],
        "confusion": None if report.confusion is None else asdict(report.confusion),
        "intents": list(report.intents),
        "failures": [
            {"id": item, "task": task, "reason": reason} for item, task, reason in report.failures
        ],
        "examples": [_example_value(example) for example in report.examples],
        "curves": {
            name: [[update, _finite(number)] for update, number in points]
            for name, points in report.curves.items()
        },
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def read_report(path: str | Path) -> Report:
    """A report from report.json; without audio and per-item scores, which are not in that file.

    Raises:
        InputError: the file cannot be read, or is not a report of this format.
    """
    source = Path(path)
    try:
        value = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"{source} cannot be read as a report (JSON): {problem}") from problem
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{source} is not a report: its format must be {FORMAT}.")
    try:
        return _from_value(value)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InputError(
            f"{source} says it is a {FORMAT} but lacks a part or has one of another kind: "
            f"{type(problem).__name__} {problem}. Write the report again."
        ) from problem


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def _plain(table: Table) -> dict[str, Any]:
    def cell(value: Scalar) -> Scalar:
        return _finite(value) if isinstance(value, float) else value

    return {
        name: {k: cell(v) for k, v in value.items()} if isinstance(value, Mapping) else cell(value)
        for name, value in table.items()
    }


def _source_value(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "failed": source.failed,
        "tasks": [_task_value(task) for task in source.tasks],
        "against": [
            {"task": t.task, "comparisons": [asdict(c) for c in t.comparisons]}
            for t in source.against
        ],
    }


def _example_value(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "task": example.task,
        "reference": example.reference,
        "hypothesis": example.hypothesis,
        "error": _finite(example.error),
        "kind": example.kind,
    }


def _task_value(task: TaskScores) -> dict[str, Any]:
    return {
        "task": task.task,
        "count": task.count,
        "scores": [_score_value(score) for score in task.scores],
        "monitors": [_score_value(score) for score in task.monitors],
    }


def _score_value(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "numerator": score.numerator,
        "denominator": score.denominator,
        "note": score.note,
    }


def _from_value(value: Mapping[str, Any]) -> Report:
    return Report(
        title=value["title"],
        stage=value["stage"],
        created=value["created"],
        tasks=_tasks_from(value),
        shuffled=tuple(_task_from(task) for task in value["shuffled"]),
        normalizer=value["normalizer"],
        normalizer_sha256=value["normalizer_sha256"],
        seed=value["seed"],
        versions=dict(value["versions"]),
        settings=dict(value["settings"]),
        accounting=dict(value["accounting"]),
        examples=tuple(
            Example(
                e["id"],
                e["task"],
                e["reference"],
                e["hypothesis"],
                math.nan if e["error"] is None else e["error"],
                kind=e["kind"],
            )
            for e in value["examples"]
        ),
        curves={
            name: tuple((int(u), math.nan if v is None else float(v)) for u, v in points)
            for name, points in value["curves"].items()
        },
        notes=tuple(value["notes"]),
        slices=tuple(Slice(s["field"], s["value"], _tasks_from(s)) for s in value["slices"]),
        sources=tuple(_source_from(s) for s in value["sources"]),
        instruments=tuple(_instrument_from(i) for i in value["instruments"]),
        confusion=_confusion_from(value["confusion"]),
        intents=tuple(value["intents"]),
        failures=tuple((f["id"], f["task"], f["reason"]) for f in value["failures"]),
    )


def _tasks_from(value: Mapping[str, Any]) -> tuple[TaskScores, ...]:
    return tuple(_task_from(task) for task in value["tasks"])


def _source_from(value: Mapping[str, Any]) -> Source:
    against = tuple(
        TaskComparison(t["task"], tuple(Comparison(**c) for c in t["comparisons"]))
        for t in value["against"]
    )
    return Source(value["name"], _tasks_from(value), value["failed"], against)


def _instrument_from(value: Mapping[str, Any]) -> Instrument:
    def number(row: Mapping[str, Any], name: str) -> float:
        return math.nan if row[name] is None else float(row[name])

    gate = tuple(
        GateRow(r["kind"], number(r, "value"), number(r, "place"), r["passed"], r["wanted"])
        for r in value["gate"]
    )
    return Instrument(value["score"], value["by"], gate)


def _confusion_from(value: Mapping[str, Any] | None) -> Confusion | None:
    if value is None:
        return None
    return Confusion(tuple(value["names"]), tuple(tuple(row) for row in value["counts"]))


def _task_from(value: Mapping[str, Any]) -> TaskScores:
    return TaskScores(
        value["task"],
        value["count"],
        tuple(_score_from(score) for score in value["scores"]),
        tuple(_score_from(score) for score in value["monitors"]),
    )


def _score_from(value: Mapping[str, Any]) -> Score:
    return Score(
        value["name"],
        value["numerator"],
        value["denominator"],
        value["low"],
        value["high"],
        value["note"],
    )
