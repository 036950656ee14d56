"""The operators under torch.library: opcheck, fakes, and what each refuses. Not the public function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import FORMS, Case, case
from tests.ops.path_op import path_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
OPTIONS = {
    "band": torch.tensor(0.5, dtype=torch.float64),
    "prior": torch.tensor(0.1, dtype=torch.float64),
    "monotonic": False,
}


def forward_arguments(inputs: Case) -> tuple[Tensor | None, ...]:
    """As the public function passes them."""
    device = inputs.speech.device
    drop = None if inputs.drop_cost is None else inputs.drop_cost.double()
    return (
        *(inputs.speech, inputs.text, inputs.speech_mean, inputs.text_mean, drop),
        None if inputs.text_weights is None else inputs.text_weights.double(),
        *(inputs.speech_lengths.to(device), inputs.text_lengths.to(device), inputs.text_index),
    )


def opcheck(op: Any, arguments: tuple[Any, ...], options: dict[str, Any] | None = None) -> None:
    """All that torch.library checks, and nothing skipped."""
    results = torch.library.opcheck(op.default, arguments, options)
    assert results == dict.fromkeys(
        (
            "test_schema",
            "test_autograd_registration",
            "test_faketensor",
            "test_aot_dispatch_dynamic",
        ),
        "SUCCESS",
    )


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("plain", torch.bfloat16),
        ("weights", torch.float32),
        *(pytest.param(form, torch.float64, marks=pytest.mark.slow) for form in FORMS),
    ],
)
def test_opcheck_of_forward(form: str, dtype: torch.dtype, device: torch.device) -> None:
    inputs = case(form, dtype=dtype, device=device)
    arguments = forward_arguments(inputs)
    for leaf in arguments[:5]:
        if leaf is not None:
            leaf.requires_grad_()
    opcheck(torch.ops.thaitool.dtw_forward, arguments, OPTIONS)


def low_level_calls(inputs: Case) -> list[tuple[Any, tuple[Any, ...]]]:
    """Arguments as a forward and a backward pass bring them."""
    h, e, u, v, drop, weights, n, m, index = forward_arguments(inputs)
    assert h is not None
    assert e is not None
    ops = torch.ops.thaitool
    inverse_h, shift_h = ops.dtw_statistics(h, u, v, n, False)
    inverse_e, shift_e = ops.dtw_statistics(e, v, u, m, True)
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    dots = torch.rand(6, 1 if index is None else 3, 21, 9, device=h.device, dtype=wide)
    vectors = (dots, inverse_h, inverse_e, shift_h, shift_e)
    path = (*vectors, index, n, m, drop, weights, 0.5, 0.1, False)
    cost, intervals, *_ = ops.dtw_forward(h, e, u, v, drop, weights, n, m, index, **OPTIONS)
    saved = (cost, h, e, u, v, inverse_h, inverse_e, intervals, index, n, m, weights)
    return [
        (ops.dtw_statistics, (h, u, v, n, False)),
        (ops.dtw_statistics, (e, v, u, m, True)),
        (ops.dtw_path, path),
        (ops.dtw_backward, (*saved, True, True, u is not None, u is not None)),
        (ops.dtw_backward, (*saved, u is None, False, False, u is not None)),
    ]


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("plain", torch.float16),
        ("weights", torch.float64),
        pytest.param("means", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("drop", torch.float32, marks=pytest.mark.slow),
        pytest.param("cross", torch.float16, marks=pytest.mark.slow),
    ],
)
def test_opcheck_of_the_low_level_operators(
    form: str, dtype: torch.dtype, device: torch.device
) -> None:
    for op, arguments in low_level_calls(case(form, dtype=dtype, device=device)):
        opcheck(op, arguments)


def test_gradients_that_are_not_needed_are_empty(device: torch.device) -> None:
    h, e, u, v, drop, weights, n, m, index = forward_arguments(case("all", device=device))
    ops = torch.ops.thaitool
    cost, intervals, _, inverse_h, inverse_e = ops.dtw_forward(
        h, e, u, v, drop, weights, n, m, index, **OPTIONS
    )
    saved = (
        torch.ones_like(cost),
        h,
        e,
        u,
        v,
        inverse_h,
        inverse_e,
        intervals,
        index,
        n,
        m,
        weights,
    )
    full = ops.dtw_backward(*saved, True, True, True, True)
    assert [tuple(g.shape) for g in full] == [(6, 21, 16), (6, 9, 16), (16,), (16,)]
    for at in range(4):
        needs = [place == at for place in range(4)]
        got = ops.dtw_backward(*saved, *needs)
        for place in range(4):
            assert got[place].shape == (full[place].shape if place == at else (0,))
        assert torch.equal(got[at], full[at])
        assert got[at].is_contiguous()


def test_outputs_are_new_and_no_views(device: torch.device) -> None:
    arguments = forward_arguments(case(device=device))
    for output in torch.ops.thaitool.dtw_forward(*arguments, **OPTIONS):
        assert not output._is_view()
        assert not output.requires_grad


def test_the_path_kernel_refuses_what_would_leave_its_memory(cpu: torch.device) -> None:
    cost = torch.ones(2, 3, 4)
    three, four = torch.tensor([3, 3]), torch.tensor([4, 4])
    with pytest.raises(RuntimeError, match=r"length 4 of pair 0 is not in 0\.\.3"):
        path_of(cost, speech_lengths=four, text_lengths=four)
    with pytest.raises(RuntimeError, match=r"length -1 of pair 1 is not in 0\.\.4"):
        path_of(cost, speech_lengths=three, text_lengths=torch.tensor([4, -1]))
    with pytest.raises(RuntimeError, match="pair 0 has 4 tokens for 3 frames"):
        path_of(cost, speech_lengths=three, text_lengths=four, monotonic=True)
    with pytest.raises(RuntimeError, match="lengths has the wrong shape or is not contiguous"):
        path_of(cost, speech_lengths=three[:1], text_lengths=four)
    with pytest.raises(RuntimeError, match=r"band must not be negative, but is -0\.5"):
        path_of(cost, band=-0.5)
    with pytest.raises(RuntimeError, match="drop_cost has the wrong shape"):
        path_of(cost, drop_cost=torch.ones(2, 4))


def path_arguments() -> dict[str, Any]:
    return {
        "dots": torch.ones(2, 1, 3, 4),
        "inverse_frame_norms": torch.ones(2, 3, dtype=torch.float64),
        "inverse_token_norms": torch.ones(2, 4, dtype=torch.float64),
        "frame_shift": torch.zeros(0, 0, dtype=torch.float64),
        "token_shift": torch.zeros(0, 0, dtype=torch.float64),
        "text_index": None,
        "speech_lengths": torch.tensor([3, 3]),
        "text_lengths": torch.tensor([4, 4]),
        "drop_cost": None,
        "token_weights": None,
        "band": 1.0,
        "prior": 0.0,
        "monotonic": False,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dots": torch.ones(2, 3, 4)}, "dots must be 4-D, but have 3 axes"),
        ({"dots": torch.ones(2, 1, 4, 3).mT}, "the last axis of dots must be dense"),
        ({"dots": torch.ones(2, 2, 3, 4)}, "without text_index, speech and text must have one"),
        (
            {"inverse_frame_norms": torch.ones(2, 4, dtype=torch.float64)},
            "inverse_frame_norms has the wrong shape",
        ),
        (
            {"inverse_token_norms": torch.ones(2, 3, dtype=torch.float64)},
            "inverse_token_norms has the wrong shape",
        ),
        ({"frame_shift": torch.ones(2, 4, dtype=torch.float64)}, "frame_shift has the wrong shape"),
        (
            {
                "frame_shift": torch.ones(2, 3, dtype=torch.float64),
                "token_shift": torch.ones(2, 3, dtype=torch.float64),
            },
            "token_shift has the wrong shape",
        ),
        (
            {"token_weights": torch.ones(2, 3, dtype=torch.float64)},
            "token_weights has the wrong shape",
        ),
        ({"text_index": torch.tensor([[0], [2]])}, r"text_index 2 at place 1 is not in 0\.\.1"),
        ({"text_index": torch.tensor([[-1], [0]])}, r"text_index -1 at place 0 is not in 0\.\.1"),
        ({"text_index": torch.tensor([[0, 1]])}, "text_index has the wrong shape"),
        ({"band": float("nan")}, "band must not be negative, but is nan"),
    ],
)
def test_the_path_kernel_checks_its_arguments(
    change: dict[str, Any], sentence: str, cpu: torch.device
) -> None:
    arguments = path_arguments()
    torch.ops.thaitool.dtw_path(*arguments.values())
    with pytest.raises(RuntimeError, match=sentence):
        torch.ops.thaitool.dtw_path(*(arguments | change).values())


def test_statistics_check_their_arguments(cpu: torch.device) -> None:
    vectors, n, mean = torch.ones(2, 3, 4), torch.tensor([3, 3]), torch.ones(4)
    statistics = torch.ops.thaitool.dtw_statistics
    with pytest.raises(RuntimeError, match="give both means or none"):
        statistics(vectors, mean, None, n, False)
    with pytest.raises(RuntimeError, match="vectors must be 3-D, but have 2 axes"):
        statistics(vectors[0], None, None, n, False)
    with pytest.raises(RuntimeError, match="the last axis of vectors must be dense"):
        statistics(vectors.mT, None, None, torch.tensor([4, 4]), False)
    with pytest.raises(RuntimeError, match="mean has the wrong shape"):
        statistics(vectors, mean[:3], mean[:3], n, False)
    with pytest.raises(RuntimeError, match=r"length 5 of pair 1 is not in 0\.\.3"):
        statistics(vectors, None, None, torch.tensor([3, 5]), False)
    with pytest.raises(RuntimeError, match=r"[Ii]nt|dtype|type"):
        statistics(vectors.int(), None, None, n, False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"intervals": [[0, 1], [1, 4], [2, 3]]},
            r"interval 1\.\.4 of pair 0 frame 1 leaves 0\.\.3",
        ),
        ({"intervals": [[0, 1], [-1, 2], [2, 3]]}, r"interval -1\.\.2 of pair 0 frame 1 leaves"),
        ({"intervals": [[0, 1], [2, 1], [2, 3]]}, r"interval 2\.\.1 of pair 0 frame 1 leaves"),
        ({"intervals": [[0, 1], [1, 2]]}, "intervals has the wrong shape"),
        ({"grad": torch.ones(2, 1, dtype=torch.float64)}, "grad has the wrong shape"),
        ({"text": torch.ones(1, 3, 2).double()}, "speech and text must agree in dtype and width"),
        ({"text": torch.ones(1, 3, 5)}, "speech and text must agree in dtype and width"),
        (
            {"token_weights": torch.ones(1, 2, dtype=torch.float64)},
            "token_weights has the wrong shape",
        ),
        ({"text_index": torch.tensor([[1]])}, r"text_index 1 at place 0 is not in 0\.\.0"),
        ({"text_lengths": torch.tensor([4])}, r"length 4 of pair 0 is not in 0\.\.3"),
        ({"speech": torch.ones(1, 2, 3).mT}, "the last axis of vectors must be dense"),
    ],
)
def test_backward_checks_its_arguments(
    change: dict[str, Any], sentence: str, cpu: torch.device
) -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    arguments: dict[str, Any] = {
        "grad": torch.ones(1, 1, dtype=torch.float64),
        "speech": torch.ones(1, 3, 2),
        "text": torch.ones(1, 3, 2),
        "speech_mean": None,
        "text_mean": None,
        "inverse_frame_norms": one,
        "inverse_token_norms": one,
        "intervals": [[0, 1], [1, 2], [2, 3]],
        "text_index": None,
        "speech_lengths": torch.tensor([3]),
        "text_lengths": torch.tensor([3]),
        "token_weights": None,
    }

    def call(changed: dict[str, Any]) -> None:
        given = arguments | changed
        given["intervals"] = torch.tensor([[given["intervals"]]], dtype=torch.int32)
        torch.ops.thaitool.dtw_backward(*given.values(), True, True, False, False)

    call({})
    with pytest.raises(RuntimeError, match=sentence):
        call(change)


def test_dtypes_that_would_be_misread_are_refused(device: torch.device) -> None:
    """A tensor of the wrong dtype must not be read as if it were the right one."""
    arguments = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in path_arguments().items()
    }
    for name, value in (
        ("inverse_frame_norms", torch.ones(2, 3)),
        ("inverse_token_norms", torch.ones(2, 4)),
        ("speech_lengths", torch.tensor([3, 3], dtype=torch.int32)),
        ("text_index", torch.tensor([[0], [1]], dtype=torch.int32)),
        ("drop_cost", torch.ones(2, 3)),
        ("token_weights", torch.ones(2, 4)),
        ("dots", torch.ones(2, 1, 3, 4, dtype=torch.int32)),
        ("dots", torch.ones(2, 1, 3, 4, dtype=torch.bfloat16)),
    ):
        with pytest.raises(RuntimeError):
            torch.ops.thaitool.dtw_path(*(arguments | {name: value.to(device)}).values())
