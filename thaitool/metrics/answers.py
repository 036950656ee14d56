"""Offline stand-ins for judging answers to spoken instructions: closeness to the reference, and equality with it.

They are weak measures: an instruction has many good answers, and the reference is one of them. Every name starts with
`qa_proxy_`, as those of `rephrase` start with `sr_proxy_`; the notes say so where the scores are read. Nothing here
knows whether an answer is true.
"""

from __future__ import annotations

from collections.abc import Sequence

from thaitool.metrics.chrf import chrf
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums
from thaitool.text.normalize import compact

_WEAK = "weak: a good answer may be worded in another way"


def answer_sums(references: Sequence[str], predictions: Sequence[str]) -> tuple[ItemSums, ...]:
    """`qa_proxy_chrf` (mean over items) and `qa_proxy_exact` (equal in `thai-v1` without spaces), item by item.

    Items whose reference is empty in that form are in neither, and the notes count them.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(references=references, predictions=predictions)
    asked = [bool(compact(reference)) for reference in references]
    pairs = list(zip(references, predictions, asked, strict=True))
    closeness = [chrf(r, p) if counts else 0.0 for r, p, counts in pairs]
    equal = [counts and compact(r) == compact(p) for r, p, counts in pairs]
    empty = asked.count(False)
    note = f"{_WEAK}; {empty} empty references left out" if empty else _WEAK
    return (
        item_sums("qa_proxy_chrf", closeness, asked, note=note),
        item_sums("qa_proxy_exact", equal, asked, note=note),
    )
