"""Reads Thai words with a small network that was trained on part of a pronunciation dictionary.

It knows no rule of spelling, so it can be sure of nonsense: `thaitool.text.phonemes` weighs its
readings against those of the rules.

The weights (`g2p.npz`) were made by `tests/bench/g2p_train.py` from the Thai dictionary 3.0 of the
Montreal Forced Aligner (McAuliffe and Sonderegger, CC BY 4.0); they hold no entry of it. The
network is a bidirectional GRU over letters that emits phonemes by CTC (Graves et al., ICML 2006).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.text.syllable import Syllable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

BLANK = 0


@dataclass(frozen=True, slots=True)
class Layer:
    """Both directions of a GRU layer, gates in the order reset, update, new (as in torch)."""

    input_weights: Array
    """Shape (2, inputs, 3 hidden)."""
    hidden_weights: Array
    """Shape (2, 3 hidden, hidden)."""
    input_bias: Array
    """Shape (2, 1, 3 hidden)."""
    hidden_bias: Array
    """Shape (2, 3 hidden)."""


@dataclass(frozen=True, slots=True)
class Network:
    """The weights, the letters that it reads and the phonemes that it emits."""

    letters: dict[str, int]
    phonemes: tuple[str, ...]
    """The blank; onsets (`kʰr`), vowels with tone (`a:3`), finals (`-k`)."""
    embedding: Array
    """Shape (letters, D)."""
    layers: tuple[Layer, ...]
    output_weights: Array
    """Shape (2 hidden, frames per letter * V)."""
    output_bias: Array
    """Shape (frames per letter * V,)."""
    ids: dict[str, int]
    """The place of each of `phonemes`."""
    kinds: NDArray[np.int64]
    """Shape (V,): 0 blank, 1 onset, 2 vowel, 3 final."""


@cache
def network() -> Network:
    """The network that comes with the package."""
    with files("thaitool.text").joinpath("g2p.npz").open("rb") as file:
        return network_from(dict(np.load(file)))


def network_from(stored: dict[str, Any]) -> Network:
    """A network from the arrays of `g2p.npz`: int8 weights `name` and float scales `name/scale`."""

    def get(name: str) -> Array:
        scale = stored.get(f"{name}/scale")
        values: Array = stored[name].astype(np.float32)
        return values if scale is None else (values * scale).astype(np.float32)

    def both(name: str, layer: int) -> Array:
        return np.stack([get(f"gru.{name}_l{layer}"), get(f"gru.{name}_l{layer}_reverse")])

    layers = tuple(
        Layer(
            np.ascontiguousarray(both("weight_ih", layer).transpose(0, 2, 1)),
            both("weight_hh", layer),
            both("bias_ih", layer)[:, None, :],
            both("bias_hh", layer),
        )
        for layer in range(sum(name.startswith("gru.bias_ih") for name in stored) // 2)
    )
    letters = {letter: index for index, letter in enumerate(str(stored["letters"]))}
    phonemes = tuple(str(stored["phonemes"]).split(" "))
    kinds = [3 if name[0] == "-" else 2 if name[-1].isdecimal() else 1 for name in phonemes]
    return Network(
        letters,
        phonemes,
        get("embedding.weight"),
        layers,
        np.ascontiguousarray(get("output.weight").T),
        get("output.bias"),
        {name: index for index, name in enumerate(phonemes)},
        np.array([BLANK, *kinds[1:]]),
    )


def choose(word: str, by_rules: tuple[Syllable, ...], *, advantage: float) -> tuple[Syllable, ...]:
    """The network's reading of a word if it finds that much likelier than the rules', else theirs.

    Args:
        word: Thai letters.
        by_rules: The reading of the rules.
        advantage: How much larger the log-probability (natural, of the best path) of the network's
            own reading must be.
    """
    net = network()
    log_probs = emissions(net, word)
    if log_probs is None:
        return by_rules
    score, ids = best_reading(log_probs, net.kinds)
    names = [name for syllable in by_rules for name in phoneme_names(syllable)]
    known = [net.ids[name] for name in names if name in net.ids]
    # A reading with a phoneme that the network never met is as unlikely as can be to it.
    rules_score = path_score(log_probs, known) if len(known) == len(names) else -np.inf
    if score <= rules_score + advantage:
        return by_rules
    return syllables_of([net.phonemes[index] for index in ids])


def emissions(net: Network, word: str) -> Array | None:
    """Log-probabilities of the phonemes, shape (frames, V); None if a letter is unknown."""
    if not all(letter in net.letters for letter in word):
        return None
    x = net.embedding[[net.letters[letter] for letter in word]]
    for layer in net.layers:
        x = _gru(layer, x)
    logits = (x @ net.output_weights + net.output_bias).reshape(-1, len(net.phonemes))
    logits = logits - logits.max(axis=1, keepdims=True)
    result: Array = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result


def _gru(layer: Layer, x: Array) -> Array:
    hidden = layer.hidden_weights.shape[2]
    # Row 0 goes forwards, row 1 backwards.
    inputs = np.stack([x, x[::-1]]) @ layer.input_weights + layer.input_bias
    state = np.zeros((2, hidden), np.float32)
    states = np.empty((len(x), 2, hidden), np.float32)
    for t in range(len(x)):
        new = (layer.hidden_weights @ state[:, :, None])[:, :, 0] + layer.hidden_bias
        gates = 1 / (1 + np.exp(-(inputs[:, t, : 2 * hidden] + new[:, : 2 * hidden])))
        reset, update = gates[:, :hidden], gates[:, hidden:]
        fresh = np.tanh(inputs[:, t, 2 * hidden :] + reset * new[:, 2 * hidden :])
        state = fresh + update * (state - fresh)
        states[t] = state
    return np.concatenate([states[:, 0], states[::-1, 1]], axis=1)


def best_reading(log_probs: Array, kinds: NDArray[np.int64]) -> tuple[float, tuple[int, ...]]:
    """Log-probability and phonemes of the best path that spells whole syllables.

    A syllable is an onset, a vowel and perhaps a final. A frame is a phoneme that goes on, or
    blank; the state of a blank is the kind of the phoneme before it. Viterbi's algorithm.

    Args:
        log_probs: Shape (frames, V).
        kinds: Shape (V,), see `Network.kinds`.
    """
    before = {1: (0, 2, 3), 2: (1,), 3: (2,)}
    members = {kind: np.flatnonzero(kinds == kind) for kind in (1, 2, 3)}
    scores = np.full(len(kinds), -np.inf)
    # Blank behind each kind; 0 is the start of the word.
    blanks = np.array([0.0, -np.inf, -np.inf, -np.inf])
    back: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for row in log_probs.astype(np.float64):
        # The best state of each kind: a phoneme, or -1 - kind for the blank behind one.
        best_state, best_score = np.array([-1, 0, 0, 0]), blanks.copy()
        for kind, ids in members.items():
            top = int(ids[np.argmax(scores[ids])])
            is_blank = blanks[kind] >= scores[top]
            best_state[kind] = -1 - kind if is_blank else top
            best_score[kind] = blanks[kind] if is_blank else scores[top]
        from_state, new_scores = np.arange(len(kinds)), scores.copy()
        for kind, ids in members.items():
            source = max(before[kind], key=lambda k: float(best_score[k]))
            enters = best_score[source] > scores[ids]
            new_scores[ids] = np.where(enters, best_score[source], scores[ids])
            from_state[ids] = np.where(enters, best_state[source], ids)
        back.append((from_state, best_state))
        scores = new_scores + row
        blanks = best_score + row[BLANK]
    return _traced_back(scores, blanks, members, back)


def _traced_back(
    scores: NDArray[np.float64],
    blanks: NDArray[np.float64],
    members: dict[int, NDArray[np.int64]],
    back: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[float, tuple[int, ...]]:
    ends = {-1 - kind: float(blanks[kind]) for kind in (2, 3)}
    for kind in (2, 3):
        top = int(members[kind][np.argmax(scores[members[kind]])])
        ends[top] = float(scores[top])
    state = max(ends, key=ends.__getitem__)
    score, found = ends[state], list[int]()
    for from_state, best_state in reversed(back):
        if state < 0:
            state = int(best_state[-1 - state])
            continue
        previous = int(from_state[state])
        if previous != state:
            found.append(state)
        state = previous
    return score, tuple(reversed(found))


def path_score(log_probs: Array, reading: Sequence[int]) -> float:
    """Log-probability of the best path for given phonemes; -inf if there are too few frames."""
    # States: blank, phoneme, blank, phoneme, ..., blank.
    states = [BLANK]
    for phoneme in reading:
        states += [phoneme, BLANK]
    emitted = log_probs[:, states].astype(np.float64)
    scores = np.full(len(states), -np.inf)
    scores[:2] = emitted[0, :2]
    # A phoneme may follow the one before it without a blank: no two in a row are equal.
    skips = np.arange(len(states)) % 2 == 1
    for row in emitted[1:]:
        one = np.concatenate(([-np.inf], scores[:-1]))
        two = np.where(skips, np.concatenate(([-np.inf, -np.inf], scores[:-2])), -np.inf)
        scores = np.maximum(np.maximum(scores, one), two) + row
    return float(max(scores[-1], scores[-2])) if len(states) > 1 else float(scores[-1])


def phoneme_names(syllable: Syllable) -> list[str]:
    """The names of a syllable's phonemes in `Network.phonemes`."""
    names = [syllable.initial, f"{syllable.vowel}{':' * syllable.is_long}{syllable.tone}"]
    return [*names, f"-{syllable.final}"] if syllable.final else names


def syllables_of(names: Sequence[str]) -> tuple[Syllable, ...]:
    """The syllables that phoneme names spell: an onset, a vowel with tone, perhaps a final."""
    out: list[Syllable] = []
    onset = ""
    for name in names:
        if name[0] == "-":
            out[-1] = replace(out[-1], final=name[1:])
        elif name[-1].isdecimal():
            vowel = name[:-1].removesuffix(":")
            out.append(Syllable(onset, vowel, name[-2] == ":", "", int(name[-1])))
        else:
            onset = name
    return tuple(out)
