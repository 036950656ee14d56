"""Equal bits: of two runs, of any number of threads, in torch's deterministic mode. Not across devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FORMS, Case, case, with_gradients
from tests.ops.path_op import path_of


def heavy(form: str, device: torch.device) -> Case:
    """Enough work for several threads or blocks; few long speeches, so that rows are shared out."""
    generator = torch.Generator().manual_seed(4)
    made = Case(
        torch.randn(5, 60, 512, generator=generator),
        torch.randn(5, 20, 512, generator=generator),
        torch.tensor([60, 50, 40, 30, 20]),
        torch.tensor([20, 15, 20, 3, 1]),
    )
    extras: dict[str, Any] = {}
    if form in {"means", "all", "weights"}:
        extras["speech_mean"] = 0.2 * torch.randn(512, generator=generator)
        extras["text_mean"] = 0.2 * torch.randn(512, generator=generator)
    if form in {"drop", "all", "weights"}:
        extras["drop_cost"] = torch.rand(5, 60, generator=generator) + 0.4
    if form in {"cross", "all", "weights"}:
        extras["text_index"] = torch.randint(0, 5, (5, 7), generator=generator)
    if form == "weights":
        extras["text_weights"] = torch.rand(5, 20, generator=generator)
    return Case(**(vars(made) | extras)).on(device)


def everything(inputs: Case) -> list[Tensor]:
    result, grads = with_gradients(inputs)
    return [result.loss, result.intervals, result.path_length, *grads.values()]


def equal(runs: list[list[Tensor]]) -> bool:
    return all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_give_equal_bits(form: str, device: torch.device) -> None:
    assert equal([everything(heavy(form, device)) for _ in range(3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", FORMS)
def test_any_number_of_threads_gives_equal_bits(
    form: str, dtype: torch.dtype, cpu: torch.device
) -> None:
    inputs = heavy(form, cpu)
    inputs = Case(**(vars(inputs) | {n: getattr(inputs, n).to(dtype) for n in ("speech", "text")}))
    runs = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        runs.append(everything(inputs))
    assert equal(runs)


def test_any_number_of_threads_gives_equal_statistics_and_paths(cpu: torch.device) -> None:
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randn(5, 600, 128, generator=generator)
    mean = torch.randn(128, generator=generator)
    n, m = torch.tensor([600, 500, 400, 300, 0]), torch.tensor([200, 150, 200, 30, 10])
    cost = torch.rand(5, 600, 200, generator=generator)
    runs = []
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        statistics = torch.ops.thaitool.dtw_statistics(vectors, mean, -mean, n, True)
        paths = path_of(
            cost, speech_lengths=n, text_lengths=m, drop_cost=torch.rand(1).expand(5, 600) * 0 + 0.4
        )
        runs.append([*statistics, *paths])
    assert equal(runs)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("form", FORMS)
def test_deterministic_algorithms_mode(
    form: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks of every user
    inputs = case(form, device=device)
    assert equal([everything(inputs) for _ in range(2)])


@pytest.mark.usefixtures("deterministic")
def test_memory_that_is_not_initialised_is_not_read(device: torch.device) -> None:
    """In this mode torch fills new memory with NaN; what nobody writes would show."""
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    inputs = case("all", dtype=torch.float32, device=device)
    _, grads = with_gradients(inputs)
    frames, tokens = inputs.padding()
    assert not grads["speech"][frames].any()
    assert not grads["text"][tokens].any()
    for grad in grads.values():
        assert grad.isfinite().all()
