"""First derivatives: numerical, of the gathered path, for every grad_output. Not of padding or NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.ops.cases import FORMS, LEAVES, OPTIONS, Case, case, weights, with_gradients
from thaitool.errors import InputError
from thaitool.ops.dtw import dtw_alignment


def small(form: str, device: torch.device) -> Case:
    """As `case`, with 4 pairs small enough for numerical derivatives; one pair is empty."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = Case(
        normal(4, 7, 3),
        normal(4, 4, 3),
        torch.tensor([7, 5, 4, 0]),
        torch.tensor([3, 4, 4, 2]),
        speech_mean=0.4 * normal(3) if form in {"means", "all", "weights"} else None,
        text_mean=0.4 * normal(3) if form in {"means", "all", "weights"} else None,
        # Texts 0 and 1 are met twice by one speech and by several.
        text_index=torch.tensor([[0, 0, 1], [1, 0, 2], [1, 1, 3], [2, 0, 1]])
        if form in {"cross", "all", "weights"}
        else None,
        drop_cost=torch.rand(4, 7, generator=generator, dtype=torch.float64) * 0.8
        if form in {"drop", "all", "weights"}
        else None,
        text_weights=normal(4, 4).exp() if form == "weights" else None,
    )
    return made.on(device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options: dict[str, Any], form: str, device: torch.device) -> None:
    inputs = small(form, device)
    names = [name for name in LEAVES if getattr(inputs, name) is not None]
    leaves = [getattr(inputs, name).requires_grad_() for name in names]

    def loss(*values: Tensor) -> Tensor:
        replaced = Case(**(vars(inputs) | dict(zip(names, values, strict=True))))
        return replaced.align(**options).loss

    assert torch.autograd.gradcheck(loss, leaves, nondet_tol=0.0, fast_mode=False)
    if form in {"drop", "all", "weights"} and options == {}:
        intervals = inputs.align().intervals
        inside = ~inputs.padding()[0].reshape(4, *([1] * (intervals.dim() - 3)), 7)
        dropped = (intervals[..., 0] == intervals[..., 1]) & inside
        assert dropped.any(), "a test of drop costs in which no frame is dropped tests little"
        assert not dropped[:3].all()


