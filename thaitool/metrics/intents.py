"""Intent classification: exact match within a closed set of names, chance levels, macro-F1.

It never guesses which intent an answer was meant to be: an answer outside the set is wrong, and
counted as invalid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.intervals import (
    DRAWS,
    NO_WIDTH,
    Cluster,
    are_several,
    percentile_interval,
    resampled_sums,
)
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score
from thaitool.text.normalize import compact


@dataclass(frozen=True)
class IntentOutcomes:
    """Answers of N items as numbers into `names`; a prediction outside the set is -1."""

    names: tuple[str, ...]
    references: tuple[int, ...]
    predictions: tuple[int, ...]
    clusters: tuple[Cluster, ...]

    @property
    def correct(self) -> tuple[bool, ...]:
        """[N] Whether each answer is right."""
        return tuple(r == p for r, p in zip(self.references, self.predictions, strict=True))


def intent_outcomes(
    references: Sequence[str],
    predictions: Sequence[str],
    closed_set: Sequence[str],
    clusters: Sequence[Cluster] | None = None,
) -> IntentOutcomes:
    """Bring names and answers to `thai-v1` without spaces and number them.

    Raises:
        InputError: the lists differ in length, the set is empty or has two names that normalise to
            one, or a reference is not in the set.
    """
    groups = each_alone(len(references)) if clusters is None else clusters
    same_length(references=references, predictions=predictions, clusters=groups)
    number = {compact(name): i for i, name in enumerate(closed_set)}
    if not number or len(number) < len(closed_set) or "" in number:
        raise InputError(
            "The closed set of intents needs different, non-empty names (after thai-v1, without "
            f"spaces); it has {len(closed_set)} names that give {len(number)} forms."
        )
    strange = sorted({text for text in references if compact(text) not in number})
    if strange:
        raise InputError(
            f"{len(strange)} reference labels are not in the closed set of {len(closed_set)} "
            f"intents: {strange[:5]}. Pass the set of the data set that the references are from."
        )
    return IntentOutcomes(
        tuple(closed_set),
        tuple(number[compact(text)] for text in references),
        tuple(number.get(compact(text), -1) for text in predictions),
        tuple(groups),
    )


def intent_accuracy(
    references: Sequence[str],
    predictions: Sequence[str],
    closed_set: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Share of answers that are the right name. Raises: as `intent_outcomes`."""
    return accuracy(
        intent_outcomes(references, predictions, closed_set, clusters), draws=draws, seed=seed
    )


def accuracy(outcomes: IntentOutcomes, *, draws: int = DRAWS, seed: int = 0) -> Score:
    """Share of answers that are the right name."""
    return scores_of([accuracy_sums(outcomes)], outcomes.clusters, draws=draws, seed=seed)[0]


def accuracy_sums(outcomes: IntentOutcomes) -> ItemSums:
    """`ic_accuracy`, item by item."""
    return item_sums("ic_accuracy", outcomes.correct, [1.0] * len(outcomes.references))


def invalid_rate(outcomes: IntentOutcomes, *, draws: int = DRAWS, seed: int = 0) -> Score:
    """Share of answers that are no name of the set."""
    return scores_of([invalid_sums(outcomes)], outcomes.clusters, draws=draws, seed=seed)[0]


def invalid_sums(outcomes: IntentOutcomes) -> ItemSums:
    """`ic_invalid_rate`, item by item."""
    outside = [number < 0 for number in outcomes.predictions]
    ones = [1.0] * len(outside)
    return item_sums("ic_invalid_rate", outside, ones, higher_is_better=False)


def macro_f1(outcomes: IntentOutcomes, *, draws: int = DRAWS, seed: int = 0) -> Score:
    """Mean F1 over the intents that occur in the references; numerator is the sum of their F1."""
    K = len(outcomes.names)
    gold = _one_hot(outcomes.references, K)
    told = _one_hot(outcomes.predictions, K)
    present = gold.sum(axis=0) > 0
    counts = np.concatenate([gold * told, gold, told], axis=1)  # [N, 3K]
    whole = _sum_of_f1(counts.sum(axis=0, keepdims=True), present)[0]
    note = f"{int(present.sum())} of {K} intents occur"
    low = high = None
    if are_several(outcomes.clusters):
        sums = resampled_sums(counts, outcomes.clusters, draws, seed)
        interval = percentile_interval(_sum_of_f1(sums, present) / present.sum())
        low, high = interval or (None, None)
        if low is not None and low == high:
            note += f"; {NO_WIDTH}"
    return Score("ic_macro_f1", float(whole), float(present.sum()), low, high, note)


def chance(outcomes: IntentOutcomes) -> tuple[Score, Score]:
    """What ignoring the audio would score: one name at random, and always the commonest."""
    count = len(outcomes.references)
    top = max(Counter(outcomes.references).values(), default=0)
    return (
        Score("ic_chance", 1, len(outcomes.names), note="1 / intents in the closed set"),
        Score("ic_majority_share", top, count, note="always answering the commonest intent"),
    )


def _one_hot(numbers: Sequence[int], K: int) -> npt.NDArray[np.float64]:
    hits = np.asarray(numbers, dtype=np.int64)[:, None] == np.arange(K)
    return np.asarray(hits, dtype=np.float64)


def _sum_of_f1(
    counts: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """[R] sums of F1 over present intents, from [R, 3K] counts (true positives, gold, predicted).

    An intent that a bootstrap draw happens to leave out counts as 0 there, as scikit-learn does.
    """
    true_positive, gold, told = np.split(counts, 3, axis=1)
    f1 = 2 * true_positive / np.maximum(gold + told, 1)
    return np.asarray((f1 * present).sum(axis=1))
