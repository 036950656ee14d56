"""The batch plan: what an epoch takes, within the padded seconds, by (durations, parts, seed, epoch) alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.data.plan import FEW_BATCHES, BatchPlan, EpochOrder, make_plan
from thaitool.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

durations = st.lists(st.floats(0.1, 40.0), min_size=1, max_size=120).map(np.array)
seeds = st.integers(0, 2**31)


def flat(plan: BatchPlan, epoch: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan.epoch(epoch)]


def lognormal(n: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Like cut speech: 3 to 15 s, mean 6.8 s."""
    draws = np.exp(np.random.default_rng(seed).normal(np.log(6.3), 0.45, 2 * n))
    kept: NDArray[np.float64] = draws[(draws >= 3) & (draws <= 15)][:n]
    assert len(kept) == n
    return kept


def padding(duration_s: NDArray[np.float64], order: EpochOrder) -> float:
    padded_s = sum(len(b) * duration_s[b].max() for b in order)
    return 1 - float(duration_s[order.utterances].sum() / padded_s)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(durations, st.floats(0.5, 60.0), seeds, st.integers(0, 1000))
def test_an_epoch_is_a_partition_within_the_padded_seconds(
    duration_s: NDArray[np.float64], batch_s: float, seed: int, epoch: int
) -> None:
    plan = make_plan(duration_s, batch_s=batch_s, seed=seed)
    batches = plan.epoch(epoch)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(len(duration_s)))
    for batch in batches:
        assert len(batch) >= 1
        padded_s = len(batch) * float(duration_s[batch].max())
        assert len(batch) == 1 or padded_s <= batch_s * (1 + 1e-9)
    assert len(batches) == plan.batches_per_epoch == len(plan.epoch(epoch + 1))
    assert flat(make_plan(duration_s.copy(), batch_s=batch_s, seed=seed), epoch) == flat(
        plan, epoch
    )


def test_a_duration_that_a_short_float_rounds_down_still_fits() -> None:
    batch_s = 7 * float(np.float32(0.7))
    assert batch_s < 7 * 0.7
    plan = make_plan(np.full(70, 0.7), batch_s=batch_s, seed=0)
    assert {len(b) for b in plan.epoch(0)} == {6, 4}


parts = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0, 1.9, 2.5, 7.0])),
    min_size=1,
    max_size=4,
).filter(lambda found: any(n and times for n, times in found))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(parts, st.floats(0.5, 60.0), seeds)
def test_repeats_are_exact_in_every_epoch_and_fair_over_twenty(
    found: list[tuple[int, float]], batch_s: float, seed: int
) -> None:
    sizes, repeat = [n for n, _ in found], [times for _, times in found]
    part = np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)
    duration_s = np.random.default_rng(seed).uniform(0.1, 30, len(part)).round(1)
    plan = make_plan(duration_s, batch_s=batch_s, seed=seed, part=part, repeat=repeat)
    total = np.zeros(len(part), int)
    for epoch in range(20):
        order = plan.epoch(epoch)
        counts = np.bincount(order.utterances, minlength=len(part))
        for number, (n, times) in enumerate(found):
            of_part = counts[part == number]
            whole, share = divmod(times, 1)
            taken = min(n, max(1, round(share * n))) if share else 0
            assert of_part.sum() == whole * n + taken
            assert set(of_part.tolist()) <= {int(whole), int(whole) + 1}
        assert len(order) == plan.batches_per_epoch
        for batch in order:
            assert len(batch) == 1 or len(batch) * duration_s[batch].max() <= batch_s * (1 + 1e-9)
        total += counts
        # Over the epochs so far nobody was taken twice more often than another of the same part.
        for number in range(len(found)):
            of_part = total[part == number]
            assert len(of_part) == 0 or of_part.max() - of_part.min() <= 1


def test_a_fraction_is_a_fresh_one_in_the_next_epoch_whatever_the_file_order() -> None:
    # Two speakers take turns in the file list, all clips equally long: no epoch may hold one of them only.
    plan = make_plan(np.full(1000, 5.0), batch_s=50, seed=0, part=np.zeros(1000, int), repeat=[0.5])
    first, second = (set(plan.epoch(e).utterances.tolist()) for e in (0, 1))
    assert (len(first), len(second), first & second) == (500, 500, set())
    assert 200 < sum(i % 2 for i in first) < 300


def test_order_changes_with_epoch_and_seed_only() -> None:
    duration_s = np.random.default_rng(0).uniform(0.5, 15, 400)
    plan = make_plan(duration_s, batch_s=30, seed=1)
    third = flat(plan, 3)
    plan.epoch(0)  # no state is kept
    assert flat(plan, 3) == third
    others = [flat(plan, 4), flat(make_plan(duration_s, batch_s=30, seed=2), 3)]
    for other in others:
        assert other != third
        # Not the same batches in another order, either.
        assert {tuple(sorted(b)) for b in other} != {tuple(sorted(b)) for b in third}


def test_order_is_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from thaitool.data.plan import make_plan;"
        "p = make_plan(np.linspace(0.2, 9, 60), batch_s=20, seed=5); print([b.tolist() for b in p.epoch(2)])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == str(flat(make_plan(np.linspace(0.2, 9, 60), batch_s=20, seed=5), 2))


