"""NaN and Inf in valid parts: terminate, stay in bounds and in their pair, and show. Not in padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import Case, case, same_bits, with_gradients
from tests.ops.enumeration import steps_of
from tests.ops.path_op import cells_of, path_of, random_costs
from thaitool.ops.dtw import DTWAlignment
from thaitool.ops.reference import cheapest_path

BAD = [torch.nan, torch.inf, -torch.inf]


def in_bounds(inputs: Case, result: DTWAlignment) -> None:
    """Intervals within the text of their pair, ordered, as many terms as the path length says."""
    intervals, m = result.intervals, inputs.text_lengths
    if inputs.text_index is None:
        intervals = intervals[:, None]
        m = m[:, None]
    else:
        m = m[inputs.text_index]
    assert (intervals >= 0).all()
    assert (intervals[..., 0] <= intervals[..., 1]).all()
    assert (intervals <= m[..., None, None]).all()
    inside = ~inputs.padding()[0][:, None]
    matched = (intervals[..., 1] - intervals[..., 0]).sum(-1)
    dropped = ((intervals[..., 0] == intervals[..., 1]) & inside).sum(-1)
    terms = (matched + dropped).reshape(result.path_length.shape)
    nonempty = result.path_length > 0
    assert torch.equal(terms[nonempty], result.path_length[nonempty].long())


def touched(inputs: Case, speeches: set[int], texts: set[int]) -> Tensor:
    """Which pairs hold a bad vector: bool like the loss."""
    index = inputs.text_index
    if index is None:
        return torch.tensor([b in speeches or b in texts for b in range(len(inputs.speech))])
    return torch.tensor(
        [[b in speeches or c in texts for c in row] for b, row in enumerate(index.tolist())]
    )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("form", ["plain", "means", "drop", "cross", "all", "weights"])
@pytest.mark.parametrize(
    "options", [{}, {"steps": "monotonic"}, {"band": 0.1}, {"steps": "monotonic", "band": 0.0}]
)
def test_a_bad_pair_is_nan_and_alone(
    bad: float, form: str, options: dict[str, Any], device: torch.device
) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    clean, clean_grads = with_gradients(inputs, ("speech", "text", "drop_cost"), **options)
    inputs.speech[0, 4, 2] = bad
    inputs.text[2, 3, 0] = bad
    result, grads = with_gradients(inputs, ("speech", "text", "drop_cost"), **options)
    sick = touched(inputs, {0}, {2}).to(device)
    empty = clean.path_length == 0
    assert result.loss[sick & ~empty].isnan().all()
    assert torch.equal(result.loss[~sick], clean.loss[~sick])
    assert torch.equal(result.intervals[~sick], clean.intervals[~sick])
    in_bounds(inputs, result)
    index = inputs.text_index
    rows = sick if index is None else sick.any(1)
    assert torch.equal(grads["speech"][~rows], clean_grads["speech"][~rows])
    met_badly = {0, 2} if index is None else {2, *index[0].tolist()}
    for c in set(range(6)) - met_badly:
        assert torch.equal(grads["text"][c], clean_grads["text"][c])
    if "drop_cost" in grads:
        assert torch.equal(grads["drop_cost"][~rows], clean_grads["drop_cost"][~rows])
    reference = inputs.align(backend="reference", **options)
    assert torch.equal(reference.loss.isnan(), result.loss.isnan())
    in_bounds(inputs, reference)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("form", ["plain", "means", "drop", "cross", "all", "weights"])
def test_the_gradient_of_a_bad_pair_is_not_silently_finite(
    bad: float, form: str, device: torch.device
) -> None:
    """Its intervals mean nothing, so a finite gradient along them would be a step to nowhere."""
    for at in (0, 4, 19):
        inputs = case(form, dtype=torch.float32, device=device)
        inputs.speech[0, at, 2] = bad
        _, grads = with_gradients(inputs)
        assert not grads["speech"][0].isfinite().all()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("price", [0.0, 0.01, 5.0])
def test_a_bad_frame_does_not_vanish_by_being_dropped(
    bad: float, price: float, device: torch.device
) -> None:
    for at in (0, 1, 4, 18, 19):
        inputs = case(dtype=torch.float32, device=device)
        inputs.speech[0, at] = bad
        inputs = Case(**(vars(inputs) | {"drop_cost": torch.full((6, 21), price, device=device)}))
        for backend in ("kernel", "reference"):
            for band in (None, 0.0):
                for weights in (None, torch.ones(6, 9, device=device)):
                    weighted = Case(**(vars(inputs) | {"text_weights": weights}))
                    result = weighted.align(backend=backend, band=band)
                    assert result.loss.isnan().tolist() == [True, *[False] * 5]
                    in_bounds(inputs, result)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["speech_mean", "text_mean"])
def test_a_bad_mean_makes_every_pair_nan(name: str, bad: float, device: torch.device) -> None:
    inputs = case("means", dtype=torch.float32, device=device)
    getattr(inputs, name)[3] = bad
    for backend in ("kernel", "reference"):
        result, grads = with_gradients(inputs, backend=backend)
        assert result.loss.isnan().tolist() == [True, True, True, True, False, True]
        assert result.loss[4] == 0
        in_bounds(inputs, result)
        assert not grads["speech"][4].nan_to_num(1.0).any()
        assert grads["speech"][[0, 1, 2, 3, 5]].isnan().flatten(1).any(1).all()


@pytest.mark.parametrize("name", ["speech_mean", "text_mean"])
def test_a_bad_pair_shows_in_the_gradient_of_the_means(name: str, device: torch.device) -> None:
    inputs = case("means", dtype=torch.float32, device=device)
    inputs.speech[1, 2] = torch.nan
    _, grads = with_gradients(inputs)
    assert grads[name].isnan().any()


@pytest.mark.parametrize("form", ["plain", "means", "drop", "cross", "all", "weights"])
def test_a_bad_pair_can_be_masked_out(form: str, device: torch.device) -> None:
    """Where the gradient of a pair's loss is 0, so are the gradients that it would have brought."""
    inputs = case(form, dtype=torch.float32, device=device)
    names = [
        n
        for n in ("speech", "text", "speech_mean", "text_mean", "drop_cost")
        if getattr(inputs, n) is not None
    ]

    def pull(masked: Case, keep: Tensor) -> tuple[Tensor, ...]:
        leaves = [getattr(masked, name).detach().clone().requires_grad_() for name in names]
        loss = Case(**(vars(masked) | dict(zip(names, leaves, strict=True)))).align().loss
        return torch.autograd.grad(torch.where(keep, loss, 0.0).sum(), leaves)

    healthy = ~touched(inputs, {0}, {2}).to(device)
    expected = pull(inputs, healthy)
    inputs.speech[0, 4, 2] = torch.nan
    inputs.text[2, 1] = torch.inf
    for name, a, b in zip(names, pull(inputs, healthy), expected, strict=True):
        if name == "speech":
            # The intervals of a bad pair mean nothing, but its gradient is 0 all the same.
            rows = healthy if inputs.text_index is None else healthy.any(1)
            assert torch.equal(a[rows], b[rows])
            assert not a[~rows].any()
        else:
            assert torch.equal(a, b), name


