"""Word error rate of Thai by a named segmenter, secondary to CER: a score of two programs at once.

Thai is written without spaces between words, so a segmenter decides what a word is. One wrong
letter can move its boundaries and turn one error into five; therefore the same answers are scored
with two segmenters, and the gap between the two numbers is shown, not hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from thaitool.errors import InputError
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, scores_of
from thaitool.metrics.transcripts import each_alone, edit_sums
from thaitool.records import Score
from thaitool.text.normalize import normalize

#: Segmenters of pythainlp that need neither a download nor another library. The first is the one
#: that most published Thai rates use.
SEGMENTERS = ("newmm", "longest")
#: Of larger test sets so many items are cut, spread evenly: newmm cuts about 500,000 characters a
#: second and longest a fifth of that, which a secondary rate of a million rows is not worth.
MOST_ITEMS = {"newmm": 100_000, "longest": 5_000}


def words(text: str, segmenter: str = SEGMENTERS[0]) -> list[str]:
    """Words of the `thai-v1` form of `text`, without spaces.

    Raises:
        InputError: the segmenter is not in `SEGMENTERS`.
    """
    if segmenter not in SEGMENTERS:
        raise InputError(
            f"The segmenter must be one of {', '.join(SEGMENTERS)}, but is {segmenter!r}."
        )
    from pythainlp.tokenize import word_tokenize

    found = word_tokenize(normalize(text), engine=segmenter, keep_whitespace=False)
    return [str(word) for word in found]


def wer(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    segmenter: str = SEGMENTERS[0],
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Word edits over reference words, both texts cut by `segmenter`; the note gives its version.

    Raises:
        InputError: the lists differ in length, or the segmenter is unknown.
    """
    column = _word_sums(references, predictions, segmenter)
    groups = each_alone(len(column)) if clusters is None else clusters
    return scores_of([column], groups, draws=draws, seed=seed)[0]


def word_sums(references: Sequence[str], predictions: Sequence[str]) -> tuple[ItemSums, ...]:
    """`wer_<segmenter>` by each of `SEGMENTERS`; the notes tell how far apart they are.

    Of more than `MOST_ITEMS` items only so many are counted, and the note says so.
    """
    same_length(references=references, predictions=predictions)
    columns = [_some_word_sums(references, predictions, s) for s in SEGMENTERS]
    both = np.logical_and.reduce([column.denominators > 0 for column in columns])
    rates = [
        float(c.numerators[both].sum() / max(1.0, float(c.denominators[both].sum())))
        for c in columns
    ]
    gap = f"secondary: the segmenters are {100 * (max(rates) - min(rates)):.1f} points apart"
    return tuple(replace(column, note=f"{column.note}; {gap}") for column in columns)


def _some_word_sums(
    references: Sequence[str], predictions: Sequence[str], segmenter: str
) -> ItemSums:
    """The word sums of all items, or of as many as `MOST_ITEMS` allows, the others not counted."""
    count, most = len(references), MOST_ITEMS[segmenter]
    if count <= most:
        return _word_sums(references, predictions, segmenter)
    rows = np.linspace(0, count - 1, most).round().astype(int)
    column = _word_sums([references[i] for i in rows], [predictions[i] for i in rows], segmenter)
    tops, bottoms = np.zeros(count, np.float32), np.zeros(count, np.float32)
    tops[rows], bottoms[rows] = column.numerators, column.denominators
    note = f"{column.note}; {most} of {count} items, spread evenly"
    return replace(column, numerators=tops, denominators=bottoms, note=note)


def _word_sums(references: Sequence[str], predictions: Sequence[str], segmenter: str) -> ItemSums:
    column = edit_sums(
        f"wer_{segmenter}", lambda text: words(text, segmenter), references, predictions
    )
    notes = [f"words of pythainlp {version('pythainlp')} {segmenter}", column.note]
    return replace(column, note="; ".join(note for note in notes if note))
