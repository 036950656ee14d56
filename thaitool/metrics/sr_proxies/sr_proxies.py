"""Offline proxies for rephrasing as a local `evaluate` metric; a wrapper of `rephrase.sr_proxies`.

`evaluate` finds the imports of this file with a pattern that keeps commas: one `import` per line.
"""

from __future__ import annotations

import evaluate

from thaitool.metrics.local_module import Value, as_dict, text_info
from thaitool.metrics.rephrase import sr_proxies

_DESCRIPTION = """Closeness to the reference (mean chrF, CER), copying of what was said, and
numbers retained. No quality score: a rephrasing can be good and far from the reference."""

_INPUTS = """
    predictions (list of str): what the system answered.
    references (list of str): what is right, in the same order.
    spoken (list of str, optional): what was said, for the copy rate.
    draws (int), seed (int): the bootstrap of the 95 % interval; every item stands alone.
Returns sr_proxy_chrf, sr_proxy_cer, sr_proxy_copy_rate and sr_proxy_number_retention, each with
_low, _high, _numerator, _denominator and _note.
"""


class SrProxies(evaluate.Metric):  # type: ignore[misc,unused-ignore]
    """`compute(predictions=[...], references=[...], spoken=[...])`."""

    def _info(self) -> evaluate.MetricInfo:
        return text_info(_DESCRIPTION, _INPUTS)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        spoken: list[str | None] | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> dict[str, Value]:
        return as_dict(sr_proxies(references, predictions, spoken=spoken, draws=draws, seed=seed))
