"""Hotword lists for training and for measuring: names that are said, among names of other rows that are not.

A model that is only shown lists of words that are said learns to copy them. So lists hold words of other rows, some
hold nothing else, and their size is drawn, so that a longer list later is nothing new. Renders no prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.errors import InputError
from thaitool.metrics.entity_labels import parse_entities
from thaitool.text.context import parse_context
from thaitool.text.normalize import compact

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance
    from thaitool.text.context import Context

#: Tries per word to find one that is not said; a list stays shorter where the pool has hardly any.
_TRIES = 4


@dataclass(frozen=True)
class HotwordPool:
    """Words that lists are made of."""

    words: tuple[str, ...]
    """All different words, sorted."""
    forms: tuple[str, ...]
    """The `compact` form of each; a list of 500 would take a millisecond to normalise, for every row."""
    said: Mapping[str, tuple[str, ...]]
    """Those known to be in a transcript, by its `compact` form."""

    def of(self, utterance: Utterance) -> tuple[str, ...]:
        """The words that are said in an utterance, as far as its context, its label and its transcript tell."""
        text = compact(utterance.text or "")
        own = parse_context(utterance.context).hotwords
        # A list that comes with a row may name words that are not said; without a transcript nobody can tell.
        given = [word for word in own if not text or compact(word) in text]
        return tuple(dict.fromkeys((*given, *self.said.get(text, ()))))


def hotword_pool(manifest: Manifest, ner_tasks: Collection[str] = ("ner",)) -> HotwordPool:
    """The entities of all labels of `ner_tasks`, and the hotwords of all contexts.

    Labels and contexts that cannot be read add nothing: data of other tasks may hold any text there, and rows with a
    bad context are set aside elsewhere.
    """
    words: set[str] = set()
    said: dict[str, tuple[str, ...]] = {}
    is_ner = pc.fill_null(
        pc.is_in(manifest.column("task"), value_set=pa.array(list(ner_tasks))), False
    )
    rows = manifest.select(np.asarray(is_ner.to_numpy(), dtype=bool))
    pairs = zip(rows.column("text").to_pylist(), rows.column("label").to_pylist(), strict=True)
    for text, label in pairs:
        names = _surfaces(label)
        words.update(names)
        if text and names:
            key = compact(text)
            said[key] = tuple(dict.fromkeys((*said.get(key, ()), *names)))
    contexts = manifest.column("context")
    for context in pc.unique(contexts.drop_null()).to_pylist():
        words.update(_hotwords(context))
    forms = {word: form for word in sorted(words) if (form := compact(word))}
    return HotwordPool(tuple(forms), tuple(forms.values()), said)


def _hotwords(context: str) -> tuple[str, ...]:
    try:
        return tuple(word.strip() for word in parse_context(context).hotwords)
    except InputError:
        return ()


def _surfaces(label: str | None) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(e.surface.strip() for e in parse_entities(label or "")))
    except InputError:
        return ()


@dataclass(frozen=True)
class HotwordDraws:
    """How lists are drawn in training."""

    pool: HotwordPool
    share: float
    """Share of rows with a list."""
    most: int
    """Words of the longest list; sizes are drawn evenly from 1."""
    only_others: float = 0.2
    """Share of lists that hold no word that is said."""


def drawn_context(utterance: Utterance, draws: HotwordDraws, rng: np.random.Generator) -> Context:
    """The context of an utterance with a drawn list in the place of its hotwords."""
    context = parse_context(utterance.context)
    if rng.random() >= draws.share or not draws.pool.words:
        return replace(context, hotwords=())
    size = int(rng.integers(1, draws.most + 1))
    with_said = bool(rng.random() >= draws.only_others)
    return replace(context, hotwords=_list(utterance, draws.pool, size, rng, with_said=with_said))


def listed_context(
    utterance: Utterance, pool: HotwordPool, size: int, rng: np.random.Generator
) -> Context:
    """The context of an utterance with a list of `size` words that has all that are said, for measuring."""
    context = parse_context(utterance.context)
    return replace(context, hotwords=_list(utterance, pool, size, rng, with_said=True))


def _list(
    utterance: Utterance,
    pool: HotwordPool,
    size: int,
    rng: np.random.Generator,
    *,
    with_said: bool,
) -> tuple[str, ...]:
    """`size` words in any order; fewer if the pool has no more that are not said."""
    text = compact(utterance.text or "")
    said = pool.of(utterance)
    chosen: dict[str, None] = {}
    if with_said:
        chosen = dict.fromkeys(said[k] for k in rng.permutation(len(said))[:size].tolist())
    for k in rng.integers(0, len(pool.words), _TRIES * size).tolist():
        if len(chosen) >= size:
            break
        word = pool.words[k]
        if word not in said and pool.forms[k] not in text:
            chosen[word] = None
    words = list(chosen)
    return tuple(words[k] for k in rng.permutation(len(words)).tolist())
