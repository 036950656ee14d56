"""Thai word error rate as a local `evaluate` metric; a wrapper of `words.wer`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.local_module import Value, as_dict, text_info
from thaitool.metrics.words import wer

_DESCRIPTION = """Word errors over reference words, both texts cut by a named segmenter of
pythainlp after the normaliser thai-v1. Secondary: segmenters disagree, so compute it with two and
look at the gap."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    segmenter (str): "newmm" or "longest".
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns wer_<segmenter> and its _low, _high, _numerator, _denominator and _note.
"""


class ThaiWer(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...], segmenter="newmm")`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        segmenter: str = "newmm",
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict([wer(references, predictions, segmenter=segmenter, draws=draws, seed=seed)])
