"""Planned rows of each task against a walk through the plan, and what is said when a run did not do what it planned."""

from __future__ import annotations

import numpy as np
import pytest

from thaitool.data.plan import BatchPlan, make_plan, make_token_plan
from thaitool.errors import TrainingFailed
from thaitool.training.accounting import planned_rows, require_rows

N = 47
KINDS = np.arange(N) % 3
COST = np.random.default_rng(0).uniform(1.0, 9.0, N)


def plans() -> list[BatchPlan]:
    part = KINDS.astype(np.int16)
    tokens = np.ceil(COST * 10).astype(np.int64)
    weights = [1.0, 0.3, 2.5]
    return [
        make_plan(COST, batch_s=20.0, seed=1),
        make_plan(COST, batch_s=20.0, seed=1, part=part, repeat=weights),
        make_token_plan(tokens, batch_tokens=900, seed=1, part=part, repeat=weights, mixed=True),
    ]


@pytest.mark.parametrize("plan", plans(), ids=["all once", "weights", "mixed"])
def test_planned_rows_are_those_of_a_walk_through_the_plan(plan: BatchPlan) -> None:
    counts = np.zeros(3, np.int64)
    for n_batches in range(1, 4 * plan.batches_per_epoch + 2):
        epoch, place = divmod(n_batches - 1, plan.batches_per_epoch)
        counts += np.bincount(KINDS[plan.epoch(epoch)[place]], minlength=3)
        assert planned_rows(plan, n_batches, KINDS, 3).tolist() == counts.tolist()


def test_what_is_missing_must_be_accounted_for() -> None:
    planned = {"asr": 100, "ic": 50}
    done = {"utterances": 145, "rejected": 3, "unused": 2}
    require_rows(planned, {"asr": 98, "ic": 49}, done)  # rows without a use are in updates, too
    require_rows(planned, {"asr": 97, "ic": 48}, done)  # or their update was not finite
    for learned, changed in (
        ({"asr": 98, "ic": 50}, {}),  # more than could be read
        ({"asr": 101, "ic": 44}, {}),  # more of a task than planned
        ({"asr": 94, "ic": 50}, {}),  # fewer than were used
        ({"asr": 98, "ic": 49}, {"rejected": 2}),
        ({"asr": 98, "ic": 49}, {"unused": 3}),
    ):
        with pytest.raises(TrainingFailed, match=r"asr: planned 100, done \d+, ic: planned 50"):
            require_rows(planned, learned, {**done, **changed})
