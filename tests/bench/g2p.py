"""How often Thai words are read as a pronunciation dictionary says, on words that nothing was tuned on.

It trains nothing (that is `tests/bench/g2p_train.py`, which says how the words are divided). A reading is exact when
segments, vowel lengths and tones all are those of one of the word's pronunciations. Prints a table and writes JSON.

    python -m tests.bench.g2p shared/data/text/mfa_thai_dictionary/thai_mfa.dict
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tests.bench import g2p_train as split
from thaitool.errors import InputError
from thaitool.text import learned
from thaitool.text.phonemes import rule_syllables, word_syllables
from thaitool.text.syllable import Syllable

SAMPLE, SEED = 2_000, 20261122
#: The issue's requirements.
LEAST_ONE_SYLLABLE, LEAST_ALL = 0.95, 0.75


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about a word, and what the dictionary says."""

    word: str
    ours: tuple[Syllable, ...]
    """Empty where the word was refused."""
    by_rules: tuple[Syllable, ...]
    theirs: tuple[tuple[Syllable, ...], ...]
    """Empty where no pronunciation consists of Thai syllables (a final s or l, a missing vowel)."""


@dataclass(slots=True)
class Count:
    """Words of one kind, and how many of them were read rightly in which respect."""

    words: int = 0
    exact: int = 0
    segments: int = 0
    """Consonants and vowels with their length."""
    segments_but_length: int = 0
    tones: int = 0
    """As many syllables as the dictionary's, with its tones."""
    refused: int = 0
    exact_by_rules: int = 0


def sample(words: dict[str, list[str]], size: int) -> dict[str, list[str]]:
    """`size` random words of the part that is held out."""
    held_out = sorted(word for word in words if split.part_of(word) == split.HELD_OUT)
    return {word: words[word] for word in random.Random(SEED).sample(held_out, size)}  # noqa: S311 not a secret


def answer(word: str, pronunciations: list[str]) -> Answer:
    """Our reading of a word (in normal spelling, as `syllables` reads texts) and the dictionary's."""
    from pythainlp.util import normalize

    spelled = normalize(word)
    try:
        ours, by_rules = word_syllables(spelled), rule_syllables(spelled)
    except InputError:
        ours, by_rules = (), ()
    readings = [split.parse(sounds) for sounds in pronunciations]
    return Answer(word, ours, by_rules, tuple(reading for reading in readings if reading))


def count(answers: list[Answer]) -> dict[str, Count]:
    """Counts by kind of word; a word is of one syllable if one of its pronunciations is."""
    from pythainlp.corpus.common import thai_words

    counts: dict[str, Count] = {}
    for one in answers:
        size = min(map(len, one.theirs), default=0)
        length = (
            "no Thai syllables"
            if size == 0
            else "one syllable"
            if size == 1
            else "several syllables"
        )
        kinds = ["all", length]
        if one.word in thai_words() and size:
            kinds += ["in word list", f"in word list, {length}"]
        for kind in kinds:
            _add(counts.setdefault(kind, Count()), one)
    return counts


def _add(total: Count, one: Answer) -> None:
    total.words += 1
    total.exact += one.ours in one.theirs
    total.exact_by_rules += one.by_rules in one.theirs
    total.refused += not one.ours
    total.tones += _tones(one.ours) in [_tones(reading) for reading in one.theirs]
    total.segments += _segments(one.ours) in [_segments(reading) for reading in one.theirs]
    total.segments_but_length += _qualities(one.ours) in [
        _qualities(reading) for reading in one.theirs
    ]


def _tones(reading: tuple[Syllable, ...]) -> tuple[int, ...]:
    return tuple(syllable.tone for syllable in reading)


def _segments(reading: tuple[Syllable, ...]) -> tuple[tuple[str, str, bool, str], ...]:
    return tuple((one.initial, one.vowel, one.is_long, one.final) for one in reading)


def _qualities(reading: tuple[Syllable, ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple((one.initial, one.vowel, one.final) for one in reading)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dictionary", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "g2p.json")
    args = parser.parse_args()
    words = sample(split.read_dictionary(args.dictionary), SAMPLE)
    word_syllables("กา")
    began = time.process_time()
    answers = [answer(word, pronunciations) for word, pronunciations in words.items()]
    per_word_ms = (time.process_time() - began) / len(words) * 1000
    counts = count(answers)
    lines = [f"{'words':34} {'n':>5}  exact  rules segments but length  tones refused"]
    for kind, c in sorted(counts.items()):
        shares = (c.exact, c.exact_by_rules, c.segments, c.segments_but_length, c.tones, c.refused)
        exact, rules, segments, quality, tones, refused = (
            f"{share / c.words:.3f}" for share in shares
        )
        lines.append(
            f"{kind:34} {c.words:5}  {exact}  {rules} {segments:>8} {quality:>10}  {tones} {refused:>7}"
        )
    sys.stdout.write("\n".join([*lines, f"{per_word_ms:.1f} ms a word that is not cached\n"]))
    report = {
        "sample": SAMPLE, "seed": SEED, "held_out": f"part {split.HELD_OUT} of {split.PARTS} by sha256 of the word",
        "required": {"one syllable": LEAST_ONE_SYLLABLE, "all": LEAST_ALL},
        "counts": {kind: asdict(c) for kind, c in sorted(counts.items())},
        "milliseconds_a_word": round(per_word_ms, 2), "weights_bytes": split.WEIGHTS.stat().st_size,
        "network_phonemes": len(learned.network().phonemes), "pythainlp": version("pythainlp"),
    }  # fmt: skip
    args.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
