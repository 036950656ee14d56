"""`report.html` of a training run: its curves, what it planned and did, what went wrong. Scores nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thaitool.reports.report import Example, Report, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: First in a report; everything else follows by name.
_FIRST = (
    *("loss", "contrastive_nats", "eval_contrastive_nats", "accuracy", "eval_accuracy"),
    *("eval_answer_nats", "eval_error"),
)
_NO_CURVES = frozenset({"update", "train_s"})
#: More points than pixels only make the file large.
_MOST_POINTS = 1000


def training_report(
    stage: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    created: str,
    seed: int,
    settings: Table,
    accounting: Table,
    versions: Mapping[str, str],
    notes: Iterable[str] = (),
    examples: Iterable[Example] = (),
) -> Report:
    """The report of a run from the lines of its `metrics.jsonl`.

    Args:
        stage: E.g. `pretrain`.
        rows: Metrics by update, oldest first; a metric may be missing from a row.
        created: When, as text.
        seed: Of the run.
        settings, accounting, versions: Tables that are shown as they are.
        notes: Findings of monitors, rollbacks, failures.
        examples: What the model says to held-out rows.
    """
    return Report(
        title=f"thaitool {stage}",
        stage=stage,
        created=created,
        seed=seed,
        versions=versions,
        settings=settings,
        accounting=accounting,
        curves=curves(rows),
        notes=tuple(notes),
        examples=tuple(examples),
    )


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(update, value) by metric; thinned evenly to at most 1,000 points, the last one kept."""
    names = sorted({name for row in rows for name in row} - _NO_CURVES)
    names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    found = {}
    for name in names:
        points = [(int(row["update"]), float(row[name])) for row in rows if _number(row, name)]
        step = math.ceil(len(points) / _MOST_POINTS)
        found[name] = points[::-1][:: step or 1][::-1]
    return {name: points for name, points in found.items() if len(points) > 1}


def _number(row: Mapping[str, Any], name: str) -> bool:
    return isinstance(row.get(name), int | float) and not isinstance(row[name], bool)
