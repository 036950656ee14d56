"""Masks and negatives: where they may lie, how many there are, and that they are uniform."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from thaitool.models.encoder import length_mask
from thaitool.models.masking import MASK_PROB, draw, lay_out, sample_mask, sample_negatives


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=5),
    span=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
def test_masks_and_negatives(lengths: list[int], span: int, seed: int) -> None:
    frames = torch.tensor(lengths)
    if not int(frames.max()):
        frames[0] = 1
    draws = draw(frames, prob=MASK_PROB, span=span, n_negatives=100, generator=generator(seed))
    assert draws.mask.shape == (len(frames), int(frames.max()))
    assert not (draws.mask & ~length_mask(frames, int(frames.max()))).any()
    assert bool((draws.counts >= frames.clamp_max(2)).all())
    assert draws.negatives.shape == (len(frames), int(draws.counts.max()), 100)
    for row, count in zip(draws.negatives, draws.counts.tolist(), strict=True):
        valid = row[:count]
        assert int(row.min()) >= 0
        assert int(row.max()) < row.shape[0]
        if count > 1:
            assert int(valid.max()) < count
            assert not (valid == torch.arange(count)[:, None]).any()
        if 1 < count <= 5:
            everyone = {tuple(sorted({*v.tolist(), own})) for own, v in enumerate(valid)}
            assert everyone == {tuple(range(count))}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    extra=st.integers(0, 9),
    seed=st.integers(0, 10_000),
)
def test_layout_points_at_the_masked_frames(lengths: list[int], extra: int, seed: int) -> None:
    frames = torch.tensor(lengths)
    if not int(frames.max()):
        frames[0] = 1
    draws = draw(frames, prob=MASK_PROB, span=10, n_negatives=3, generator=generator(seed))
    width = int(frames.max()) + extra
    layout = lay_out(draws, frames, width)
    assert layout.frames == int(frames.sum())
    assert layout.masked == len(layout.where) == int(draws.mask.sum())
    flat = torch.zeros(len(frames) * width, dtype=torch.bool)
    flat[layout.where] = True
    assert torch.equal(flat.view(len(frames), width), layout.mask)
    # In `place`, row by row, every masked frame comes exactly once, and the rest repeats frames of the same row.
    assert layout.place[layout.inside].tolist() == list(range(layout.masked))
    rows = layout.where // width
    for number, (place, inside) in enumerate(zip(layout.place, layout.inside, strict=True)):
        if inside.any():
            assert set(rows[place].tolist()) == {number}
    full = extra == 0 and len(set(frames.tolist())) == 1
    assert (layout.valid is None) == full


def test_spans_are_whole() -> None:
    mask = sample_mask(torch.full((50,), 300), prob=0.3, span=10, generator=generator())
    for row in mask:
        edges = torch.nn.functional.pad(row.int(), (1, 1)).diff().nonzero().flatten().tolist()
        runs = [b - a for a, b in zip(edges[::2], edges[1::2], strict=True)]
        assert min(runs) >= 10
        assert 10 in runs


def test_as_many_frames_are_masked_as_in_transformers() -> None:
    for length, low, high in ((1500, 0.485, 0.495), (150, 0.49, 0.52), (50, 0.49, 0.54)):
        rows = 60_000 // length
        frames = torch.full((rows,), length)
        mine = sample_mask(frames, prob=MASK_PROB, span=10, generator=generator()).float().mean()
        np.random.seed(0)  # noqa: NPY002  (transformers draws from the global state)
        # It rounds the number of spans once for a whole batch, hence many batches.
        shape = (max(1, rows // 40), length)
        batches = [_compute_mask_indices(shape, MASK_PROB, 10, min_masks=2) for _ in range(200)]
        assert low < float(mine) < high
        assert abs(float(mine) - np.mean(batches)) < 0.006


def test_every_frame_is_masked_about_as_often() -> None:
    frames = torch.full((4000,), 60)
    share = sample_mask(frames, prob=MASK_PROB, span=10, generator=generator()).float().mean(0)
    # Fewer spans reach the ends, as in fairseq.
    assert float(share[10:50].min()) > 0.5
    assert float(share[10:50].max() - share[10:50].min()) < 0.06
    torch.testing.assert_close(share, share.flip(0), atol=0.04, rtol=0)


def test_negatives_are_uniform() -> None:
    mask = torch.ones(1, 8, dtype=torch.bool)
    negatives = sample_negatives(mask, n_negatives=70_000, generator=generator())
    for own, row in enumerate(negatives[0]):
        share = torch.bincount(row, minlength=8) / 10_000
        assert share[own] == 0
        others = torch.cat([share[:own], share[own + 1 :]])
        torch.testing.assert_close(others, torch.ones(7), atol=0.05, rtol=0)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    frames = torch.tensor([3000, 200])
    draws = [
        draw(frames, prob=0.65, span=10, n_negatives=5, generator=generator(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0].mask, draws[1].mask)
    assert torch.equal(draws[0].negatives, draws[1].negatives)
    assert not torch.equal(draws[0].mask, draws[2].mask)
