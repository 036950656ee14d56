"""Stored answers beside their references: to scores, slices, other sources and a note of every item without an answer.

Runs no model and opens no audio; the arithmetic is `thaitool.metrics`'.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.data.columns import hashes
from thaitool.data.manifest import Manifest, append_quarantine, check_share
from thaitool.errors import InputError
from thaitool.metrics.intents import intent_outcomes
from thaitool.metrics.tasks import TaskScores, score_tasks, slice_scores
from thaitool.records import Rejected
from thaitool.reports.items import confusion, rows_of_task, slices
from thaitool.reports.per_item import SPOKEN
from thaitool.reports.predictions import Answers, Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from thaitool.metrics.tasks import ClusterBy
    from thaitool.records import Prediction, Reference
    from thaitool.reports.report import Confusion, Slice, Table

_SHOWN = 3
#: Speakers that the accounting names one by one.
MOST_NAMES = 20
SYNTHETIC = (
    "The test speech is synthetic (embedded voices, trainable: false): figures show that the pipeline learns, not how"
    " well it understands people."
)


@dataclass(frozen=True)
class TestSet:
    """Items that are asked; row k of `items` is `references[k]`."""

    items: Manifest
    references: list[Reference]
    closed_set: tuple[str, ...]
    """All intent names of the data, not of these items only."""
    name: str
    """What the items are, for messages."""
    keywords: tuple[str, ...] = ()
    """Words whose hit rate transcriptions are scored by."""
    cluster_by: ClusterBy = "both"
    """What the intervals resample."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Of tasks that are not built in, the one whose metrics score them."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The closed sets of those that are scored as `ic`."""
    hotwords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The list that each item was asked with, by id."""


@dataclass(frozen=True)
class Scored:
    """The scores of one set of answers; `rows` are the items that they count."""

    tasks: tuple[TaskScores, ...]
    rows: NDArray[np.int64]
    failures: tuple[Failure, ...]
    seconds: float
    """Spent on answering."""


def score_answers(
    test: TestSet,
    answers: Answers,
    *,
    draws: int,
    seed: int,
    may_lack_tasks: bool = False,
    may_have_more: bool = False,
    consume: bool = False,
) -> Scored:
    """Scores of the items that have an answer. A failure takes its item out of every score.

    Args:
        test: What is asked.
        answers: Of one system.
        draws, seed: Of the intervals.
        may_lack_tasks: Whether tasks that the answers do not mention at all are left out.
        may_have_more: Whether answers to other items are passed over; otherwise they are an error.
        consume: Whether the list of predictions is emptied: their texts are in the result, the rest is memory.

    Raises:
        InputError: no answer is about these items; or an id is missing, unknown or there twice; or every item failed.
    """
    asked = _ids_by_task(test.references)
    _require_overlap(test, answers, asked)
    failures = {(f.id, f.task): f for f in answers.failures if f.id in asked.get(f.task, ())}
    predictions = answers.predictions
    if may_have_more:
        predictions = [p for p in predictions if p.id in asked.get(p.task, ())]
    _require_one_outcome(failures, answers, predictions)
    is_kept = _answered(test, failures, predictions, may_lack_tasks=may_lack_tasks)
    asked.clear()  # before the scores, which take as much memory again
    scored = test.references
    if not is_kept.all():
        scored = [r for r, kept in zip(scored, is_kept.tolist(), strict=True) if kept]
    seconds = sum(p.seconds for p in predictions)
    if consume and predictions is not answers.predictions:
        answers.predictions.clear()
    tasks = score_tasks(
        scored,
        predictions,
        closed_set=test.closed_set,
        spoken=spoken_texts(test, scored),
        keywords=test.keywords,
        kinds=test.kinds,
        labels=test.labels,
        hotwords=test.hotwords,
        cluster_by=test.cluster_by,
        seed=seed,
        draws=draws,
        consume=consume,
    )
    return Scored(tasks, np.flatnonzero(is_kept), tuple(failures.values()), seconds)


def _answered(
    test: TestSet,
    failures: Mapping[tuple[str, str], Failure],
    predictions: Sequence[Prediction],
    *,
    may_lack_tasks: bool,
) -> NDArray[np.bool_]:
    """Which items are scored, shape (len(test.references),)."""
    told = {p.task for p in predictions} | {task for _, task in failures}
    is_kept = np.fromiter(
        (
            (r.id, r.task) not in failures and (not may_lack_tasks or r.task in told)
            for r in test.references
        ),
        bool,
        len(test.references),
    )
    if not is_kept.any():
        raise InputError(
            f"None of the {len(failures)} items asked has an answer; the first failed with:"
            f" {next(iter(failures.values())).reason}. There is nothing to score."
        )
    return is_kept


def _ids_by_task(references: Sequence[Reference]) -> dict[str, set[str]]:
    # Not a set of pairs: of a million, the pairs alone are 70 MB.
    return {
        task: {r.id for r in references if r.task == task}
        for task in dict.fromkeys(r.task for r in references)
    }


