"""Which path kernel and reference choose, against enumeration of all paths. No gradients."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import thaitool.ops.dtw  # noqa: F401  (registers torch.ops.thaitool)
from thaitool.ops.reference import cheapest_path

Path = list[tuple[int, int]]
GRIDS = [(frames, tokens) for frames in range(1, 6) for tokens in range(1, 6)]


def all_paths(frames: int, tokens: int, *, monotonic: bool) -> Iterator[Path]:
    """Every path, found forwards from (0, 0)."""

    def extend(path: Path) -> Iterator[Path]:
        i, j = path[-1]
        if (i, j) == (frames - 1, tokens - 1):
            yield path
        for di, dj in [(1, 1), (1, 0)] if monotonic else [(1, 1), (1, 0), (0, 1)]:
            if i + di < frames and j + dj < tokens:
                yield from extend([*path, (i + di, j + dj)])

    yield from extend([(0, 0)])


def tie_key(path: Path) -> list[int]:
    """Steps seen from the end; the smaller key wins a tie: diagonal 0, frame 1, token 2."""
    names = {(1, 1): 0, (1, 0): 1, (0, 1): 2}
    steps = pairwise(path)
    return [names[b[0] - a[0], b[1] - a[1]] for a, b in steps][::-1]


def inside(cell: tuple[int, int], frames: int, tokens: int, band: Fraction) -> bool:
    """The documented band, in exact arithmetic."""
    if min(frames, tokens) == 1:
        return True
    offset = Fraction(cell[0], frames - 1) - Fraction(cell[1], tokens - 1)
    return abs(offset) <= max(band, Fraction(1, 2 * (min(frames, tokens) - 1)))


def enumerated(cost: Tensor, band: Fraction, prior: int, *, monotonic: bool) -> Path:
    """The path that the definition asks for, by looking at all of them."""
    frames, tokens = cost.shape

    def total(path: Path) -> Fraction:
        return sum(
            (
                Fraction(cost[i, j].item())
                + prior * (Fraction(i, frames) - Fraction(j, tokens)) ** 2
                for i, j in path
            ),
            Fraction(0),
        )

    paths = [
        path
        for path in all_paths(frames, tokens, monotonic=monotonic)
        if all(inside(cell, frames, tokens, band) for cell in path)
    ]
    return min(paths, key=lambda path: (total(path), tie_key(path)))


def kernel(
    cost: Tensor,
    *,
    band: float = 1.0,
    prior: float = 0.0,
    monotonic: bool = False,
    speech_lengths: Tensor | None = None,
    text_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The C++ path op on given costs [B, I, J]: unit norms and dot products 1 - cost."""
    pairs, frames, tokens = cost.shape
    if speech_lengths is None:
        speech_lengths = torch.full((pairs,), frames)
    if text_lengths is None:
        text_lengths = torch.full((pairs,), tokens)
    ones = torch.ones(pairs, max(frames, tokens), dtype=torch.float64)
    norms = (ones[:, :frames].contiguous(), ones[:, :tokens].contiguous())
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.thaitool.dtw_path(
        (1 - cost).contiguous(), *norms, speech_lengths, text_lengths, band, prior, monotonic
    )
    return result


def cells(intervals: Tensor) -> Path:
    """The path of one pair from its intervals [I, 2]."""
    return [(i, j) for i, (start, end) in enumerate(intervals.tolist()) for j in range(start, end)]


