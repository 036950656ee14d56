"""`make bench`: the DTW operator against its definition, verified before it is timed. Grows with issue B."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import pytest
import torch

from thaitool.ops.dtw import dtw_alignment

B, I, J, D = 8, 250, 40, 1024  # noqa: E741 (the shape alphabet)


@pytest.mark.slow
def test_kernel_is_much_faster_than_the_definition(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(B, J, D, generator=generator)
    speech = torch.randn(B, I, D, generator=generator, requires_grad=True)
    lengths = torch.full((B,), I), torch.full((B,), J)

    def step(backend: Literal["kernel", "reference"]) -> tuple[float, torch.Tensor]:
        speech.grad = None
        began = time.perf_counter()
        out = dtw_alignment(speech, text, *lengths, reduction="mean", backend=backend)
        torch.autograd.backward(out.loss)
        assert speech.grad is not None
        return time.perf_counter() - began, speech.grad.clone()

    torch.testing.assert_close(step("kernel")[1], step("reference")[1], atol=1e-6, rtol=1e-4)
    pairs = [(step("kernel")[0], step("reference")[0]) for _ in range(5)]
    kernel, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
    with capsys.disabled():
        shape = f"B={B} I={I} J={J} D={D} float32, {torch.get_num_threads()} threads"
        print(
            f"\ndtw forward+backward, {shape}: {kernel * 1e3:.1f} ms, definition {reference * 1e3:.1f} ms,"
            f" ratio {reference / kernel:.1f}"
        )
    assert reference / kernel > 3
