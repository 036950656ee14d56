"""Synthetic against real speech: what was trained on which, tested on which, and the gap between the tests.

The gap's interval treats the tests as independent, because they hold different recordings; tests that share sentences
make it wider than need be, never too narrow. Source of the layout: train {syn, real, mix} x test {syn, real}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thaitool.errors import ConfigError
from thaitool.metrics.intervals import percentile_interval, ratios, resampled_sums
from thaitool.reports.report import interval, percent
from thaitool.reports.stored import StoredReport, rescore
from thaitool.reports.view import Difference, View, ViewTable, points, points_interval, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from thaitool.metrics.tasks import ClusterBy, TaskScores

TRAIN = ("syn", "real", "mix")
TEST = ("syn", "real")


def transfer_view(
    reports: Sequence[StoredReport],
    *,
    draws: int,
    seed: int,
    cluster_by: ClusterBy,
    created: str,
) -> View:
    """One table per task: a row for each kind of training speech, a column for each kind of test speech, and the gap.

    Raises:
        ConfigError: a name is not TRAIN/TEST, or one is there twice.
    """
    cells = _cells(reports)
    scored = {
        place: {
            task.task: task
            for task in rescore(
                report, report.keys(), draws=draws, seed=seed, cluster_by=cluster_by
            )
        }
        for place, report in cells.items()
    }
    tasks = list(dict.fromkeys(task for found in scored.values() for task in found))
    tables, differences, data = [], [], []
    for task in tasks:
        rows, values = [], []
        for train in TRAIN:
            found = {t: scored.get((train, t), {}).get(task) for t in TEST}
            if not any(found.values()):
                continue
            gap, low, high = _gap(found, draws, seed)
            rows.append((train, *(_cell(found[t]) for t in TEST), _gap_text(gap, low, high)))
            values.append({"train": train, **_plain(found), "gap": [gap, low, high]})
            if gap is not None:
                differences.append(Difference(f"{task}, trained on {train}", gap, low, high))
        head = next(s[task] for s in scored.values() if task in s).scores[0].name
        columns = ("trained on", *(f"test {t}" for t in TEST), "syn - real, points")
        tables.append(ViewTable(f"{task}: {head}", columns, rows_of(rows)))
        data.append({"task": task, "score": head, "rows": values})
    return View(
        "transfer",
        "Synthetic against real speech",
        created,
        tuple(tables),
        {"tasks": data, "seed": seed, "draws": draws, "cluster_by": cluster_by},
        notes=_notes(cells),
        plot_heading="Synthetic test minus real test, in percentage points, 95 % intervals",
        differences=tuple(differences),
    )


def _cells(reports: Sequence[StoredReport]) -> dict[tuple[str, str], StoredReport]:
    cells: dict[tuple[str, str], StoredReport] = {}
    for report in reports:
        train, _, test = report.name.partition("/")
        if train not in TRAIN or test not in TEST or (train, test) in cells:
            raise ConfigError(
                f"--view transfer takes each report once as TRAIN/TEST=DIR, with TRAIN one of {', '.join(TRAIN)} and"
                f" TEST one of {', '.join(TEST)}, but one is named {report.name!r}."
            )
        cells[train, test] = report
    return cells


def _cell(task: TaskScores | None) -> str:
    if task is None:
        return "-"
    score = task.scores[0]
    reach = interval(score)
    return f"{percent(score.value)} ({reach})" if reach else percent(score.value)


def _gap_text(gap: float | None, low: float | None, high: float | None) -> str:
    reach = points_interval(low, high)
    return f"{points(gap)} ({reach})" if reach else points(gap)


def _gap(
    found: Mapping[str, TaskScores | None], draws: int, seed: int
) -> tuple[float | None, float | None, float | None]:
    syn, real = found["syn"], found["real"]
    if syn is None or real is None:
        return None, None, None
    rates = [task.scores[0].value for task in (syn, real)]
    if rates[0] is None or rates[1] is None:
        return None, None, None
    # Different seeds: the two tests are drawn independently of each other.
    drawn = [_draws(task, draws, seed + k) for k, task in enumerate((syn, real))]
    if drawn[0] is None or drawn[1] is None:
        return rates[0] - rates[1], None, None
    low, high = percentile_interval(drawn[0] - drawn[1]) or (None, None)
    return rates[0] - rates[1], low, high


def _draws(task: TaskScores, draws: int, seed: int) -> NDArray[np.float64] | None:
    if len(set(task.clusters)) < 2:
        return None
    column = task.columns[0]
    both = np.column_stack([column.numerators, column.denominators])
    return ratios(resampled_sums(both, task.clusters, draws, seed))


def _plain(found: Mapping[str, TaskScores | None]) -> dict[str, list[float | None] | None]:
    plain: dict[str, list[float | None] | None] = {}
    for test, task in found.items():
        score = task.scores[0] if task else None
        plain[test] = [score.value, score.low, score.high] if score else None
    return plain


def _notes(cells: Mapping[tuple[str, str], StoredReport]) -> tuple[str, ...]:
    lacking = [f"{a}/{b}" for a in TRAIN for b in TEST if (a, b) not in cells]
    notes = [
        "The gap is the score on synthetic test speech minus that on real test speech, the two drawn independently. It"
        " is a fair gap only if both tests hold sentences of the same kind; naturalness of a voice does not predict it."
    ]
    if lacking:
        notes.append(f"No report was given for {', '.join(lacking)}.")
    sizes = {len(report.keys()) for report in cells.values()}
    if len(sizes) > 1:
        notes.append(f"The tests have {min(sizes)} to {max(sizes)} items.")
    return tuple(notes)
