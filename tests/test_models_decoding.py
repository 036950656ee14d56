"""Searches against all alignments and all label sequences of tiny cases, and against each other."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import tiny
from tests.test_models_recogniser import VOCABULARY, recogniser
from thaitool.config import DecoderShape, Decoding
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.models import decoding
from thaitool.models.aed import AttentionDecoder, teacher_forcing
from thaitool.models.decoding import greedy, joint, lm_words, new_search, prefix_beam, transcribe
from thaitool.text.units import Vocabulary, build_vocabulary

Labels = tuple[int, ...]
needs_flashlight = pytest.mark.skipif(
    not tiny.installed("flashlight.lib.text"), reason="flashlight-text is not installed"
)
needs_kenlm = pytest.mark.skipif(not tiny.installed("kenlm"), reason="kenlm is not installed")
#: Bigrams over a white space and two Thai units, all of them different, in decadic logarithms.
ARPA = """\\data\\
ngram 1=6
ngram 2=7

\\1-grams:
-1.5\t<unk>
0\t<s>\t-0.2
-0.9\t</s>
-0.5\t<space>\t-0.3
-0.7\tก\t-0.4
-0.6\tที่\t-0.1

\\2-grams:
-0.2\t<s> ก
-0.9\t<s> ที่
-0.1\tก ที่
-1.2\tก ก
-0.3\tที่ <space>
-0.4\t<space> ก
-0.25\tที่ </s>

\\end\\
"""


def scores_of(seed: int, frames: int, units: int, spread: float = 1.5) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(frames, units)) * spread).float()


def read(path: Labels) -> Labels:
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != 0)


def all_transcripts(scores: torch.Tensor) -> dict[Labels, float]:
    """Log probability of every label sequence: the sum over every alignment, one by one."""
    log_probs: NDArray[np.float64] = scores.double().log_softmax(-1).numpy()
    frames, units = log_probs.shape
    found: dict[Labels, float] = {}
    for path in itertools.product(range(units), repeat=frames):
        labels = read(path)
        score = float(log_probs[np.arange(frames), path].sum())
        found[labels] = float(np.logaddexp(found.get(labels, -np.inf), score))
    return found


def test_greedy_is_the_ctc_rule_of_the_vocabulary() -> None:
    vocabulary = build_vocabulary(["กขค"])
    scores = torch.stack([scores_of(seed, 40, 5) for seed in range(6)])
    lengths = torch.tensor([40, 31, 17, 2, 1, 0])
    for ids, row, length in zip(greedy(scores, lengths), scores, lengths.tolist(), strict=True):
        best = row[:length].argmax(-1).tolist()
        assert vocabulary.decode(ids) == vocabulary.decode_frames(best)
        assert 0 not in ids


def test_greedy_sees_nothing_behind_the_end() -> None:
    scores = torch.zeros(1, 4, 3)
    scores[0, :, 2] = 1.0
    scores[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    assert greedy(scores, torch.tensor([1])) == [[]]
    assert greedy(scores, torch.tensor([4])) == [[2]]
    assert greedy(scores[:, :0], torch.tensor([0])) == [[]]


@needs_flashlight
@pytest.mark.parametrize("seed", range(30))
def test_prefix_beam_finds_the_best_of_all_transcripts(seed: int) -> None:
    frames, units = 1 + seed % 6, 3 + seed % 2
    scores = scores_of(seed, frames, units)
    every = all_transcripts(scores)
    vocabulary = Vocabulary(tuple("กขค"[: units - 2]))
    found = prefix_beam(vocabulary, beam=10_000)(scores)
    assert tuple(found) == max(every, key=every.__getitem__)


@needs_flashlight
def test_prefix_beam_is_not_the_best_path() -> None:
    """Graves 2012, figure 7.5: blank is the best unit of both frames, and still "A" the more probable text."""
    probs = torch.tensor([[0.6, 1e-9, 0.4], [0.6, 1e-9, 0.4]])
    scores = probs.log()
    assert greedy(scores[None], torch.tensor([2])) == [[]]  # .36, and "A" has .64
    assert prefix_beam(Vocabulary(("ก",)), beam=5)(scores) == [2]


def arpa_log_prob(labels: Labels, words: list[str]) -> float:
    """Natural logarithm of a sentence's probability, by the definition of back-off."""
    one: dict[str, tuple[float, float]] = {}
    two: dict[tuple[str, str], float] = {}
    for line in ARPA.splitlines():
        columns = line.split("\t")
        if len(columns) > 1 and " " in columns[1]:
            first, second = columns[1].split(" ")
            two[first, second] = float(columns[0])
        elif len(columns) > 1:
            one[columns[1]] = float(columns[0]), float([*columns, "0"][2])
    sentence = ["<s>", *(words[label] for label in labels), "</s>"]
    total = 0.0
    for before, word in itertools.pairwise(sentence):
        total += two.get((before, word), one[before][1] + one[word][0])
    return total * math.log(10)


