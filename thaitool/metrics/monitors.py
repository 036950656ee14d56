"""Signs of a model that does not listen, or of damaged text: constant answers, loops, no end.

They need no references except for the length ratio, and they are no measure of quality: a
classifier with eight intents has few distinct outputs by right. Read each beside the same number
for the references, which the note gives.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from thaitool.errors import InputError
from thaitool.metrics.join import Pair, same_length
from thaitool.metrics.words import words
from thaitool.records import Score
from thaitool.text.normalize import compact

# What text becomes that was read in the wrong encoding: the replacement character, control codes,
# UTF-8 read as Latin-1 or Windows-1252, and TIS-620 read as Latin-1 (four accented letters in a row).
_DAMAGED = re.compile("\ufffd|[\x80-\x9f]|\u00e0[\u00b8\u00b9]|[\u00a1-\u00fb]{4}")
_NGRAM = 8  # characters: two to three Thai words, which sound text seldom repeats within a sentence


def collapse_monitors(pairs: Sequence[Pair]) -> tuple[Score, ...]:
    """Distinct, most common, empty, stopped, length ratio, repetition, damage, each as a share.

    - `distinct_share`: different answers / answers. One fixed answer: 1/N.
    - `top_share`: share of the most common answer. One fixed answer: 1.
    - `empty_share`: answers with nothing in them after `thai-v1`.
    - `stop_rate`: answers that the model ended itself.
    - `length_ratio`: characters answered / characters expected.
    - `repeated_ngram_rate`: 8-character windows that repeat an earlier one of the same answer.
    - `damaged_share`: answers that look read in the wrong encoding. References that do are not
      what people said, and no score against them means anything.
    """
    gold = _look(pair.reference.text for pair in pairs)
    told = _look(pair.prediction.text for pair in pairs)
    N = len(pairs)
    stopped = sum(pair.prediction.stopped for pair in pairs)
    return (
        _beside("distinct_share", told.distinct, gold.distinct, N),
        _beside("top_share", told.top, gold.top, N),
        _beside("empty_share", told.empty, gold.empty, N),
        Score("stop_rate", stopped, N),
        Score("length_ratio", told.characters, gold.characters),
        Score(
            "repeated_ngram_rate",
            told.repeated,
            told.windows,
            note=f"references {_percent(gold.repeated, gold.windows)}",
        ),
        _beside("damaged_share", told.damaged, gold.damaged, N),
    )


def distinct_ngrams(texts: Iterable[str], n: int) -> Score:
    """`distinct_n`: different runs of n words / all of them, over all texts (arXiv:1510.03055, section 5).

    Answers that rearrange a few phrases are all different, and still have few runs of words. Falls with the number of
    texts, so compare it with the references' only.

    Raises:
        InputError: n is below 1.
    """
    if n < 1:
        raise InputError(f"Runs of words must have 1 word at least, but n is {n}.")
    runs: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        cut = words(text)
        here = [tuple(cut[i : i + n]) for i in range(len(cut) - n + 1)]
        runs.update(here)
        total += len(here)
    return Score(f"distinct_{n}", len(runs), total)


def echoed_prompts(answers: Sequence[str], instructions: Sequence[str]) -> Score:
    """`echo_share`: answers that hold their whole instruction, or are a long part (8 characters) of it.

    Raises:
        InputError: the lists differ in length.
    """
    same_length(answers=answers, instructions=instructions)
    echoes = 0
    for answer, instruction in zip(answers, instructions, strict=True):
        told, asked = compact(answer), compact(instruction)
        echoes += bool(asked) and (asked in told or (len(told) >= _NGRAM and told in asked))
    return Score("echo_share", echoes, len(answers))


@dataclass(frozen=True, slots=True)
class _Look:
    """Counts over some texts, taken one by one: a million texts are not held."""

    distinct: int
    top: int
    empty: int
    characters: int
    repeated: int
    windows: int
    damaged: int


def _look(texts: Iterable[str]) -> _Look:
    digests = array("q")
    empty = characters = repeated = windows = damaged = 0
    for text in texts:
        form = compact(text)
        digests.append(hash(form))
        empty += not form
        damaged += _DAMAGED.search(text) is not None
        characters += len(form)
        n = max(0, len(form) - _NGRAM + 1)
        windows += n
        repeated += n - len({form[i : i + _NGRAM] for i in range(n)})
    times = np.unique(np.frombuffer(digests, dtype=np.int64), return_counts=True)[1]
    top = int(times.max(initial=0))
    return _Look(len(times), top, empty, characters, repeated, windows, damaged)


def _beside(name: str, told: int, gold: int, N: int) -> Score:
    return Score(name, told, N, note=f"references {_percent(gold, N)}")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
