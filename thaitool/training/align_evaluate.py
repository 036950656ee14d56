"""Held-out evaluation of `align`: hears a fixed part of the dev split and says how well speech and text agree.

The figures are those of `models.align_judge`; each has those of wrong pairs beside it. Trains nothing but the probe,
which is thrown away.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.loader import in_order, listed
from thaitool.errors import InputError
from thaitool.models.align_judge import (
    COMPARED,
    Pairs,
    pair_up,
    path_figures,
    path_metrics,
    retrieval,
)
from thaitool.models.align_probe import (
    Probe,
    character_error_rate,
    require_readable,
    train_probe,
)
from thaitool.models.alignment import masked_mean, pooled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from thaitool.config import AlignConfig
    from thaitool.data.loader import Batch
    from thaitool.data.manifest import Manifest
    from thaitool.training.align import AsrObjective, Objective

#: Transcripts whose embeddings exist at once.
TEXTS = 64


@dataclass(frozen=True)
class HeldOut:
    """What an alignment is judged on: always the same rows, pairs and probe clips."""

    manifest: Manifest
    """Held-out rows."""
    pairs: Pairs
    rows: dict[tuple[str, str], int]
    """Row of an utterance, by id and place."""
    probe: Manifest
    """Rows of the training set that the probe learns from."""


def hold_out(
    dev_set: Manifest, train_set: Manifest, config: AlignConfig, frames: Callable[[int], int]
) -> HeldOut:
    """At most `judge_items` held-out rows and `probe_clips` training rows, drawn by the seed.

    Args:
        dev_set, train_set: Rows with text.
        config: Of the run.
        frames: Projected frames that a number of samples gives.

    Raises:
        InputError: there is no held-out row, or no training row that the probe can learn from: before training, as it
            would otherwise show after it.
    """
    if not len(dev_set):
        raise InputError(
            f"Alignment is judged on the dev split, but {config.data} has no row of it that can be heard and has text;"
            " mark some rows as dev."
        )
    manifest = _drawn(dev_set, config.judge_items, config.train.seed)
    utterances = [manifest[i] for i in range(len(manifest))]
    pairs = pair_up(
        [u.text or "" for u in utterances],
        [u.duration_s for u in utterances],
        config.train.seed,
    )
    rows = {(u.id, u.place): row for row, u in enumerate(utterances)}
    probe = _drawn(train_set, config.probe_clips, config.train.seed)
    texts = [probe[i].text or "" for i in range(len(probe))]
    require_readable(texts, [frames(round(s * SAMPLE_RATE_HZ)) for s in probe.duration_s.tolist()])
    return HeldOut(manifest, pairs, rows, probe)


def _drawn(manifest: Manifest, count: int, seed: int) -> Manifest:
    if len(manifest) <= count:
        return manifest
    keep = np.zeros(len(manifest), bool)
    keep[np.random.default_rng(seed).permutation(len(manifest))[:count]] = True
    return manifest.select(keep)


def evaluate(
    objective: Objective | AsrObjective,
    held: HeldOut,
    config: AlignConfig,
    ledger: Path,
    *,
    probed: bool,
) -> dict[str, float]:
    """All figures of one evaluation.

    Args:
        objective: In evaluation mode.
        held: What to hear.
        config: Of the run.
        ledger: Where recordings that cannot be decoded are listed.
        probed: Train and read a CTC probe, too.

    Returns:
        `retrieval_...` and `text_retrieval_...`, `one_frame_share`, `largest_share`, `diagonal_drift`, `path_cost`,
        `frames_per_token`, `tokens_per_text`, `transcripts`, where asked for `probe_cer`, and of CTC `ctc_cer` and
        `blank_share`; those in `COMPARED` also as `..._random_pair` and `..._shuffled_audio`, if there are two
        transcripts.

    Raises:
        InputError: no held-out recording can be read.
    """
    heard = _Heard(objective, held, _probe(objective, held, config, ledger) if probed else None)
    speech_mean, text_mean = objective.means()
    if speech_mean is None:
        speech_mean = _mean_heard(objective, held, config, ledger)
    for batch in _batches(objective, held.manifest, config, ledger):
        heard.add(batch, speech_mean, text_mean)
    if not heard.rows:
        raise InputError(
            f"Alignment is judged on held-out recordings, but none of the {len(held.manifest)} could be read; see"
            f" {ledger}."
        )
    return heard.metrics(text_mean)


def _batches(
    objective: Objective | AsrObjective, manifest: Manifest, config: AlignConfig, ledger: Path
) -> Iterator[Batch]:
    normalised = objective.front_end.encoder.normalises
    source = in_order(manifest, batch_s=config.train.batch_s, normalised=normalised)
    return listed(source, ledger)


def _mean_heard(
    objective: Objective | AsrObjective, held: HeldOut, config: AlignConfig, ledger: Path
) -> Tensor:
    """Mean of all held-out frames (D,), for a method that keeps none."""
    total, count = 0.0, 0
    for batch in _batches(objective, held.manifest, config, ledger):
        raw, frames = objective.front_end(batch)
        total = total + masked_mean(raw, frames) * frames.sum()
        count += int(frames.sum())
    return torch.as_tensor(total / max(1, count), device=objective.tokens.table.device)


def _probe(
    objective: Objective | AsrObjective, held: HeldOut, config: AlignConfig, ledger: Path
) -> Probe:
    clips: list[Tensor] = []
    texts: list[str] = []
    for batch in _batches(objective, held.probe, config, ledger):
        raw, frames = objective.front_end(batch)
        clips += [row[:n].float() for row, n in zip(raw, frames.tolist(), strict=True)]
        texts += [u.text or "" for u in batch.utterances]
    return train_probe(clips, texts, updates=config.probe_updates, seed=config.train.seed)


class _Heard:
    """Sums and pooled vectors over the batches of one evaluation."""

    def __init__(
        self, objective: Objective | AsrObjective, held: HeldOut, probe: Probe | None
    ) -> None:
        self.objective, self.held, self.probe = objective, held, probe
        self.ids = objective.tokens.ids(held.pairs.texts)
        self.rows: list[int] = []
        self.speech: list[Tensor] = []
        self.paths: dict[str, Tensor] = {}
        self.read: list[str] = []
        self.decoded: list[str] = []
        self.counts: dict[str, float] = defaultdict(float)

    def add(self, batch: Batch, speech_mean: Tensor, text_mean: Tensor) -> None:
        raw, frames = self.objective.front_end(batch)
        rows = [self.held.rows[u.id, u.place] for u in batch.utterances]
        pairs, B = self.held.pairs, len(rows)
        choices = [pairs.said[rows], *(wrong[rows] for wrong in pairs.wrong.values())]
        text, tokens, _ = self.objective.tokens([self.ids[int(t)] for t in torch.cat(choices)])
        chosen = torch.arange(B)[:, None] + B * torch.arange(len(choices))
        found = path_figures(
            *(raw, text, frames, tokens, chosen.to(raw.device)),
            speech_mean=speech_mean,
            text_mean=text_mean,
        )
        self.paths = {k: v + self.paths[k] if self.paths else v for k, v in found.items()}
        self.rows += rows
        self.speech.append(pooled(raw - speech_mean, frames))
        self.counts["frames"] += int(frames.sum())
        self.counts["tokens"] += int(tokens[:B].sum())
        if self.probe is not None:
            clips = zip(raw, frames.tolist(), strict=True)
            self.read += [self.probe.read(row[:n]) for row, n in clips]
        if self.objective.ctc is not None:
            said, blanks = self.objective.ctc.decode(raw.float() - speech_mean, frames)
            self.decoded += [self.objective.tokens.tokenizer.decode(ids) for ids in said]
            self.counts["blanks"] += blanks

    def metrics(self, text_mean: Tensor) -> dict[str, float]:
        pairs = self.held.pairs
        speech, text = torch.cat(self.speech), self._texts(text_mean)
        paths = path_metrics(self.paths)
        told: dict[str, dict[str, float]] = {}
        choices = {"": pairs.said, **{f"_{name}": wrong for name, wrong in pairs.wrong.items()}}
        for (name, said), path in zip(choices.items(), paths, strict=True):
            mine = said[self.rows]
            told[name] = retrieval(speech, text, mine.to(speech.device)) | path
            if self.probe is not None:
                wanted = [pairs.texts[int(t)] for t in mine]
                told[name]["probe_cer"] = character_error_rate(self.read, wanted)
        found = dict(told.pop(""))
        if self.objective.ctc is not None:
            wanted = [pairs.texts[int(t)] for t in pairs.said[self.rows]]
            found["ctc_cer"] = character_error_rate(self.decoded, wanted)
            found["blank_share"] = self.counts["blanks"] / max(1.0, self.counts["frames"])
        found["frames_per_token"] = self.counts["frames"] / max(1.0, self.counts["tokens"])
        found["tokens_per_text"] = self.counts["tokens"] / len(self.rows)
        found["transcripts"] = float(len(pairs.texts))
        for suffix, figures in told.items():
            found |= {f"{k}{suffix}": v for k, v in figures.items() if k in COMPARED}
        return found

    def _texts(self, text_mean: Tensor) -> Tensor:
        """Pooled vectors of the distinct transcripts (T, D)."""
        parts = []
        for start in range(0, len(self.ids), TEXTS):
            text, tokens, weights = self.objective.tokens(self.ids[start : start + TEXTS])
            parts.append(pooled(text - text_mean, tokens, weights))
        return torch.cat(parts)
