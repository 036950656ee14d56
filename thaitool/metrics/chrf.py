"""chrF, the character n-gram F score: of one pair, and of a test set with its interval.

It knows neither words nor meaning. Source: M. Popovic, chrF (WMT 2015); the figures are those of
sacrebleu's chrF2 on the same normalised text (a test compares them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.pooled import Pooled, pooled_score
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score
from thaitool.text.normalize import compact

_ORDERS = range(1, 7)
_BETA2 = 4.0  # beta = 2: recall weighs twice precision


def chrf(reference: str, prediction: str) -> float:
    """Character n-gram F score of one pair in 0..1, on `thai-v1` without spaces.

    n = 1..6, beta = 2; precision and recall are averaged over the orders that both texts are long
    enough for. Two empty texts agree (1), one empty text does not (0).
    """
    wanted, given = compact(reference), compact(prediction)
    if not wanted or not given:
        return float(wanted == given)
    return float(_f_scores(np.array([_statistics(wanted, given)]))[0])


def corpus_chrf(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    form: Callable[[str], str] = compact,
) -> Score:
    """chrF of a test set: n-grams are counted over all items, then the F score is taken once.

    The numerator is that score, 0..1, the denominator 1: it is no ratio of two sums. White space
    counts as nothing, as usual for chrF. `form` is what is done to both texts first.

    Raises:
        InputError: the lists differ in length.
    """
    groups = each_alone(len(references)) if clusters is None else clusters
    same_length(references=references, predictions=predictions, clusters=groups)
    return pooled_score(
        chrf_pooled(references, predictions, form=form), groups, draws=draws, seed=seed
    )


def chrf_pooled(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    name: str = "chrf",
    form: Callable[[str], str] = compact,
) -> Pooled:
    """`corpus_chrf`, to be redrawn and compared.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(references=references, predictions=predictions)
    table = np.zeros((len(references), 3 * len(_ORDERS)), dtype=np.float64)
    for row, reference, prediction in zip(table, references, predictions, strict=True):
        row[:] = _statistics("".join(form(reference).split()), "".join(form(prediction).split()))
    return Pooled(name, table, _redrawn_f, note=f"chrF2 over {len(references)} items")


def _redrawn_f(
    table: npt.NDArray[np.float64], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """[R] F scores of items [N, 18] by weights [R, N]."""
    return _f_scores(weights @ table)


def _statistics(wanted: str, given: str) -> list[int]:
    """[18] n-grams of the answer, of the reference, and of both, for n = 1..6."""
    found: list[int] = []
    for n in _ORDERS:
        gold, told = _ngrams(wanted, n), _ngrams(given, n)
        # An answer's n-grams count only where the reference is long enough to have any.
        found += [told.total() if gold else 0, gold.total(), (gold & told).total()]
    return found


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def _f_scores(statistics: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[R] F scores of [R, 18] sums."""
    table = np.asarray(statistics, dtype=np.float64).reshape(len(statistics), len(_ORDERS), 3)
    told, gold, common = table[..., 0], table[..., 1], table[..., 2]
    used = (told > 0) & (gold > 0)
    orders = np.maximum(used.sum(axis=1), 1)
    precision = np.where(used, common / np.maximum(told, 1), 0).sum(axis=1) / orders
    recall = np.where(used, common / np.maximum(gold, 1), 0).sum(axis=1) / orders
    bottom = _BETA2 * precision + recall
    top = (1 + _BETA2) * precision * recall
    return np.asarray(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
