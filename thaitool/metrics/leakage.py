"""Test items that the training data has already: by the id of a public recording, by text, nearly.

It compares texts and ids, not sounds, and finds no paraphrases. Near matches are exact by their
definition, not sampled: an index of the test set's rarest n-grams meets every training text once,
so memory grows with the test set only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

from thaitool.errors import InputError
from thaitool.records import Score
from thaitool.text.normalize import compact

#: Texts from this many characters on are compared by n-grams, shorter ones by edits: a word added
#: to a short command changes most of its n-grams.
LONG = 24
_GRAM_LONG, _GRAM_SHORT = 5, 3
#: Share of common n-grams (Jaccard) from which long texts are near, and share of equal characters
#: (1 - edits / longer length) from which short ones are.
JACCARD, LIKENESS = 0.7, 0.85

# Ids that public Thai corpora give their recordings, wherever they stand in ours.
_COMMON_VOICE = re.compile(r"common_voice_[a-z]{2,3}(?:-[A-Za-z]+)?_\d+")
# GigaSpeech 2: channel-video-segment. A date is not one.
_GIGASPEECH = re.compile(r"(?<![\w-])(?!(?:19|20)\d\d-\d\d-\d\d(?!\d))\d+-\d+-\d+(?![\w-])")


@dataclass(frozen=True, slots=True)
class Line:
    """An item of a manifest: its id (or file name) and transcript, if it has one."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Leak:
    """A test item and the training item that gives it away."""

    test_id: str
    train_id: str
    kind: str
    """`id`: the same public recording; `text`: the same transcript in `thai-v1`; `near`."""
    likeness: float = 1.0

    @property
    def order(self) -> tuple[int, float]:
        """The surer the kind and the nearer the text, the less."""
        return ("id", "text", "near").index(self.kind), -self.likeness


@dataclass(frozen=True, slots=True)
class Leakage:
    """All leaks, at most one for each test item, the surest kind."""

    scores: tuple[Score, ...]
    """`leaked_id`, `leaked_text` and `leaked_near`, each over all test items, and `leaked` in all."""
    leaks: tuple[Leak, ...]
    n_train: int


@dataclass(slots=True)
class _Index:
    """The rarest n-grams of each test text; any near text has at least one of them."""

    grams: dict[str, list[int]] = field(default_factory=dict)
    sets: dict[int, frozenset[str]] = field(default_factory=dict)


def find_leaks(test: Iterable[Line], train: Iterable[Line]) -> Leakage:
    """Compare every training line with the test set. `train` is read once and not kept.

    Raises:
        InputError: the test set is empty, or has an id twice.
    """
    items = TestItems(test)
    repeated = len(items.lines) - len({line.id for line in items.lines})
    if not items.lines or repeated:
        raise InputError(
            f"A leakage check needs test items with different ids; there are {len(items.lines)}, and "
            f"{repeated} repeat an earlier id."
        )
    found: dict[int, Leak] = {}
    n_train = 0
    for other in train:
        n_train += 1
        for i, leak in items.leaks_of(other):
            before = found.get(i)
            if before is None or leak.order < before.order:
                found[i] = leak
    leaks = tuple(found[i] for i in sorted(found))
    counts = Counter(leak.kind for leak in leaks)
    N = len(items.lines)
    note = f"against {n_train} training items"
    return Leakage(
        (
            Score("leaked", len(leaks), N, note=note),
            Score("leaked_id", counts["id"], N, note="the same public recording"),
            Score("leaked_text", counts["text"], N, note="the same transcript"),
            Score("leaked_near", counts["near"], N, note="nearly the same transcript"),
        ),
        leaks,
        n_train,
    )


