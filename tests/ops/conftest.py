"""Option --device and fixtures of the tests of the op. Needs torch and pytest only, and no tests/conftest.py.

On a bare GPU machine: `python -m pytest tests/ops --confcutdir=tests/ops --device cuda`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# cuBLAS reads it once, at the first GEMM of the process; torch wants it in deterministic mode.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the tensors of the tests live; everything that runs on the CPU also runs on CUDA."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda")


def chosen_device(config: pytest.Config) -> str:
    """The option; its default where the whole suite runs, because pytest reads this file late then."""
    return str(config.getoption("--device", default="cpu"))


def pytest_configure(config: pytest.Config) -> None:
    """Asked for and absent is a mistake of the caller: skipped tests would look like passed ones."""
    if chosen_device(config) == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            "--device cuda needs a GPU that torch can use, but torch.cuda.is_available() is False."
        )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device under test."""
    return torch.device(chosen_device(request.config))


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device of a test that has nothing to say about the CPU."""
    if device.type != "cuda":
        pytest.skip("only for --device cuda")
    return device


@pytest.fixture
def cpu(device: torch.device) -> torch.device:
    """The device of a test that has nothing to say about CUDA."""
    if device.type != "cpu":
        pytest.skip("only for --device cpu")
    return device


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: on a busy machine, waiting for a second thread takes most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
