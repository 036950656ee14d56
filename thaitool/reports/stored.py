"""A report directory back as scores that can be taken apart by item. Writes nothing and runs no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.metrics.sums import item_sums
from thaitool.metrics.tasks import score_tasks
from thaitool.reports.json_form import read_report
from thaitool.reports.per_item import PER_ITEM, Items, read_items

if TYPE_CHECKING:
    from thaitool.metrics.tasks import ClusterBy, TaskScores
    from thaitool.records import Prediction, Reference
    from thaitool.reports.report import Report

#: Under `settings` of a report: its tasks that are not built in.
SCORED_AS = "scored as"
#: The same, the hash of the weights that answered; a report on a file of answers has none.
WEIGHTS = "weights sha256"


@dataclass(frozen=True)
class StoredReport:
    """report.json and the items behind it."""

    name: str
    report: Report
    items: Items

    @property
    def references(self) -> list[Reference]:
        """What was right."""
        return self.items.references

    @property
    def predictions(self) -> list[Prediction]:
        """What was answered."""
        return self.items.predictions

    def keys(self) -> set[tuple[str, str]]:
        """(id, task) of every item."""
        return {(r.id, r.task) for r in self.references}


def load_report(text: str) -> tuple[str, Report]:
    """Name and report.json of `[NAME=]PATH`; the path is a report directory or its report.json.

    Raises:
        InputError: there is no report.
    """
    name, folder = _named(text)
    return name, read_report(folder / "report.json")


def load_stored(text: str) -> StoredReport:
    """The report of `[NAME=]PATH` with its items.

    Raises:
        InputError: there is no report, or its items are gone.
    """
    name, folder = _named(text)
    report = read_report(folder / "report.json")
    return StoredReport(name, report, read_items(folder / PER_ITEM))


def rescore(
    stored: StoredReport,
    keys: set[tuple[str, str]],
    *,
    draws: int,
    seed: int,
    cluster_by: ClusterBy,
    intents: tuple[str, ...] = (),
    marks: Mapping[str, set[tuple[str, str]]] | None = None,
    own: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
) -> tuple[TaskScores, ...]:
    """The scores of the items in `keys`, made again from the stored texts by this version's metrics.

    What a judge or an embedder gave cannot be made again: of the scores named in `marks`, what was
    stored for the items given there is added as it is. `own` is as `own_tasks` gives it, of
    this report or of both that are compared.
    """
    own = own_tasks(stored.report) if own is None else own
    tasks = score_tasks(
        [r for r in stored.references if (r.id, r.task) in keys],
        [p for p in stored.predictions if (p.id, p.task) in keys],
        closed_set=intents or stored.report.intents,
        spoken=stored.items.spoken,
        kinds={task: kind for task, (kind, _) in own.items()},
        labels={task: names for task, (_, names) in own.items()},
        cluster_by=cluster_by,
        draws=draws,
        seed=seed,
    )
    return tuple(_with_marks(stored, task, marks or {}) for task in tasks)


def own_tasks(*reports: Report) -> dict[str, tuple[str, tuple[str, ...]]]:
    """How tasks that are not built in are scored: like which one, and within which closed set."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for report in reports:
        table = report.settings.get(SCORED_AS)
        for task, text in table.items() if isinstance(table, Mapping) else ():
            kind, _, names = str(text).partition(" ")
            known = found.get(task, (kind, ()))[1]
            found[task] = kind, tuple(sorted({*known, *json.loads(names or "[]")}))
    return found


def scored_as(kinds: Mapping[str, str], labels: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What `own_tasks` reads, for `Report.settings[SCORED_AS]`."""
    return {
        task: f"{kind} {json.dumps(labels[task], ensure_ascii=False)}" if task in labels else kind
        for task, kind in kinds.items()
    }


def _with_marks(
    stored: StoredReport, task: TaskScores, wanted: Mapping[str, set[tuple[str, str]]]
) -> TaskScores:
    columns = []
    for name, keys in wanted.items():
        marks = stored.items.marks.get(name, {})
        given = [(i.id, i.task) for i in task.items]
        there = [float(key in keys and key in marks) for key in given]
        if any(there):
            values = [
                marks[key] if is_there else 0.0 for key, is_there in zip(given, there, strict=True)
            ]
            columns.append(item_sums(name, values, there, is_share=False))
    return replace(task, columns=(*task.columns, *columns))


def _named(text: str) -> tuple[str, Path]:
    name, equals, rest = text.partition("=")
    path = Path(rest if equals else text)
    folder = path.parent if path.name == "report.json" else path
    if not (folder / "report.json").is_file():
        raise InputError(
            f"{folder} must be a report directory of `thaitool eval`, but has no report.json."
        )
    return (name if equals else folder.name or str(folder)), folder
