"""Plans by tokens: batches within the bound, padded or packed, mixed alike in every epoch, by the arguments alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.data.plan import FEW_ROWS, BatchPlan, make_token_plan
from thaitool.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

token_counts = st.lists(st.integers(1, 900), min_size=1, max_size=150).map(np.array)
bounds = st.integers(1, 6_000)
seeds = st.integers(0, 2**31)


def flat(plan: BatchPlan, epoch: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan.epoch(epoch)]


def rows_of(n: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Like audio of 1 to 15 s at 25 embeddings a second with instruction and answer: mean about 150 tokens."""
    rng = np.random.default_rng(seed)
    audio = 25 * np.exp(rng.normal(np.log(4), 0.5, n)).clip(1, 15)
    found: NDArray[np.int64] = (audio + 20 + rng.integers(3, 60, n)).astype(np.int64)
    return found


@settings(derandomize=True, max_examples=100, deadline=None)
@given(token_counts, bounds, seeds, st.integers(0, 1000), st.booleans())
def test_an_epoch_is_a_partition_within_the_bound(
    tokens: NDArray[np.int64], bound: int, seed: int, epoch: int, mixed: bool
) -> None:
    plan = make_token_plan(tokens, batch_tokens=bound, seed=seed, mixed=mixed)
    batches = plan.epoch(epoch)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(len(tokens)))
    for batch in batches:
        cost = tokens[batch].sum() if mixed else len(batch) * tokens[batch].max()
        assert len(batch) == 1 or (len(batch) > 1 and cost <= bound)
    assert len(batches) == plan.batches_per_epoch == len(plan.epoch(epoch + 1))
    again = make_token_plan(tokens.copy(), batch_tokens=bound, seed=seed, mixed=mixed)
    assert flat(again, epoch) == flat(plan, epoch)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(token_counts, bounds, seeds, st.sampled_from([0.3, 0.5, 1.7, 2.5]))
def test_weights_are_exact_and_within_the_bound_in_every_epoch(
    tokens: NDArray[np.int64], bound: int, seed: int, weight: float
) -> None:
    """Task 0 once, task 1 by its weight, in a mixed plan."""
    part = np.arange(len(tokens)) % 2
    plan = make_token_plan(
        tokens, batch_tokens=bound, seed=seed, part=part, repeat=[1.0, weight], mixed=True
    )
    n = int((part == 1).sum())
    whole, share = divmod(weight, 1)
    for epoch in range(8):
        order = plan.epoch(epoch)
        counts = np.bincount(order.utterances, minlength=len(tokens))
        assert (counts[part == 0] == 1).all()
        assert counts[part == 1].sum() == whole * n + (min(n, max(1, round(share * n))))
        assert len(order) == plan.batches_per_epoch
        for batch in order:
            assert len(batch) == 1 or tokens[batch].sum() <= bound


def test_mixed_batches_are_full_and_alike() -> None:
    tokens = rows_of(20_000)
    plan = make_token_plan(tokens, batch_tokens=6_000, seed=0, mixed=True)
    order = plan.epoch(0)
    sums = np.array([tokens[b].sum() for b in order])
    assert sums.max() <= 6_000
    assert sums.mean() > 0.94 * 6_000
    assert sums.std() < 0.02 * sums.mean()
    sizes = np.array([len(b) for b in order])
    assert sizes.max() - sizes.min() <= 1
    # Short and long ones in every batch: its spread is that of everything.
    spread = np.array([tokens[b].std() for b in order])
    assert 0.9 * tokens.std() < spread.mean() < 1.1 * tokens.std()
    # Padded they would cost a third more at the very least, which is what packing is for.
    assert np.mean([len(b) * tokens[b].max() / tokens[b].sum() for b in order]) > 1.3


def test_rows_as_long_as_a_batch_do_not_empty_the_others() -> None:
    tokens = np.concatenate([rows_of(2_000), [1_500, 5_000, 5_900, 9_000]])
    plan = make_token_plan(tokens, batch_tokens=6_000, seed=0, mixed=True)
    batches = flat(plan, 0)
    assert [2_003] in batches
    assert [2_002] in batches
    assert [2_001] in batches
    mixed = [b for b in batches if max(b) < 2_000]
    assert all(tokens[b].max() * FEW_ROWS <= 6_000 for b in mixed)
    assert np.mean([tokens[b].sum() for b in mixed]) > 0.9 * 6_000


def test_an_utterance_meets_anyone() -> None:
    """Over epochs with rows of all lengths, and each other row about equally often."""
    tokens = rows_of(600)
    plan = make_token_plan(tokens, batch_tokens=3_000, seed=0, mixed=True)
    met = np.zeros(600, int)
    for epoch in range(200):
        (batch,) = (b for b in plan.epoch(epoch) if 17 in b)
        met[batch] += 1
    met[17] = 0
    # Never those of its own cut of 20 or so; the others 200 of 30 times or so, deviation 2.5.
    assert (met == 0).sum() < 2 * plan.batches_per_epoch
    assert met.max() < 25
    assert met[met > 0].mean() == pytest.approx(200 / plan.batches_per_epoch, rel=0.15)


def test_order_changes_with_epoch_and_seed_only() -> None:
    tokens = rows_of(400)
    plan = make_token_plan(tokens, batch_tokens=2_000, seed=1, mixed=True)
    third = flat(plan, 3)
    plan.epoch(0)  # no state is kept
    assert flat(plan, 3) == third
    other_seed = make_token_plan(tokens, batch_tokens=2_000, seed=2, mixed=True)
    for other in (flat(plan, 4), flat(other_seed, 3)):
        assert {tuple(sorted(b)) for b in other} != {tuple(sorted(b)) for b in third}


def test_order_is_the_same_in_another_process() -> None:
    program = (
        "import numpy as np; from thaitool.data.plan import make_token_plan;"
        "p = make_token_plan(np.arange(5, 65), batch_tokens=300, seed=5, mixed=True);"
        "print([b.tolist() for b in p.epoch(2)])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    here = make_token_plan(np.arange(5, 65), batch_tokens=300, seed=5, mixed=True)
    assert out.strip() == str(flat(here, 2))


def test_order_is_the_one_of_the_first_release() -> None:
    """A run that is resumed on another machine or numpy must go on in the order in which it began."""
    tokens = np.array([4, 9, 10, 11, 12, 8, 7, 5, 6, 55, 3, 40, 6, 6, 7, 8] * 2)
    plan = make_token_plan(tokens, batch_tokens=100, seed=7, mixed=True)
    assert flat(plan, 0) == GOLDEN


GOLDEN = [
    [3, 2, 17, 31, 6, 8, 24, 7, 10, 26],
    [11],
    [9],
    [20, 18, 1, 15, 22, 12, 28, 23, 16],
    [4, 19, 5, 21, 14, 30, 13, 29, 0],
    [27],
    [25],
]


def test_what_cannot_be_planned_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one row, but there is none"):
        make_token_plan(np.array([], int), batch_tokens=10, seed=0)
    for bad in (0, -1, 1 << 24):
        with pytest.raises(InputError, match=r"1 to 16,777,215 tokens, but they have"):
            make_token_plan(np.array([1, bad]), batch_tokens=10, seed=0)
    with pytest.raises(InputError, match="parts go from 0 to 2 and there are 2 repeats"):
        make_token_plan(
            np.ones(3, int), batch_tokens=9, seed=0, part=np.arange(3), repeat=[1, 1], mixed=True
        )
