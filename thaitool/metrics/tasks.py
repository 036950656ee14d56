"""One entry for the eval stage: joins, scores every task present, and keeps the items behind them.

It runs no model and writes no file. The same call scores predictions made on shuffled audio, which
show how much of a score the audio is responsible for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from thaitool.errors import InputError
from thaitool.metrics.entities import count_entities, scores_of_counts
from thaitool.metrics.intents import accuracy, chance, intent_outcomes, invalid_rate, macro_f1
from thaitool.metrics.intervals import DRAWS
from thaitool.metrics.join import Pair, join
from thaitool.metrics.monitors import collapse_monitors
from thaitool.metrics.rephrase import chrf, sr_proxies
from thaitool.metrics.transcripts import cer, cer_raw, cer_with_spaces, edits
from thaitool.records import TASKS, Prediction, Reference, Score
from thaitool.text.normalize import compact

ClusterBy = Literal["source_id", "speaker"]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """One utterance: what was right, what was said, and how wrong that is (0 is right).

    `error` is character edits per reference character (asr), 0 or 1 (ic), entities missed or
    invented, plus 1 for an unreadable answer (ner), 1 - chrF (sr).
    """

    id: str
    task: str
    reference: str
    hypothesis: str
    error: float


@dataclass(frozen=True, slots=True)
class TaskScores:
    """The scores of one task on one test set, headline first."""

    task: str
    count: int
    scores: tuple[Score, ...]
    monitors: tuple[Score, ...] = ()
    items: tuple[ItemScore, ...] = field(default=(), repr=False)


def score_tasks(
    references: Sequence[Reference],
    predictions: Sequence[Prediction],
    *,
    closed_set: Sequence[str] = (),
    spoken: Mapping[str, str] | None = None,
    cluster_by: ClusterBy = "source_id",
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[TaskScores, ...]:
    """Scores of each task that has references, in the order of `records.TASKS`.

    `closed_set`: all intent names, needed when there are `ic` references. `spoken`: transcript by
    utterance id, for the copy rate of `sr`. `cluster_by`: what the intervals resample; variants of
    one source item are not independent, nor are utterances of one speaker.

    Raises:
        InputError: ids do not match one to one (see `join`), a task is unknown, there is no
            reference at all, a cluster name is empty, `ic` has no closed set, or a reference label
            cannot be read.
    """
    _check(references, closed_set, cluster_by)
    pairs = join(references, predictions)
    results: list[TaskScores] = []
    for task in TASKS:
        chosen = [pair for pair in pairs if pair.reference.task == task]
        if not chosen:
            continue
        groups = [_cluster(pair.reference, cluster_by) for pair in chosen]
        if task == "asr":
            scores, errors = _transcription(chosen, groups, draws, seed)
        elif task == "ic":
            scores, errors = _intents(chosen, groups, draws, seed, closed_set)
        elif task == "ner":
            scores, errors = _entities(chosen, groups, draws, seed)
        else:
            scores, errors = _rephrasing(chosen, groups, draws, seed, spoken or {})
        items = tuple(
            ItemScore(p.reference.id, task, p.reference.text, p.prediction.text, error)
            for p, error in zip(chosen, errors, strict=True)
        )
        results.append(TaskScores(task, len(chosen), scores, collapse_monitors(chosen), items))
    return tuple(results)


def _check(
    references: Sequence[Reference], closed_set: Sequence[str], cluster_by: ClusterBy
) -> None:
    if not references:
        raise InputError("There is nothing to score: the list of references is empty.")
    strange = sorted({ref.task for ref in references if ref.task not in TASKS})
    if strange:
        raise InputError(f"References have tasks {strange[:5]}; the tasks are {', '.join(TASKS)}.")
    nameless = [ref.id for ref in references if not _cluster(ref, cluster_by)]
    if nameless:
        raise InputError(
            f"{len(nameless)} references have no {cluster_by}, which the intervals resample: "
            f"{', '.join(nameless[:5])}. Give each its source item, or its own id if it has none."
        )
    if not closed_set and any(ref.task == "ic" for ref in references):
        raise InputError(
            "Intent classification is scored within a closed set of intent names; none was given. "
            "Pass the names that the data set lists as closed_set."
        )


def _cluster(reference: Reference, cluster_by: ClusterBy) -> str:
    return reference.speaker if cluster_by == "speaker" else reference.source_id


def _texts(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [p.reference.text for p in pairs], [p.prediction.text for p in pairs]


def _transcription(
    pairs: Sequence[Pair], groups: Sequence[str], draws: int, seed: int
) -> tuple[tuple[Score, ...], list[float]]:
    gold, told = _texts(pairs)
    scores = tuple(
        rate(gold, told, clusters=groups, draws=draws, seed=seed)
        for rate in (cer, cer_with_spaces, cer_raw)
    )
    errors = [edits(g, t) / max(1, len(compact(g))) for g, t in zip(gold, told, strict=True)]
    return scores, errors


def _intents(
    pairs: Sequence[Pair],
    groups: Sequence[str],
    draws: int,
    seed: int,
    closed_set: Sequence[str],
) -> tuple[tuple[Score, ...], list[float]]:
    outcomes = intent_outcomes(*_texts(pairs), closed_set, groups)
    scores = (
        accuracy(outcomes, draws=draws, seed=seed),
        macro_f1(outcomes, draws=draws, seed=seed),
        invalid_rate(outcomes, draws=draws, seed=seed),
        *chance(outcomes),
    )
    return scores, [float(not right) for right in outcomes.correct]


def _entities(
    pairs: Sequence[Pair], groups: Sequence[str], draws: int, seed: int
) -> tuple[tuple[Score, ...], list[float]]:
    gold, told = _texts(pairs)
    counts = [count_entities(g, t) for g, t in zip(gold, told, strict=True)]
    return scores_of_counts(counts, groups, draws=draws, seed=seed), [
        float(count.errors + count.invalid) for count in counts
    ]


def _rephrasing(
    pairs: Sequence[Pair],
    groups: Sequence[str],
    draws: int,
    seed: int,
    spoken: Mapping[str, str],
) -> tuple[tuple[Score, ...], list[float]]:
    gold, told = _texts(pairs)
    said = [spoken.get(pair.reference.id) for pair in pairs]
    scores = sr_proxies(gold, told, spoken=said, clusters=groups, draws=draws, seed=seed)
    return scores, [1 - chrf(g, t) for g, t in zip(gold, told, strict=True)]
