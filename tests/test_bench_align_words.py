"""The align experiments: their arguments, words, times and sums, against values by hand. Trains nothing."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.bench import align_corpus, align_methods, align_spaces, align_words
from thaitool.config import AlignConfig
from thaitool.synth.espeak import EDGE_SILENCE_S, VOICES
from thaitool.text.phonemes import syllables

if TYPE_CHECKING:
    from pathlib import Path


def test_arguments_of_both_programs(tmp_path: Path) -> None:
    quick = align_methods.parse(["--work", str(tmp_path), "--quick"])
    assert (quick.seeds, quick.updates, quick.study, quick.out) == (1, 4, False, None)
    full = align_methods.parse(["--work", str(tmp_path), "--seeds", "2"])
    assert (full.seeds, full.updates) == (2, align_methods.UPDATES)
    with pytest.raises(SystemExit):
        align_methods.parse([])
    with pytest.raises(SystemExit):
        align_methods.parse(["--work", str(tmp_path), "--seeds", "40"])


def test_every_run_is_the_default_recipe_but_for_what_its_name_says(tmp_path: Path) -> None:
    bench = align_corpus.Bench(tmp_path, tmp_path, tmp_path, {}, {})
    named = {**align_methods.METHODS, **align_methods.STUDY}
    made = {n: align_methods.settings(bench, tmp_path, n, 0, 4) for n in named}
    assert len({config.out for config in made.values()}) == len(made)
    others = [align_methods.settings(bench, tmp_path, n, 1, 4) for n in named]
    files = {align_methods.beside(config) for config in (*made.values(), *others)}
    assert len(files) == 2 * len(made)
    first = made["dtw"].model_dump(exclude={"out"})
    for name, config in made.items():
        found = config.model_dump(exclude={"out"})
        assert {k: v for k, v in found.items() if v != first[k]} == {
            k: v for k, v in named[name].items() if v != AlignConfig.model_fields[k].default
        }


def test_words_are_single_tokens_and_never_one_that_sounds_like_another(tmp_path: Path) -> None:
    tokenizer = align_corpus.tokenizer_of(tmp_path)
    for phrases in align_corpus.sentences(200, seed=5):
        words = [word for phrase in phrases for word in phrase]
        ids = tokenizer("".join(words), add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == words
        assert tokenizer.decode(ids) == "".join(words)
        assert all(a != b for a, b in pairwise(words))
    spoken = align_corpus.SPOKEN
    assert len({syllables(word) for word in spoken}) == len(spoken)


def test_times_of_a_sentence_lie_in_order_with_pauses_between_its_phrases() -> None:
    phrases = (("บ้าน", "น้ำ"), ("รถ", "โรงเรียน"))
    samples, times = align_corpus.say(phrases, VOICES[0], random.Random(1))  # noqa: S311
    assert times.words == ("บ้าน", "น้ำ", "รถ", "โรงเรียน")
    assert times.start_s[0] == EDGE_SILENCE_S
    assert times.end_s[-1] == pytest.approx(len(samples) / 16_000 - EDGE_SILENCE_S)
    gaps = np.array(times.start_s[1:]) - np.array(times.end_s[:-1])
    assert gaps[[0, 2]] == pytest.approx([0, 0])
    assert gaps[1] >= 2 * EDGE_SILENCE_S
    pause = samples[round(times.end_s[1] * 16_000) + 80 : round(times.start_s[2] * 16_000)]
    assert np.abs(pause).max() < 0.02 < np.abs(samples).max()


def test_interval_of_three_seeds_is_students() -> None:
    # Mean 2, deviation 1: 2 ± 4.303 / sqrt(3).
    assert align_methods.interval([1.0, 2.0, 3.0]) == {"mean": 2.0, "low": -0.4843, "high": 4.4843}
    assert align_methods.interval([0.5]) == {"mean": 0.5}


def test_equal_time_gives_a_cheap_method_more_updates() -> None:
    costs = {"dtw": 20.0, "ctc": 10.0, "asr": 80.0}
    rows = {name: {"processor_ms_an_update": ms} for name, ms in costs.items()} | {"none": {}}
    assert align_methods.equal_time(rows, 400) == {"ctc": 800, "asr": 100}


def test_boundaries_of_a_path_by_hand() -> None:
    # w2v-bert: 25 ms windows every 10 ms, in pairs; two of them are projected together: 55 ms every 40 ms.
    config = SimpleNamespace(model_type="wav2vec2-bert")
    clock = align_spaces.clock_of(config, 2)
    assert clock.step_s == pytest.approx(0.04)
    assert clock.first_s == pytest.approx(0.0075)
    # Two frames on word 0, one on words 1 and 2 together, one on 2: the second boundary halves the third frame.
    path = torch.tensor([[0, 1], [0, 1], [1, 3], [2, 3]])
    found = align_words.boundaries(path, 3, clock)
    assert found == pytest.approx([0.0075 + 0.08, 0.0075 + 0.10])


def test_a_boundary_in_a_pause_is_right_and_others_are_off_by_their_distance() -> None:
    times = align_corpus.Timed(("a", "b", "c"), (0.0, 1.0, 2.5), (1.0, 2.0, 3.0))
    bench = SimpleNamespace(times={"x": times})
    clip = align_spaces.Heard("x", torch.zeros(1, 1), 3.0)
    space = SimpleNamespace(clips=[clip])
    (found,) = align_words.found_by(bench, space, lambda *_: [0.9, 2.2])  # type: ignore[arg-type]
    assert align_words.off_s(found) == pytest.approx([0.1, 0.0])
    assert align_words.off_s(found, late_s=-0.4) == pytest.approx([0.3, 0.1])
    assert align_words.late_by([found]) == pytest.approx(-0.1)
    (found,) = align_words.found_by(bench, space, align_words.by_share)  # type: ignore[arg-type]
    assert align_words.off_s(found) == pytest.approx([0.0, 0.0])


def test_summary_of_two_seeds_by_hand() -> None:
    def run(first: float, second: float) -> list[np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
        return [np.array([[1 + first, 1.0, 1.0], [2 + second, 2.0, 2.0]])]

    told = align_words.summary([run(0.1, 0.1), run(0.3, -0.1)])
    assert (told["mean_ms"], told["by_seed_ms"]) == (150.0, [100.0, 200.0])
    assert (told["low_ms"], told["high_ms"]) == (100.0, 200.0)
    assert (told["within_50_ms"], told["late_ms"]) == (0.0, [100.0, 100.0])
    assert told["shifted"]["by_seed_ms"] == [0.0, 200.0]
    assert told["shifted"]["within_50_ms"] == 0.5
    assert (told["boundaries"], told["sentences"]) == (2, 1)