class TestItems:
    """A test set, indexed once, that any number of training items can be compared with."""

    __test__ = False  # not a test of pytest's

    def __init__(self, test: Iterable[Line]) -> None:
        self.lines = list(test)
        self._forms = [compact(line.text) for line in self.lines]
        self._by_form: dict[str, list[int]] = {}
        self._by_key: dict[str, list[int]] = {}
        for i, (line, form) in enumerate(zip(self.lines, self._forms, strict=True)):
            if form:
                self._by_form.setdefault(form, []).append(i)
            for key in recording_ids(line.id):
                self._by_key.setdefault(key, []).append(i)
        self._short = _index(self._forms, is_long=False)
        self._long = _index(self._forms, is_long=True)

    def leaks_of(self, train: Line) -> Iterator[tuple[int, Leak]]:
        """(number of the test item, leak) for each that `train` gives away; one may come several times."""
        form = compact(train.text)
        for key in recording_ids(train.id):
            for i in self._by_key.get(key, ()):
                yield i, Leak(self.lines[i].id, train.id, "id")
        for i in self._by_form.get(form, ()):
            yield i, Leak(self.lines[i].id, train.id, "text")
        for i, likeness in (
            *_near_short(self._short, self._forms, form),
            *_near_long(self._long, form),
        ):
            yield i, Leak(self.lines[i].id, train.id, "near", likeness)


def recording_ids(item_id: str) -> list[str]:
    """Ids of public recordings in an id or file name, such as common_voice_th_31022646 (Common
    Voice) and 6-6279-28 (GigaSpeech 2)."""
    return [*_COMMON_VOICE.findall(item_id), *_GIGASPEECH.findall(item_id)]


def _grams(text: str, n: int) -> frozenset[str]:
    return frozenset(text[i : i + n] for i in range(len(text) - n + 1))


def _index(forms: Sequence[str], *, is_long: bool) -> _Index:
    n = _GRAM_LONG if is_long else _GRAM_SHORT
    index = _Index()
    for i, form in enumerate(forms):
        if (len(form) >= LONG) == is_long and len(form) >= n:
            index.sets[i] = _grams(form, n)
    commonness = Counter(gram for grams in index.sets.values() for gram in grams)
    for i, grams in index.sets.items():
        lacking = _most_lacking_long(grams) if is_long else _most_lacking_short(forms[i])
        rarest = sorted(grams, key=lambda gram: (commonness[gram], gram))[: lacking + 1]
        for gram in rarest:
            index.grams.setdefault(gram, []).append(i)
    return index


def _most_lacking_long(grams: frozenset[str]) -> int:
    """A set with Jaccard >= J to this one lacks at most the share 1 - J of its n-grams."""
    return int((1 - JACCARD) * len(grams) + 1e-9)


def _most_lacking_short(form: str) -> int:
    """Each edit destroys at most n n-grams; the longer text is at most 1 / LIKENESS as long."""
    return _GRAM_SHORT * int((1 - LIKENESS) * len(form) / LIKENESS + 1e-9)


def _near_long(index: _Index, form: str) -> list[tuple[int, float]]:
    if not index.grams:
        return []
    grams = _grams(form, _GRAM_LONG)
    near = []
    for i in {i for gram in grams for i in index.grams.get(gram, ())}:
        other = index.sets[i]
        if min(len(grams), len(other)) < JACCARD * max(len(grams), len(other)):
            continue  # too unlike in size to share enough
        common = len(grams & other)
        likeness = common / (len(grams) + len(other) - common)
        if likeness >= JACCARD:
            near.append((i, likeness))
    return near


def _near_short(index: _Index, forms: Sequence[str], form: str) -> list[tuple[int, float]]:
    if not index.grams or len(form) * LIKENESS >= LONG:
        return []
    near = []
    rows = {i for gram in _grams(form, _GRAM_SHORT) for i in index.grams.get(gram, ())}
    for i in rows:
        longer = max(len(forms[i]), len(form))
        most = int((1 - LIKENESS) * longer + 1e-9)
        edits = Levenshtein.distance(forms[i], form, score_cutoff=most)
        if edits <= most:
            near.append((i, 1 - edits / longer))
    return near
