"""The monitors on rows of metrics: what each finds and when, what healthy runs look like, state across a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tests import tiny
from thaitool.training.watch import Finding, Limits, Watch, untrained_parts

CHANCE = math.log(101)
LIMITS = Limits(warmup=20, window=100)
START = {"probe_feature_std": 0.8, "probe_effective_rank": 26.0}


def row(update: int, **changes: float) -> dict[str, float]:
    """A healthy row."""
    return {
        "update": update,
        "loss": 3.1,
        "contrastive_nats": 3.0,
        "accuracy": 0.4,
        "identical_share": 0.01,
        "code_perplexity_g0": 90.0,
        "code_perplexity_g1": 110.0,
        "grad_norm": 0.8,
        **changes,
    }


def first(watch: Watch, rows: Iterable[dict[str, float]]) -> tuple[int, Finding] | None:
    """Update at which something is found, and what."""
    for each in rows:
        finding = watch.judge(each)
        if finding is not None:
            return int(each["update"]), finding
    return None


def started(**changes: Any) -> Watch:
    watch = Watch(LIMITS, **changes)
    assert watch.begin(START) is None
    return watch


def rows(count: int, change: Callable[[int], dict[str, float]]) -> list[dict[str, float]]:
    return [row(update, **change(update)) for update in range(1, count + 1)]


SIGNS: dict[str, tuple[Callable[[int], dict[str, float]], str, int, int]] = {
    # name: (rows, kind, found at, onset)
    "stuck": (
        lambda u: {"contrastive_nats": CHANCE + 0.01 * (-1) ** u, "accuracy": 0.01},
        "stuck at chance",
        120,  # a window after the warm-up
        21,
    ),
    "one code": (
        lambda u: {"code_perplexity_g1": 1.9 if u > 40 else 100.0},
        "codebook collapse",
        50,
        41,
    ),
    "zero loss": (
        lambda u: {"contrastive_nats": 0.0013, "accuracy": 1.0} if u > 7 else {},
        "zero loss",
        17,
        8,
    ),
    "no gradient": (lambda u: {"grad_norm": 1e-18} if u > 30 else {}, "vanished gradient", 40, 31),
    "NaN": (lambda u: {"contrastive_nats": math.nan} if u == 33 else {}, "not finite", 33, 33),
    "infinity": (lambda u: {"grad_norm": math.inf} if u == 34 else {}, "not finite", 34, 34),
    "spread": (
        lambda u: {"probe_feature_std": 0.8 * 0.5 ** (u // 20)} if u % 20 == 0 else {},
        "representation collapse",
        80,
        20,  # the last probe with half of the start's spread
    ),
    "rank": (
        lambda u: (
            {"probe_feature_std": 0.8, "probe_effective_rank": 26.0 if u < 60 else 1.2}
            if u % 20 == 0
            else {}
        ),
        "representation collapse",
        60,
        40,
    ),
    "shrinking": (
        lambda u: {
            "code_perplexity_g0": 3.0 + 100 * 0.99**u,
            "accuracy": 0.4 if u < 120 else 0.05,
        },
        "shrinking codebook",
        222,
        123,
    ),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_each_sign_is_found_and_named(sign: str) -> None:
    change, kind, at, onset = SIGNS[sign]
    found = first(started(), rows(400, change))
    assert found is not None
    update, finding = found
    assert (finding.kind, update, finding.onset) == (kind, at, onset)
    # What it says can be acted upon: it names a number, and what to do.
    assert any(character.isdigit() for character in finding.sentence)
    assert finding.sentence.endswith(".")
    assert "Start a new --out" in finding.advice
    assert finding.numbers


@pytest.mark.parametrize("sign", [sign for sign in SIGNS if sign not in {"NaN", "infinity"}])
def test_a_sign_that_goes_away_in_time_is_none(sign: str) -> None:
    change, _, at, _ = SIGNS[sign]
    watch = started()
    # Smoothed values take ten updates to follow.
    until = at - 40 if sign == "shrinking" else at - 1
    for each in rows(until, change):
        assert watch.judge(each) is None
    healthy = rows(400, lambda u: {"probe_feature_std": 0.8} if u % 20 == 0 else {})
    assert first(watch, healthy[until:]) is None


def test_the_sentence_of_a_run_at_chance_has_nats_and_bits() -> None:
    found = first(started(), rows(200, lambda _: {"contrastive_nats": 4.615, "accuracy": 0.0099}))
    assert found is not None
    assert "4.6" in found[1].sentence
    assert "6.6" in found[1].sentence
    assert "ln 101" in found[1].sentence
    assert "since update 21" in found[1].sentence


def test_chance_is_that_of_the_configured_negatives_less_the_identical_ones() -> None:
    def at(loss: float) -> dict[str, float]:
        return {"contrastive_nats": loss, "accuracy": 0.01, "identical_share": 0.5}

    fifty = Watch(Limits(negatives=50, warmup=0, window=30))
    assert first(fifty, rows(60, lambda _: at(math.log(51)))) is None
    fifty = Watch(Limits(negatives=50, warmup=0, window=30))
    found = first(fifty, rows(60, lambda _: at(math.log(26))))
    assert found is not None
    assert found[0] == 30


def test_a_slow_start_is_not_stuck() -> None:
    def slow(update: int) -> dict[str, float]:
        return {"contrastive_nats": CHANCE - 0.00008 * update, "accuracy": 0.02}

    assert first(started(), rows(360, slow)) is None


def test_a_codebook_that_shrinks_while_the_model_learns_is_fine() -> None:
    def learning(update: int) -> dict[str, float]:
        share = 0.995**update
        return {
            "code_perplexity_g0": 5 + 10 * share,
            "accuracy": 0.5 - 0.45 * share,
            "contrastive_nats": 3 + 1.5 * share,
        }

    assert first(started(), rows(1500, learning)) is None


def test_updates_that_were_skipped_are_no_sign() -> None:
    watch = started()
    assert first(watch, [{"update": u, "skipped": 1.0} for u in range(1, 300)]) is None
    assert watch.sound_before is None


def test_windows_follow_the_length_of_a_run() -> None:
    assert Limits.of_run(100, 0.1) == Limits(warmup=10, window=100)
    assert Limits.of_run(2_000, 0.1) == Limits(warmup=200, window=500)
    assert Limits.of_run(50_000, 0.2, 50) == Limits(negatives=50, warmup=10_000, window=2000)
    assert Limits.of_run(400_000, 0.08).window == 2000


@pytest.mark.parametrize("sign", SIGNS)
def test_a_resumed_watch_finds_the_same_at_the_same_update(sign: str) -> None:
    change, _, at, _ = SIGNS[sign]
    every = rows(400, change)
    whole = first(started(), every)
    for cut in {1, at // 2, at - 1}:
        before = started()
        assert first(before, every[:cut]) is None
        after = Watch(LIMITS)
        after.restore(before.snapshot())
        before.judge(row(cut + 1))  # a snapshot is no view
        assert first(after, every[cut:]) == whole


def test_what_is_suspicious_keeps_older_checkpoints() -> None:
    watch = started()
    for each in rows(15, lambda u: {"grad_norm": 1e-9} if u > 10 else {}):
        assert watch.judge(each) is None
    assert watch.sound_before == 11
    watch.judge(row(16))
    assert watch.sound_before is None


class TestStart:
    """Continuing from weights that are none."""

    RANDOM: ClassVar = {**START, "probe_contrastive_nats": 4.93, "probe_accuracy": 0.012}

    def test_random_heads_are_found_before_the_first_update(self) -> None:
        watch = Watch(LIMITS, continued=True)
        found = watch.begin(self.RANDOM, ("the quantizer", "the head project_q"))
        assert found is not None
        assert (found.kind, found.onset) == ("heads not loaded", 0)
        assert "4.930 nats (7.112 bits)" in found.sentence
        assert "the quantizer and the head project_q look random" in found.sentence
        assert "Wav2Vec2ForPreTraining" in found.advice

    def test_a_new_model_may_start_at_chance(self) -> None:
        assert Watch(LIMITS).begin(self.RANDOM) is None

    @pytest.mark.parametrize(("loss", "accuracy"), [(2.3, 0.45), (4.3, 0.02), (4.7, 0.05)])
    def test_trained_heads_pass(self, loss: float, accuracy: float) -> None:
        probe = {**START, "probe_contrastive_nats": loss, "probe_accuracy": accuracy}
        assert Watch(LIMITS, continued=True).begin(probe) is None

    def test_parts_that_look_random_are_named(self) -> None:
        model = tiny.pretraining_model()
        everything = ("the quantizer", "the head project_q", "the head project_hid")
        assert untrained_parts(model) == everything
        with torch.no_grad():
            model.project_q.weight.mul_(1.5)
        assert untrained_parts(model) == ("the quantizer", "the head project_hid")
        with torch.no_grad():
            model.quantizer.codevectors.normal_()
            model.quantizer.weight_proj.bias.normal_()
            model.project_hid.weight.normal_(std=0.05)
        assert untrained_parts(model) == ()


def test_state_is_plain() -> None:
    watch = started()
    first(watch, rows(60, SIGNS["one code"][0])[:45])
    assert json.loads(json.dumps(watch.snapshot()))["count"]["few codes"] == 5


def test_noise_of_a_healthy_run_is_no_sign() -> None:
    """Five thousand updates with the scatter of real ones, and one bad batch in a hundred."""
    rng = np.random.default_rng(0)

    def noisy(update: int) -> dict[str, float]:
        bad = rng.random() < 0.01
        return {
            "contrastive_nats": 3 + 1.6 * 0.999**update + rng.normal(0, 0.05),
            "accuracy": 0.01 if bad else 0.4 + rng.normal(0, 0.05),
            "code_perplexity_g0": 1.5 if bad else 90 + rng.normal(0, 20),
            "grad_norm": 0.0 if bad else abs(rng.normal(1, 0.5)),
            "probe_feature_std": 0.8 + rng.normal(0, 0.1),
            "probe_effective_rank": 26 + rng.normal(0, 3),
        }

    assert first(started(), rows(5000, noisy)) is None
