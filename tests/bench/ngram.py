"""A Witten-Bell n-gram model over units as an ARPA file, for prefix beams. No pruning; for small texts only.

Source: Witten and Bell 1991, interpolated, in the form of Chen and Goodman 1998, section 2.5.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Gram = tuple[str, ...]
_NEVER = -99.0


def counts(sentences: Sequence[Sequence[str]], order: int) -> dict[Gram, Counter[str]]:
    """How often each word follows each history of 0 to `order` - 1 words, sentence marks included."""
    found: dict[Gram, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        words = ["<s>", *sentence, "</s>"]
        for end in range(1, len(words)):
            for start in range(max(0, end - order + 1), end + 1):
                found[tuple(words[start:end])][words[end]] += 1
    return found


def probabilities(found: dict[Gram, Counter[str]]) -> dict[Gram, float]:
    """Probability of the last word of each n-gram after the others.

    Below unigrams lies a uniform distribution over the words, `</s>` and `<unk>`.
    """
    size = len(found[()]) + 1
    known: dict[Gram, float] = {}
    for history in sorted(found, key=len):
        following = found[history]
        kinds, total = len(following), following.total()
        for word, n in following.items():
            lower = known[(*history[1:], word)] if history else 1 / size
            known[(*history, word)] = (n + kinds * lower) / (total + kinds)
    following = found[()]
    known[("<unk>",)] = len(following) / size / (following.total() + len(following))
    return known


def write_arpa(path: Path, sentences: Sequence[Sequence[str]], order: int) -> None:
    """Estimates the model from sentences of words (no white space in any) and writes it."""
    found = counts(sentences, order)
    known = probabilities(found)
    by_length: dict[int, list[str]] = defaultdict(list)
    for gram in [("<s>",), *known]:
        score = math.log10(known[gram]) if gram in known else _NEVER
        line = f"{score:.6f}\t{' '.join(gram)}"
        following = found.get(gram)
        if following:
            kinds = len(following)
            line += f"\t{math.log10(kinds / (following.total() + kinds)):.6f}"
        by_length[len(gram)].append(line)
    lines = ["\\data\\", *(f"ngram {n}={len(by_length[n])}" for n in sorted(by_length))]
    for n in sorted(by_length):
        lines += ["", f"\\{n}-grams:", *by_length[n]]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), "utf-8")
