"""Intent classification: exact match within a closed set of names, chance levels, macro-F1.

It never guesses which intent an answer was meant to be: an answer outside the set is wrong, and
counted as invalid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from thaitool.errors import InputError
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.pooled import Pooled, pooled_score
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
    return pooled_score(macro_f1_pooled(outcomes), outcomes.clusters, draws=draws, seed=seed)


def macro_f1_pooled(outcomes: IntentOutcomes) -> Pooled:
    """`ic_macro_f1`, to be redrawn and compared."""
    K = len(outcomes.names)
    table = np.array([outcomes.references, outcomes.predictions], dtype=np.int32).T
    present = len(set(outcomes.references))
    note = f"{present} of {K} intents occur"
    return Pooled("ic_macro_f1", table, partial(_mean_f1, K), parts=present, note=note)


def chance(outcomes: IntentOutcomes) -> tuple[Score, Score]:
    """What ignoring the audio would score: one name at random, and always the commonest."""
    count = len(outcomes.references)
    top = max(Counter(outcomes.references).values(), default=0)
    return (
        Score("ic_chance", 1, len(outcomes.names), note="1 / intents in the closed set"),
        Score("ic_majority_share", top, count, note="always answering the commonest intent"),
    )


def _mean_f1(
    K: int, table: npt.NDArray[np.int32], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """[R] mean F1 over the intents that occur in the references, of items [N, 2] by weights [R, N].

    An intent that a bootstrap draw happens to leave out counts as 0 there, as scikit-learn does.
    """
    gold, told = table.T
    right, named = gold == told, told >= 0
    present = np.bincount(gold, minlength=K) > 0
    means = []
    for row in weights:
        true = np.bincount(gold[right], weights=row[right], minlength=K)
        both = np.bincount(gold, weights=row, minlength=K)
        both += np.bincount(told[named], weights=row[named], minlength=K)
        means.append((2 * true / np.maximum(both, 1))[present].mean())
    return np.array(means)
