"""Character error rates of whole test sets: edits over reference characters, by code point.

It does not segment words: a Thai word error rate depends on a segmenter and jumps with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from thaitool.metrics.intervals import DRAWS, ratio_score
from thaitool.metrics.join import same_length
from thaitool.records import Score
from thaitool.text.normalize import compact, normalize


def edits(reference: str, prediction: str) -> int:
    """Insertions, deletions and substitutions of code points between two texts in `thai-v1`,
    spaces removed: the numerator of `cer` for one item."""
    return Levenshtein.distance(compact(reference), compact(prediction))


def cer(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
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
    return _rate(name, compact, references, predictions, clusters=clusters, draws=draws, seed=seed)


def cer_with_spaces(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """As `cer`, but a space is a character: phrase breaks count."""
    return _rate(
        "cer_with_spaces",
        normalize,
        references,
        predictions,
        clusters=clusters,
        draws=draws,
        seed=seed,
    )


def cer_raw(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """As `cer`, but on the code points as they came, to show what normalisation was worth."""
    return _rate("cer_raw", str, references, predictions, clusters=clusters, draws=draws, seed=seed)


def _rate(
    name: str,
    form: Callable[[str], str],
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[str] | None,
    draws: int,
    seed: int,
) -> Score:
    groups = each_alone(len(references)) if clusters is None else clusters
    same_length(references=references, predictions=predictions, clusters=groups)
    errors: list[float] = []
    sizes: list[float] = []
    kept: list[str] = []
    empty = spoken_over = 0
    for reference, prediction, cluster in zip(references, predictions, groups, strict=True):
        wanted, given = form(reference), form(prediction)
        if not wanted:
            empty += 1
            spoken_over += bool(given)
            continue
        errors.append(Levenshtein.distance(wanted, given))
        sizes.append(len(wanted))
        kept.append(cluster)
    note = f"{empty} empty references left out ({spoken_over} got text)" if empty else ""
    return ratio_score(name, errors, sizes, kept, draws=draws, seed=seed, note=note, is_share=False)


def each_alone(count: int) -> list[str]:
    """Cluster names that make every item independent of the others."""
    return [str(number) for number in range(count)]
