"""Phones, tones, syllables and diphones of Thai text, counted and compared with real text.

Words are read by the rules of Thai spelling alone (`thaitool.text.phonemes.rule_syllables`): the network would cost a
hundred times as much, and both sides are read alike. What the rules cannot read is counted, never guessed.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from thaitool.metrics.divergence import jensen_shannon_distance
from thaitool.reports.synth.contents import UNITS, Against, Coverage, Reference
from thaitool.reports.synth.draws import draw
from thaitool.text.normalize import canonical
from thaitool.text.phonemes import rule_syllables
from thaitool.text.syllable import to_ipa

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from thaitool.text.syllable import Syllable

TONES = {1: "mid", 2: "low", 3: "falling", 4: "high", 5: "rising"}
_INITIALS = (
    *("k", "kʰ", "ŋ", "tɕ", "tɕʰ", "s", "j", "d", "t", "tʰ", "n"),
    *("b", "p", "pʰ", "f", "m", "r", "l", "w", "h", "ʔ"),
)
_FINALS = ("-p", "-t", "-k", "-m", "-n", "-ŋ", "-j", "-w")
_VOWELS = tuple(f"{vowel}{length}" for vowel in "iɯueɤoɛaɔ" for length in ("", "ː"))
#: All phones of Thai as they are named here: 21 initials, 21 vowels, 8 finals.
PHONES = (*_INITIALS, *_VOWELS, "ia", "ɯa", "ua", *_FINALS)
INVENTORIES = {"phone": PHONES, "tone": tuple(TONES.values())}

#: Sentences of either side that are compared at equal size; more would only narrow what chance does.
MOST_SENTENCES = 20_000
#: Pairs of samples that say what distance chance makes.
DRAWS = 40
#: Syllables below which a sample says nothing.
_FEWEST_SYLLABLES = 200
_THAI_WORD = re.compile("[ก-ฮะ-ฺเ-ๅ็-๎]+")


@dataclass(frozen=True, slots=True)
class Reading:
    """The sounds of a text, and how many of its words have none by the rules."""

    stretches: tuple[tuple[Syllable, ...], ...]
    """Syllables that follow each other without a pause."""
    words: int
    unread: int

    @property
    def syllables(self) -> int:
        """How many there are."""
        return sum(map(len, self.stretches))


def read_aloud(spoken: str) -> Reading:
    """The sounds of Thai in spoken form; a space, or a word without a reading, is a pause."""
    parts = [_chunk(chunk) for chunk in spoken.split()]
    return Reading(
        tuple(stretch for part in parts for stretch in part.stretches),
        sum(part.words for part in parts),
        sum(part.unread for part in parts),
    )


def ipa(reading: Reading) -> str:
    """Syllables in IPA, with `|` for pauses."""
    return " | ".join(" ".join(map(to_ipa, stretch)) for stretch in reading.stretches)


def units_of(reading: Reading) -> dict[str, list[str]]:
    """The tokens of each of `UNITS`, in order."""
    found: dict[str, list[str]] = {unit: [] for unit in UNITS}
    for stretch in reading.stretches:
        phones = [phone for syllable in stretch for phone in _phones(syllable)]
        found["phone"] += phones
        found["diphone"] += [f"{a} {b}" for a, b in pairwise(phones)]
        found["tone"] += [TONES[syllable.tone] for syllable in stretch]
        found["syllable"] += [to_ipa(syllable) for syllable in stretch]
    return found


# The rows of one sentence stand together, one for each task.
@lru_cache(maxsize=20_000)
def _chunk(chunk: str) -> Reading:
    from pythainlp.tokenize import word_tokenize

    stretches: list[tuple[Syllable, ...]] = []
    current: list[Syllable] = []
    words = word_tokenize(canonical(chunk), engine="newmm")
    unread = 0
    for word in words:
        sounds = _word(word)
        current.extend(sounds)
        if not sounds:
            unread += 1
            stretches.append(tuple(current))
            current = []
    stretches.append(tuple(current))
    return Reading(tuple(s for s in stretches if s), len(words), unread)


@lru_cache(maxsize=100_000)
def _word(word: str) -> tuple[Syllable, ...]:
    return rule_syllables(word) if _THAI_WORD.fullmatch(word) else ()


@lru_cache(maxsize=50_000)
def _phones(syllable: Syllable) -> tuple[str, ...]:
    length = "ː" if syllable.is_long and syllable.vowel not in ("ia", "ɯa", "ua") else ""
    final = (f"-{syllable.final}",) if syllable.final else ()
    return (*syllable.initial_sounds, f"{syllable.vowel}{length}", *final)


@dataclass
class Sounds:
    """Counts of everything that was read, and a sample of the different sentences, drawn by their hashes.

    A sentence that is spoken for four tasks is one of the sample: its copies say nothing new, and with them a set would
    look further from real text than one of as many syllables is by chance.
    """

    seed: int
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {unit: Counter() for unit in UNITS}
    )
    words: int = 0
    unread: int = 0
    sentences: int = 0
    _sample: list[tuple[int, str]] = field(default_factory=list)
    _sampled: set[str] = field(default_factory=set)

    def add(self, spoken: str) -> Reading:
        """Counts one sentence in spoken form; memory grows with types, not with sentences."""
        reading = read_aloud(spoken)
        for unit, tokens in units_of(reading).items():
            self.counts[unit].update(tokens)
        self.words += reading.words
        self.unread += reading.unread
        self.sentences += 1
        if spoken and spoken not in self._sampled:
            self._sampled.add(spoken)
            dropped = keep_smallest(
                self._sample, (-draw(self.seed, spoken), spoken), MOST_SENTENCES
            )
            self._sampled.discard(dropped)
        return reading

    def sample(self) -> list[str]:
        """At most `MOST_SENTENCES`, no two alike, in an order that depends on the seed and the sentences alone."""
        return [spoken for _, spoken in sorted(self._sample, reverse=True)]


def keep_smallest(heap: list[tuple[int, str]], item: tuple[int, str], most: int) -> str:
    """Keeps the `most` items (negated draw, sentence) of the smallest draws; returns the sentence that goes, or ""."""
    if len(heap) < most:
        heapq.heappush(heap, item)
        return ""
    return heapq.heappushpop(heap, item)[1]


def coverage(
    data: Sounds, real: Sounds | None, files: Sequence[str]
) -> tuple[tuple[Coverage, ...], Reference | None]:
    """Each unit's counts, and its distance from `real` text, if there is any, with what chance makes of it."""
    found = [_coverage(unit, data.counts[unit]) for unit in UNITS]
    if real is None:
        return tuple(found), None
    drawn, sample_tokens = _drawn_distances(data, real)
    compared = tuple(
        _compared(one, data.counts[one.unit], real.counts[one.unit], drawn.get(one.unit))
        for one in found
    )
    used = len(real.sample())
    return compared, Reference(tuple(files), real.sentences, used, sample_tokens)