def test_order_is_the_one_of_the_first_release() -> None:
    """A run that is resumed on another machine or numpy must go on in the order in which it began."""
    plan = make_plan(
        np.array([1.0, 1.1, 1.2, 4.0, 4.1, 2.0, 2.1, 1.0, 1.0]),
        batch_s=9,
        seed=7,
        part=np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]),
        repeat=[1, 0.5],
    )
    assert (flat(plan, 0), flat(plan, 1)) == GOLDEN


GOLDEN = ([[1, 2], [6, 4], [7, 0], [3]], [[5, 3], [1, 2], [8, 0], [4]])

SETS = {
    "log-normal, 200,000": (lognormal(200_000), 0.01),
    "log-normal, 2,000": (lognormal(2_000), 0.01),
    "most at the crop": (
        np.where(np.random.default_rng(0).random(50_000) < 0.8, 15.0, lognormal(50_000)),
        0.01,
    ),
    "all equal": (np.full(2_000, 15.0), 1e-9),
    "0.3 to 30 s": (
        np.exp(np.random.default_rng(0).normal(np.log(6), 0.7, 100_000)).clip(0.3, 30),
        0.01,
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_little_is_padding_and_batches_are_full(kind: str) -> None:
    duration_s, allowed = SETS[kind]
    plan = make_plan(duration_s, batch_s=75, seed=0)
    assert padding(duration_s, plan.epoch(0)) <= allowed
    # What fits is there: only the last batch of an epoch may lack an utterance.
    fits = [75 // duration_s[b].max() - len(b) for b in plan.epoch(0)]
    assert np.mean(fits) < 0.5
    assert len(plan.epoch(0)) < 1.1 * duration_s.sum() / 75


def partners(plan: BatchPlan, who: int, epochs: int) -> tuple[int, int]:
    """How many others an utterance met, and how many of them were different."""
    met: list[int] = []
    for epoch in range(epochs):
        (batch,) = (b for b in plan.epoch(epoch) if who in b)
        met += [i for i in batch.tolist() if i != who]
    return len(met), len(set(met))


def test_an_utterance_meets_ever_other_partners() -> None:
    duration_s = lognormal(20_000)
    plan = make_plan(duration_s, batch_s=75, seed=0)
    for who in (0, 17, 4_242):
        met, different = partners(plan, who, 10)
        assert different > 0.6 * met
    # Equal durations: as if nothing but chance decided.
    plan = make_plan(np.full(5_000, 15.0), batch_s=75, seed=0)
    met, different = partners(plan, 3, 10)
    assert (met, different >= 38) == (40, True)


def test_equal_durations_are_shuffled_evenly() -> None:
    """Utterance k of n equal ones falls into each tenth of the epoch, and beside each tenth of the others, alike."""
    n = 1_000
    plan = make_plan(np.full(n, 10.0), batch_s=20, seed=3)
    where, beside = np.zeros(10, int), np.zeros(10, int)
    for epoch in range(100):
        order = plan.epoch(epoch)
        for k, (a, b) in enumerate(order):
            where[k * 10 // len(order)] += int(a) < 100
            beside[int(b) // 100] += int(a) < 100
    # 100 of 1,000 are first of a pair in half the cases: about 5,000 draws, 500 a tenth, deviation 21.
    assert abs(where - 500).max() < 100
    assert abs(beside - 500).max() < 100


@pytest.mark.parametrize("n", [5, 12, 30])
def test_a_small_set_is_not_the_same_few_batches_for_ever(n: int) -> None:
    duration_s = np.linspace(3, 15, n)
    plan = make_plan(duration_s, batch_s=30, seed=0)
    seen = {tuple(sorted(b)) for e in range(20) for b in flat(plan, e)}
    assert len(seen) > 2 * plan.batches_per_epoch
    # As many as one after another by duration would need, plus what rounding to few batch sizes costs.
    assert plan.batches_per_epoch <= -(-n // 2)


def test_stretches_hold_a_few_batches_at_least() -> None:
    plan = make_plan(lognormal(500), batch_s=75, seed=0)
    assert all(end - first >= FEW_BATCHES * size for first, end, size in plan.stretches)
    assert [first for first, _, _ in plan.stretches[1:]] == [e for _, e, _ in plan.stretches[:-1]]
    assert plan.stretches[-1][1] == 500


def test_an_order_is_compact_and_ends() -> None:
    order = make_plan(lognormal(1_000), batch_s=30, seed=0).epoch(0)
    assert {order.utterances.dtype, order.starts.dtype, order.turns.dtype} == {np.dtype(np.int32)}
    assert order[3].base is order.utterances
    with pytest.raises(IndexError):
        order[len(order)]


def test_what_cannot_be_planned_is_an_input_error() -> None:
    one = np.ones(1)
    with pytest.raises(InputError, match="at least one utterance, but the manifest is empty"):
        make_plan(np.array([]), batch_s=10, seed=0)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match=r"that of utterance 1 is"):
            make_plan(np.array([1.0, bad]), batch_s=10, seed=0)
    with pytest.raises(InputError, match="parts go from 0 to 2 and there are 2 repeats"):
        make_plan(np.ones(3), batch_s=10, seed=0, part=np.arange(3), repeat=[1, 1])
    with pytest.raises(InputError, match=r"take none of 1"):
        make_plan(one, batch_s=10, seed=0, repeat=[0.0])
    for share in (-0.5, np.nan, np.inf):
        with pytest.raises(InputError, match=r"Repeats must be 0 or more"):
            make_plan(one, batch_s=10, seed=0, repeat=[share])
