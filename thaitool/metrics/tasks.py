"""One entry for the eval stage: joins, scores every task present, and keeps the items behind them.

It runs no model and writes no file. The same call scores predictions made on shuffled audio, which
show how much of a score the audio is responsible for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.answers import answer_sums
from thaitool.metrics.chrf import chrf_pooled
from thaitool.metrics.entities import count_entities, entity_sums
from thaitool.metrics.hotwords import hotword_sums
from thaitool.metrics.intents import (
    accuracy_sums,
    chance,
    intent_outcomes,
    invalid_sums,
    macro_f1_pooled,
)
from thaitool.metrics.intervals import DRAWS, Cluster, cluster_kinds
from thaitool.metrics.join import Pair, matched
from thaitool.metrics.keywords import keyword_sums
from thaitool.metrics.monitors import collapse_monitors
from thaitool.metrics.pooled import Pooled, pooled_score
from thaitool.metrics.rephrase import proxy_sums
from thaitool.metrics.sums import ItemSums, scores_by, scores_of, select
from thaitool.metrics.tones import tone_sums
from thaitool.metrics.transcripts import edits, transcript_sums
from thaitool.metrics.words import word_sums
from thaitool.records import TASKS, Prediction, Reference, Score

T = TypeVar("T")
Part = ItemSums | Pooled | Score
Errors = npt.NDArray[np.float64]
ClusterBy = Literal["source_id", "speaker", "both"]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """One utterance: what was right, what was said, and how wrong that is (0 is right).

    `error` is character edits per reference character (asr), 0 or 1 (ic), entities missed or
    invented, plus 1 for an unreadable answer (ner), 1 - chrF (sr, qa).
    """

    id: str
    task: str
    reference: str
    hypothesis: str
    error: float


class _View(Sequence[T]):
    """N objects made when asked for: kept, they would be half of the memory of a million rows."""

    def __init__(self, N: int, make: Callable[[int], T]) -> None:
        self._rows, self._make = range(N), make

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[T, ...]: ...
    def __getitem__(self, row: int | slice) -> T | tuple[T, ...]:
        if isinstance(row, slice):
            return tuple(self._make(i) for i in self._rows[row])
        return self._make(self._rows[row])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


@dataclass(frozen=True, slots=True)
class TaskScores:
    """The scores of one task on one test set, headline first."""

    task: str
    count: int
    scores: tuple[Score, ...]
    monitors: tuple[Score, ...] = ()
    items: Sequence[ItemScore] = field(default=(), repr=False)
    columns: tuple[ItemSums, ...] = field(default=(), repr=False, compare=False)
    """The scores that are sums over items, headline first; row i is `items[i]`."""
    clusters: Sequence[Cluster] = field(default=(), repr=False, compare=False)
    """What the intervals resample, one per item."""
    pooled: tuple[Pooled, ...] = field(default=(), repr=False, compare=False)
    """The scores that exist for all items together only; row i is `items[i]`."""


def score_tasks(
    references: Sequence[Reference],
    predictions: Sequence[Prediction],
    *,
    closed_set: Sequence[str] = (),
    spoken: Mapping[str, str] | None = None,
    keywords: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    hotwords: Mapping[str, Sequence[str]] | None = None,
    cluster_by: ClusterBy = "both",
    seed: int = 0,
    draws: int = DRAWS,
    consume: bool = False,
) -> tuple[TaskScores, ...]:
    """Scores of each task that has references, in the order of `records.TASKS`, then of `kinds`.

    `closed_set`: all intent names, needed when there are `ic` references. `spoken`: transcript by
    utterance id, for the copy rate of `sr`. `keywords`: words whose hit rate `asr` reports.
    `kinds`: of tasks that are not built in, the one whose metrics score them; `labels`: the closed
    set of those that are scored as `ic`. `hotwords`: list by utterance id, as it was asked with; adds
    `hotword_sums` to all tasks with text.
    `cluster_by`: what the intervals resample; variants of one source item are not independent, nor
    are utterances of one speaker. `consume`: empty the list of predictions once it is joined; their
    texts are in the result, and of a million the rest is 120 MB.

    Raises:
        InputError: ids do not match one to one (see `join`), a task is unknown, there is no
            reference at all, a cluster name is empty, `ic` has no closed set, or a reference label
            cannot be read.
    """
    kinds = {**{task: task for task in TASKS}, **(kinds or {})}
    _check(references, {"ic": closed_set, **(labels or {})}, kinds, cluster_by)
    ordered = matched(references, predictions)
    if consume and isinstance(predictions, list):
        predictions.clear()
    results: list[TaskScores] = []
    for task, kind in kinds.items():
        refs = [reference for reference in references if reference.task == task]
        answers = [answer for answer in ordered if answer.task == task]
        if len(refs) == len(references):
            ordered.clear()  # a million rows: what is no longer needed goes as early as it can
        if not refs:
            continue
        monitors = collapse_monitors(_pairs(refs, answers))
        told = [answer.text for answer in answers]
        del answers
        groups = _clusters(refs, cluster_by)
        names = closed_set if task == "ic" else (labels or {}).get(task, ())
        parts, errors = _parts(kind, refs, told, groups, names, keywords, spoken or {})
        if hotwords and kind != "ic":
            lists = [hotwords.get(ref.id, ()) for ref in refs]
            parts += hotword_sums([ref.text for ref in refs], told, lists)
        scores = _scores(parts, groups, draws, seed)
        columns = tuple(part for part in parts if isinstance(part, ItemSums))
        pooled = tuple(part for part in parts if isinstance(part, Pooled))
        items = _items(refs, told, errors)
        results.append(
            TaskScores(task, len(refs), scores, monitors, items, columns, groups, pooled)
        )
    return tuple(results)


def _parts(
    kind: str,
    references: Sequence[Reference],
    told: Sequence[str],
    groups: Sequence[Cluster],
    names: Sequence[str],
    keywords: Sequence[str],
    spoken: Mapping[str, str],
) -> tuple[list[Part], Errors]:
    """The scores of one task by the metrics of a built-in one, headline first, and how wrong each answer is."""
    gold = [reference.text for reference in references]
    if kind == "asr":
        return _transcription(gold, told, keywords)
    if kind == "ic":
        return _intents(gold, told, groups, names)
    if kind == "ner":
        return _entities(gold, told)
    if kind == "qa":
        return _answering(gold, told)
    return _rephrasing(gold, told, [spoken.get(reference.id) for reference in references])


def _scores(
    parts: Sequence[Part], groups: Sequence[Cluster], draws: int, seed: int
) -> tuple[Score, ...]:
    """The score of each part, in their order; those that are sums are redrawn together."""
    columns = [part for part in parts if isinstance(part, ItemSums)]
    summed = iter(scores_of(columns, groups, draws=draws, seed=seed))
    return tuple(
        part
        if isinstance(part, Score)
        else pooled_score(part, groups, draws=draws, seed=seed)
        if isinstance(part, Pooled)
        else next(summed)
        for part in parts
    )


def restricted(task: TaskScores, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> TaskScores:
    """What is known item by item of some of the items (numbers of rows, or a mask); no scores."""
    chosen = np.arange(len(task.clusters))[rows]
    items, clusters, order = task.items, task.clusters, chosen.tolist()
    return TaskScores(
        task.task,
        len(chosen),
        (),
        items=_View(len(chosen), lambda k: items[order[k]]),
        columns=tuple(select(column, chosen) for column in task.columns),
        clusters=[clusters[k] for k in order],
        pooled=tuple(replace(p, table=p.table[chosen]) for p in task.pooled),
    )


def slice_scores(
    task: TaskScores,
    rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """The scores of some of the items (numbers of rows, or a mask), with their own intervals.

    Scores that are no sums over items (macro-F1, chance) are not among them.
    """
    chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
    # Before the columns, which of a million items are 50 MB: both take memory, at different times.
    kinds = cluster_kinds(_View(len(chosen), lambda k: task.clusters[int(chosen[k])]))
    columns = [select(column, chosen) for column in task.columns]
    return scores_by(columns, kinds, draws=draws, seed=seed)


def _check(
    references: Sequence[Reference],
    names: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str],
    cluster_by: ClusterBy,
) -> None:
    if not references:
        raise InputError("There is nothing to score: the list of references is empty.")
    strange = sorted({ref.task for ref in references if ref.task not in kinds})
    if strange:
        raise InputError(f"References have tasks {strange[:5]}; the tasks are {', '.join(kinds)}.")
    for kind in ("source_id", "speaker"):
        if cluster_by not in {kind, "both"}:
            continue
        nameless = [ref.id for ref in references if not getattr(ref, kind)]
        if nameless:
            raise InputError(
                f"{len(nameless)} references have no {kind}, which the intervals resample: "
                f"{', '.join(nameless[:5])}. Give each one, or its own id if it has none."
            )
    closed = {task for task, kind in kinds.items() if kind == "ic" and not names.get(task)}
    if closed and any(ref.task in closed for ref in references):
        raise InputError(
            "Intent classification is scored within a closed set of intent names; none was given. "
            "Pass the names that the data set lists as closed_set."
        )


def _clusters(references: Sequence[Reference], cluster_by: ClusterBy) -> Sequence[Cluster]:
    """The cluster names of each reference."""

    def name(row: int) -> Cluster:
        reference = references[row]
        if cluster_by == "both":
            return reference.source_id, reference.speaker
        return reference.speaker if cluster_by == "speaker" else reference.source_id

    return _View(len(references), name)


def _pairs(references: Sequence[Reference], answers: Sequence[Prediction]) -> Sequence[Pair]:
    return _View(len(references), lambda row: Pair(references[row], answers[row]))


def _items(
    references: Sequence[Reference], answers: Sequence[str], errors: Errors
) -> Sequence[ItemScore]:
    """What was right, what was said and how wrong that is, of each reference."""

    def item(row: int) -> ItemScore:
        ref = references[row]
        return ItemScore(ref.id, ref.task, ref.text, answers[row], float(errors[row]))

    return _View(len(references), item)


def _transcription(
    gold: Sequence[str], told: Sequence[str], keywords: Sequence[str]
) -> tuple[list[Part], Errors]:
    columns = [*transcript_sums(gold, told), tone_sums(gold, told), *word_sums(gold, told)]
    if keywords:
        columns += keyword_sums(gold, told, keywords)
    cer = columns[0]
    # An empty reference is in no rate; the length of what was said over it is still its error.
    errors = cer.numerators.astype(np.float64) / np.maximum(cer.denominators, 1)
    for row in np.flatnonzero(cer.denominators == 0).tolist():
        errors[row] = edits(gold[row], told[row])
    return list(columns), errors


def _intents(
    gold: Sequence[str],
    told: Sequence[str],
    groups: Sequence[Cluster],
    closed_set: Sequence[str],
) -> tuple[list[Part], Errors]:
    outcomes = intent_outcomes(gold, told, closed_set, groups)
    parts: list[Part] = [
        accuracy_sums(outcomes),
        macro_f1_pooled(outcomes),
        invalid_sums(outcomes),
        *chance(outcomes),
    ]
    return parts, np.array([not right for right in outcomes.correct], dtype=np.float64)


def _entities(gold: Sequence[str], told: Sequence[str]) -> tuple[list[Part], Errors]:
    counts = [count_entities(g, t) for g, t in zip(gold, told, strict=True)]
    wrong = [count.errors + count.invalid for count in counts]
    return list(entity_sums(counts)), np.array(wrong, dtype=np.float64)


def _rephrasing(
    gold: Sequence[str], told: Sequence[str], said: Sequence[str | None]
) -> tuple[list[Part], Errors]:
    columns = proxy_sums(gold, told, spoken=said)
    whole = chrf_pooled(gold, told, name="sr_proxy_corpus_chrf")
    return [*columns, whole], 1 - columns[0].numerators.astype(np.float64)  # 1 - chrF


def _answering(gold: Sequence[str], told: Sequence[str]) -> tuple[list[Part], Errors]:
    columns = answer_sums(gold, told)
    whole = chrf_pooled(gold, told, name="qa_proxy_corpus_chrf")
    errors = 1 - columns[0].numerators.astype(np.float64)  # 1 - chrF
    # An empty reference is in no rate; whatever was said over it is wrong.
    for row in np.flatnonzero(columns[0].denominators == 0).tolist():
        errors[row] = float(bool(told[row].strip()))
    return [*columns, whole], errors
