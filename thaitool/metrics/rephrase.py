"""Offline stand-ins for judging spoken rephrasing: closeness to the reference, copying, numbers.

They are not a quality score. A rephrasing can be good and far from the reference, so every name
starts with `sr_proxy_`; the judged `sr_score` needs a judge (`thaitool.metrics.judge`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from thaitool.metrics.chrf import chrf as chrf  # noqa: PLC0414
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone, edit_sums
from thaitool.records import Score
from thaitool.text.normalize import compact
from thaitool.text.spoken import number_words

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def sr_proxies(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    spoken: Sequence[str | None] | None = None,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`sr_proxy_chrf` (mean over items), `sr_proxy_cer`, `sr_proxy_copy_rate` and
    `sr_proxy_number_retention`. The ratio of lengths is among the collapse monitors.

    The copy rate is the share of answers that only repeat what was said; it needs the transcripts,
    `spoken`. Items without one are left out and counted; without any, its value is None. A number
    of the reference is retained when the answer has it in digits, or in the usual words.

    Raises:
        InputError: the lists differ in length.
    """
    columns = proxy_sums(references, predictions, spoken=spoken)
    groups = each_alone(len(references)) if clusters is None else clusters
    return scores_of(columns, groups, draws=draws, seed=seed)


def proxy_sums(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    spoken: Sequence[str | None] | None = None,
) -> tuple[ItemSums, ...]:
    """`sr_proxies`, item by item."""
    said = [None] * len(references) if spoken is None else spoken
    same_length(references=references, predictions=predictions, spoken=said)
    closeness = [chrf(r, p) for r, p in zip(references, predictions, strict=True)]
    known = [text is not None for text in said]
    copied = [
        text is not None and compact(text) == compact(prediction)
        for text, prediction in zip(said, predictions, strict=True)
    ]
    missing = known.count(False)
    note = f"{missing} items without a transcript left out" if missing else ""
    kept = [_numbers_kept(r, p) for r, p in zip(references, predictions, strict=True)]
    error = edit_sums("sr_proxy_cer", compact, references, predictions)
    return (
        item_sums("sr_proxy_chrf", closeness, [1.0] * len(closeness)),
        error,
        item_sums("sr_proxy_copy_rate", copied, known, note=note, higher_is_better=False),
        item_sums("sr_proxy_number_retention", [k for k, _ in kept], [n for _, n in kept]),
    )


def _numbers_kept(reference: str, prediction: str) -> tuple[int, int]:
    """Numbers of the reference that the answer has, and numbers of the reference."""
    wanted = Counter(_NUMBER.findall(compact(reference)))
    if not wanted:
        return 0, 0
    given = compact(prediction)
    in_digits = Counter(_NUMBER.findall(given))
    kept = 0
    for number, times in wanted.items():
        found = in_digits[number] + given.count(compact(number_words(number)))
        kept += min(times, found)
    return kept, wanted.total()
