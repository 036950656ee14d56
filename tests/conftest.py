"""Shared fixtures: synthetic sound, and the program in a process of its own. No test logic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]


class Tone(Protocol):
    """Makes a sine of 220 Hz with a little noise, shape (N,), float32."""

    def __call__(self, seconds: float, rate_hz: int = 16_000) -> NDArray[np.float32]: ...


class Program(Protocol):
    """Runs `python -m thaitool` with arguments."""

    def __call__(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]: ...


@pytest.fixture
def tone() -> Tone:
    """Noise keeps coders from packing the sine into almost no bytes."""

    def make(seconds: float, rate_hz: int = 16_000) -> NDArray[np.float32]:
        t = np.arange(round(seconds * rate_hz)) / rate_hz
        noise = np.random.default_rng(0).standard_normal(len(t))
        samples: NDArray[np.float32] = (0.3 * np.sin(2 * np.pi * 220 * t) + 0.02 * noise).astype(
            "f4"
        )
        return samples

    return make


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program as a user starts it: a fresh interpreter, no terminal, an empty working directory."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "thaitool", *args]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=environment,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts signal handlers back after a test that runs the command line in this process."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
