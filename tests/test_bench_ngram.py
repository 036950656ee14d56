"""The n-gram model of the benchmarks is a distribution after any history, by KenLM's reading of its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench.ngram import counts, probabilities, write_arpa

SENTENCES = [list("abab"), list("abc"), list("c")]


def test_unigrams_by_hand() -> None:
    known = probabilities(counts(SENTENCES, 1))
    # 11 words of 4 kinds (a, b, c and the end), which share with <unk> what is kept back: 4 / (11 + 4).
    assert known[("a",)] == pytest.approx((3 + 4 / 5) / 15)
    assert known[("c",)] == pytest.approx((2 + 4 / 5) / 15)
    assert known[("<unk>",)] == pytest.approx(4 / 5 / 15)


def test_kenlm_reads_a_distribution(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm (the extra beam) is not installed")
    write_arpa(tmp_path / "lm.arpa", SENTENCES, 3)
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    for history in ("", "a", "a b", "c c", "b a"):
        state = kenlm.State()
        model.BeginSentenceWrite(state)
        for word in history.split():
            following = kenlm.State()
            model.BaseScore(state, word, following)
            state = following
        words = ["a", "b", "c", "</s>", "<unk>"]
        scores = [model.BaseScore(state, word, kenlm.State()) for word in words]
        assert math.fsum(10**s for s in scores) == pytest.approx(1, abs=1e-5)
