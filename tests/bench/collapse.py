"""Which recipe aligns speech with text, and which collapses: training runs on problems with known alignments.

    python tests/bench/collapse.py    # base and g, plain and shipped, two seeds: some 3 minutes on one core
    python tests/bench/collapse.py --full --out tests/bench/results/collapse.json    # half an hour

Every number is measured on fresh utterances by the plain DTW path, without band or prior. Synthetic: says nothing about
how good an alignment of real speech is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests.bench import measure  # noqa: E402
from tests.bench.toy_speech import PROBLEMS, Encoder, Language, Problem, Utterances  # noqa: E402
from thaitool.models.alignment import (  # noqa: E402
    alignment_terms,
    masked_mean,
    ramp,
    token_weights,
)
from thaitool.ops.dtw import dtw_alignment  # noqa: E402
from thaitool.ops.path import largest_share, one_frame_share, token_durations  # noqa: E402

UPDATES = 500
HELD_OUT = 48
#: Texts that each held-out utterance is compared with for R@1, its own among them.
CHOICES = 24
#: Share of the old value that the running mean of speech keeps, as in `thaitool align`.
MOMENTUM = 0.99
SEEDS = {"base": 5}
OTHER_SEEDS = 3


@dataclass(frozen=True)
class Recipe:
    """One way to train; the numbers are the options of `thaitool align`."""

    centred: bool = True
    weighted: bool = True
    supervised: bool = False
    """Told the true alignment: the ceiling, not a recipe."""
    pool: float = 0.5
    transcript: float = 1.0
    transcripts: int = 3
    temperature: float = 0.1
    ramp: tuple[float, float] = (0.2, 0.4)


SHIPPED = Recipe()
RECIPES = {
    "plain": Recipe(
        centred=False, weighted=False, pool=0, transcript=0, transcripts=0, ramp=(0, 0)
    ),
    "centred": replace(SHIPPED, weighted=False, pool=0, transcript=0, transcripts=0, ramp=(0, 0)),
    "light": replace(SHIPPED, weighted=False, transcript=0, transcripts=0),
    "full": replace(SHIPPED, weighted=False),
    "light-weighted": replace(SHIPPED, transcript=0, transcripts=0),
    "shipped": SHIPPED,
    "supervised": replace(SHIPPED, supervised=True, weighted=False),
    "supervised-weighted": replace(SHIPPED, supervised=True),
}


class Run:
    """One training run."""

    def __init__(self, problem: Problem, recipe: Recipe, seed: int, updates: int) -> None:
        self.recipe, self.batch, self.updates = recipe, problem.batch, updates
        self.language = Language(problem, seed)
        # As in real training, the transcripts are there before it begins, and can be counted.
        self.ids, self.sizes = self.language.transcripts(updates * problem.batch)
        self.ends = self.sizes.view(updates, -1).sum(1).cumsum(0)
        counts = torch.bincount(self.ids, minlength=problem.vocabulary)
        self.weights = token_weights(counts) if recipe.weighted else None
        torch.manual_seed(seed)
        self.encoder = Encoder(problem)
        self.text_mean = self.language.table.mean(0) if recipe.centred else None
        self.speech_mean: Tensor | None = None

    def train(self) -> None:
        optimizer = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
        for update in range(self.updates):
            sizes = self.sizes[update * self.batch : (update + 1) * self.batch]
            end = int(self.ends[update])
            batch = self.language.say(self.ids[end - int(sizes.sum()) : end], sizes)
            loss = self.loss(batch, update / self.updates)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def loss(self, batch: Utterances, share: float) -> Tensor:
        raw = self.encoder(batch.frames, batch.frame_counts)
        mean = masked_mean(raw, batch.frame_counts) if self.recipe.centred else None
        if mean is not None:
            self._track(mean.detach())
        if self.recipe.supervised:
            return self._told(raw, mean, batch)
        terms = alignment_terms(
            raw,
            self.language.table[batch.tokens],
            batch.frame_counts,
            batch.token_counts,
            _same(batch),
            temperature=self.recipe.temperature,
            transcripts=self.recipe.transcripts,
            speech_mean=mean,
            text_mean=self.text_mean,
            text_weights=None if self.weights is None else self.weights[batch.tokens],
        )
        dtw = ramp(share, *self.recipe.ramp) * terms.dtw
        return dtw + self.recipe.pool * terms.pool + self.recipe.transcript * terms.transcript

    def _told(self, raw: Tensor, mean: Tensor | None, batch: Utterances) -> Tensor:
        spoken = batch.token_of_frame >= 0
        ids = batch.tokens.gather(1, batch.token_of_frame.clamp(min=0))[spoken]
        assert mean is not None
        assert self.text_mean is not None
        target = self.language.table[ids] - self.text_mean
        cost = 1 - functional.cosine_similarity(raw[spoken] - mean, target, dim=-1)
        each = torch.ones(len(ids)) if self.weights is None else self.weights[ids]
        return (cost * each).sum() / each.sum()

    def _track(self, mean: Tensor) -> None:
        old = mean if self.speech_mean is None else self.speech_mean
        self.speech_mean = MOMENTUM * old + (1 - MOMENTUM) * mean

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Fresh utterances, with the running mean that inference has."""
        batch = self.language.say(*self.language.transcripts(HELD_OUT))
        speech = self.encoder(batch.frames, batch.frame_counts)
        rows = torch.arange(HELD_OUT)
        found = dtw_alignment(
            *(speech, self.language.table[batch.tokens], batch.frame_counts, batch.token_counts),
            speech_mean=self.speech_mean,
            text_mean=self.text_mean,
            # Column 0 is the own text; the others are the rows before it, around the end.
            text_index=(rows[:, None] - torch.arange(CHOICES)) % HELD_OUT,
        )
        own = found.intervals[:, 0]
        spoken = batch.token_of_frame >= 0
        truth = batch.token_of_frame
        right = (own[..., 0] <= truth) & (truth < own[..., 1])
        durations = token_durations(own, batch.tokens.shape[1])
        return {
            "accuracy": float(right[spoken].float().mean()),
            "retrieval": self._nearest_is_right(speech, batch),
            "one_frame_share": float(one_frame_share(durations, batch.token_counts)),
            "largest_share": float(largest_share(durations)),
            "r1": float((found.loss.argmin(1) == 0).float().mean()),
            "loss": float(found.loss[:, 0].mean()),
        }

    def _nearest_is_right(self, speech: Tensor, batch: Utterances) -> float:
        """Share of frames whose nearest token of the whole table is the one they say."""
        table = self.language.table
        if self.speech_mean is not None and self.text_mean is not None:
            speech, table = speech - self.speech_mean, table - self.text_mean
        spoken = batch.token_of_frame >= 0
        nearest = (speech[spoken] @ functional.normalize(table, dim=-1).T).argmax(1)
        said = batch.tokens.gather(1, batch.token_of_frame.clamp(min=0))[spoken]
        return float((nearest == said).float().mean())


