"""torch.compile, CUDA graphs, vmap and other transforms of the public function. Not the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FORMS, LEAVES, Case, case, with_gradients
from thaitool.errors import InputError
from thaitool.ops.dtw import dtw_alignment


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def counted() -> tuple[Callable[..., Any], list[int]]:
    """`dtw_alignment` compiled without graph breaks, and how often it was compiled."""
    times = [0]

    def backend(graph: torch.fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        times[0] += 1
        return graph.forward

    return torch.compile(dtw_alignment, fullgraph=True, backend=backend, dynamic=True), times


@pytest.mark.parametrize(
    "form",
    ["all", *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[:4])],
)
def test_compiles_without_a_graph_break(form: str, device: torch.device) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    options: dict[str, Any] = {"band": 0.3, "reduction": "sum"}
    expected, grads = with_gradients(inputs, **options)
    compiled = torch.compile(dtw_alignment, fullgraph=True, backend="aot_eager", dynamic=True)
    leaves = {
        name: getattr(inputs, name).clone().requires_grad_()
        for name in LEAVES
        if getattr(inputs, name) is not None
    }
    given = {**vars(inputs), **leaves}
    result = compiled(**given, **options)
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.intervals, expected.intervals)
    assert torch.equal(result.path_length, expected.path_length)
    for name, grad in zip(
        leaves, torch.autograd.grad(result.loss, list(leaves.values())), strict=True
    ):
        assert torch.equal(grad, grads[name])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "all"])
def test_compiles_with_inductor(form: str, device: torch.device) -> None:
    inputs = case(form, dtype=torch.float32, device=device)
    expected, grads = with_gradients(inputs, ("speech",))
    speech = inputs.speech.clone().requires_grad_()
    compiled = torch.compile(dtw_alignment, fullgraph=True)
    result = compiled(**(vars(inputs) | {"speech": speech}))
    torch.testing.assert_close(result.loss, expected.loss)
    assert torch.equal(result.intervals, expected.intervals)
    scale = torch.linspace(1, 2, result.loss.numel(), device=device).view(result.loss.shape)
    (grad,) = torch.autograd.grad((result.loss * scale).sum(), speech)
    torch.testing.assert_close(grad, grads["speech"])


def test_lengths_are_checked_by_the_kernel_under_compile(cpu: torch.device) -> None:
    inputs = case(dtype=torch.float32)
    compiled = torch.compile(dtw_alignment, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(**vars(inputs))
    beyond = replace(inputs, speech_lengths=inputs.speech_lengths + 2)
    with pytest.raises(RuntimeError, match=r"length 22 of pair 0 is not in 0\.\.21"):
        compiled(**vars(beyond))


def test_new_sizes_do_not_compile_again(device: torch.device) -> None:
    compiled, times = counted()
    for frames, tokens, pairs in ((21, 9, 6), (20, 8, 5), (12, 5, 4), (33, 17, 7), (64, 3, 2)):
        compiled(
            torch.randn(pairs, frames, 8, device=device),
            torch.randn(pairs, tokens, 8, device=device),
            torch.full((pairs,), frames),
            torch.full((pairs,), tokens),
        )
    assert times == [1]


@pytest.mark.parametrize("name", ["band", "prior", "drop_cost"])
def test_an_annealed_option_does_not_compile_again(name: str, device: torch.device) -> None:
    """torch gives up after eight compilations; a schedule has thousands of values."""
    inputs = case(dtype=torch.float32, device=device)
    given = {key: value for key, value in vars(inputs).items() if key != "drop_cost"}
    compiled, times = counted()
    for step in range(4):
        options: dict[str, Any] = {**given, name: 0.9 - 0.1 * step}
        result = compiled(**options)
        expected = dtw_alignment(**options)
        assert torch.equal(result.loss, expected.loss)
    assert times == [1]


def test_cuda_graph(cuda: torch.device) -> None:
    """Forward and backward are captured once and replayed on new numbers; nothing waits for the GPU."""
    first = case("all", dtype=torch.float32, seed=1, device=cuda)
    second = case("all", dtype=torch.float32, seed=2, device=cuda)
    static = Case(**{name: value.clone() for name, value in vars(first).items()})
    leaves = [getattr(static, name).requires_grad_() for name in LEAVES]

    def step() -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        result = static.align(band=0.5)
        grads = torch.autograd.grad(result.loss.sum(), leaves)
        return result.loss, result.intervals, grads

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, intervals, grads = step()
    for inputs in (second, first, second):
        with torch.no_grad():
            for name, value in vars(inputs).items():
                getattr(static, name).copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        eager = inputs.align(band=0.5)
        assert torch.equal(loss, eager.loss)
        assert torch.equal(intervals, eager.intervals)
        ones = [getattr(inputs, name).requires_grad_() for name in LEAVES]
        expected = torch.autograd.grad(inputs.align(band=0.5).loss.sum(), ones)
        for a, b in zip(grads, expected, strict=True):
            assert torch.equal(a, b)


def test_nothing_waits_for_the_gpu(cuda: torch.device) -> None:
    inputs = case("all", dtype=torch.bfloat16, device=cuda)
    with_gradients(inputs)  # libraries load, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        with_gradients(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vmap_over_speech_gives_the_loop(device: torch.device) -> None:
    inputs = case(device=device)
    speech = torch.stack([inputs.speech, 2 * inputs.speech.flip(1), -inputs.speech])

    def loss(h: Tensor) -> Tensor:
        return replace(inputs, speech=h).align().loss

    assert torch.equal(torch.vmap(loss)(speech), torch.stack([loss(h) for h in speech]))


def test_vmap_over_lengths_is_refused(device: torch.device) -> None:
    inputs = case(device=device)

    def loss(n: Tensor) -> Tensor:
        return replace(inputs, speech_lengths=n).align().loss

    with pytest.raises(RuntimeError, match=r"vmap|batching|data pointer|storage"):
        torch.vmap(loss)(inputs.speech_lengths.expand(2, -1))


def test_forward_mode_is_refused(device: torch.device) -> None:
    """A tangent that silently vanishes would be wrong."""
    inputs = case(device=device)

    def loss(h: Tensor) -> Tensor:
        return replace(inputs, speech=h).align().loss

    with pytest.raises(InputError, match="no forward-mode derivative"):
        torch.func.jvp(loss, (inputs.speech,), (torch.ones_like(inputs.speech),))


def test_inference_mode(device: torch.device) -> None:
    inputs = case("all", device=device)
    expected = inputs.align()
    with torch.inference_mode():
        result = inputs.align()
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.intervals, expected.intervals)
