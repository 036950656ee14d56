"""Offline stand-ins for judging spoken rephrasing: closeness to the reference, and copying.

They are not a quality score. A rephrasing can be good and far from the reference, so every name
starts with `sr_proxy_`; a judged `sr_score` would need a judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thaitool.metrics.intervals import DRAWS, ratio_score
from thaitool.metrics.join import same_length
from thaitool.metrics.transcripts import cer, each_alone
from thaitool.records import Score
from thaitool.text.normalize import compact

_ORDERS = range(1, 7)
_BETA2 = 4.0  # beta = 2: recall weighs twice precision


def chrf(reference: str, prediction: str) -> float:
    """Character n-gram F score of one pair in 0..1, on `thai-v1` without spaces.

    n = 1..6, beta = 2; precision and recall are averaged over the orders that both texts are long
    enough for. Two empty texts agree (1), one empty text does not (0).
    Source: M. Popovic, chrF (WMT 2015).
    """
    wanted, given = compact(reference), compact(prediction)
    if not wanted or not given:
        return float(wanted == given)
    precision = recall = 0.0
    used = 0
    for n in _ORDERS:
        gold, told = _ngrams(wanted, n), _ngrams(given, n)
        if gold and told:
            common = (gold & told).total()
            precision += common / told.total()
            recall += common / gold.total()
            used += 1
    if not precision or not recall:
        return 0.0
    precision, recall = precision / used, recall / used
    return (1 + _BETA2) * precision * recall / (_BETA2 * precision + recall)


def sr_proxies(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    spoken: Sequence[str | None] | None = None,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`sr_proxy_chrf` (mean over items), `sr_proxy_cer`, and `sr_proxy_copy_rate`.

    The copy rate is the share of answers that only repeat what was said; it needs the transcripts,
    `spoken`. Items without one are left out and counted; without any, its value is None.

    Raises:
        InputError: the lists differ in length.
    """
    said = [None] * len(references) if spoken is None else spoken
    groups = each_alone(len(references)) if clusters is None else clusters
    same_length(references=references, predictions=predictions, spoken=said, clusters=groups)
    closeness = [chrf(r, p) for r, p in zip(references, predictions, strict=True)]
    known = [text is not None for text in said]
    copied = [
        text is not None and compact(text) == compact(prediction)
        for text, prediction in zip(said, predictions, strict=True)
    ]
    missing = known.count(False)
    return (
        ratio_score(
            "sr_proxy_chrf", closeness, [1.0] * len(closeness), groups, draws=draws, seed=seed
        ),
        cer(references, predictions, clusters=groups, draws=draws, seed=seed, name="sr_proxy_cer"),
        ratio_score(
            "sr_proxy_copy_rate",
            copied,
            known,
            groups,
            draws=draws,
            seed=seed,
            note=f"{missing} items without a transcript left out" if missing else "",
        ),
    )


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))
