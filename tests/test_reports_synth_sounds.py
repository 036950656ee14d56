"""Sounds of Thai text as the report counts them, and what distance means nothing."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.reports.synth.contents import UNITS
from thaitool.reports.synth.coverage import (
    INVENTORIES,
    MOST_SENTENCES,
    PHONES,
    Sounds,
    coverage,
    ipa,
    keep_smallest,
    read_aloud,
    units_of,
)
from thaitool.reports.synth.draws import draw
from thaitool.reports.synth.spread import SCALES, Scale, Spread
from thaitool.text.phonemes import rule_syllables

WORDS = ("ขาว", "ข่าว", "ข้าว", "น้ำ", "เมือง", "กล้วย", "เด็ก", "สวย", "เรียน", "พูด", "ฟัง", "เดิน")


def sentences(seed: int, count: int, words: tuple[str, ...] = WORDS) -> list[str]:
    drawn = random.Random(seed)  # noqa: S311
    return ["".join(drawn.choices(words, k=6)) for _ in range(count)]


def counted(texts: list[str], seed: int = 0) -> Sounds:
    sounds = Sounds(seed)
    for text in texts:
        sounds.add(text)
    return sounds


def test_units_of_words_are_those_of_a_textbook() -> None:
    units = units_of(read_aloud("ข่าวปลา มาก"))
    assert units["phone"] == ["kʰ", "aː", "-w", "p", "l", "aː", "m", "aː", "-k"]
    # No pair spans the pause before มาก.
    assert units["diphone"] == [
        *("kʰ aː", "aː -w", "-w p", "p l", "l aː"),
        *("m aː", "aː -k"),
    ]
    assert units["tone"] == ["low", "mid", "falling"]
    assert units["syllable"] == ["kʰaːw˨˩", "plaː˧", "maːk˥˩"]
    assert ipa(read_aloud("ข่าวปลา มาก")) == "kʰaːw˨˩ plaː˧ | maːk˥˩"


def test_a_word_without_a_reading_is_counted_and_breaks_the_stretch() -> None:
    reading = read_aloud("กาabcมา")
    assert (reading.unread, reading.syllables, len(reading.stretches)) == (1, 2, 2)
    assert units_of(reading)["diphone"] == ["k aː", "m aː"]
    assert read_aloud("abc 12").syllables == 0


def test_every_sound_of_the_rules_has_its_place_in_the_inventory() -> None:
    from pythainlp.corpus.common import thai_words

    assert len(set(PHONES)) == len(PHONES) == 50
    seen: Counter[str] = Counter()
    for word in sorted(thai_words())[::40]:
        if rule_syllables(word):
            seen.update(units_of(read_aloud(word))["phone"])
    assert set(seen) <= set(PHONES)
    assert len(seen) >= 45


def test_counts_sum_and_what_is_missing_is_named() -> None:
    texts = sentences(0, 30)
    units, reference = coverage(counted(texts), None, [])
    assert reference is None
    truth = {unit: Counter[str]() for unit in UNITS}
    for text in texts:
        for unit, tokens in units_of(read_aloud(text)).items():
            truth[unit].update(tokens)
    for found in units:
        assert found.counts == truth[found.unit]
        assert found.tokens == sum(found.counts.values())
        inventory = INVENTORIES.get(found.unit, ())
        assert set(found.missing) == set(inventory) - set(found.counts)
        assert found.against is None


def test_text_of_one_kind_is_no_further_than_chance_and_other_text_is() -> None:
    real = counted(sentences(1, 400))
    alike, reference = coverage(counted(sentences(2, 300)), real, ["real.txt"])
    assert reference is not None
    assert (reference.lines, reference.used, reference.files) == (400, 400, ("real.txt",))
    assert reference.sample_tokens > 200
    other, _ = coverage(counted(sentences(3, 300, WORDS[:6])), real, ["real.txt"])
    for mine, theirs in zip(alike, other, strict=True):
        assert mine.against is not None
        assert theirs.against is not None
        low, high = mine.against.chance
        assert 0 <= low <= high
        assert mine.against.equal_size < 1.5 * high
        assert theirs.against.equal_size > 3 * high
        assert theirs.against.distance > 3 * mine.against.distance
        assert mine.against.covered == 1
    syllables = other[2].against
    assert syllables is not None
    truth = Counter(t for s in sentences(1, 400) for t in units_of(read_aloud(s))["syllable"])
    lacking = [name for name, _ in truth.most_common() if name not in other[2].counts]
    assert list(syllables.missing) == lacking
    lost = sum(truth[name] for name in lacking)
    assert syllables.covered == pytest.approx(1 - lost / truth.total())


def test_copies_of_a_sentence_for_each_task_are_no_distance() -> None:
    real, texts = counted(sentences(1, 400)), sentences(2, 100)
    once, reference = coverage(counted(texts), real, ["real.txt"])
    copied, same = coverage(counted(texts * 4), real, ["real.txt"])
    assert same == reference
    for one, four in zip(once, copied, strict=True):
        assert one.against is not None
        assert four.tokens == 4 * one.tokens
        assert four.against == one.against


def test_too_little_text_is_not_compared() -> None:
    units, reference = coverage(counted(sentences(1, 3)), counted(sentences(2, 400)), ["r"])
    assert reference is not None
    assert reference.sample_tokens == 0
    assert all(one.against is None for one in units)


def test_the_sample_depends_on_sentences_alone() -> None:
    items = [(-draw(0, str(n)), str(n)) for n in range(100)]
    kept: list[tuple[int, str]] = []
    gone = [keep_smallest(kept, item, 10) for item in items]
    other: list[tuple[int, str]] = []
    for item in reversed(items):
        keep_smallest(other, item, 10)
    assert sorted(kept) == sorted(other) == sorted(items)[-10:]
    assert gone[:10] == [""] * 10
    assert {*gone[10:], *(name for _, name in kept)} == {name for _, name in items}
    assert MOST_SENTENCES >= 1000


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-5, 25, allow_nan=False), min_size=1, max_size=200),
    st.integers(1, 4),
)
def test_bins_keep_every_value(values: list[float], parts: int) -> None:
    spread = Spread(Scale("s", 0, 20, 0.25))
    for k in range(parts):
        mine = values[k::parts]
        spread.add(mine, ["a" if v > 5 else "b" for v in mine])
    measure = spread.measure("x")
    assert measure.count == sum(measure.bins) == len(values)
    assert sum(voice.count for voice in measure.voices) == len(values)
    assert (measure.minimum, measure.maximum) == (min(values), max(values))
    inside = np.clip(values, 0, 19.999)
    for p in (1, 50, 99):
        exact = np.percentile(inside, p, method="inverted_cdf")
        clipped = min(max(values), max(min(values), float(exact)))
        assert measure.quantiles[f"p{p}"] == pytest.approx(clipped, abs=0.2501)
    quantiles = list(measure.quantiles.values())
    assert quantiles == sorted(quantiles)


def test_scales_have_whole_numbers_of_bins() -> None:
    for name, scale in SCALES.items():
        bins = (scale.high - scale.low) / scale.width
        assert bins == pytest.approx(round(bins)), name
        assert bins <= 1250, name
