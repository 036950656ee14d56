"""The CTC loss and what audio can carry, against enumeration of every path; greedy counts against the vocabulary's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from thaitool.models.ctc import ctc_loss, emitted, frames_needed
from thaitool.text.units import BLANK_ID, build_vocabulary

V = 4


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    """The CTC rule, from its definition: merge repeats, then drop blanks."""
    return tuple(key for key, _ in itertools.groupby(path) if key != BLANK_ID)


@pytest.mark.parametrize("size", range(5))
def test_fewest_frames_are_those_of_the_shortest_path(size: int) -> None:
    paths = {n: {collapsed(p) for p in itertools.product(range(3), repeat=n)} for n in range(9)}
    for ids in itertools.product(range(1, 3), repeat=size):
        shortest = min(n for n, found in paths.items() if ids in found)
        assert frames_needed(ids) == shortest


def test_loss_is_that_of_all_paths_and_padding_adds_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, V, generator=generator, dtype=torch.float64)
    frames = torch.tensor([5, 4, 3])
    targets = [(1, 1), (2, 3, 1), (3,)]
    probabilities = logits.softmax(-1)
    wanted = 0.0
    for row, (n, ids) in enumerate(zip(frames.tolist(), targets, strict=True)):
        total = sum(
            math.prod(float(probabilities[row, i, v]) for i, v in enumerate(path))
            for path in itertools.product(range(V), repeat=n)
            if collapsed(path) == ids
        )
        wanted -= math.log(total)
    assert float(ctc_loss(logits, frames, targets)) == pytest.approx(wanted, rel=1e-5)
    # A sum: one by one, without the padding of the others, it is the same.
    alone = sum(
        float(ctc_loss(logits[row : row + 1, :n], frames[row : row + 1], [targets[row]]))
        for row, n in enumerate(frames.tolist())
    )
    assert alone == pytest.approx(wanted, rel=1e-5)


def test_loss_is_in_float32_whatever_the_scores_are() -> None:
    logits = torch.randn(2, 6, V, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits.requires_grad_(True)
    loss = ctc_loss(logits, torch.tensor([6, 5]), [(1, 2), (3,)])
    assert loss.dtype == torch.float32
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert not logits.grad[1, 5].any()  # padding


def test_what_cannot_be_carried_has_an_infinite_loss_rather_than_none() -> None:
    logits = torch.zeros(1, 2, V)
    assert frames_needed((1, 1)) == 3
    assert math.isinf(float(ctc_loss(logits, torch.tensor([2]), [(1, 1)])))
    assert math.isfinite(float(ctc_loss(logits, torch.tensor([2]), [(1, 2)])))


def test_emitted_counts_are_those_of_greedy_decoding() -> None:
    vocabulary = build_vocabulary(["กขค"])
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(7, 11, len(vocabulary), generator=generator)
    frames = torch.tensor([11, 0, 1, 5, 11, 8, 3])
    said = emitted(logits, frames)
    texts = [
        vocabulary.decode_frames(best[:n])
        for best, n in zip(said.best.tolist(), frames.tolist(), strict=True)
    ]
    assert int(said.units) == sum(map(len, texts))
    blanks = sum(int((logits[row, :n].argmax(-1) == 0).sum()) for row, n in enumerate(frames))
    assert int(said.blanks) == blanks
    assert blanks > 0
