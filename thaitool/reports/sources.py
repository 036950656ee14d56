"""Other answers to the same items (a teacher, another system, a vote), scored and compared with those of the report.

Reads files only; the arithmetic is `metrics`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thaitool.metrics.paired import compare_each, on_common_items
from thaitool.reports.predictions import named_files, read_answers
from thaitool.reports.report import Source
from thaitool.reports.scoring import score_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.metrics.tasks import TaskScores
    from thaitool.reports.scoring import TestSet


def score_sources(
    test: TestSet, own: Sequence[TaskScores], named: Sequence[str], *, draws: int, seed: int
) -> tuple[Source, ...]:
    """The sources `NAME=PATH`, each with its paired difference from `own` on the items that both answered.

    Raises:
        InputError: a file cannot be read, or lacks an item of a task that it answers.
    """
    sources: list[Source] = []
    pairs: list[tuple[list[TaskScores], list[TaskScores]]] = []
    for name, path in named_files(named, "--also").items():
        found = score_answers(
            test,
            read_answers(path),
            draws=draws,
            seed=seed,
            may_lack_tasks=True,
            may_have_more=True,
            consume=True,
        )
        pairs.append(on_common_items(own, found.tasks))
        bare = tuple(replace(t, items=(), columns=(), clusters=(), pooled=()) for t in found.tasks)
        sources.append(Source(name, bare, len(found.failures)))
    return _against(sources, pairs, draws, seed)


def _against(
    sources: Sequence[Source],
    pairs: Sequence[tuple[list[TaskScores], list[TaskScores]]],
    draws: int,
    seed: int,
) -> tuple[Source, ...]:
    """The sources with their differences; those that share no item have none."""
    compared = [k for k, (one, _) in enumerate(pairs) if one]
    found = compare_each([pairs[k] for k in compared], draws=draws, seed=seed)
    differences = dict(zip(compared, found, strict=True))
    return tuple(replace(s, against=differences.get(k, ())) for k, s in enumerate(sources))
