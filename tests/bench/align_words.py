"""How far the word boundaries that `align` learns are from the true ones, in milliseconds.

    python -m tests.bench.align_words --work DIR --study --out tests/bench/results/align-words.json
    python -m tests.bench.align_words --work DIR --quick    # the figures mean nothing

Three minutes after `align_methods` with the same `--work`, whose runs it reads; it makes those that are missing.
The boundaries are those of the plain DTW path (no band, no prior) of held-out sentences, whose voices nobody trained
on, beside: an equal share of the clip for each word; `torchaudio.functional.forced_align` on the frames of the CTC
methods; projectors that were told the true word of every frame, at once or 80 ms late, which shows what the encoder
allows; and a network that was told it from log-mels without the encoder, which shows that truth and clock agree. A
boundary inside of a true pause is right. Trains the told ones.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torchaudio.functional import forced_align, merge_tokens

from tests.bench import align_corpus
from tests.bench.align_corpus import FULL, QUICK, Bench
from tests.bench.align_methods import (
    LONGER,
    LONGER_METHODS,
    METHODS,
    STUDY,
    STUDY_SEEDS,
    Made,
    made,
    parse,
)
from tests.bench.align_spaces import Clock, Heard, Space, mel_space, space_of, told
from thaitool.data.scan import scan
from thaitool.models.align_ctc import TokenCTC
from thaitool.models.alignment import token_ids
from thaitool.ops.dtw import dtw_alignment
from thaitool.training.state import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.data.manifest import Manifest

DRAWS = 2000
#: A boundary that is no further off counts as found.
NEAR_S = 0.05
TOLD_UPDATES = 500
#: How much later than it is said a projector is told a word: at once, and after an encoder has heard some of it.
TOLD_LATE_S = (0.0, 0.08)


def by_path(space: Space, clip: Heard, words: Sequence[str]) -> list[float]:
    """Boundaries between words by the plain DTW path: where one word's frames end and the next one's begin.

    A frame that lies on both words is cut in the middle.
    """
    text = space.table[space.ids(words)]
    found = dtw_alignment(
        clip.frames[None], text[None], torch.tensor([len(clip.frames)]), torch.tensor([len(text)])
    )
    return boundaries(found.intervals[0], len(text), space.clock)


def boundaries(intervals: Tensor, words: int, clock: Clock) -> list[float]:
    """Seconds between each word and the next from the intervals (I, 2) of a path."""
    j = torch.arange(words)
    on = (intervals[:, :1] <= j) & (j < intervals[:, 1:])
    first = on.int().argmax(0)
    end = len(on) - on.flip(0).int().argmax(0)
    return [clock.at(float(a + b) / 2) for a, b in zip(end[:-1], first[1:], strict=True)]


def by_share(space: Space, clip: Heard, words: Sequence[str]) -> list[float]:
    """An equal share of the clip for each word."""
    return [clip.duration_s * k / len(words) for k in range(1, len(words))]


def by_ctc(run: Made, space: Space) -> Callable[[Space, Heard, Sequence[str]], list[float]]:
    """Boundaries by torchaudio's forced alignment under the run's CTC: in the middle between two words' frames."""
    texts = [u.text or "" for u in _rows(scan([run.config.data], split="train")[0])]
    classes = sorted({i for row in token_ids(space.tokenizer, texts) for i in row})
    zero = torch.zeros(space.table.shape[1])
    ctc = TokenCTC(
        space.table,
        classes,
        mean=zero,  # `space.table` is centred already
        score=run.config.ctc_score,
        temperature=run.config.ctc_temperature,
    )
    blank = functional.normalize(read_state(run.checkpoint).trained["ctc.blank"], dim=0)
    scored = torch.cat([blank[None], ctc.classes]) / run.config.ctc_temperature

    def found(space: Space, clip: Heard, words: Sequence[str]) -> list[float]:
        logits = functional.normalize(clip.frames, dim=-1) @ scored.T
        targets = torch.tensor([[1 + classes.index(i) for i in space.ids(words)]])
        said, scores = forced_align(logits.log_softmax(-1)[None], targets)
        spans = merge_tokens(said[0], scores[0].exp())
        return [space.clock.at((a.end + b.start) / 2) for a, b in pairwise(spans)]

    return found


def _rows(manifest: Manifest) -> list[Any]:
    return [manifest[i] for i in range(len(manifest))]


def found_by(
    bench: Bench, space: Space, how: Callable[[Space, Heard, Sequence[str]], list[float]]
) -> list[NDArray[np.float64]]:
    """For each held-out clip (boundaries, 3): where it is found, where the word before ends and the next begins."""
    found = []
    for clip in sorted(space.clips, key=lambda c: c.name):
        times = bench.times[clip.name]
        at = how(space, clip, times.words)
        found.append(np.stack([np.array(at), times.end_s[:-1], times.start_s[1:]], 1))
    return found


def off_s(found: NDArray[np.float64], late_s: float = 0.0) -> NDArray[np.float64]:
    """By how many seconds each boundary is off, if all come `late_s` too late; 0 anywhere in a pause."""
    at, ended, began = found.T
    off: NDArray[np.float64] = np.maximum(
        0, np.maximum(ended - (at - late_s), (at - late_s) - began)
    )
    return off


