"""Every sentence of dtw.py, soft.py and kernels.py that a user can cause. Ranges: test_lengths.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.ops.cases import case
from thaitool.errors import InputError, OpNotBuiltError
from thaitool.ops import kernels
from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.soft import soft_dtw_alignment

BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"speech": torch.ones(2, 3)}, r"speech must have 3 axes .* has shape \(2, 3\)\."),
    ({"text": torch.ones(2, 3, 1, 2)}, r"text must have 3 axes .* has shape \(2, 3, 1, 2\)\."),
    ({"text": torch.ones(2, 2, 4, dtype=torch.int64)}, r"text must be float32, .* torch\.int64"),
    (
        {"speech": torch.ones(2, 3, 4, dtype=torch.complex64)},
        r"speech must be float32, float64, bfloat16 or float16, but is torch\.complex64\.",
    ),
    ({"text": torch.ones(2, 2, 5)}, r"batch size and width.*\(2, 3, 4\) and \(2, 2, 5\)\."),
    ({"text": torch.ones(1, 2, 4)}, r"batch size and width.*\(2, 3, 4\) and \(1, 2, 4\)\."),
    (
        {"text": torch.ones(2, 2, 5), "text_index": torch.zeros(2, 1, dtype=torch.int64)},
        r"must agree in width, but have shapes \(2, 3, 4\) and \(2, 2, 5\)\.",
    ),
    ({"text": torch.ones(2, 2, 4).double()}, r"agree in dtype .*float32 on cpu and .*float64"),
    (
        {"text": torch.ones(2, 2, 4, device="meta")},
        r"agree in dtype and device, .* on cpu and .* on meta\. Convert one of them first\.",
    ),
    ({"speech_lengths": torch.ones(2)}, r"speech_lengths must be int32 or int64 of shape \(2,\)"),
    (
        {"speech_lengths": torch.tensor([3, 3], dtype=torch.int16)},
        r"speech_lengths must be int32 or int64 of shape \(2,\), but is torch\.int16 of shape",
    ),
    ({"text_lengths": torch.tensor([1])}, r"text_lengths must be .*int64 of shape \(1,\)\."),
    ({"text_lengths": torch.ones(2, 1).long()}, r"text_lengths must .* of shape \(2, 1\)\."),
    ({"speech_lengths": torch.tensor([3, 4])}, r"speech_lengths .* 0\.\.3, but is 4 for pair 1\."),
    ({"text_lengths": torch.tensor([-1, 2])}, r"text_lengths .* 0\.\.2, but is -1 for pair 0\."),
    (
        {"text_index": torch.zeros(2, dtype=torch.int64)},
        r"text_index must be int64 of shape \(2, K\), but is torch\.int64 of shape \(2,\)\.",
    ),
    (
        {"text_index": torch.zeros(3, 1, dtype=torch.int64)},
        r"text_index must be int64 of shape \(2, K\), but is torch\.int64 of shape \(3, 1\)\.",
    ),
    (
        {"text_index": torch.zeros(2, 1, dtype=torch.int32)},
        r"text_index must be int64 of shape \(2, K\), but is torch\.int32 of shape \(2, 1\)\.",
    ),
    ({"text_index": torch.tensor([[0], [5]])}, r"text_index must be in 0\.\.1, but holds 5\."),
    ({"text_index": torch.tensor([[0], [-5]])}, r"text_index must be in 0\.\.1, but holds -5\."),
    (
        {"speech_mean": torch.ones(3)},
        r"speech_mean must be floating point of shape \(4,\) on cpu, but is torch\.float32 of "
        r"shape \(3,\) on cpu\.",
    ),
    (
        {"text_mean": torch.ones(4, dtype=torch.int64)},
        r"text_mean must be floating point of shape \(4,\) on cpu, but is torch\.int64 of",
    ),
    (
        {"text_mean": torch.ones(4, device="meta")},
        r"text_mean must be .* on cpu, but is torch\.float32 of shape \(4,\) on meta\.",
    ),
    (
        {"drop_cost": torch.ones(2, 2)},
        r"drop_cost must be a number or floating point of shape \(2, 3\) on cpu, but is "
        r"torch\.float32 of shape \(2, 2\) on cpu\.",
    ),
    ({"drop_cost": torch.ones(2, 3).int()}, r"drop_cost must .* but is torch\.int32 of shape"),
    ({"drop_cost": torch.ones(2, 3, device="meta")}, r"drop_cost .* of shape \(2, 3\) on meta\."),
    (
        {"text_weights": torch.ones(2, 3)},
        r"text_weights must be floating point of shape \(2, 2\) on cpu, but is torch\.float32 of "
        r"shape \(2, 3\) on cpu\.",
    ),
    (
        {"text_weights": torch.ones(2, 2).int()},
        r"text_weights must .* but is torch\.int32 of shape",
    ),
    (
        {"text_weights": torch.ones(2, 2, requires_grad=True)},
        r"text_weights are constants of the loss, but require a gradient: detach them\.",
    ),
    ({"drop_cost": -0.5}, r"drop_cost must be a finite number of at least 0, but is -0\.5\."),
    ({"drop_cost": float("inf")}, r"drop_cost must be a finite number .* but is inf\."),
    ({"drop_cost": float("nan")}, r"drop_cost must be a finite number .* but is nan\."),
    ({"band": -0.1}, r"band must be None or a number of at least 0, but is -0\.1\."),
    ({"band": float("nan")}, r"band must be None or .* but is nan\."),
    ({"prior": float("inf")}, r"prior must be a finite number of at least 0, but is inf\."),
    ({"prior": -1.0}, r"prior must be a finite number .* but is -1\.0\."),
    ({"prior": float("nan")}, r"prior must be a finite number .* but is nan\."),
    ({"steps": "soft"}, r"steps must be one of dtw, monotonic, but is 'soft'\."),
    ({"normalizer": "none"}, r"normalizer must be one of path, sum_lengths, but is 'none'\."),
    ({"reduction": "max"}, r"reduction must be one of none, mean, sum, but is 'max'\."),
    ({"backend": "cuda"}, r"backend must be one of kernel, reference, but is 'cuda'\."),
    (
        {"steps": "monotonic", "speech_lengths": torch.tensor([3, 1])},
        r'steps="monotonic" needs at least as many frames as tokens, but pair 1 has 1 frames and '
        r'2 tokens\. Drop the pair, or use steps="dtw"\.',
    ),
    (
        {
            "steps": "monotonic",
            "speech_lengths": torch.tensor([3, 1]),
            "text_lengths": torch.tensor([2, 1]),
            "text_index": torch.tensor([[0, 1], [1, 0]]),
        },
        r"at least as many frames as tokens, but pair 1 has 1 frames and 2 tokens",
    ),
]


@pytest.mark.parametrize("backend", ["kernel", "reference"])
@pytest.mark.parametrize(("change", "sentence"), BAD_ARGUMENTS)
def test_error_sentences(
    change: dict[str, Any], sentence: str, backend: str, cpu: torch.device
) -> None:
    arguments: dict[str, Any] = {
        "speech": torch.ones(2, 3, 4),
        "text": torch.ones(2, 2, 4),
        "speech_lengths": torch.tensor([3, 3]),
        "text_lengths": torch.tensor([2, 2]),
        "backend": backend,
    }
    dtw_alignment(**arguments)
    with pytest.raises(InputError, match=sentence) as raised:
        dtw_alignment(**(arguments | change))
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


def test_tensors_on_two_devices(cuda: torch.device) -> None:
    inputs = case("all", device=cuda)
    given = vars(inputs)
    for name, sentence in (
        ("text", r"agree in dtype and device, but are .* on cuda:0 and .* on cpu\."),
        ("speech_mean", r"speech_mean must be .* on cuda:0, but is .* on cpu\."),
        ("drop_cost", r"drop_cost must be .* on cuda:0, but is .* on cpu\."),
    ):
        with pytest.raises(InputError, match=sentence):
            dtw_alignment(**(given | {name: given[name].cpu()}))


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_soft_dtw_needs_a_gamma_above_0(gamma: float, device: torch.device) -> None:
    inputs = case(device=device)
    arguments = (inputs.speech, inputs.text, inputs.speech_lengths, inputs.text_lengths)
    with pytest.raises(InputError, match=rf"gamma must be above 0, but is {gamma!r}\."):
        soft_dtw_alignment(*arguments, gamma=gamma)


def test_other_devices_have_no_kernel() -> None:
    lengths = torch.tensor([2])
    vectors = torch.ones(1, 2, 3, device="meta")
    with pytest.raises(
        OpNotBuiltError,
        match=r'no DTW kernel for meta tensors, only for CPU and CUDA\. .* backend="reference"',
    ):
        dtw_alignment(vectors, vectors, lengths, lengths)


def test_the_kernel_under_test_is_built(device: torch.device) -> None:
    assert kernels.kernel_problem(device) is None


def test_a_missing_binary_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = kernels.load_binary("thaitool.ops._none")
    assert problem == "thaitool.ops._none has not been built for this Python and platform"
    monkeypatch.setattr(kernels, "LOAD_PROBLEM", None)
    monkeypatch.setattr(kernels, "CUDA_PROBLEM", problem)
    assert kernels.kernel_problem(torch.device("cpu")) is None
    sentence = kernels.kernel_problem(torch.device("cuda"))
    assert sentence is not None
    assert sentence.startswith("The CUDA kernel of thaitool.ops is not available: thaitool.ops._n")
    assert "`THAITOOL_CUDA=1 pip install --no-build-isolation -e .`" in sentence
    assert 'backend="reference"' in sentence
    monkeypatch.setattr(kernels, "LOAD_PROBLEM", problem)
    sentence = kernels.kernel_problem(torch.device("cpu"))
    assert sentence is not None
    assert sentence.startswith("The CPU kernel of thaitool.ops is not available: thaitool.ops._no")
    inputs = case()
    with pytest.raises(OpNotBuiltError, match=r"The CPU kernel of thaitool\.ops is not available"):
        inputs.align()
    assert inputs.align(backend="reference").loss.isfinite().all()
