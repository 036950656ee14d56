"""Sentences of one data set that say the same, or nearly the same, as an earlier one of the same label.

"The same" and "nearly" are those of `metrics.leakage`: equal in `thai-v1` without spaces; from 24 letters on, 70 % of
the 5-grams of both together; below, 85 % of the letters by edits. Near ones are found exactly, by comparing the rarest
n-grams (Bayardo et al., WWW 2007, "Scaling up all pairs similarity search"); nothing is sampled, as MinHash would.

Only sentences of one label compete: one intent, the same names, the same digits. "Wake me at 7" does not make "wake me
at 8" superfluous, nor one name another. It finds no paraphrases.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from thaitool.metrics.leakage import JACCARD, LIKENESS, LONG
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thaitool.synth.translate import Rendering

_GRAM_LONG, _GRAM_SHORT = 5, 3
#: Counters of n-grams; two that share one are taken to be as common as both together, which costs time only.
_BUCKETS = 1 << 20
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Twin:
    """An earlier sentence that makes one superfluous."""

    position: int
    """Number of its source row."""
    text: str
    likeness: float
    tasks: int
    """Bits of the tasks in which both stand."""


class Kept:
    """The sentences that were kept so far. `count` all of them first; then `twins_of` and `keep` each, in order."""

    def __init__(self, *, near: bool) -> None:
        """`near`: look for nearly equal sentences too."""
        self._near = near
        self._counts = array("I", bytes(4 * _BUCKETS))
        self._forms: list[str] = []
        self._positions = array("Q")
        self._tasks = array("Q")
        self._equal: dict[int, int] = {}
        self._grams: dict[int, int | list[int]] = {}

    def count(self, text: str) -> None:
        """Learns how common the n-grams of a sentence are."""
        if not self._near:
            return
        form = compact(text)
        for size in _sizes(form):
            for gram in _grams(form, size):
                self._counts[hash(gram) % _BUCKETS] += 1

    def twins_of(self, rendering: Rendering, intent: str | None, tasks: int) -> Twin | None:
        """The nearest earlier sentence in any of `tasks` (bits); its `tasks` are those of all near ones."""
        form = compact(rendering.text_th)
        label = _label(rendering, intent, form)
        best: Twin | None = None
        shared = 0
        for number, likeness in self._like(form, label):
            both = self._tasks[number] & tasks
            shared |= both
            if both and (best is None or likeness > best.likeness):
                position, other = self._positions[number], self._forms[number]
                best = Twin(position, other, likeness, both)
        return None if best is None else Twin(best.position, best.text, best.likeness, shared)

    def keep(self, rendering: Rendering, intent: str | None, tasks: int, position: int) -> None:
        """Remembers a sentence for `tasks` (bits)."""
        form = compact(rendering.text_th)
        label = _label(rendering, intent, form)
        number = self._equal.setdefault(hash((label, form)), len(self._forms))
        if number < len(self._forms):
            self._tasks[number] |= tasks
            return
        self._forms.append(form)
        self._positions.append(position)
        self._tasks.append(tasks)
        if self._near:
            for key in self._rarest(form, label):
                known = self._grams.setdefault(key, number)
                if isinstance(known, list):
                    known.append(number)
                elif known != number:
                    self._grams[key] = [known, number]

    def _like(self, form: str, label: int) -> Iterator[tuple[int, float]]:
        """(number, likeness) of the kept sentences that are like this one, in their order."""
        equal = self._equal.get(hash((label, form)))
        if not self._near:
            if equal is not None:
                yield equal, 1.0
            return
        candidates: set[int] = set() if equal is None else {equal}
        for key in self._rarest(form, label):
            known = self._grams.get(key, ())
            candidates.update((known,) if isinstance(known, int) else known)
        for number in sorted(candidates):
            likeness = likeness_of(self._forms[number], form)
            if likeness is not None:
                yield number, likeness

    def _rarest(self, form: str, label: int) -> list[int]:
        """Keys of n-grams of which two near sentences share one at least: the rarest, one more than may be lacking."""
        keys: list[int] = []
        for size in _sizes(form):
            grams = _grams(form, size)
            lacking = (
                int((1 - JACCARD) * len(grams) + 1e-9)
                if size == _GRAM_LONG
                else _GRAM_SHORT * int((1 - LIKENESS) * len(form) / LIKENESS + 1e-9)
            )
            counts = self._counts
            order = sorted(grams, key=lambda gram: (counts[hash(gram) % _BUCKETS], gram))
            keys += [hash((label, gram)) for gram in order[: lacking + 1]]
        return keys


def likeness_of(one: str, other: str) -> float | None:
    """How near two texts in `compact` form are, from the threshold to 1; None if they are not."""
    if one == other:
        return 1.0
    if min(len(one), len(other)) >= LONG:
        grams, others = _grams(one, _GRAM_LONG), _grams(other, _GRAM_LONG)
        common = len(grams & others)
        likeness = common / (len(grams) + len(others) - common)
        return likeness if likeness >= JACCARD else None
    longer = max(len(one), len(other))
    most = int((1 - LIKENESS) * longer + 1e-9)
    edits = Levenshtein.distance(one, other, score_cutoff=most)
    return 1 - edits / longer if edits <= most else None


def _sizes(form: str) -> tuple[int, ...]:
    """Lengths of the n-grams by which a text is found; a few letters above `LONG` it may meet short and long ones."""
    short = (_GRAM_SHORT,) if len(form) * LIKENESS < LONG else ()
    return (*short, _GRAM_LONG) if len(form) >= LONG else short


def _grams(text: str, size: int) -> frozenset[str]:
    return frozenset(text[i : i + size] for i in range(len(text) - size + 1))


def _label(rendering: Rendering, intent: str | None, form: str) -> int:
    names = tuple(sorted((e.type, compact(e.surface)) for e in rendering.entities))
    # Questions that differ in one word may have different answers.
    return hash((intent, names, tuple(_DIGITS.findall(form)), compact(rendering.answer_th)))
