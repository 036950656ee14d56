"""Embedding similarity as a local `evaluate` metric; a wrapper of `embeddings`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.embeddings import Embed, embedding_similarity
from thaitool.metrics.local_module import Value, as_dict, text_info

_DESCRIPTION = """Mean cosine between the vectors of reference and prediction, by the embedder that
is passed in."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    embed (function): from a list of N texts to an array [N, D].
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns embedding_similarity and its _low, _high, _numerator, _denominator and _note.
"""


class EmbeddingSimilarity(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...], embed=function)`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        *,
        embed: Embed,
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict(
            [embedding_similarity(references, predictions, embed, draws=draws, seed=seed)]
        )