@needs_flashlight
@needs_kenlm
@pytest.mark.parametrize("lm_weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(8))
def test_prefix_beam_with_an_n_gram_model_finds_the_best(
    tmp_path: Path, seed: int, lm_weight: float
) -> None:
    (tmp_path / "units.arpa").write_text(ARPA, "utf-8")
    vocabulary = Vocabulary((" ", "ก", "ที่"))
    words = ["<blank>", "<unk>", *lm_words(vocabulary.units)]
    scores = scores_of(seed, 5, 5)
    every = {
        labels: score + lm_weight * arpa_log_prob(labels, words)
        for labels, score in all_transcripts(scores).items()
    }
    search = prefix_beam(vocabulary, beam=10_000, lm=tmp_path / "units.arpa", lm_weight=lm_weight)
    assert tuple(search(scores)) == max(every, key=every.__getitem__)


@needs_flashlight
@needs_kenlm
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file"),
        ("no model", "cannot be read by KenLM"),
        (ARPA.replace("ก", "กา").replace("ที่", "นี่"), "does not know 2 of the 3 units, e.g. 'ก'"),
    ],
)
def test_a_bad_n_gram_model_is_a_sentence(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "units.arpa").write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        prefix_beam(Vocabulary((" ", "ก", "ที่")), beam=5, lm=tmp_path / "units.arpa")


def test_without_its_library_the_beam_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(EnvironmentProblem, match="pip install flashlight-text"):
        prefix_beam(VOCABULARY, beam=5)


def attention(seed: int, units: int) -> AttentionDecoder:
    torch.manual_seed(seed)
    shape = tiny.make(DecoderShape, layers=2, heads=2, intermediate_size=16, dropout=0.5)
    decoder = AttentionDecoder(units, 8, shape)
    torch.nn.init.normal_(decoder.embedding.weight, std=1.5)
    return decoder.eval()


def ctc_log_prob(scores: torch.Tensor, labels: Labels) -> float:
    """By torch's loss, an implementation that is not ours."""
    loss = torch.nn.functional.ctc_loss(
        scores.double().log_softmax(-1)[:, None],
        torch.tensor([labels], dtype=torch.int64).reshape(1, -1),
        torch.tensor([len(scores)]),
        torch.tensor([len(labels)]),
        reduction="sum",
    )
    return -float(loss)


@torch.inference_mode()
def attention_log_prob(decoder: AttentionDecoder, frames: torch.Tensor, labels: Labels) -> float:
    """All units of a transcript at once, without what is kept between steps."""
    given, said = teacher_forcing([labels])
    scores, _ = decoder(given, decoder.start(frames[None], torch.tensor([len(frames)])))
    return float(scores[0].double().log_softmax(-1).gather(1, said[0][:, None]).sum())


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_joint_search_finds_the_best_of_all_transcripts(seed: int, ctc_weight: float) -> None:
    length, units = 1 + seed % 4, 3 + seed % 2
    decoder = attention(seed, units)
    frames, scores = torch.randn(length, 8), scores_of(seed, length, units)
    every: dict[Labels, float] = {}
    for size in range(length + 1):
        for labels in itertools.product(range(1, units), repeat=size):
            total = (1 - ctc_weight) * attention_log_prob(decoder, frames, labels)
            every[labels] = total + (ctc_weight * ctc_log_prob(scores, labels) if ctc_weight else 0)
    found = joint(decoder, frames, scores, beam=200, ctc_weight=ctc_weight)
    assert tuple(found) == max(every, key=every.__getitem__)


