"""Two systems on one test set, task by task: every score that both have, as a paired difference.

It scores nothing again and never compares different items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thaitool.errors import InputError
from thaitool.metrics.compare import Comparison, compare, compare_pooled, holm
from thaitool.metrics.intervals import DRAWS
from thaitool.metrics.sums import select
from thaitool.metrics.tasks import TaskScores, restricted


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """System b against a on one task: every score that both have, the headline first.

    The headlines of all tasks are corrected for their number (`p_holm`); the others are not, and
    serve to explain a difference, not to find one.
    """

    task: str
    comparisons: tuple[Comparison, ...]


def compare_tasks(
    a: Sequence[TaskScores], b: Sequence[TaskScores], *, draws: int = DRAWS, seed: int = 0
) -> tuple[TaskComparison, ...]:
    """Paired differences b minus a of all tasks that both systems were scored on.

    Raises:
        InputError: no task is in both, or the items of a task differ; the message counts them.
    """
    return compare_each([(a, b)], draws=draws, seed=seed)[0]


def compare_each(
    pairs: Sequence[tuple[Sequence[TaskScores], Sequence[TaskScores]]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[tuple[TaskComparison, ...]]:
    """As `compare_tasks`, of several pairs (a, b); the headlines of all are corrected together."""
    found = [_compared(a, b, draws, seed) for a, b in pairs]
    heads = [task.comparisons[0] for tasks, _ in found for task in tasks]
    better = [higher for _, directions in found for higher in directions]
    corrected = iter(holm(heads, better))
    return [
        tuple(replace(t, comparisons=(next(corrected), *t.comparisons[1:])) for t in tasks)
        for tasks, _ in found
    ]


def on_common_items(
    a: Sequence[TaskScores], b: Sequence[TaskScores]
) -> tuple[list[TaskScores], list[TaskScores]]:
    """Both systems on the items that both answered, for the tasks that have any."""
    ones: list[TaskScores] = []
    others: list[TaskScores] = []
    by_task = {task.task: task for task in b}
    for one in a:
        other = by_task.get(one.task)
        if other is None:
            continue
        ids = [{item.id for item in task.items} for task in (one, other)]
        common = ids[0] & ids[1]
        if common:
            for task, kept in ((one, ones), (other, others)):
                mask = np.fromiter((item.id in common for item in task.items), bool, task.count)
                kept.append(task if mask.all() else restricted(task, mask))
    return ones, others


def _compared(
    a: Sequence[TaskScores], b: Sequence[TaskScores], draws: int, seed: int
) -> tuple[tuple[TaskComparison, ...], list[bool]]:
    """Each task, and whether more of its headline is better."""
    others = {task.task: task for task in b}
    shared = [(task, others[task.task]) for task in a if task.task in others]
    if not shared:
        raise InputError(
            f"The two systems share no task: {[t.task for t in a]} and {[t.task for t in b]}. "
            "Compare reports on the same test set."
        )
    tasks = tuple(
        TaskComparison(one.task, _compare_task(one, two, draws, seed)) for one, two in shared
    )
    return tasks, [one.columns[0].higher_is_better for one, _ in shared]


def _compare_task(a: TaskScores, b: TaskScores, draws: int, seed: int) -> tuple[Comparison, ...]:
    rows = {item.id: i for i, item in enumerate(b.items)}
    ids = {item.id for item in a.items}
    wrong = [item for item in a.items if (i := rows.get(item.id)) is not None
             and b.items[i].reference != item.reference]  # fmt: skip
    if ids != rows.keys() or wrong:
        raise InputError(
            f"Task {a.task} must have the same items in both reports, but {len(ids - rows.keys())} "
            f"are only in a, {len(rows.keys() - ids)} only in b, and {len(wrong)} have another "
            "reference. Score both systems on the same test set."
        )
    order = np.array([rows[item.id] for item in a.items])
    sums = {column.name: select(column, order) for column in b.columns}
    pooled = {p.name: replace(p, table=p.table[order]) for p in b.pooled}
    return (
        *(
            compare(column, sums[column.name], a.clusters, draws=draws, seed=seed)
            for column in a.columns
            if column.name in sums
        ),
        *(
            compare_pooled(whole, pooled[whole.name], a.clusters, draws=draws, seed=seed)
            for whole in a.pooled
            if whole.name in pooled
        ),
    )
