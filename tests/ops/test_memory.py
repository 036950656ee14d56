"""Peak memory over the inputs: the gradient, and one chunk of dot products. Not speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from thaitool.ops import kernels
from thaitool.ops.dtw import dtw_alignment

ROOT = Path(__file__).resolve().parents[2]
PAIRS, FRAMES, TOKENS, WIDTH = 16, 500, 100, 2048
FORMS = ["plain", "all"]
FORMS_ALONE = [
    pytest.param(form, marks=pytest.mark.slow) for form in ("bfloat16", "means", "drop", "cross")
]
#: Intervals, norms, small buffers of the GEMM library, and what malloc keeps.
SLACK = 6 * 2**20

CHILD = """
import sys, torch
from tests.ops.test_memory import step, inputs_of
from pathlib import Path

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.set_num_threads(1)
form = sys.argv[1]
step(form, inputs_of(form, torch.device("cpu"), pairs=1))  # libraries load, buffers are made
inputs = inputs_of(form, torch.device("cpu"))
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
before = kilobytes("VmRSS:")
grads = step(form, inputs)
print((kilobytes("VmHWM:") - before) * 1024)
"""


def inputs_of(form: str, device: torch.device, pairs: int = PAIRS) -> dict[str, Any]:
    """Arguments of one call; the speech wants a gradient, and the means where there are some."""
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    found: dict[str, Any] = {
        "speech": torch.randn(pairs, FRAMES, WIDTH, device=device, dtype=dtype).requires_grad_(),
        "text": torch.randn(pairs, TOKENS, WIDTH, device=device, dtype=dtype),
        "speech_lengths": torch.full((pairs,), FRAMES, device=device),
        "text_lengths": torch.full((pairs,), TOKENS, device=device),
    }
    if form in {"means", "all"}:
        found["speech_mean"] = torch.randn(WIDTH, device=device).requires_grad_()
        found["text_mean"] = torch.randn(WIDTH, device=device).requires_grad_()
    if form in {"drop", "all"}:
        found["drop_cost"] = torch.rand(pairs, FRAMES, device=device).requires_grad_()
    if form == "all":
        found["text_weights"] = torch.rand(pairs, TOKENS, device=device)
    if form in {"cross", "all"}:
        place = torch.arange(pairs, device=device)[:, None] + torch.arange(4, device=device)
        found["text_index"] = place % pairs
    return found


def step(form: str, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """One forward and backward pass."""
    leaves = [value for value in inputs.values() if value.requires_grad]
    return torch.autograd.grad(dtw_alignment(**inputs, reduction="mean").loss, leaves)


def allowed(form: str, device: torch.device) -> float:
    """1.1 times the gradient of the speech, and one chunk."""
    item = 2 if form == "bfloat16" else 4
    gradient = PAIRS * FRAMES * WIDTH * item
    each = FRAMES * TOKENS * 4 * (4 if form in {"cross", "all"} else 1)
    if form == "bfloat16" and device.type == "cpu":
        each += (FRAMES + TOKENS) * WIDTH * 4  # the GEMM of the CPU wants float32
    if form in {"cross", "all"} and device.type == "cuda":
        each += 4 * TOKENS * WIDTH * item  # the texts side by side
    chunk = min(PAIRS * each, kernels.WORKSPACE_BYTES[device.type])
    return 1.1 * gradient + chunk + SLACK


@pytest.mark.parametrize("form", [*FORMS, *FORMS_ALONE])
def test_peak_over_the_inputs_on_the_cpu(form: str, cpu: torch.device) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, form],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    gradient = PAIRS * FRAMES * WIDTH * (2 if form == "bfloat16" else 4)
    assert gradient <= peak <= allowed(form, cpu)


@pytest.mark.parametrize("form", [*FORMS, *FORMS_ALONE])
def test_peak_over_the_inputs_on_cuda(form: str, cuda: torch.device) -> None:
    step(form, inputs_of(form, cuda, pairs=1))
    inputs = inputs_of(form, cuda)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    grads = step(form, inputs)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    assert grads[0].numel() * grads[0].element_size() <= peak <= allowed(form, cuda)


def test_what_waits_for_backward_is_small(device: torch.device) -> None:
    """Beside the inputs: intervals, two norms per row and some lengths. No S, no normalised copy."""
    inputs = inputs_of("means", device, pairs=4)
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dtw_alignment(**inputs)
    given = {value.data_ptr() for value in inputs.values()}
    extra = sum(t.numel() * t.element_size() for t in saved if t.data_ptr() not in given)
    assert 0 < extra <= 4 * (FRAMES + TOKENS) * 16 + 4 * 64