def gathered(inputs: Case, intervals: Tensor, path_length: Tensor) -> Tensor:
    """The loss [B, K] as autograd sees it when the path is given: cosines gathered on its cells."""
    wide = torch.float64
    u = 0 if inputs.speech_mean is None else inputs.speech_mean.to(wide)
    v = 0 if inputs.text_mean is None else inputs.text_mean.to(wide)
    speech, text = inputs.speech.to(wide) - u, inputs.text.to(wide) - v
    index = inputs.text_index
    if index is None:
        index = torch.arange(len(speech), device=speech.device)[:, None]
        intervals, path_length = intervals[:, None], path_length[:, None]
    tokens = torch.arange(text.shape[1], device=speech.device)
    on_path = (intervals[..., :1] <= tokens) & (tokens < intervals[..., 1:])  # [B, K, I, J]
    b, k, i, j = on_path.nonzero().unbind(1)
    cost = 1 - functional.cosine_similarity(speech[b, i], text[index[b, k], j], dim=-1)
    if inputs.text_weights is not None:
        cost = cost * inputs.text_weights[index[b, k], j]
    total = torch.zeros(index.shape, dtype=wide, device=speech.device)
    total = total.index_put((b, k), cost, accumulate=True)
    if inputs.drop_cost is not None:
        inside = ~inputs.padding()[0][:, None] & (path_length > 0)[..., None]
        dropped = (intervals[..., 0] == intervals[..., 1]) & inside
        total = total + (inputs.drop_cost.to(wide)[:, None] * dropped).sum(-1)
    return total / path_length.clamp(min=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_is_that_of_the_gathered_path(
    dtype: torch.dtype, form: str, device: torch.device
) -> None:
    inputs = case(form, dtype=dtype, device=device)
    result, got = with_gradients(inputs)
    leaves = {name: getattr(inputs, name).clone().requires_grad_() for name in got}
    loss = gathered(
        Case(**(vars(inputs) | leaves)), result.intervals.long(), result.path_length.long()
    ).reshape(result.loss.shape)
    expected = torch.autograd.grad((loss * weights(loss)).sum(), list(leaves.values()))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(result.loss, loss.detach().to(dtype), rtol=tolerance, atol=tolerance)
    for name, value in zip(got, expected, strict=True):
        torch.testing.assert_close(got[name], value, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_grad_output_zero_expanded_and_strided(form: str, device: torch.device) -> None:
    inputs = case(form, device=device)
    names = [name for name in LEAVES if getattr(inputs, name) is not None]
    leaves = [getattr(inputs, name).requires_grad_() for name in names]
    loss = inputs.align().loss

    def pull(grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, leaves, grad, retain_graph=True)

    ones = torch.ones_like(loss)
    for expanded in (ones[:1].expand_as(ones), ones.new_ones(()).expand_as(ones)):
        for a, b in zip(pull(expanded), pull(ones), strict=True):
            assert torch.equal(a, b)
    uneven = weights(loss)
    doubled = torch.stack([uneven, ones], -1)
    for a, b in zip(pull(doubled[..., 0]), pull(uneven), strict=True):
        assert torch.equal(a, b)
    for grad in pull(torch.zeros_like(loss)):
        assert not grad.any()
    # Linear, pair by pair: the gradient of a sum is the sum over pairs.
    total = [torch.zeros_like(leaf) for leaf in leaves]
    for at in range(loss.numel()):
        one = torch.zeros_like(loss)
        one.view(-1)[at] = uneven.view(-1)[at]
        total = [a + b for a, b in zip(total, pull(one), strict=True)]
    for a, b in zip(total, pull(uneven), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["plain", "all"])
def test_gradient_goes_only_where_it_is_asked_for(form: str, device: torch.device) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    _, full = with_gradients(inputs)
    for name, expected in full.items():
        _, got = with_gradients(inputs, (name,))
        assert got.keys() == {name}
        assert torch.equal(got[name], expected)
    assert not inputs.align().loss.requires_grad
    with torch.no_grad():
        inputs.speech.requires_grad_()
        assert not inputs.align().loss.requires_grad


def test_work_that_is_not_needed_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    inputs = case("means", device=device)
    asked: list[tuple[bool, ...]] = []
    backward = torch.ops.thaitool.dtw_backward

    def recorded(*arguments: Any) -> Any:
        asked.append(arguments[-4:])
        result = backward(*arguments)
        for need, grad in zip(arguments[-4:], result, strict=True):
            assert need == (grad.numel() > 0)
        return result

    monkeypatch.setattr(torch.ops.thaitool, "dtw_backward", recorded)
    for at, name in enumerate(LEAVES[:4]):
        with_gradients(inputs, (name,))
        assert asked.pop() == tuple(place == at for place in range(4))
    with_gradients(case("drop", device=device), ("drop_cost",))
    assert not asked, "a gradient to the drop costs alone needs no gradient of vectors"


def test_retain_graph_twice_gives_equal_gradients(device: torch.device) -> None:
    inputs = case("all", dtype=torch.float32, device=device)
    leaves = [getattr(inputs, name).requires_grad_() for name in LEAVES]
    loss = inputs.align(reduction="sum").loss
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    second = torch.autograd.grad(loss, leaves)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_only_the_loss_has_a_gradient(device: torch.device) -> None:
    inputs = case(device=device)
    inputs.speech.requires_grad_()
    result = inputs.align()
    assert result.loss.requires_grad
    assert not result.intervals.requires_grad
    assert not result.path_length.requires_grad


def test_inputs_changed_before_backward_are_noticed(device: torch.device) -> None:
    inputs = case(device=device)
    h = inputs.speech.clone().requires_grad_()
    for name in ("speech", "text"):
        changed = Case(**(vars(inputs) | {"speech": h * 1}))
        loss = changed.align(reduction="sum").loss
        getattr(changed, name).detach().mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, h)


def test_checkpointing_gives_the_same_gradient(device: torch.device) -> None:
    inputs = case("all", dtype=torch.float32, device=device)
    _, expected = with_gradients(inputs, ("speech",), reduction="sum")
    h = inputs.speech.clone().requires_grad_()

    def loss(speech: Tensor) -> Tensor:
        return Case(**(vars(inputs) | {"speech": speech})).align(reduction="sum").loss

    total = checkpoint(loss, h, use_reentrant=False)
    (grad,) = torch.autograd.grad(total, h)
    assert torch.equal(grad, expected["speech"])


def test_second_derivative_is_refused(device: torch.device) -> None:
    inputs = case(device=device)
    h = inputs.speech.requires_grad_()
    loss = inputs.align(reduction="sum").loss
    (grad,) = torch.autograd.grad(loss, h, create_graph=True)
    with pytest.raises(InputError, match="can be differentiated once, not twice"):
        torch.autograd.backward(grad.sum())


def test_a_gradient_step_lowers_the_loss(device: torch.device) -> None:
    inputs = case("means", device=device)
    result, got = with_gradients(inputs, reduction="sum")
    moved = Case(**(vars(inputs) | {n: getattr(inputs, n) - 1e-3 * g for n, g in got.items()}))
    assert moved.align(reduction="sum").loss < result.loss - 1e-4


def test_mean_of_one_side_only(device: torch.device) -> None:
    inputs = case("means", device=device)
    for name in ("speech_mean", "text_mean"):
        absent = Case(**(vars(inputs) | {name: None}))
        zero = Case(**(vars(inputs) | {name: torch.zeros(16, device=device)}))
        left, left_grads = with_gradients(absent)
        right, right_grads = with_gradients(zero)
        assert torch.equal(left.loss, right.loss)
        for leaf, grad in left_grads.items():
            assert torch.equal(grad, right_grads[leaf])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_mean_of_another_dtype(dtype: torch.dtype, device: torch.device) -> None:
    inputs = case("means", dtype=torch.float32, device=device)
    rounded = {name: getattr(inputs, name).to(dtype) for name in ("speech_mean", "text_mean")}
    _, got = with_gradients(Case(**(vars(inputs) | rounded)))
    same = {name: value.float() for name, value in rounded.items()}
    _, expected = with_gradients(Case(**(vars(inputs) | same)))
    for name, grad in got.items():
        assert grad.dtype == (dtype if name in rounded else torch.float32)
        assert torch.equal(grad, expected[name].to(grad.dtype))


def test_centring_equals_subtracting_the_mean(device: torch.device) -> None:
    inputs = case("means", device=device)
    assert inputs.speech_mean is not None
    assert inputs.text_mean is not None
    leaves = [getattr(inputs, name).requires_grad_() for name in LEAVES[:4]]
    n, m = inputs.speech_lengths, inputs.text_lengths
    outside = dtw_alignment(
        inputs.speech - inputs.speech_mean, inputs.text - inputs.text_mean, n, m
    ).loss
    inside = inputs.align().loss
    torch.testing.assert_close(inside, outside, rtol=1e-13, atol=1e-14)
    for a, b in zip(
        torch.autograd.grad(inside.sum(), leaves),
        torch.autograd.grad(outside.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