def _coverage(unit: str, counts: Counter[str]) -> Coverage:
    inventory = INVENTORIES.get(unit)
    missing = tuple(name for name in inventory or () if name not in counts)
    n_types = None if inventory is None else len(inventory)
    return Coverage(unit, counts.total(), dict(counts.most_common()), n_types, missing)


def _compared(
    one: Coverage,
    mine: Counter[str],
    theirs: Counter[str],
    drawn: tuple[float, float, float] | None,
) -> Coverage:
    if drawn is None:
        return one
    names = sorted({*mine, *theirs})
    equal_size, low, high = drawn
    lacking = {name: count for name, count in theirs.most_common() if name not in mine}
    against = Against(
        theirs.total(),
        dict(theirs.most_common()),
        tuple(lacking),
        1 - sum(lacking.values()) / theirs.total(),
        jensen_shannon_distance([mine[n] for n in names], [theirs[n] for n in names]),
        equal_size,
        (low, high),
    )
    return Coverage(one.unit, one.tokens, one.counts, one.inventory, one.missing, against)


def _drawn_distances(
    data: Sounds, real: Sounds
) -> tuple[dict[str, tuple[float, float, float]], int]:
    """For each unit the distance at equal size and the ends of what chance makes; and the size in syllables.

    A distance of counts grows as samples shrink, so it means something only beside that of two samples of one text of
    the same size: disjoint halves of the real text, the first no larger than the data.
    """
    mine, theirs = _tokens(data.sample()), _tokens(real.sample())
    size = min(mine.syllables.sum(), theirs.syllables.sum() // 2)
    if size < _FEWEST_SYLLABLES or len(theirs.syllables) < 2:
        return {}, 0
    random = np.random.default_rng(data.seed)
    chance: dict[str, list[float]] = {unit: [] for unit in UNITS}
    equal: dict[str, list[float]] = {unit: [] for unit in UNITS}
    rows = {unit: _numbered(mine.ids[unit], theirs.ids[unit]) for unit in UNITS}
    for _ in range(DRAWS):
        order = random.permutation(len(theirs.syllables))
        first = _prefix(theirs.syllables, order, size)
        second = _prefix(theirs.syllables, order[::-1], theirs.syllables.sum() // 2) & ~first
        ours = _prefix(mine.syllables, random.permutation(len(mine.syllables)), size)
        for unit, (my_ids, their_ids, n_types) in rows.items():
            other = np.bincount(their_ids[second[theirs.places[unit]]], minlength=n_types)
            halves = np.bincount(their_ids[first[theirs.places[unit]]], minlength=n_types)
            drawn = np.bincount(my_ids[ours[mine.places[unit]]], minlength=n_types)
            chance[unit].append(jensen_shannon_distance(halves, other))
            equal[unit].append(jensen_shannon_distance(drawn, other))
    ends = {unit: np.percentile(chance[unit], [2.5, 97.5]).tolist() for unit in UNITS}
    return {u: (float(np.median(equal[u])), ends[u][0], ends[u][1]) for u in UNITS}, int(size)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of sentences, unit by unit, and the sentence of each."""

    ids: Mapping[str, list[str]]
    places: Mapping[str, NDArray[np.int64]]
    syllables: NDArray[np.int64]
    """Of each sentence, shape (sentences,)."""


def _tokens(sentences: Iterable[str]) -> _Tokens:
    ids: dict[str, list[str]] = {unit: [] for unit in UNITS}
    places: dict[str, list[int]] = {unit: [] for unit in UNITS}
    syllables: list[int] = []
    for spoken in sentences:
        units = units_of(read_aloud(spoken))
        if not units["syllable"]:
            continue  # nothing in it to count
        for unit, tokens in units.items():
            ids[unit] += tokens
            places[unit] += [len(syllables)] * len(tokens)
        syllables.append(len(units["syllable"]))
    numbers = {unit: np.array(values, np.int64) for unit, values in places.items()}
    return _Tokens(ids, numbers, np.array(syllables, np.int64))


def _numbered(
    mine: list[str], theirs: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    number = {name: k for k, name in enumerate(sorted({*mine, *theirs}))}
    return (
        np.array([number[name] for name in mine], np.int64),
        np.array([number[name] for name in theirs], np.int64),
        len(number),
    )


def _prefix(syllables: NDArray[np.int64], order: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Which sentences, taken in `order`, make up the first `size` syllables; at least one."""
    n = int(np.searchsorted(np.cumsum(syllables[order]), size, side="right"))
    chosen = np.zeros(len(syllables), bool)
    chosen[order[: max(1, n)]] = True
    return chosen
