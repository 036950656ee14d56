"""What an alignment is judged by: retrieval in both directions, the shape of the plain path, and these in words.

Every figure stands beside the same figure for wrong pairs: of another transcript drawn at random, and of another
recording of like length. Works on embeddings; hears and trains nothing. The thresholds come from toy problems with
known alignments, such as those of tests/bench/collapse.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.path import token_durations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

RANKS = (1, 5, 10)
#: Kinds of wrong pairs, the last part of their metrics' names.
BASELINES = ("random_pair", "shuffled_audio")
#: Metrics that are also given for wrong pairs.
COMPARED = (
    *("retrieval_r1", "retrieval_mrr", "text_retrieval_r1", "text_retrieval_mrr"),
    *("one_frame_share", "largest_share", "diagonal_drift", "path_cost", "probe_cer"),
)
#: Share of one-frame tokens up to which an alignment is good, and above which it has collapsed.
GOOD, COLLAPSED = 0.15, 0.5
#: Share of the path on one token above which the alignment has collapsed, where texts have that many tokens or more.
ONE_TOKEN, MANY_TOKENS = 0.34, 10
#: Frames per token below which many tokens have one frame in good alignments, too.
FEW_FRAMES = 3.0
#: Share of blank frames above which CTC says nothing.
ALL_BLANK = 0.98


@dataclass(frozen=True)
class Pairs:
    """Which transcript each held-out row has, and with which ones it is wrongly paired."""

    texts: tuple[str, ...]
    """The T distinct transcripts."""
    said: Tensor
    """Number of each row's transcript (N,)."""
    wrong: Mapping[str, Tensor]
    """By baseline, the number of another transcript for each row (N,); empty if there is only one."""


def pair_up(texts: Sequence[str], duration_s: Sequence[float], seed: int) -> Pairs:
    """Pairs for texts and durations of N rows; the same for the same seed.

    `random_pair` gives each row the transcript of another row, drawn by chance; `shuffled_audio` exchanges audio among
    neighbours in length, so that frames per token stay what they are. Neither is ever a row's own transcript.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    said = np.array([numbers[text] for text in texts], dtype=np.int64)
    if len(numbers) < 2:
        return Pairs(tuple(numbers), torch.from_numpy(said), {})
    orders = {
        "random_pair": np.random.default_rng(seed).permutation(len(said)),
        "shuffled_audio": np.argsort(np.asarray(duration_s), kind="stable"),
    }
    wrong = {name: torch.from_numpy(_next_different(o, said)) for name, o in orders.items()}
    return Pairs(tuple(numbers), torch.from_numpy(said), wrong)


def _next_different(order: NDArray[np.int64], said: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, the transcript of the first row after it, in a round of all rows, that has another one."""
    n = len(order)
    found = np.empty(n, dtype=np.int64)
    for place, row in enumerate(order):
        after = 1
        while said[order[(place + after) % n]] == said[row]:
            after += 1
        found[row] = said[order[(place + after) % n]]
    return found


def retrieval(speech: Tensor, text: Tensor, said: Tensor) -> dict[str, float]:
    """How well pooled speech (N, D) finds its transcript among distinct pooled ones (T, D), and the other way round.

    A clip looks among distinct transcripts, and a transcript is content with any clip that says it, so that repeated
    sentences are no errors. What is as near as the right one, or nowhere (NaN), counts as nearer: a collapsed space
    finds nothing.

    Args:
        speech, text: Unit vectors.
        said: Number of the transcript that is right for each clip (N,).

    Returns:
        `retrieval_r1`, `_r5`, `_r10`, `retrieval_mrr` (mean reciprocal rank) from speech to text, and
        `text_retrieval_...` from text to speech, over the transcripts that some clip says.
    """
    scores = speech @ text.T
    right = said[:, None] == torch.arange(len(text), device=said.device)
    asks = right.any(0)
    back = _ranked("text_retrieval", scores.T[asks], right.T[asks])
    return _ranked("retrieval", scores, right) | back


def _ranked(name: str, scores: Tensor, right: Tensor) -> dict[str, float]:
    """Metrics of questions and answers (Q, A), some of which are right."""
    own = scores.masked_fill(~right, float("-inf")).amax(1)
    rank = 1 + (~(scores < own[:, None]) & ~right).sum(1)
    hits = {f"{name}_r{k}": float((rank <= k).float().mean()) for k in RANKS}
    return {**hits, f"{name}_mrr": float((1 / rank).mean())}


def path_figures(
    speech: Tensor,
    text: Tensor,
    frames: Tensor,
    tokens: Tensor,
    chosen: Tensor,
    *,
    speech_mean: Tensor,
    text_mean: Tensor,
) -> dict[str, Tensor]:
    """Sums over a batch that say how plain DTW paths (no band, no prior, no weights) look.

    Args:
        speech, frames: Projections (B, I, D) and their counts (B,).
        text, tokens: Texts (C, J, D) and their counts (C,).
        chosen: Texts that each row is compared with (B, K).
        speech_mean, text_mean: What inference subtracts (D,).

    Returns:
        Sums over rows, each (K,): `ones`, tokens with exactly one frame, of `tokens`; `largest`, the longest token's
        share of the path; `drift`, mean distance of the path from the straight line, as a share of the text; `cost`,
        the path's mean cost; of `pairs`.
    """
    found = dtw_alignment(
        *(speech, text.to(speech.dtype), frames, tokens),
        speech_mean=speech_mean,
        text_mean=text_mean,
        text_index=chosen,
    )
    J = text.shape[1]
    durations = token_durations(found.intervals, J)
    m = tokens[chosen]
    inside = torch.arange(J, device=m.device) < m[..., None]
    largest = durations.amax(-1) / durations.sum(-1).clamp(min=1)
    return {
        "ones": ((durations == 1) & inside).sum((0, 2)),
        "tokens": m.sum(0),
        "largest": largest.sum(0),
        "drift": _drift(found.intervals, frames, m).sum(0),
        "cost": found.loss.sum(0),
        "pairs": torch.full_like(m[0], len(m)),
    }


