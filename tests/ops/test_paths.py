"""Which path kernel and reference choose, against enumeration of all paths. No vectors, no gradients."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.enumeration import TOKEN, Alignment, cheapest, intervals_of, steps_of, table
from tests.ops.path_op import cells_of, path_of, random_costs
from thaitool.ops.reference import cheapest_path

GRIDS = [(frames, tokens) for frames in range(1, 7) for tokens in range(1, 7)]
SMALL_GRIDS = [grid for grid in GRIDS if max(grid) < 6]
#: Grids on which (i / I - j / J)**2 is exact, so that it can tie.
POWERS_OF_2 = [(frames, tokens) for frames in (1, 2, 4) for tokens in (1, 2, 4)]


def check(
    cost: Tensor,
    expected: list[Alignment],
    sums: Tensor,
    *,
    device: torch.device,
    drop_cost: Tensor | None = None,
    **options: Any,
) -> None:
    """Kernel and reference against the enumeration."""
    intervals, lengths, totals = path_of(cost.to(device), drop_cost=drop_cost, **options)
    frames = cost.shape[1]
    assert intervals.tolist() == [intervals_of(alignment, frames) for alignment in expected]
    assert lengths.tolist() == [len(a.cells) + len(a.dropped) for a in expected]
    assert torch.equal(totals, sums)
    reference: dict[str, Any] = {"band": 1.0, "prior": 0.0, "monotonic": False} | options
    for b, alignment in enumerate(expected):
        price = None if drop_cost is None else drop_cost[b].tolist()
        path = cheapest_path(cost[b].tolist(), drop=price, **reference)
        assert tuple(path.cells) == alignment.cells
        assert tuple(path.dropped) == alignment.dropped


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("kind", ["equal", "ties", "dyadic"])
def test_every_grid_up_to_6x6(kind: str, monotonic: bool, device: torch.device) -> None:
    for frames, tokens in GRIDS:
        if monotonic and tokens > frames:
            continue
        paths = table(frames, tokens, monotonic=monotonic, drops=False)
        cost = random_costs(kind, 8, frames, tokens, seed=10 * frames + tokens)
        expected, sums = cheapest(paths, cost)
        check(cost, expected, sums, device=device, monotonic=monotonic)


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("kind", ["equal", "ties", "dyadic"])
@pytest.mark.parametrize(
    "grids",
    [SMALL_GRIDS, pytest.param([(5, 6), (6, 5), (6, 6)], marks=pytest.mark.slow)],
    ids=["to 5x5", "to 6x6"],
)
def test_dropped_frames_on_every_grid(
    grids: list[tuple[int, int]], kind: str, monotonic: bool, device: torch.device
) -> None:
    for frames, tokens in grids:
        if monotonic and tokens > frames:
            continue
        paths = table(frames, tokens, monotonic=monotonic, drops=True)
        cost = random_costs(kind, 12, frames, tokens, seed=frames + 10 * tokens)
        for price_kind in ("ties", "dyadic"):
            price = random_costs(price_kind, 12, frames, 1, seed=frames)[..., 0]
            price[:4] = torch.tensor([0.0, 0.25, 0.5, 8.0])[:, None]
            expected, sums = cheapest(paths, cost, price)
            check(cost, expected, sums, device=device, monotonic=monotonic, drop_cost=price)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize("band", [0.0, 0.25, 0.5])
def test_band_on_every_grid(
    band: float, monotonic: bool, drops: bool, device: torch.device
) -> None:
    for frames, tokens in SMALL_GRIDS if drops else GRIDS:
        if monotonic and tokens > frames:
            continue
        paths = table(frames, tokens, monotonic=monotonic, drops=drops, band=Fraction(band))
        cost = random_costs("ties", 6, frames, tokens, seed=frames + 10 * tokens)
        price = random_costs("dyadic", 6, frames, 1, seed=1)[..., 0] / 2 if drops else None
        expected, sums = cheapest(paths, cost, price)
        check(cost, expected, sums, device=device, band=band, monotonic=monotonic, drop_cost=price)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("monotonic", [False, True])
def test_prior_selects_and_does_not_enter_the_sum(
    monotonic: bool, drops: bool, device: torch.device
) -> None:
    for frames, tokens in POWERS_OF_2:
        if monotonic and tokens > frames:
            continue
        paths = table(frames, tokens, monotonic=monotonic, drops=drops)
        i, j = torch.arange(frames)[:, None] / frames, torch.arange(tokens) / tokens
        price = random_costs("dyadic", 8, frames, 1, seed=2)[..., 0] if drops else None
        for kind, prior in (("ties", 16.0), ("dyadic", 4.0)):
            cost = random_costs(kind, 8, frames, tokens, seed=frames + tokens)
            expected, sums = cheapest(paths, cost, price, prior * (i - j) ** 2)
            check(
                *(cost, expected, sums),
                device=device,
                prior=prior,
                monotonic=monotonic,
                drop_cost=price,
            )


def test_prior_by_hand(device: torch.device) -> None:
    around = torch.tensor([[[0.0, 0, 1], [1, 9, 1], [1, 0, 0]]], device=device)
    around[0, 1, 1] = 2  # the largest cost there is
    assert cells_of(path_of(around)[0][0]) == [(0, 0), (0, 1), (1, 2), (2, 2)]
    assert cells_of(path_of(around, prior=1e6)[0][0]) == [(0, 0), (1, 1), (2, 2)]


def test_a_frame_is_dropped_only_if_that_is_strictly_cheaper(device: torch.device) -> None:
    cost = torch.tensor([[[0.0], [1.0], [0.0]]], device=device)
    for price, kept in ((1.25, True), (1.0, True), (0.75, False)):
        got, length, total = path_of(cost, drop_cost=torch.full((1, 3), price))
        assert got[0].tolist() == [[0, 1], [0, 1] if kept else [0, 0], [0, 1]]
        assert length.tolist() == [3]
        assert total.tolist() == [1.0 if kept else 0.75]


def test_the_last_frame_can_be_dropped_and_all_tokens_are_met(device: torch.device) -> None:
    cost = torch.tensor([[[0.0, 1], [1, 0], [2, 2]]], device=device)
    intervals, length, total = path_of(cost, drop_cost=torch.full((1, 3), 0.25))
    assert intervals.tolist() == [[[0, 1], [1, 2], [1, 1]]]
    assert length.tolist() == [3]
    assert total.tolist() == [0.25]
    # Free to drop, but every token needs a frame: one frame takes them all, or each its own.
    intervals, _, total = path_of(cost + 0.5, drop_cost=torch.zeros(1, 3))
    assert total.tolist() == [1.0]
    assert cells_of(intervals[0]) == [(0, 0), (1, 1)]


def test_tokens_of_one_frame_are_not_interrupted_by_a_drop(device: torch.device) -> None:
    # After a token step the frame is matched already, so its own price no longer matters.
    cost = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]], device=device)
    intervals, length, total = path_of(cost, drop_cost=torch.tensor([[0.0, 0.5]]))
    assert intervals.tolist() == [[[0, 3], [2, 2]]]
    assert length.tolist() == [4]
    assert total.tolist() == [0.5]


@pytest.mark.parametrize("monotonic", [False, True])
def test_narrowest_band_always_has_a_path(monotonic: bool, device: torch.device) -> None:
    for frames in range(1, 14):
        for tokens in range(1, frames + 1 if monotonic else 14):
            cost = random_costs("dyadic", 1, frames, tokens, seed=0)
            intervals, _, totals = path_of(cost.to(device), band=0.0, monotonic=monotonic)
            cells = cells_of(intervals[0])
            assert cells[0] == (0, 0)
            assert cells[-1] == (frames - 1, tokens - 1)
            assert TOKEN not in steps_of(cells) or not monotonic
            # Half a cell of the shorter side around the straight line, in whole numbers.
            slack = (max(frames, tokens) - 1) / 2
            for i, j in cells:
                assert abs(i * (tokens - 1) - j * (frames - 1)) <= slack
            assert totals[0].isfinite()


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_larger_grids_with_ties_and_lengths_equal_the_reference(
    dtype: torch.dtype, drops: bool, device: torch.device
) -> None:
    cost = random_costs("ties", 8, 40, 30, seed=1).to(dtype)
    generator = torch.Generator().manual_seed(2)
    n = torch.randint(1, 41, (8,), generator=generator)
    m = torch.randint(1, 31, (8,), generator=generator)
    price = random_costs("dyadic", 8, 40, 1, seed=3)[..., 0] if drops else None
    for band, prior in [(1.0, 0.0), (0.125, 0.0), (1.0, 0.5), (0.25, 0.5)]:
        intervals, lengths, _ = path_of(
            cost.to(device),
            band=band,
            prior=prior,
            speech_lengths=n,
            text_lengths=m,
            drop_cost=price,
        )
        for b in range(8):
            path = cheapest_path(
                cost[b, : n[b], : m[b]].tolist(),
                band=band,
                prior=prior,
                monotonic=False,
                drop=None if price is None else price[b, : n[b]].tolist(),
            )
            expected = Alignment(tuple(path.cells), tuple(path.dropped))
            assert intervals[b, : n[b]].tolist() == intervals_of(expected, int(n[b]))
            assert lengths[b] == len(path.cells) + len(path.dropped)
            assert not intervals[b, n[b] :].any()


@pytest.mark.parametrize("monotonic", [False, True])
def test_costs_that_stand_anywhere_in_memory(monotonic: bool, device: torch.device) -> None:
    cost = random_costs("ties", 3, 7, 5, seed=4)
    expected = path_of(cost, monotonic=monotonic)
    wide = torch.full((3, 2, 9, 11), torch.nan)
    wide[:, 1, :7, 3:8] = 1 - cost
    dots = wide.to(device)[:, 1:, :7, 3:8]
    lengths = torch.tensor([7] * 3, device=device), torch.tensor([5] * 3, device=device)
    ones = torch.ones(3, 7, dtype=torch.float64, device=device)
    none = ones.new_zeros(0, 0)
    got = torch.ops.thaitool.dtw_path(
        *(dots, ones, ones[:, :5].contiguous(), none, none, None, *lengths),
        *(None, None, 1.0, 0.0, monotonic),
    )
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a[:, 0].cpu(), b)


def test_cuda_equals_cpu_bit_for_bit(cuda: torch.device) -> None:
    cost = random_costs("ties", 6, 700, 260, seed=5)
    n = torch.tensor([700, 699, 260, 33, 1, 512])
    m = torch.tensor([260, 1, 260, 31, 129, 128])
    price = random_costs("dyadic", 6, 700, 1, seed=6)[..., 0]
    for options in (
        {},
        {"band": 0.1},
        {"prior": 3.0},
        {"drop_cost": price},
        {"drop_cost": price, "band": 0.2, "prior": 0.3},
    ):
        lengths = {"speech_lengths": n, "text_lengths": m}
        for a, b in zip(
            path_of(cost.to(cuda), **lengths, **options),  # type: ignore[arg-type]
            path_of(cost, **lengths, **options),  # type: ignore[arg-type]
            strict=True,
        ):
            assert torch.equal(a, b)
