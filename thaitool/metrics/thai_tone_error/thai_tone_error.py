"""Tone errors as a local `evaluate` metric; a wrapper of `tones.tone_error`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.local_module import Value, as_dict, text_info
from thaitool.metrics.tones import tone_error

_DESCRIPTION = """Share of letters with a tone mark in either text, among letters that both texts
have, whose tone marks differ; after the normaliser thai-v1, spaces removed."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns tone_error and its _low, _high, _numerator, _denominator and _note.
"""


class ThaiToneError(evaluate.Metric):  # type: ignore[misc,unused-ignore]
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
        return as_dict([tone_error(references, predictions, draws=draws, seed=seed)])
