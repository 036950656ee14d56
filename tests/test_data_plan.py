"""The batch plan: every utterance once an epoch, within the padded seconds, by (durations, seed, epoch) alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.data.plan import BatchPlan, make_plan
from thaitool.errors import InputError

durations = st.lists(st.floats(0.1, 40.0), min_size=1, max_size=120).map(np.array)
seeds = st.integers(0, 2**31)


def flat(plan: BatchPlan, epoch: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan.epoch(epoch)]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(durations, st.floats(0.5, 60.0), seeds, st.integers(0, 1000))
def test_an_epoch_is_a_partition_within_the_padded_seconds(
    duration_s: np.ndarray[tuple[int], np.dtype[np.float64]], batch_s: float, seed: int, epoch: int
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


def test_batches_hold_utterances_of_like_duration() -> None:
    duration_s = np.random.default_rng(0).uniform(0.5, 15, 2000)
    batches = make_plan(duration_s, batch_s=60, seed=0).epoch(0)
    padded_s = sum(len(b) * duration_s[b].max() for b in batches)
    assert duration_s.sum() / padded_s > 0.9
    # And the batches fill what they may: fewer than a quarter more of them than the sum needs.
    assert len(batches) < 1.25 * duration_s.sum() / 60


def test_nothing_to_plan_is_an_input_error() -> None:
    with pytest.raises(InputError, match="at least one utterance, but the manifest is empty"):
        make_plan(np.array([]), batch_s=10, seed=0)