def late_by(found: Sequence[NDArray[np.float64]]) -> float:
    """Median of found minus true over the boundaries without a pause: what is systematic."""
    at, ended, began = np.concatenate(found).T
    together = began - ended < 1e-3
    return float(np.median((at - began)[together]))


def summary(runs: Sequence[Sequence[NDArray[np.float64]]]) -> dict[str, Any]:
    """Errors over all boundaries of all seeds; the intervals draw seeds and sentences anew.

    `shifted` is the same with each run's `late_by` taken off, a single number from the same sentences.
    """
    late = [late_by(run) for run in runs]
    raw = [[off_s(clip) for clip in run] for run in runs]
    moved = [[off_s(clip, s) for clip in run] for run, s in zip(runs, late, strict=True)]
    return {
        **_spread(raw),
        "late_ms": [round(1e3 * s, 1) for s in late],
        "shifted": _spread(moved),
        "boundaries": sum(len(clip) for clip in runs[0]),
        "sentences": len(runs[0]),
    }


def _spread(runs: Sequence[Sequence[NDArray[np.float64]]]) -> dict[str, Any]:
    total = np.array([[clip.sum() for clip in run] for run in runs])
    count = np.array([[len(clip) for clip in run] for run in runs])
    near = sum(int((clip <= NEAR_S).sum()) for run in runs for clip in run)
    random = np.random.default_rng(0)
    means = []
    for _ in range(DRAWS):
        seed = random.integers(0, len(total), size=(len(total), 1))
        clip = random.integers(0, total.shape[1], size=(1, total.shape[1]))
        means.append(total[seed, clip].sum() / count[seed, clip].sum())
    low, high = (1e3 * float(q) for q in np.quantile(means, (0.025, 0.975)))
    return {
        "mean_ms": round(1e3 * float(total.sum() / count.sum()), 1),
        "low_ms": round(low, 1),
        "high_ms": round(high, 1),
        "by_seed_ms": [round(1e3 * float(s), 1) for s in total.sum(1) / count.sum(1)],
        f"within_{1e3 * NEAR_S:.0f}_ms": round(near / int(count.sum()), 4),
    }


def main() -> None:
    """Measure run by run, print as it goes, write the record."""
    arguments = parse()
    torch.set_num_threads(1)
    bench = align_corpus.prepare(arguments.work, QUICK if arguments.quick else FULL)
    record: dict[str, Any] = align_corpus.record() | {"inputs": bench.about, "boundaries": {}}

    def tell(name: str, runs: Sequence[Sequence[NDArray[np.float64]]]) -> None:
        found = record["boundaries"][name] = summary(runs)
        sys.stdout.write(
            f"{name:24} {found['mean_ms']:7.1f} ms ({found['low_ms']:.1f} to {found['high_ms']:.1f}),"
            f" within 50 ms {found['within_50_ms']:.1%}, late by {found['late_ms']} ms; shifted"
            f" {found['shifted']['mean_ms']:.1f} ms, {found['shifted']['within_50_ms']:.1%}\n"
        )
        sys.stdout.flush()
        if arguments.out:
            arguments.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    def runs_of(name: str, updates: int, seeds: int) -> list[Made]:
        return [made(bench, arguments.work, name, seed, updates) for seed in range(seeds)]

    def measure(label: str, runs: Sequence[Made]) -> None:
        spaces = [space_of(run) for run in runs]
        tell(f"{label}, path", [found_by(bench, space, by_path) for space in spaces])
        if "ctc" in runs[0].config.method:
            pairs = zip(runs, spaces, strict=True)
            found = [found_by(bench, space, by_ctc(run, space)) for run, space in pairs]
            tell(f"{label}, forced_align", found)

    seeds, updates = arguments.seeds, arguments.updates
    for name in METHODS:
        measure(name, runs_of(name, updates, seeds))
    measure_references(bench, runs_of("dtw", updates, 1)[0], tell, quick=arguments.quick)
    if arguments.study:
        few = min(seeds, STUDY_SEEDS)
        for name in STUDY:
            measure(name, runs_of(name, updates, few))
        for name in LONGER_METHODS:
            measure(f"{name}, {LONGER} x updates", runs_of(name, LONGER * updates, few))


def measure_references(
    bench: Bench,
    run: Made,
    tell: Callable[[str, Sequence[Sequence[NDArray[np.float64]]]], None],
    *,
    quick: bool,
) -> None:
    """What the learned boundaries stand beside; of one seed."""
    updates = 4 if quick else TOLD_UPDATES
    tell("uniform split", [found_by(bench, space_of(run), by_share)])
    heard = mel_space(run, bench, updates)
    tell("told, log-mels, path", [found_by(bench, heard, by_path)])
    for late_s in TOLD_LATE_S:
        known = space_of(run, told(run, bench, late_s, updates))
        tell(f"told, {1e3 * late_s:.0f} ms late, path", [found_by(bench, known, by_path)])


if __name__ == "__main__":
    main()