@pytest.mark.parametrize("bad", BAD)
def test_a_gradient_that_is_not_finite_stays_in_its_pair(bad: float, device: torch.device) -> None:
    inputs = case("drop", dtype=torch.float32, device=device)
    leaves = [getattr(inputs, name).requires_grad_() for name in ("speech", "text", "drop_cost")]
    loss = inputs.align().loss
    ones = torch.ones_like(loss)
    clean = torch.autograd.grad(loss, leaves, ones, retain_graph=True)
    grad = ones.clone()
    grad[0] = bad
    frames, tokens = inputs.padding()
    for name, a, b in zip(
        ("speech", "text", "drop_cost"), torch.autograd.grad(loss, leaves, grad), clean, strict=True
    ):
        assert torch.equal(a[1:], b[1:])
        assert not a[0].isfinite().all()
        padding = tokens if name == "text" else frames
        assert not a[padding].any(), f"{name}: the gradient in the padding is exactly 0"


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("band", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("monotonic", [False, True])
def test_bad_costs_end_in_bounds(
    monotonic: bool, band: float, drops: bool, device: torch.device
) -> None:
    for seed in range(20):
        cost = random_costs("dyadic", 1, 9, 6, seed=seed)
        if seed % 2:
            cost[0, seed % 9, :] = torch.nan
        else:
            cost[0, :, seed % 6] = torch.nan
        price = random_costs("dyadic", 1, 9, 1, seed=seed)[..., 0] + 2 if drops else None
        intervals, lengths, totals = path_of(
            cost.to(device), band=band, monotonic=monotonic, drop_cost=price
        )
        cells = cells_of(intervals[0])
        assert (intervals >= 0).all()
        assert (intervals <= 6).all()
        empty = (intervals[0, :, 0] == intervals[0, :, 1]).sum()
        assert len(cells) + empty == lengths[0]
        assert cells[-1][1] == 5 or drops
        reference = cheapest_path(
            cost[0].tolist(),
            band=band,
            prior=0.0,
            monotonic=monotonic,
            drop=None if price is None else price[0].tolist(),
        )
        assert reference.cells[0][1] == 0
        if not drops:
            assert totals[0].isnan()
            assert cells[0] == (0, 0)
            assert cells[-1] == (8, 5)
            steps_of(cells)  # every step is one of the three
            assert reference.cells[0] == (0, 0)
            assert reference.cells[-1] == (8, 5)


@pytest.mark.parametrize("drops", [False, True])
def test_everything_is_nan(drops: bool, device: torch.device) -> None:
    for frames, tokens in ((1, 1), (1, 7), (7, 1), (7, 7), (40, 35), (35, 40), (300, 130)):
        cost = torch.full((2, frames, tokens), torch.nan, device=device)
        price = torch.full((2, frames), torch.nan) if drops else None
        for monotonic in (False, True) if tokens <= frames else (False,):
            intervals, lengths, totals = path_of(cost, monotonic=monotonic, drop_cost=price)
            assert totals.isnan().all()
            assert (intervals >= 0).all()
            assert (intervals <= tokens).all()
            assert (lengths >= max(frames, tokens)).all()
            assert (lengths <= frames + tokens).all()
            assert same_bits(totals[0], totals[1])