@pytest.mark.parametrize("seed", range(6))
def test_prefix_scores_are_sums_over_all_transcripts_that_begin_so(seed: int) -> None:
    """Watanabe et al. 2017, equation 19, of every prefix of up to three units, the same unit twice among them."""
    scores = scores_of(seed, 1 + seed, 4)
    every = all_transcripts(scores)
    log_probs = scores.double().log_softmax(-1)
    prefixes = decoding._no_units(log_probs)
    texts: list[Labels] = [()]
    for _ in range(3):
        units = torch.tensor([[1, 2, 3]] * len(texts))
        found, prefixes = decoding._extended(prefixes, units, log_probs)
        texts = [(*text, unit) for text in texts for unit in (1, 2, 3)]
        for text, prefix, whole in zip(
            texts, found.flatten().tolist(), prefixes.whole().tolist(), strict=True
        ):
            begin_so = [s for labels, s in every.items() if labels[: len(text)] == text]
            wanted = np.logaddexp.reduce(begin_so) if begin_so else -math.inf
            assert prefix == pytest.approx(wanted, abs=1e-9)
            assert whole == pytest.approx(every.get(text, -math.inf), abs=1e-9)


def test_prefix_scores_of_a_long_clip_are_those_of_torch() -> None:
    scores = scores_of(0, 1_500, 30, spread=4.0)
    labels = tuple(np.random.default_rng(1).integers(1, 30, 60).tolist())
    log_probs = scores.double().log_softmax(-1)
    prefixes = decoding._no_units(log_probs)
    for unit in labels:
        _, prefixes = decoding._extended(prefixes, torch.tensor([[unit]]), log_probs)
    assert float(prefixes.whole()) == pytest.approx(ctc_log_prob(scores, labels), rel=1e-10)


@pytest.mark.parametrize("method", ["greedy", "beam", "joint"])
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert", "whisper"])
def test_a_clip_gives_the_same_text_alone_and_in_a_batch(family: str, method: str) -> None:
    if method == "beam" and not tiny.installed("flashlight.lib.text"):
        pytest.skip("flashlight-text is not installed")
    model = recogniser(family)
    search = new_search(model, tiny.make(Decoding, decoding=method, beam=3))
    audio, lengths = tiny.ragged_audio(16_000, 9_000, 50, 12_345, 0)
    together = transcribe(model, audio, lengths, search)
    alone = [
        transcribe(model, clip[None, : int(n)], n[None], search)[0]
        for clip, n in zip(audio, lengths, strict=True)
    ]
    assert together == alone
    assert together[4] == ""  # no sample, no frame, no text
    assert together[0]
    assert method == "joint" or len({*together[:2], together[3]}) == 3
    assert transcribe(model, audio[4:, :0], lengths[4:], search) == [""]


def test_what_is_searched_by_default_depends_on_the_heads() -> None:
    ctc, aed = recogniser(aed=False), recogniser()
    audio, lengths = tiny.ragged_audio(9_000, 12_000)
    how = tiny.make(Decoding)
    assert transcribe(ctc, audio, lengths, new_search(ctc, how)) == transcribe(ctc, audio, lengths)
    by_joint = new_search(aed, tiny.make(Decoding, decoding="joint"))
    assert transcribe(aed, audio, lengths, new_search(aed, how)) == transcribe(
        aed, audio, lengths, by_joint
    )
    with pytest.raises(InputError, match="joint needs an attention decoder"):
        new_search(ctc, tiny.make(Decoding, decoding="joint"))
