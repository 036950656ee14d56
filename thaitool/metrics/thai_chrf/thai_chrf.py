"""chrF of Thai text as a local `evaluate` metric; a wrapper of `chrf.corpus_chrf`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.chrf import corpus_chrf
from thaitool.metrics.local_module import Value, as_dict, text_info

_DESCRIPTION = """Corpus chrF2, 0 to 1, after the normaliser thai-v1, spaces removed."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns chrf and its _low, _high, _numerator, _denominator and _note.
"""


class ThaiChrf(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict([corpus_chrf(references, predictions, draws=draws, seed=seed)])
