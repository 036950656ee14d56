"""The CUDA kernel of the path against the CPU kernel, on a machine without a GPU: their text runs in emulation.

What emulation cannot show is left to `make gpu-check`: speed, memory coalescing, what the compiler
for the device does, and races inside a warp between two synchronisations.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thaitool.ops.dtw  # noqa: F401  (registers torch.ops.thaitool)
from tests.ops import emulated
from tests.ops.emulated import Emulation

pytestmark = pytest.mark.usefixtures("cpu")
NONE = torch.zeros(0, 0, dtype=torch.float64)
#: Instead of the plan: few columns per block (strips), and steps that do not fit into shared memory.
GEOMETRIES: list[dict[str, int]] = [
    {},
    {"warps": 1},
    {"warps": 1, "columns_per_lane": 2},
    {"warps": 3, "columns_per_lane": 2},
    {"warps": 8, "columns_per_lane": 1, "shared_limit": 48 * 1024},
    {"warps": 2, "shared_limit": 20 * 1024},
]
OPTIONS: list[tuple[float, float, bool]] = [
    (1.0, 0.0, False),
    (0.1, 0.0, False),
    (0.0, 0.7, False),
    (0.3, 0.2, True),
]


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    """The compiled emulation."""
    return emulated.load(tmp_path_factory.getbasetemp())


@dataclass(frozen=True)
class Grids:
    """The arguments of `dtw_path` up to the options."""

    dots: Tensor
    inverse_frame_norms: Tensor
    inverse_token_norms: Tensor
    frame_shift: Tensor
    token_shift: Tensor
    text_index: Tensor | None
    speech_lengths: Tensor
    text_lengths: Tensor
    drop_cost: Tensor | None
    token_weights: Tensor | None = None

    def path(self, ops: Any, *options: float) -> tuple[Tensor, Tensor, Tensor]:
        """By `torch.ops.thaitool` or an emulation; options are band, prior and monotonic."""
        found: tuple[Tensor, Tensor, Tensor] = ops.dtw_path(*vars(self).values(), *options)
        return found


def grids(
    seed: int,
    frames: int,
    tokens: int,
    *,
    dtype: torch.dtype = torch.float32,
    drop: bool = False,
    centred: bool = False,
    places: int = 0,
    ties: bool = False,
    weighted: bool = False,
) -> Grids:
    """Three speeches of full, half and no length; `places` > 0: as many of four texts for each."""
    generator = torch.Generator().manual_seed(seed)
    texts = 4 if places else 3

    def draw(*shape: int) -> Tensor:
        # Multiples of 2**-20: sums of drop costs are then exact in any order.
        return torch.randint(1, 2**20, shape, generator=generator) / 2.0**20

    shape = (3, max(places, 1), frames, tokens)
    dots = torch.randint(0, 3, shape, generator=generator) / 4 if ties else 3 * draw(*shape) - 1.5
    lengths = torch.tensor([frames, (frames + 1) // 2, 0])
    return Grids(
        dots.to(dtype),
        torch.ones(3, frames).double() if ties else draw(3, frames).double(),
        torch.ones(texts, tokens).double() if ties else draw(texts, tokens).double(),
        draw(3, frames).double() - 0.5 if centred else NONE,
        draw(texts, tokens).double() - 0.5 if centred else NONE,
        torch.randint(0, texts, (3, places), generator=generator) if places else None,
        lengths,
        torch.tensor([tokens, (tokens + 1) // 2, tokens, 0])[:texts],
        draw(3, frames).double() if drop else None,
        # Few bits: sums of weighted costs of float32 are then exact in any order, too.
        torch.randint(16, (texts, tokens), generator=generator).double() / 8 if weighted else None,
    )


def assert_same_path(emulation: Emulation, given: Grids, *options: float) -> None:
    """Same bits, NaN included; sums of float64 may be added in another order."""
    wanted = given.path(torch.ops.thaitool, *options)
    found = given.path(emulation, *options)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    rtol = 1e-14 if given.dots.dtype == torch.float64 else 0
    torch.testing.assert_close(found[2], wanted[2], rtol=rtol, atol=0, equal_nan=True)


@pytest.mark.parametrize("drop", [None, 0.0, 0.5])
@pytest.mark.parametrize(("frames", "tokens"), list(itertools.product((1, 2, 3), (1, 2, 3))))
def test_every_table_of_two_costs(
    frames: int, tokens: int, drop: float | None, emulation: Emulation
) -> None:
    tables = torch.tensor(list(itertools.product((0.0, 1.0), repeat=frames * tokens)))
    pairs = len(tables)
    given = Grids(
        tables.view(pairs, 1, frames, tokens),
        torch.ones(pairs, frames).double(),
        torch.ones(pairs, tokens).double(),
        *(NONE, NONE, None),
        torch.full((pairs,), frames),
        torch.full((pairs,), tokens),
        None if drop is None else torch.full((pairs, frames), drop).double(),
    )
    assert_same_path(emulation, given, 1.0, 0.0, False)
    if tokens <= frames:
        assert_same_path(emulation, given, 1.0, 0.0, True)


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 63, 65, 96, 127, 128, 129, 255, 257, 300])
def test_every_boundary_between_lanes_warps_and_strips(tokens: int, emulation: Emulation) -> None:
    frames = itertools.cycle([1, 15, 16, 17, 31, 32, 33, 48, 64, 70])
    for seed, (geometry, form) in enumerate(
        itertools.product(
            GEOMETRIES[: 6 if tokens <= 129 else 2],
            [{}, {"ties": True, "weighted": True}, {"drop": True, "centred": True}],
        )
    ):
        rows = next(frames)
        dtype = torch.float64 if seed % 3 == 2 else torch.float32
        given = grids(seed, rows, tokens, dtype=dtype, **form)
        band, prior, monotonic = OPTIONS[seed % 4]
        monotonic = monotonic and tokens <= rows // 2
        launched = replace(emulation, seed=seed, **geometry)  # type: ignore[arg-type]
        assert_same_path(launched, given, band, prior, monotonic)


@pytest.mark.parametrize("tokens", [513, 600])
def test_more_tokens_than_a_block_has_columns(tokens: int, emulation: Emulation) -> None:
    for drop in (False, True):
        assert_same_path(emulation, grids(tokens, 40, tokens, drop=drop), 1.0, 0.0, False)


@pytest.mark.parametrize(
    "form",
    [
        *({}, {"drop": True}, {"centred": True}, {"places": 3}, {"weighted": True}),
        {"weighted": True, "drop": True, "centred": True, "places": 3},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_options_and_forms(dtype: torch.dtype, form: dict[str, Any], emulation: Emulation) -> None:
    for seed, (band, prior, monotonic) in enumerate(OPTIONS):
        for ties in (False, True):
            given = grids(seed, 41, 20, dtype=dtype, ties=ties, **form)
            if monotonic:  # texts of any length meet speeches of half the length
                given = replace(given, speech_lengths=torch.tensor([41, 33, 0]))
            assert_same_path(emulation, given, band, prior, monotonic)


def test_a_frame_that_met_a_later_token_is_not_dropped(emulation: Emulation) -> None:
    # Only a negative price can make dropping cheaper where the path comes from the same frame.
    for seed in range(6):
        given = grids(seed, 20, 40, drop=True)
        assert given.drop_cost is not None
        given = replace(given, drop_cost=given.drop_cost - 1)
        assert_same_path(emulation, given, *OPTIONS[seed % 3])


def test_weights_count_in_the_sum_only(emulation: Emulation) -> None:
    given = grids(3, 41, 20, drop=True, ties=True, places=3, weighted=True)
    assert given.text_index is not None
    assert given.drop_cost is not None
    assert given.token_weights is not None
    intervals, length, cost = given.path(emulation, 0.5, 0.1, False)
    plain = replace(given, token_weights=None).path(emulation, 0.5, 0.1, False)
    assert torch.equal(intervals, plain[0])
    assert torch.equal(length, plain[1])
    assert (cost != plain[2]).any()
    wanted = torch.zeros_like(cost)
    for b, k in itertools.product(range(2), range(3)):
        c = int(given.text_index[b, k])
        frames = int(given.speech_lengths[b]) if given.text_lengths[c] > 0 else 0
        for i in range(frames):
            begin, end = intervals[b, k, i].tolist()
            cells = 1 - given.dots[b, k, i, begin:end].double()
            wanted[b, k] += (given.token_weights[c, begin:end] * cells).sum()
            wanted[b, k] += given.drop_cost[b, i] if begin == end else 0.0
    assert torch.equal(cost, wanted)


def test_weights_of_any_value(emulation: Emulation) -> None:
    for dtype, drop in itertools.product((torch.float32, torch.float64), (False, True)):
        given = grids(4, 70, 33, dtype=dtype, drop=drop, places=3)
        generator = torch.Generator().manual_seed(4)
        weights = torch.randn(4, 33, generator=generator, dtype=torch.float64).exp()
        wanted = replace(given, token_weights=weights).path(torch.ops.thaitool, 1.0, 0.0, False)
        found = replace(given, token_weights=weights).path(emulation, 1.0, 0.0, False)
        assert torch.equal(found[0], wanted[0])
        torch.testing.assert_close(found[2], wanted[2], rtol=1e-14, atol=0)


def test_a_weight_of_zero_hides_no_nan(emulation: Emulation) -> None:
    for drop in (False, True):
        given = grids(6, 33, 20, drop=drop, weighted=True)
        assert given.token_weights is not None
        given.token_weights.zero_()
        given.inverse_frame_norms[0, 7] = float("nan")
        assert_same_path(emulation, given, 1.0, 0.0, False)
        _, _, cost = given.path(emulation, 1.0, 0.0, False)
        assert cost[0, 0].isnan()
        assert cost[1, 0].isfinite()
        # drop prices have no weight
        assert bool(cost[1, 0] > 0) is drop


def test_strided_dot_products(emulation: Emulation) -> None:
    given = grids(5, 33, 40, places=2)
    wide = torch.full((3, 33, 2, 47), 9.0)
    wide[..., :40] = given.dots.transpose(1, 2)
    given = replace(given, dots=wide[..., :40].transpose(1, 2))
    assert not given.dots.is_contiguous()
    assert_same_path(emulation, given, 1.0, 0.0, False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_stay_in_bounds(value: float, emulation: Emulation) -> None:
    for seed, drop in itertools.product(range(6), (False, True)):
        given = grids(seed, 37, 35, drop=drop, places=2)
        generator = torch.Generator().manual_seed(seed)
        cells = torch.randint(0, given.dots.numel(), (1 + 5 * seed,), generator=generator)
        given.dots.view(-1)[cells] = value
        given.inverse_frame_norms[0, seed] = float("nan")
        band, prior, _ = OPTIONS[seed % 3]
        assert_same_path(emulation, given, band, prior, False)
        intervals, _, _ = given.path(emulation, band, prior, False)
        assert intervals.min() >= 0
        assert intervals.max() <= 35


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_nothing_finite_at_the_start_or_anywhere(
    frames: int, value: float, emulation: Emulation
) -> None:
    for drop, (band, prior, _) in itertools.product((False, True), OPTIONS[:3]):
        given = grids(frames, frames, 6, drop=drop)
        given.dots[..., 0, 0] = value
        assert_same_path(emulation, given, band, prior, False)
        given.dots[..., 0, :] = value
        assert_same_path(emulation, given, band, prior, False)
        given.dots[:] = value
        assert_same_path(emulation, given, band, prior, False)


def test_the_order_of_threads_does_not_matter(emulation: Emulation) -> None:
    given = grids(1, 70, 90, drop=True, ties=True)
    plain = replace(given, drop_cost=None)
    for seed in range(12):
        launched = replace(emulation, seed=seed, warps=3, columns_per_lane=1 + seed % 2)
        assert_same_path(launched, given, 1.0, 0.0, False)
        assert_same_path(launched, plain, 1.0, 0.0, False)


def test_a_strip_waits_for_the_one_before(emulation: Emulation) -> None:
    # With 15 frames the last step of a strip writes what the next strip reads first.
    for seed in range(8):
        launched = replace(emulation, seed=seed, warps=1)
        assert_same_path(launched, grids(seed, 15, 70, ties=True), 1.0, 0.0, False)


def test_the_walk_waits_for_the_last_step(emulation: Emulation) -> None:
    # With 15 frames the last lane ends with the last step, and another lane reads one of its columns.
    for seed in range(8):
        launched = replace(emulation, seed=seed, warps=1, columns_per_lane=2)
        assert_same_path(launched, grids(seed, 15, 64, ties=True), 1.0, 0.0, False)


def test_sums_of_float64_do_not_depend_on_the_block(emulation: Emulation) -> None:
    given = grids(2, 60, 80, dtype=torch.float64)
    results = [
        given.path(replace(emulation, warps=warps), 1.0, 0.0, False)[2] for warps in (1, 2, 8)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("item_size", [4, 8])
def test_the_plan_fits_into_the_shared_memory_of_every_gpu(
    item_size: int, emulation: Emulation
) -> None:
    planned = emulation.library.planned_shared_bytes
    planned.argtypes, planned.restype = [ctypes.c_int64] * 5, ctypes.c_int64
    for limit in (48 * 1024, 99 * 1024, 163 * 1024, 227 * 1024):
        for frames, tokens, drop in itertools.product(
            (1, 500, 10**5), (1, 100, 400, 10**4), (0, 1)
        ):
            assert 0 < planned(frames, tokens, item_size, drop, limit) <= limit
    # The large shape of the benchmark keeps its steps in the shared memory of an H100.
    assert planned(1500, 400, 4, 0, 227 * 1024) > 150_000


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("speech_lengths", 42, "speech length is out of range"),
        ("speech_lengths", -1, "speech length is out of range"),
        ("text_lengths", 21, "text length is out of range"),
        ("text_index", 4, "text_index is out of range"),
        ("text_index", -1, "text_index is out of range"),
    ],
)
def test_values_out_of_range_stop_the_kernel(
    name: str, value: int, sentence: str, emulation: Emulation
) -> None:
    given = grids(0, 41, 20, places=2)
    getattr(given, name).view(-1)[0] = value
    if name == "text_lengths":
        given = replace(given, text_index=torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=sentence):
        given.path(emulation, 1.0, 0.0, False)


def test_monotonic_needs_enough_frames(emulation: Emulation) -> None:
    with pytest.raises(RuntimeError, match="monotonic needs at least as many frames"):
        grids(0, 4, 9).path(emulation, 1.0, 0.0, True)


def test_nothing_is_read_or_written_out_of_bounds(tmp_path: Path) -> None:
    if emulated.compiler() is None:
        pytest.skip("no C++ compiler: set CXX")
    program = tmp_path / "sanitized"
    flags = ["-O1", "-DTHAITOOL_WIDE_ONLY", "-fsanitize=address,undefined"]
    emulated.compile_emulation(
        program, ["harness.cpp", "sanitized.cpp"], *flags, "-fno-sanitize-recover=all"
    )
    # Fibers look like overflows of the stack to some checks of the address sanitizer.
    quiet = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    done = subprocess.run(
        [program, "120"], capture_output=True, text=True, env=os.environ | quiet, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "120 cases\n"