def _same(batch: Utterances) -> Tensor:
    """Which rows have the same transcript; padding is token 0 and the lengths tell it apart."""
    equal = (batch.tokens[:, None] == batch.tokens).all(-1)
    return equal & (batch.token_counts[:, None] == batch.token_counts)


def measured(problem: str, recipe: str, seed: int, updates: int) -> dict[str, float]:
    """One run, trained and judged."""
    run = Run(PROBLEMS[problem], RECIPES[recipe], seed, updates)
    began = time.perf_counter()
    run.train()
    return {"seed": seed, "seconds": round(time.perf_counter() - began, 1)} | {
        name: round(value, 4) for name, value in run.evaluate().items()
    }


def revision() -> str | None:
    """Commit of the checkout, "+" if files differ from it; None outside of git."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def line(problem: str, recipe: str, runs: list[dict[str, float]]) -> str:
    """A row of the table: accuracy of every seed, means of the rest."""
    names = ("retrieval", "one_frame_share", "largest_share", "r1", "loss")
    means = [sum(run[name] for run in runs) / len(runs) for name in names]
    seconds = sum(run["seconds"] for run in runs) / len(runs)
    accuracy = " ".join(f"{run['accuracy']:.3f}" for run in runs)
    columns = " ".join(f"{mean:9.3f}" for mean in means)
    return f"{problem:<5} {recipe:<20} {accuracy:<30} {columns} {seconds:8.1f}\n"


def main() -> None:
    """Run, print a table as it goes, and write the record."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {
        "machine": measure.machine("cpu") | {"threads": arguments.threads},
        "revision": revision(),
        "updates": arguments.updates,
        "problems": {name: asdict(PROBLEMS[name]) for name in arguments.variations},
        "recipes": {name: asdict(RECIPES[name]) for name in arguments.recipes},
        "runs": {},
    }
    sys.stdout.write(json.dumps(record["machine"]) + "\n")
    sys.stdout.write(
        f"{'':<26} {'accuracy, by seed':<30} retrieval one-frame   largest       R@1      loss  seconds\n"
    )
    for problem in arguments.variations:
        seeds = arguments.seeds or (SEEDS.get(problem, OTHER_SEEDS) if arguments.full else 2)
        for recipe in arguments.recipes:
            runs = [measured(problem, recipe, seed, arguments.updates) for seed in range(seeds)]
            record["runs"].setdefault(problem, {})[recipe] = runs
            sys.stdout.write(line(problem, recipe, runs))
            sys.stdout.flush()
            if arguments.out:
                arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variations", type=lambda x: x.split(","), default=["base", "g"])
    parser.add_argument("--recipes", type=lambda x: x.split(","), default=["plain", "shipped"])
    parser.add_argument(
        "--seeds", type=int, help="of each variation; default 5 of base, 3 of others"
    )
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="every variation, and the ceiling")
    parser.add_argument("--out", type=Path, help="JSON record, written as it grows")
    arguments = parser.parse_args()
    if arguments.full:
        arguments.variations = list(PROBLEMS)
        arguments.recipes = ["plain", "shipped", "supervised"]
    for name, known in (("variations", PROBLEMS), ("recipes", RECIPES)):
        unknown = [given for given in getattr(arguments, name) if given not in known]
        if unknown:
            parser.error(f"unknown {name}: {', '.join(unknown)}; there are {', '.join(known)}")
    return arguments


if __name__ == "__main__":
    main()
