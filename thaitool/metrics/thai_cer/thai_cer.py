"""Thai character error rate as a local `evaluate` metric; a wrapper of `transcripts.cer`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.local_module import Value, text_info
from thaitool.metrics.transcripts import cer, cer_raw, cer_spoken, cer_with_spaces
from thaitool.text.normalize import NORMALIZER, normalizer_sha256

_DESCRIPTION = """Corpus-level character error rate of Thai text: edits over reference characters,
by code point, after the normaliser thai-v1, spaces removed. Empty references are left out."""

_INPUTS = """
    predictions (list of str): what the system wrote.
    references (list of str): what is right, in the same order.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns thai_cer, low, high, edits, characters, note, normalizer, normalizer_sha256, and the same
rate with_spaces, raw (not normalised) and spoken (both texts as read aloud).
"""


class ThaiCer(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self, predictions: list[str], references: list[str], draws: int = 2000, seed: int = 0
    ) -> dict[str, Value]:
        score = cer(references, predictions, draws=draws, seed=seed)
        others = {"with_spaces": cer_with_spaces, "raw": cer_raw, "spoken": cer_spoken}
        return {
            "thai_cer": score.value,
            "low": score.low,
            "high": score.high,
            "edits": score.numerator,
            "characters": score.denominator,
            "note": score.note,
            "normalizer": NORMALIZER,
            "normalizer_sha256": normalizer_sha256(),
            **{name: rate(references, predictions, draws=1).value for name, rate in others.items()},
        }