def _drift(intervals: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:
    """Mean over the frames of |place of the frame - place of its tokens' middle|, places in [0, 1], (B, K)."""
    n = frames[:, None, None].clamp(min=1)
    i = torch.arange(intervals.shape[2], device=intervals.device)
    middle = intervals.float().mean(-1) / tokens[..., None].clamp(min=1)
    off = ((i + 0.5) / n - middle).abs().masked_fill(i >= frames[:, None, None], 0)
    return off.sum(-1) / n[..., 0]


def path_metrics(sums: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Metrics of each of the K choices from `path_figures`, added up over batches."""
    found = []
    for k in range(len(sums["pairs"])):
        of = {name: float(value[k]) for name, value in sums.items()}
        found.append(
            {
                "one_frame_share": of["ones"] / max(1.0, of["tokens"]),
                "largest_share": of["largest"] / of["pairs"],
                "diagonal_drift": of["drift"] / of["pairs"],
                "path_cost": of["cost"] / of["pairs"],
            }
        )
    return found


def alarms(metrics: Mapping[str, float]) -> list[str]:
    """What is wrong with an alignment, and what to try; empty if nothing is."""
    found = []
    share, largest = metrics["one_frame_share"], metrics["largest_share"]
    r1, chance, found_none = _retrieved(metrics)
    enough = metrics["frames_per_token"] >= FEW_FRAMES
    on_one = largest > ONE_TOKEN and metrics["tokens_per_text"] >= MANY_TOKENS
    if (share > COLLAPSED and enough) or on_one:
        found.append(
            f"The path has collapsed: {share:.0%} of the tokens have exactly one frame, and the longest token takes"
            f" {largest:.0%} of a path. Use method: dtw with its default losses (no --plain), a larger batch_s (more"
            " transcripts to tell apart), a higher pool_weight, or more updates."
        )
    if share > COLLAPSED and not enough:
        found.append(
            f"Tokens have {metrics['frames_per_token']:.1f} frames on average, too few to tell: {share:.0%} have"
            " exactly one. Use a smaller projector_factor, or an LLM whose tokens are longer Thai."
        )
    if found_none:
        found.append(
            f"Speech does not find its transcript: R@1 {r1:.1%}, chance is {chance:.1%}. Check that transcripts belong"
            " to their audio; then try more updates, a higher learning_rate, or unfreeze_layers."
        )
    drift, wrong = metrics["diagonal_drift"], metrics.get("diagonal_drift_random_pair")
    if wrong is not None and drift > wrong and not found_none:
        found.append(
            f"Paths of true pairs are further from the straight line ({drift:.2f}) than those of random pairs"
            f" ({wrong:.2f}). Look at some alignments; long pauses do this, too."
        )
    cer, wrong = metrics.get("probe_cer"), metrics.get("probe_cer_random_pair")
    if cer is not None and wrong is not None and cer > 0.95 * wrong:
        found.append(
            f"Frames do not hold what was said: a CTC probe reads them with CER {cer:.0%}, and the wrong recording's"
            f" with {wrong:.0%}. Read another layer of the encoder, unfreeze_layers, or give the probe more"
            " probe_clips."
        )
    blank = metrics.get("blank_share")
    if blank is not None and blank > ALL_BLANK:
        found.append(
            f"CTC says nothing: {blank:.1%} of the frames are blank. Every CTC model starts so; try more updates, a"
            " higher learning_rate, or a higher ctc_temperature."
        )
    return found


def verdict(metrics: Mapping[str, float]) -> str:
    """The alignment in one line."""
    share = metrics["one_frame_share"]
    r1, chance, found_none = _retrieved(metrics)
    said = f"one-frame tokens {share:.0%}, retrieval R@1 {r1:.0%} (chance {chance:.1%})"
    if "probe_cer" in metrics:
        said += f", probe CER {metrics['probe_cer']:.0%}"
    few = metrics["frames_per_token"] < FEW_FRAMES
    if found_none or (share > COLLAPSED and not few):
        return f"COLLAPSED or not aligned: {said}"
    if share > COLLAPSED:
        return f"not to be told, as tokens have too few frames: {said}"
    if share > GOOD:
        return f"partly aligned: {said}; tokens with few frames raise the first figure"
    return f"aligned: {said}"


def _retrieved(metrics: Mapping[str, float]) -> tuple[float, float, bool]:
    """R@1 from speech to text, what chance gives, and whether it is below twice that (never of one transcript).

    Twice the chance of few transcripts is all or nearly all, so half the way from chance to all is enough.
    """
    r1, transcripts = metrics["retrieval_r1"], max(1.0, metrics["transcripts"])
    chance = 1 / transcripts
    return r1, chance, transcripts > 1 and r1 < min(2 * chance, (1 + chance) / 2)


def beside(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Rows for people: each metric with those of wrong pairs beside it."""
    rows = []
    for name, value in metrics.items():
        if name.endswith(BASELINES):
            continue
        others = [(b, metrics[f"{name}_{b}"]) for b in BASELINES if f"{name}_{b}" in metrics]
        said = ", ".join(f"{b.replace('_', ' ')} {other:.4f}" for b, other in others)
        rows.append((name, f"{value:.4f}" + (f"  ({said})" if said else "")))
    return rows
