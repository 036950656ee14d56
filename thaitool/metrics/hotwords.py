"""Hotword lists item by item: of the listed words that were said, how many are written; of the others, how many are.

The second figure is the price of a list: a model that copies its list finds every word and invents the rest. Each item
has its own list, as asked; `keywords` scores one list for all.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.keywords import keyword_pattern
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.records import Score


def hotword_scores(
    references: Sequence[str],
    predictions: Sequence[str],
    lists: Sequence[Sequence[str]],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`hotword_hit_rate` (found / said) and `hotword_false_rate` (written / listed, of words that are not said).

    Words are compared as `keywords` does: in `thai-v1` without spaces, the longest first where several start. A word
    said twice must be written twice; one that is not said is false once, however often it is written. The note counts
    the words.

    Raises:
        InputError: the lists differ in length.
    """
    columns = hotword_sums(references, predictions, lists)
    groups = each_alone(len(references)) if clusters is None else clusters
    return scores_of(columns, groups, draws=draws, seed=seed)


def hotword_sums(
    references: Sequence[str], predictions: Sequence[str], lists: Sequence[Sequence[str]]
) -> tuple[ItemSums, ...]:
    """`hotword_scores`, item by item."""
    same_length(references=references, predictions=predictions, lists=lists)
    forms: dict[str, str] = {}  # a list of 500 words is that of the next item too
    found: list[float] = []
    said: list[float] = []
    false: list[float] = []
    others: list[float] = []
    for reference, prediction, words in zip(references, predictions, lists, strict=True):
        for word in words:
            if word not in forms:
                forms[word] = compact(word)
        listed = {forms[word] for word in words} - {""}
        gold, told = _count(compact(reference), listed), _count(compact(prediction), listed)
        found.append((gold & told).total())
        said.append(gold.total())
        false.append(len(told.keys() - gold.keys()))
        others.append(len(listed) - len(gold))
    sizes = sum(map(len, lists)) / max(1, len(lists))
    note = f"lists of {sizes:.0f} words on average"
    return (
        item_sums("hotword_hit_rate", found, said, note=note),
        item_sums("hotword_false_rate", false, others, higher_is_better=False),
    )


def _count(text: str, words: set[str]) -> Counter[str]:
    """How often each word stands in a compact text."""
    there = [word for word in words if word in text]
    return Counter(keyword_pattern(there).findall(text)) if there else Counter()
