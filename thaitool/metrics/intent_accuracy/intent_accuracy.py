"""Closed-set intent accuracy as a local `evaluate` metric. A wrapper: the counting is in `intents`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.intents import accuracy, chance, intent_outcomes, invalid_rate, macro_f1
from thaitool.metrics.local_module import Value, text_info

_DESCRIPTION = """Share of answers that are the right intent name, within a closed set, after the
normaliser thai-v1 with spaces removed. An answer outside the set is wrong, and counted."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): the right names, in the same order.
    closed_set (list of str): all intent names of the data set.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns intent_accuracy, low, high, correct, count, invalid_rate, macro_f1, chance, majority_share.
"""


class IntentAccuracy(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...], closed_set=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        *,
        closed_set: list[str],
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        outcomes = intent_outcomes(references, predictions, closed_set)
        right = accuracy(outcomes, draws=draws, seed=seed)
        at_random, majority = chance(outcomes)
        return {
            "intent_accuracy": right.value,
            "low": right.low,
            "high": right.high,
            "correct": right.numerator,
            "count": right.denominator,
            "invalid_rate": invalid_rate(outcomes, draws=draws, seed=seed).value,
            "macro_f1": macro_f1(outcomes, draws=draws, seed=seed).value,
            "chance": at_random.value,
            "majority_share": majority.value,
        }
