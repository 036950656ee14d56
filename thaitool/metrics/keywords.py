"""Keyword hit rate: of the listed words that were said, how many the transcript has.

It asks whether, not where: names of people and products decide whether a call can be handled, and
CER hides them among easy words. It finds no keywords by itself; the list is given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from thaitool.errors import InputError
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score
from thaitool.text.normalize import compact


def keyword_scores(
    references: Sequence[str],
    predictions: Sequence[str],
    keywords: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`keyword_hit_rate` (found / said) and `keyword_precision` (found / written).

    Keywords are compared in `thai-v1` without spaces and counted in each text from the left, the
    longest first where several start: กรุงเทพ inside กรุงเทพมหานคร is not a second word if both are
    listed. A keyword said twice must be written twice.

    Raises:
        InputError: the lists differ in length, or a keyword is empty or listed twice.
    """
    columns = keyword_sums(references, predictions, keywords)
    groups = each_alone(len(references)) if clusters is None else clusters
    return scores_of(columns, groups, draws=draws, seed=seed)


def keyword_sums(
    references: Sequence[str], predictions: Sequence[str], keywords: Sequence[str]
) -> tuple[ItemSums, ...]:
    """`keyword_scores`, item by item."""
    same_length(references=references, predictions=predictions)
    pattern = _pattern(keywords)
    found: list[float] = []
    said: list[float] = []
    written: list[float] = []
    kinds: set[str] = set()
    for reference, prediction in zip(references, predictions, strict=True):
        gold = Counter(pattern.findall(compact(reference)))
        told = Counter(pattern.findall(compact(prediction)))
        found.append((gold & told).total())
        said.append(gold.total())
        written.append(told.total())
        kinds |= gold.keys()
    note = f"{len(kinds)} of {len(keywords)} keywords are said"
    return (
        item_sums("keyword_hit_rate", found, said, note=note),
        item_sums("keyword_precision", found, written),
    )


def _pattern(keywords: Sequence[str]) -> re.Pattern[str]:
    forms = [compact(word) for word in keywords]
    if not forms or "" in forms or len(set(forms)) < len(forms):
        raise InputError(
            "Keywords must be different and not empty (after thai-v1, without spaces), and there "
            f"must be at least one; {len(forms)} were given, with {len(set(forms) - {''})} forms."
        )
    return keyword_pattern(forms)


def keyword_pattern(forms: Sequence[str]) -> re.Pattern[str]:
    """What finds words in a `compact` text from the left, the longest first; `forms` are compact, one at least."""
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    # A vowel or tone mark right after the last letter makes it the start of another syllable:
    # the name สม is not in สมาคม.
    return re.compile(
        f"(?:{'|'.join(map(re.escape, longest_first))})(?![\u0e30-\u0e3a\u0e45\u0e47-\u0e4e])"
    )