def random_costs(kind: str, pairs: int, frames: int, tokens: int, seed: int) -> Tensor:
    """Costs whose sums are exact in any order: small integers (ties) or multiples of 2**-10."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "equal":
        return torch.ones(pairs, frames, tokens)
    high, scale = (3, 1) if kind == "ties" else (2048, 1024)
    return torch.randint(0, high, (pairs, frames, tokens), generator=generator) / scale


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("kind", ["equal", "ties", "dyadic"])
def test_every_grid_up_to_5x5(kind: str, monotonic: bool) -> None:
    for frames, tokens in GRIDS:
        if monotonic and tokens > frames:
            continue
        cost = random_costs(kind, 5, frames, tokens, seed=10 * frames + tokens)
        intervals, lengths, totals = kernel(cost, monotonic=monotonic)
        for b in range(len(cost)):
            expected = enumerated(cost[b], Fraction(1), 0, monotonic=monotonic)
            assert cells(intervals[b]) == expected
            assert lengths[b].item() == len(expected)
            assert totals[b].item() == sum(cost[b, i, j].item() for i, j in expected)
            reference = cheapest_path(cost[b].tolist(), band=1.0, prior=0.0, monotonic=monotonic)
            assert reference == expected


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("band", [0.0, 0.25, 0.5])
def test_band_on_every_grid_up_to_5x5(band: float, monotonic: bool) -> None:
    for frames, tokens in GRIDS:
        if monotonic and tokens > frames:
            continue
        cost = random_costs("ties", 3, frames, tokens, seed=frames + 10 * tokens)
        intervals, _, _ = kernel(cost, band=band, monotonic=monotonic)
        for b in range(len(cost)):
            expected = enumerated(cost[b], Fraction(band), 0, monotonic=monotonic)
            assert cells(intervals[b]) == expected
            reference = cheapest_path(cost[b].tolist(), band=band, prior=0.0, monotonic=monotonic)
            assert reference == expected


def test_prior_selects_and_does_not_enter_the_cost() -> None:
    for frames, tokens in [(4, 4), (4, 2), (2, 4), (4, 1)]:  # powers of 2: the prior is exact
        cost = random_costs("dyadic", 6, frames, tokens, seed=frames + tokens)
        intervals, _, totals = kernel(cost, prior=16.0)
        for b in range(len(cost)):
            expected = enumerated(cost[b], Fraction(1), 16, monotonic=False)
            assert cells(intervals[b]) == expected
            assert totals[b].item() == sum(cost[b, i, j].item() for i, j in expected)
    around = torch.tensor([[[0.0, 0, 1], [1, 9, 1], [1, 0, 0]]])
    assert cells(kernel(around)[0][0]) == [(0, 0), (0, 1), (1, 2), (2, 2)]
    assert cells(kernel(around, prior=1e6)[0][0]) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("monotonic", [False, True])
def test_narrowest_band_always_has_a_path(monotonic: bool) -> None:
    for frames in range(1, 14):
        for tokens in range(1, frames + 1 if monotonic else 14):
            cost = random_costs("dyadic", 1, frames, tokens, seed=0)
            intervals, _, totals = kernel(cost, band=0.0, monotonic=monotonic)
            path = cells(intervals[0])
            assert path[0] == (0, 0)
            assert path[-1] == (frames - 1, tokens - 1)
            assert set(tie_key(path)) <= ({0, 1} if monotonic else {0, 1, 2})
            assert all(inside(cell, frames, tokens, Fraction(0)) for cell in path)
            assert totals[0].isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_larger_grids_with_ties_and_lengths_equal_the_reference(dtype: torch.dtype) -> None:
    cost = random_costs("ties", 12, 40, 30, seed=1).to(dtype)
    generator = torch.Generator().manual_seed(2)
    n = torch.randint(1, 41, (12,), generator=generator)
    m = torch.randint(1, 31, (12,), generator=generator)
    for band, prior in [(1.0, 0.0), (0.125, 0.0), (1.0, 0.5)]:
        intervals, _, _ = kernel(cost, band=band, prior=prior, speech_lengths=n, text_lengths=m)
        for b in range(12):
            valid = cost[b, : n[b], : m[b]].tolist()
            expected = cheapest_path(valid, band=band, prior=prior, monotonic=False)
            assert cells(intervals[b]) == expected
            assert not intervals[b, n[b] :].any()


@pytest.mark.parametrize("band", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("monotonic", [False, True])
def test_nan_ends_in_bounds(monotonic: bool, band: float) -> None:
    for seed in range(20):
        cost = random_costs("dyadic", 1, 9, 6, seed=seed)
        if seed % 2:
            cost[0, seed % 9, :] = torch.nan
        else:
            cost[0, :, seed % 6] = torch.nan
        intervals, lengths, totals = kernel(cost, band=band, monotonic=monotonic)
        path = cells(intervals[0])
        assert totals[0].isnan()
        assert path[0] == (0, 0)
        assert path[-1] == (8, 5)
        assert len(path) == lengths[0]
        tie_key(path)  # every step is one of the three
        reference = cheapest_path(cost[0].tolist(), band=band, prior=0.0, monotonic=monotonic)
        assert reference[0] == (0, 0)
        assert reference[-1] == (8, 5)


def test_an_empty_pair_has_no_path() -> None:
    for n, m in [(0, 3), (3, 0), (0, 0)]:
        intervals, path_length, total = kernel(
            torch.ones(1, 3, 3),
            monotonic=True,
            speech_lengths=torch.tensor([n]),
            text_lengths=torch.tensor([m]),
        )
        assert not intervals.any()
        assert path_length.tolist() == [0]
        assert total.tolist() == [0.0]
    assert cheapest_path([], band=1.0, prior=0.0, monotonic=False) == []


def test_the_kernel_refuses_what_would_leave_its_memory() -> None:
    cost = torch.ones(2, 3, 4)
    three, four = torch.tensor([3, 3]), torch.tensor([4, 4])
    with pytest.raises(RuntimeError, match=r"length 4 of pair 0 is not in 0\.\.3"):
        kernel(cost, speech_lengths=four, text_lengths=four)
    with pytest.raises(RuntimeError, match=r"length -1 of pair 1 is not in 0\.\.4"):
        kernel(cost, speech_lengths=three, text_lengths=torch.tensor([4, -1]))
    with pytest.raises(RuntimeError, match="pair 0 has 4 tokens for 3 frames"):
        kernel(cost, speech_lengths=three, text_lengths=four, monotonic=True)
    with pytest.raises(RuntimeError, match="lengths must be contiguous and of shape"):
        kernel(cost, speech_lengths=three[:1], text_lengths=four)
    vectors = torch.ones(1, 3, 2)
    norms = torch.ones(1, 3, dtype=torch.float64)
    bad = torch.tensor([[[0, 1], [1, 4], [2, 3]]], dtype=torch.int32)
    n = torch.tensor([3])
    with pytest.raises(RuntimeError, match=r"interval 1\.\.4 of pair 0 frame 1 leaves 0\.\.3"):
        torch.ops.thaitool.dtw_backward(
            norms[:, 0].contiguous(), vectors, vectors, norms, norms, bad, n, n, True, True
        )
