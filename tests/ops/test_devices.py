"""Where the op runs: processes, streams, the second GPU. Not what it computes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from tests.ops.cases import Case, case, with_gradients


def loss_only(device: str) -> list[float]:
    """What a forked child sends back: torch refuses backward there if the parent has used threads."""
    torch.set_num_threads(1)
    return (
        case("all", dtype=torch.float32, device=torch.device(device)).align().loss.sum(1).tolist()
    )


def with_totals(device: str) -> list[float]:
    """The same, and sums of all gradients."""
    result, grads = with_gradients(case("all", dtype=torch.float32, device=torch.device(device)))
    return [*result.loss.sum(1).tolist(), *(g.double().sum().item() for g in grads.values())]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: fork with threads
def test_forked_child(cpu: torch.device) -> None:
    """As a worker of a data loader. CUDA cannot be used in a fork of a process that has used it."""
    expected = loss_only(cpu.type)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for found in pool.map(loss_only, [cpu.type] * 4, timeout=300):
            assert found == expected


def test_spawned_child(device: torch.device) -> None:
    expected = with_totals(device.type)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for found in pool.map(with_totals, [device.type] * 2, timeout=300):
            assert found == expected


def test_the_result_is_where_the_inputs_are(device: torch.device) -> None:
    inputs = case("all", device=device)
    result, grads = with_gradients(inputs)
    for tensor in (result.loss, result.intervals, result.path_length, *grads.values()):
        assert tensor.device == inputs.speech.device


def test_the_second_gpu(cuda: torch.device) -> None:
    """torchaudio's forced_align read illegal memory there for years: no device guard."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, and there is {torch.cuda.device_count()}")
    expected, grads = with_gradients(case("all", dtype=torch.float32, device=cuda))
    second = torch.device("cuda", 1)
    with torch.cuda.device(0):
        result, got = with_gradients(case("all", dtype=torch.float32, device=second))
    assert result.loss.device == second
    assert torch.equal(result.loss.cpu(), expected.loss.cpu())
    assert torch.equal(result.intervals.cpu(), expected.intervals.cpu())
    for name, grad in got.items():
        assert grad.device == second
        assert torch.equal(grad.cpu(), grads[name].cpu())
    assert torch.cuda.current_device() == 0


def test_side_stream(cuda: torch.device) -> None:
    """The kernels run behind what their stream has before them, and not on the default stream."""
    expected, grads = with_gradients(case("all", dtype=torch.float32, device=cuda))
    inputs = case("all", dtype=torch.float32, device=cuda)
    late = {name: torch.zeros_like(getattr(inputs, name)) for name in ("speech", "text")}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # type: ignore[no-untyped-call]  # until here, late holds zeros; about 30 ms
        for name, value in late.items():
            value.copy_(getattr(inputs, name))
        result, got = with_gradients(Case(**(vars(inputs) | late)))
    stream.synchronize()
    assert torch.equal(result.loss, expected.loss)
    assert torch.equal(result.intervals, expected.intervals)
    for name, grad in got.items():
        assert torch.equal(grad, grads[name])