def score_slices(
    test: TestSet, scored: Scored, fields: Sequence[str], *, draws: int, seed: int
) -> list[Slice]:
    """Scores with intervals of their own for each value of each field, of what can be taken apart by item."""
    items = scored_items(test, scored)
    is_of = [rows_of_task(items, task.task) for task in scored.tasks]
    # Row k of the items is item number `place[k]` of its task.
    place = np.zeros(len(items), np.int64)
    for task, mask in zip(scored.tasks, is_of, strict=True):
        place[mask] = np.arange(task.count)

    def score(rows: NDArray[np.int64]) -> tuple[TaskScores, ...]:
        found = []
        for task, mask in zip(scored.tasks, is_of, strict=True):
            mine = place[rows[mask[rows]]]
            if len(mine):
                scores = slice_scores(task, mine, draws=draws, seed=seed)
                found.append(TaskScores(task.task, len(mine), scores))
        return tuple(found)

    return [part for field in fields for part in slices(items, field, score)]


def scored_items(test: TestSet, scored: Scored) -> Manifest:
    """The items that the scores count, in their order."""
    if len(scored.rows) == len(test.items):
        return test.items
    return test.items.select(np.isin(np.arange(len(test.items)), scored.rows))


def intent_confusion(test: TestSet, tasks: Sequence[TaskScores]) -> Confusion | None:
    """The confusion matrix of the intents; None without that task."""
    items = [item for task in tasks if task.task == "ic" for item in task.items]
    if not items:
        return None
    told = [item.hypothesis for item in items]
    return confusion(intent_outcomes([item.reference for item in items], told, test.closed_set))


def accounting(items: Manifest, scored: Scored, set_aside: Sequence[Rejected]) -> Table:
    """How much was asked, of whom, and what it took."""
    speakers = sorted(pc.unique(pc.fill_null(items.column("speaker"), "unknown")).to_pylist())
    return {
        "utterances": len(items),
        # By hash: a table of a million names would take 100 MB to count them.
        "source items": len(np.unique(hashes(items.column("source_id")))),
        "speakers": ", ".join(speakers) if len(speakers) <= MOST_NAMES else len(speakers),
        "audio s": round(float(items.duration_s.sum()), 1),
        "answering s": round(scored.seconds, 1),
        "unusable recordings": len(scored.failures),
        "recordings set aside when the data was listed": len(set_aside),
    }


def quarantine_failures(
    test: TestSet, failures: Sequence[Failure], out: Path, max_share: float
) -> None:
    """Every item without an answer into quarantine.jsonl of `out`.

    Raises:
        QuarantineError: they are more than `max_share` of all items.
    """
    failed = {(f.id, f.task): f.reason for f in failures}
    rejected = []
    for k, r in enumerate(test.references if failed else ()):
        if (r.id, r.task) in failed:
            reason, _, detail = failed[r.id, r.task].partition(": ")
            rejected.append(Rejected(str(test.items[k].audio), reason, detail or reason))
    append_quarantine(out / "quarantine.jsonl", rejected)
    check_share(rejected, len(test.references), max_share)


def notes(items: Manifest, failures: Sequence[Failure], asked: int) -> tuple[str, ...]:
    """What must be read with the scores."""
    found = [] if pc.all(items.column("trainable")).as_py() else [SYNTHETIC]
    if failures:
        kinds = Counter(f.reason.partition(":")[0] for f in failures)
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        found.append(
            f"{len(failures)} of {asked} items have no answer ({listed}). No score counts them; a system that fails on"
            " hard items looks better than it is."
        )
    return tuple(found)


def spoken_texts(test: TestSet, references: Sequence[Reference]) -> dict[str, str]:
    """What was said in each item to be rephrased or answered; other tasks do not ask."""
    if not any(r.task in SPOKEN for r in references):
        return {}
    wanted = pc.is_in(test.items.column("task"), value_set=pa.array(SPOKEN))
    asked = test.items.select(pc.fill_null(wanted, False))
    ids, texts = (asked.column(name).to_pylist() for name in ("id", "text"))
    return {item: text or "" for item, text in zip(ids, texts, strict=True)}


def _require_overlap(test: TestSet, answers: Answers, asked: Mapping[str, set[str]]) -> None:
    if any(p.id in asked.get(p.task, ()) for p in answers.predictions):
        return
    if any(f.id in asked.get(f.task, ()) for f in answers.failures):
        return
    given = [(p.id, p.task) for p in answers.predictions]
    given += [(f.id, f.task) for f in answers.failures]
    ids = set().union(*asked.values())
    same_id = sorted({task for item, task in given if item in ids})
    hint = (
        f" Their ids are right, but their tasks are {', '.join(same_id)}."
        if same_id
        else f" They are about {', '.join(repr(i) for i, _ in given[:_SHOWN])}, ...; here the ids are"
        f" {', '.join(repr(r.id) for r in test.references[:_SHOWN])}, ..."
        if given
        else ""
    )
    raise InputError(
        f"None of the {len(given)} predictions is about {test.name} ({len(test.references)} items).{hint} Were they"
        " made for another split or data set? Choose it with --split and --data."
    )


def _require_one_outcome(
    failures: dict[tuple[str, str], Failure], answers: Answers, predictions: Sequence[Prediction]
) -> None:
    both = [key for key in ((p.id, p.task) for p in predictions) if key in failures]
    twice = len(answers.failures) - len({(f.id, f.task) for f in answers.failures})
    if both or twice:
        raise InputError(
            f"Each item has an answer or a failure, once; {len(both)} items have both"
            f" ({', '.join(item for item, _ in both[:_SHOWN])}) and {twice} failures are listed twice."
        )
