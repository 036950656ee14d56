"""Monitors of contrastive pretraining with teeth: what a run's metrics say about collapse, as sentences.

Reads rows of metrics, touches neither model nor files, and trains nothing; the loop acts on what is found. State is a
plain dictionary of numbers, saved in every checkpoint, so that a resumed run finds the same at the same update.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

Row = dict[str, float]
ADVICE = "Start a new --out with a lower learning_rate, more audio per update, or a larger diversity_weight."


@dataclass(frozen=True)
class Limits:
    """When a metric means collapse. A window is a number of updates in a row."""

    negatives: int = 100
    """Distractors of each masked frame; chance is ln(1 + negatives)."""
    warmup: int = 0
    """Updates with a rising rate: nothing is called stuck or shrinking before."""
    window: int = 2000
    """For slow signs (at chance, shrinking codebook). 2,000 updates at chance after the warm-up is when to give up a
    run of tens of thousands (research, from fairseq #3300, #3661, #3718, #3744); shorter runs: see `of_run`."""
    short_window: int = 10
    """For signs that no healthy update shows; ten, so that one odd batch is no alarm."""
    chance_margin_nats: float = 0.03
    """fairseq #3300, #3744: 6.658 and 6.657 bits are within 0.001 nats of ln 101; a batch of 16 s scatters by 0.006."""
    lucky: float = 3.0
    """Accuracy up to this many times that of guessing is chance. The `tiny` recipe, trained from nothing, stays near
    ln 101 for 40 updates, but guesses right 6 times as often as chance from update 49 on (measured)."""
    slow_start_nats: float = 0.002
    """A fall from the first to the second half of the window that is a slow start. Measured on a tiny model: nine runs
    of 600 updates that learn fall by 0.014 or more in a window near chance; half a window's mean scatters by 0.001."""
    unloaded_margin_nats: float = 0.1
    """Trained heads are whole nats below chance, random ones at or above it."""
    code_perplexity: float = 2.0
    """Of one group of the codebook. transformers #14387 and #19588: collapsed at 2.000 in all, 1 a group."""
    fall: float = 0.5
    """Share of its own highest value that a shrinking codebook is below (research: alarm at a fall of 50 %)."""
    still_falling: float = 0.9
    """And within the window it fell below this share again, so that it has not settled."""
    accuracy_fall: float = 0.7
    """And the accuracy is below this share of its own highest value (fairseq #4530: "sudden acc drop"). A codebook that
    shrinks while the accuracy rises is learning: the tiny model goes from 15 to 5 codes a group (measured)."""
    zero_loss_nats: float = 0.05
    """transformers #12934 and #14387, fairseq #3687: 0.0013 and 0.000 after a few updates are a collapse."""
    grad_norm: float = 1e-6
    """transformers #14387: 1e-18 when collapsed; healthy runs have 0.5 to 2 (README of its example)."""
    feature_share: float = 0.1
    """Of the probe's standard deviation and effective rank at the start."""
    sound_share: float = 0.5
    """Of both; weights with less are no place to go back to, as they are on their way."""
    least_rank: float = 1.5
    """Effective rank of features that are all one vector is 1."""

    @classmethod
    def of_run(cls, updates: int, warmup_share: float, negatives: int = 100) -> Limits:
        """Windows in proportion to the run: a quarter of it, at least 100 updates and at most 2,000.

        At least 100, so that a run of 200 is still told; a quarter, as a tiny model trained from nothing at a low rate
        needs 150 of 600 updates to leave chance (measured).
        """
        window = min(2000, max(100, updates // 4))
        return cls(negatives=negatives, warmup=math.ceil(warmup_share * updates), window=window)


@dataclass(frozen=True)
class Finding:
    """What was seen."""

    kind: str
    sentence: str
    """What, and since which update."""
    numbers: dict[str, float]
    onset: int
    """First update of what was seen; weights from before it are sound."""
    advice: str = ADVICE
    """What to do about it."""


@dataclass
class Watch:
    """Judges a run row by row. Mutable: the loop saves `state` with each checkpoint and puts it back."""

    limits: Limits
    continued: bool = False
    """Whether the run started from trained weights, which must then do better than chance."""
    on_collapse: Literal["rollback", "stop"] = "stop"
    max_rollbacks: int = 3
    state: dict[str, Any] = field(default_factory=lambda: {"since": {}, "count": {}, "start": {}})

    def snapshot(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return copy.deepcopy(self.state)

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from the state of a checkpoint."""
        self.state = copy.deepcopy(state)

    def begin(self, probe: Row, untrained: tuple[str, ...] = ()) -> Finding | None:
        """Judges the weights that the run starts from, on the probe batch; `untrained` are parts that look random."""
        self.state["start"] = dict(probe)
        if not self.continued or "probe_contrastive_nats" not in probe:
            return None
        loss, accuracy = probe["probe_contrastive_nats"], probe["probe_accuracy"]
        chance = _chance(self.limits.negatives, probe.get("probe_identical_share", 0.0))
        if loss < chance - self.limits.unloaded_margin_nats or self._knows(accuracy):
            return None
        parts = " and ".join(untrained) or "the quantizer and the heads project_q and project_hid"
        return Finding(
            "heads not loaded",
            f"The weights to continue from do no better than chance before the first update: contrastive loss"
            f" {_nats(loss)}, chance {_nats(chance)}, accuracy {accuracy:.1%}. In the checkpoint, {parts}"
            f" {'looks' if len(untrained) == 1 else 'look'} random.",
            {"contrastive_nats": loss, "chance_nats": chance, "accuracy": accuracy},
            onset=0,
            advice="Continue from a checkpoint of the whole pretraining model (Wav2Vec2ForPreTraining), not of the"
            " encoder alone or of one fine-tuned for recognition; to train a new model, leave `init` out.",
        )

    def judge(self, row: Row) -> Finding | None:
        """Looks at the metrics of one update; the first thing found, or None."""
        for look in (
            self._not_finite,
            self._zero_loss,
            self._few_codes,
            self._no_gradient,
            self._features,
            self._at_chance,
            self._shrinking,
        ):
            found = look(row)
            if found is not None:
                return found
        return None

    @property
    def sound_before(self) -> int | None:
        """A checkpoint older than this update may still be needed; None if nothing is suspicious."""
        since = [update for update in self.state["since"].values() if update is not None]
        return min(since, default=None)

    def _knows(self, accuracy: float) -> bool:
        return accuracy > self.limits.lucky / (1 + self.limits.negatives)

    def _streak(self, kind: str, row: Row, seen: bool | None) -> tuple[int, int]:
        """Counts updates in a row that show a sign; returns their number and the first. None: nothing to see here."""
        since, count = self.state["since"], self.state["count"]
        if seen:
            if since.get(kind) is None:
                since[kind], count[kind] = int(row["update"]), 0
            count[kind] += 1
        elif seen is not None:
            since[kind], count[kind] = None, 0
        return count.get(kind, 0), since.get(kind) or int(row["update"])

    def _not_finite(self, row: Row) -> Finding | None:
        names = [name for name, value in row.items() if not math.isfinite(value)]
        if not names:
            return None
        return not_finite(int(row["update"]), {name: row[name] for name in names})

    def _zero_loss(self, row: Row) -> Finding | None:
        loss = row.get("contrastive_nats")
        if loss is None:
            return None
        count, since = self._streak("zero loss", row, loss < self.limits.zero_loss_nats)
        if count < self.limits.short_window:
            return None
        identical = row.get("identical_share", 0.0)
        return Finding(
            "zero loss",
            f"The contrastive loss is {_nats(loss)} since update {since:,}, too good to be true: the targets have"
            f" become one, and nothing is left to tell apart (negatives identical to their target: {identical:.1%}"
            f"{_perplexities(row)}).",
            {"contrastive_nats": loss, "identical_share": identical, **_code_perplexities(row)},
            since,
        )

    def _few_codes(self, row: Row) -> Finding | None:
        found = _code_perplexities(row)
        if not found:
            return None
        name, worst = min(found.items(), key=lambda item: item[1])
        count, since = self._streak("few codes", row, worst <= self.limits.code_perplexity)
        if count < self.limits.short_window:
            return None
        return Finding(
            "codebook collapse",
            f"The codebook has collapsed: {name} is {worst:.2f} since update {since:,} (1 means a single code; at most"
            f" {self.limits.code_perplexity:g} counts as collapsed).",
            found,
            since,
        )

    def _no_gradient(self, row: Row) -> Finding | None:
        norm = row.get("grad_norm")
        if norm is None:
            return None
        count, since = self._streak("no gradient", row, norm < self.limits.grad_norm)
        if count < self.limits.short_window:
            return None
        return Finding(
            "vanished gradient",
            f"The gradient norm is {norm:.1e} since update {since:,} (healthy: 0.1 to 10), so nothing is learned any"
            f" more.",
            {"grad_norm": norm},
            since,
        )

    def _features(self, row: Row) -> Finding | None:
        if "probe_feature_std" not in row:
            return None
        start, limits = self.state["start"], self.limits
        std, rank = row["probe_feature_std"], row.get("probe_effective_rank", 1e12)
        first_std = max(start.get("probe_feature_std", std), 1e-12)
        first_rank = max(start.get("probe_effective_rank", rank), 1e-12)
        if min(std / first_std, rank / first_rank) >= limits.sound_share:
            self.state["since"]["features"] = int(row["update"])
        since = self.state["since"].get("features") or int(row["update"])
        # Features that start as almost one vector cannot lose more rank.
        floor = max(limits.least_rank, limits.feature_share * first_rank)
        flat = rank < floor and first_rank > 2 * limits.least_rank
        if std >= limits.feature_share * first_std and not flat:
            return None
        return Finding(
            "representation collapse",
            f"The encoder gives almost the same vector for everything: on the probe batch its features have a standard"
            f" deviation of {std:.3g} (start {first_std:.3g}) and an effective rank of {rank:.1f} (start"
            f" {first_rank:.1f}); they were sound at update {since:,}.",
            {"probe_feature_std": std, "probe_effective_rank": rank},
            since,
        )

    def _at_chance(self, row: Row) -> Finding | None:
        loss = row.get("contrastive_nats")
        if loss is None or row["update"] <= self.limits.warmup:
            return None
        limits = self.limits
        chance = _chance(limits.negatives, row.get("identical_share", 0.0))
        recent: list[list[float]] = self.state.setdefault("recent", [])
        recent.append([row["update"], loss, row.get("accuracy", 0.0), chance])
        del recent[: -limits.window]
        updates, losses, accuracies, chances = map(list, zip(*recent, strict=True))
        half, known = len(recent) // 2, fmean(accuracies)
        near = abs(fmean(losses) - fmean(chances)) < limits.chance_margin_nats
        # Half of the choices right at the loss of a guess are ties, not knowledge.
        near = near and not (self._knows(known) and known < 0.5)
        since = int(updates[0])
        self.state["since"]["at chance"] = since if near else None
        if not near or len(recent) < limits.window:
            return None
        if fmean(losses[:half]) - fmean(losses[half:]) > limits.slow_start_nats:
            return None  # on its way, if slowly
        return Finding(
            "stuck at chance",
            f"The contrastive loss has been within {limits.chance_margin_nats} nats of chance (ln"
            f" {1 + limits.negatives} less the identical negatives: {_nats(fmean(chances))}) for {len(recent):,}"
            f" updates, since update {since:,}: on average it is {_nats(fmean(losses))}, and nothing is learned.",
            {"contrastive_nats": fmean(losses), "chance_nats": fmean(chances), "accuracy": known},
            since,
            "Start a new --out with a lower learning_rate or more audio per update (accumulation; 1.6 h and more are"
            " usual), and check that --data holds speech.",
        )

    def _smoothed(self, name: str, now: float) -> tuple[float, float]:
        """A metric as its mean over about a tenth of the window, as one batch scatters, and the highest such mean."""
        keep = 1 - 10 / max(10, self.limits.window)
        known = self.state.setdefault("smoothed", {})
        value, highest = known.get(name, (now, now))
        value = keep * value + (1 - keep) * now
        known[name] = (value, max(highest, value))
        return value, max(highest, value)

    def _shrinking(self, row: Row) -> Finding | None:
        found = _code_perplexities(row)
        if not found or row["update"] <= self.limits.warmup:
            return None
        name, now = min(found.items(), key=lambda item: item[1])
        state, limits = self.state, self.limits
        smooth, highest = self._smoothed("codes", now)
        accuracy, best = self._smoothed("accuracy", row.get("accuracy", 0.0))
        low = smooth < limits.fall * highest and accuracy <= limits.accuracy_fall * best
        count, since = self._streak("shrinking", row, low)
        if count <= 1:
            state["reference"] = smooth
        if count < limits.window:
            return None
        if smooth >= limits.still_falling * state["reference"]:
            state["reference"] = smooth
            state["count"]["shrinking"] = 1  # it has settled; look again over another window
            return None
        return Finding(
            "shrinking codebook",
            f"The codebook is shrinking: {name} fell to {smooth:.1f} from {highest:.1f}, more than half, and still"
            f" falls, and so did the accuracy, to {accuracy:.1%} from {best:.1%}; since update {since:,}.",
            {**found, "highest": highest, "accuracy": accuracy, "highest_accuracy": best},
            since,
        )


def not_finite(update: int, numbers: Mapping[str, float]) -> Finding:
    """NaN or infinity in an update, beyond what may be skipped."""
    listing = ", ".join(f"{name} is {value}" for name, value in numbers.items())
    sentence = f"At update {update:,} {listing}."
    return Finding("not finite", sentence, dict(numbers), update)


def untrained_parts(model: nn.Module) -> tuple[str, ...]:
    """Parts of a `Wav2Vec2ForPreTraining` whose weights look as if they had just been initialised.

    By what transformers initialises them with: codevectors uniform in [0, 1], biases of the quantizer 0, heads uniform
    within 1 / sqrt(width).
    """
    found = []
    weights = {name: p.detach().float() for name, p in model.named_parameters()}
    codes, bias = weights["quantizer.codevectors"], weights["quantizer.weight_proj.bias"]
    if not bias.any() or bool((codes.min() >= 0) & (codes.max() <= 1)):
        found.append("the quantizer")
    for head in ("project_q", "project_hid"):
        weight = weights[f"{head}.weight"]
        bound = weight.shape[1] ** -0.5
        uniform = bound / math.sqrt(3)
        spread = float(weight.std())
        if float(weight.abs().max()) <= bound * 1.0001 and abs(spread / uniform - 1) < 0.05:
            found.append(f"the head {head}")
    return tuple(found)


def _chance(negatives: int, identical_share: float) -> float:
    """Loss of a guess in nats; negatives identical to the target are left out of the choice."""
    return math.log(1 + negatives * (1 - identical_share))


def _nats(value: float) -> str:
    return f"{value:.3f} nats ({value / math.log(2):.3f} bits)"


def _code_perplexities(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("code_perplexity_g")}


def _perplexities(row: Row) -> str:
    found = _code_perplexities(row)
    return "".join(f", {name} {value:.2f}" for name, value in found.items())
