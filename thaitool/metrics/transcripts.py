"""Character error rates of whole test sets: edits over reference characters, by code point.

It does not segment words: a Thai word error rate depends on a segmenter and jumps with it
(`thaitool.metrics.words`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.records import Score
from thaitool.text.normalize import compact, normalize
from thaitool.text.spoken import spoken_form


def edits(reference: str, prediction: str) -> int:
    """Insertions, deletions and substitutions of code points between two texts in `thai-v1`,
    spaces removed: the numerator of `cer` for one item."""
    return Levenshtein.distance(compact(reference), compact(prediction))


def cer(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    name: str = "cer",
) -> Score:
    """The headline error rate: `thai-v1`, spaces removed, sum of edits over sum of characters.

    Items whose reference is empty in that form are left out, and the note counts them.
    `clusters` names what the interval resamples, one per item; None: every item stands alone.

    Raises:
        InputError: the lists differ in length.
    """
    column = edit_sums(name, compact, references, predictions)
    return scores_of([column], _groups(clusters, column), draws=draws, seed=seed)[0]


def cer_with_spaces(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """As `cer`, but a space is a character: phrase breaks count."""
    column = edit_sums("cer_with_spaces", normalize, references, predictions)
    return scores_of([column], _groups(clusters, column), draws=draws, seed=seed)[0]


def cer_raw(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """As `cer`, but on the code points as they came, to show what normalisation was worth."""
    column = edit_sums("cer_raw", str, references, predictions)
    return scores_of([column], _groups(clusters, column), draws=draws, seed=seed)[0]


def cer_spoken(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """As `cer`, on both texts as read aloud: 3 and สาม, ๆ and the repeated word are the same.

    What is read aloud is `thaitool.text.spoken`'s reading; it can be wrong, on both sides alike.
    """
    column = edit_sums("cer_spoken", spoken, references, predictions)
    return scores_of([column], _groups(clusters, column), draws=draws, seed=seed)[0]


def spoken(text: str) -> str:
    """`thai-v1` without spaces of the text as it is read aloud."""
    return compact(spoken_form(text))


def transcript_sums(references: Sequence[str], predictions: Sequence[str]) -> tuple[ItemSums, ...]:
    """`cer`, `cer_with_spaces`, `cer_raw` and `cer_spoken`, item by item."""
    forms: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("cer", compact),
        ("cer_with_spaces", normalize),
        ("cer_raw", str),
        ("cer_spoken", spoken),
    )
    return tuple(edit_sums(name, form, references, predictions) for name, form in forms)


def edit_sums(
    name: str,
    form: Callable[[str], Sequence[str]],
    references: Sequence[str],
    predictions: Sequence[str],
) -> ItemSums:
    """Edits and reference sizes in the units that `form` gives, item by item.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(references=references, predictions=predictions)
    errors: list[float] = []
    sizes: list[float] = []
    empty = said_over = 0
    for reference, prediction in zip(references, predictions, strict=True):
        wanted, given = form(reference), form(prediction)
        if not wanted:
            empty += 1
            said_over += bool(given)
        errors.append(Levenshtein.distance(wanted, given) if wanted else 0)
        sizes.append(len(wanted))
    note = f"{empty} empty references left out ({said_over} got text)" if empty else ""
    return item_sums(name, errors, sizes, note=note, is_share=False, higher_is_better=False)


def each_alone(count: int) -> list[str]:
    """Cluster names that make every item independent of the others."""
    return [str(number) for number in range(count)]


def _groups(clusters: Sequence[Cluster] | None, column: ItemSums) -> Sequence[Cluster]:
    return each_alone(len(column)) if clusters is None else clusters
