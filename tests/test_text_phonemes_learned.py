"""The network's numpy against torch, and its search against trying every path."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from thaitool.text import learned
from thaitool.text.syllable import Syllable

KINDS = np.array([0, 1, 1, 2, 2, 3])


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for k, _ in itertools.groupby(path) if k != learned.BLANK)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("frames", [2, 3, 5])
def test_the_search_finds_the_best_of_all_paths_of_whole_syllables(seed: int, frames: int) -> None:
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.full(6, 0.4), frames)).astype(
        np.float32
    )
    best: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(6), repeat=frames):
        score = float(sum(log_probs[t, k] for t, k in enumerate(path)))
        best[collapsed(path)] = max(score, best.get(collapsed(path), -np.inf))
    legal = {
        reading: score
        for reading, score in best.items()
        if re.fullmatch("(12(3)?)+", "".join(str(KINDS[k]) for k in reading))
    }
    expected = max(legal, key=legal.__getitem__)
    score, reading = learned.best_reading(log_probs, KINDS)
    assert reading == expected
    assert score == pytest.approx(legal[expected], abs=1e-4)
    for some in list(legal)[:40]:
        assert learned.path_score(log_probs, some) == pytest.approx(legal[some], abs=1e-4)


def test_a_reading_that_needs_more_frames_has_no_probability() -> None:
    assert learned.path_score(np.zeros((1, 6), np.float32), (1, 3)) == -np.inf


def test_emissions_are_those_of_torch() -> None:
    net = learned.network()
    word = "มหาวิทยาลัย"
    x = torch.from_numpy(net.embedding[[net.letters[letter] for letter in word]])
    for layer in net.layers:
        size = layer.hidden_weights.shape[2]
        gru = torch.nn.GRU(x.shape[1], size, bidirectional=True)
        with torch.no_grad():
            for way, end in enumerate(("", "_reverse")):
                for name, values in (
                    ("weight_ih_l0", layer.input_weights[way].T),
                    ("weight_hh_l0", layer.hidden_weights[way]),
                    ("bias_ih_l0", layer.input_bias[way, 0]),
                    ("bias_hh_l0", layer.hidden_bias[way]),
                ):
                    getattr(gru, name + end).copy_(torch.from_numpy(np.ascontiguousarray(values)))
            x = gru(x)[0]
    logits = x @ torch.from_numpy(net.output_weights) + torch.from_numpy(net.output_bias)
    expected = logits.reshape(-1, len(net.phonemes)).log_softmax(-1).numpy()
    found = learned.emissions(net, word)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_unknown_letter_is_left_to_the_rules() -> None:
    by_rules = (Syllable("k", "a", True, "", 1),)
    assert learned.emissions(learned.network(), "กาx") is None
    assert learned.choose("กาx", by_rules, advantage=0.0) == by_rules


def test_phoneme_names_spell_the_syllables_they_came_from() -> None:
    reading = (
        Syllable("kʰr", "ɯa", True, "ŋ", 3),
        Syllable("ʔ", "a", False, "", 2),
        Syllable("k", "ɔ", True, "n", 1),
    )
    names = [name for syllable in reading for name in learned.phoneme_names(syllable)]
    assert names == ["kʰr", "ɯa:3", "-ŋ", "ʔ", "a2", "k", "ɔ:1", "-n"]
    assert learned.syllables_of(names) == reading


def test_the_network_is_whole() -> None:
    net = learned.network()
    assert set(net.kinds[1:].tolist()) == {1, 2, 3}
    assert net.output_weights.shape[1] == 2 * len(net.phonemes)
