"""Tone errors alone: of the letters that were understood, how many carry the wrong tone mark.

It counts what is written, not what is heard: high-class ขา and low-class คา differ in tone without
a mark, and here they differ in a letter.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import Score
from thaitool.text.normalize import TONE_MARKS, compact


def tone_error(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Score:
    """Share of matched letters with a tone mark, in either text, whose tone marks differ.

    A letter is matched when the two texts agree on it after all tone marks are taken away. A model
    that writes no tone marks scores 1, however good its letters are. The note splits the errors
    into lost, added and exchanged marks.

    Raises:
        InputError: the lists differ in length.
    """
    column = tone_sums(references, predictions)
    groups = each_alone(len(column)) if clusters is None else clusters
    return scores_of([column], groups, draws=draws, seed=seed)[0]


def tone_sums(references: Sequence[str], predictions: Sequence[str]) -> ItemSums:
    """`tone_error`, item by item."""
    same_length(references=references, predictions=predictions)
    errors: list[float] = []
    sizes: list[float] = []
    lost = added = exchanged = 0
    for reference, prediction in zip(references, predictions, strict=True):
        wrong = toned = 0
        for gold, told in _matched_tones(compact(reference), compact(prediction)):
            toned += bool(gold or told)
            if gold != told:
                wrong += 1
                lost += not told
                added += not gold
                exchanged += bool(gold and told)
        errors.append(wrong)
        sizes.append(toned)
    note = f"{lost} lost, {added} added, {exchanged} exchanged"
    return item_sums("tone_error", errors, sizes, note=note, higher_is_better=False)


def _matched_tones(reference: str, prediction: str) -> list[tuple[str, str]]:
    """Tone marks of both texts on each letter that an alignment without tone marks matches."""
    gold_letters, gold_tones = _split(reference)
    told_letters, told_tones = _split(prediction)
    found: list[tuple[str, str]] = []
    for code in Levenshtein.opcodes(gold_letters, told_letters):
        if code.tag == "equal":
            found += zip(
                gold_tones[code.src_start : code.src_end],
                told_tones[code.dest_start : code.dest_end],
                strict=True,
            )
    return found


def _split(text: str) -> tuple[str, list[str]]:
    """Everything but tone marks, and for each of its characters the marks that follow it.

    A mark before the first letter stands on nothing, and goes.
    """
    letters: list[str] = []
    tones: list[str] = []
    for char in text:
        if char not in TONE_MARKS:
            letters.append(char)
            tones.append("")
        elif tones:
            tones[-1] += char
    return "".join(letters), tones
