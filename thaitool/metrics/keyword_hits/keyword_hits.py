"""Keyword hit rate as a local `evaluate` metric; a wrapper of `keywords.keyword_scores`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.keywords import keyword_scores
from thaitool.metrics.local_module import Value, as_dict, text_info

_DESCRIPTION = """Of the listed keywords that the references contain, the share that the
predictions contain, and the reverse; compared in thai-v1, spaces removed."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    keywords (list of str): the words to look for.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns keyword_hit_rate and keyword_precision, each with _low, _high, _numerator, _denominator and
_note.
"""


class KeywordHits(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...], keywords=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        *,
        keywords: list[str],
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict(keyword_scores(references, predictions, keywords, draws=draws, seed=seed))
