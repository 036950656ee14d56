"""Held-out clips as a run of `align` projects them, when its frames are, and projections that were told the truth.

The told ones learned from the true word of each frame: a projector on the encoder's frames, and a network on log-mels
without the encoder. Measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torchaudio.compliance.kaldi import fbank

from tests.bench.align_corpus import Bench, Timed
from tests.bench.align_methods import Made, dev_set
from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.loader import in_order
from thaitool.data.scan import scan
from thaitool.models.alignment import masked_mean, token_ids
from thaitool.models.checkpoint import load_front_end, load_tokenizer
from thaitool.models.encoder import length_arithmetic
from thaitool.models.features import FeatureCache
from thaitool.models.projector import Projector, ProjectorSettings
from thaitool.models.token_table import load_embedding_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

#: Clips in an update of a told one.
TOLD_ROWS = 20


@dataclass(frozen=True)
class Clock:
    """When frames are."""

    step_s: float
    """From one projected frame to the next."""
    first_s: float
    """The edge before frame 0: half of what a frame's window is longer than its step."""

    def at(self, frame: float) -> float:
        """Seconds of the edge before a frame; between frames, in between."""
        return self.first_s + self.step_s * frame


@dataclass(frozen=True)
class Heard:
    """Projected frames of one clip, and its words."""

    name: str
    frames: Tensor
    """(I, D), minus the mean of speech."""
    duration_s: float


@dataclass(frozen=True)
class Space:
    """What all clips of a run share."""

    clips: list[Heard]
    clock: Clock
    table: Tensor
    """Token table (V, D) of the LLM minus the mean that the run subtracts."""
    tokenizer: Any

    def ids(self, words: Sequence[str]) -> list[int]:
        """One token for each word; ends the program if the tokenizer sees other words."""
        found = token_ids(self.tokenizer, ["".join(words)])[0]
        if self.tokenizer.convert_ids_to_tokens(found) != list(words):
            raise SystemExit(f"{''.join(words)} is not read as {words}.")
        return found


def clock_of(config: Any, factor: int) -> Clock:
    """Times of the projected frames of an encoder, by its own arithmetic."""
    step, window = 1, 1
    for kernel, stride in zip(*length_arithmetic(config), strict=True):
        window += (kernel - 1) * step
        step *= stride
    window += (factor - 1) * step
    step *= factor
    return Clock(step / SAMPLE_RATE_HZ, (window - step) / 2 / SAMPLE_RATE_HZ)


@torch.no_grad()
def space_of(run: Made, projector: Projector | None = None) -> Space:
    """Held-out clips as a run's last checkpoint projects them; or another projector in its place."""
    speech_config, tower, weights, _ = load_front_end(run.checkpoint)
    settings = ProjectorSettings(
        factor=run.config.projector_factor, hidden_size=run.config.projector_hidden_size
    )
    table = load_embedding_table(run.config.llm)
    if projector is None:
        projector = Projector(tower.hidden_size, table.shape[1], settings)
        projector.load_state_dict(weights)
    assert run.config.feature_cache is not None
    kept = FeatureCache(run.config.feature_cache, tower)
    rows, raws = [], []
    for batch in in_order(dev_set(run.config), batch_s=60.0, normalised=tower.normalises):
        frames, counts = kept.encode(batch.audio, batch.audio_lengths)
        raw, lengths = (
            projector.aligned(frames, projector.output_lengths(counts)),
            projector.output_lengths(counts),
        )
        for u, row, n in zip(batch.utterances, raw, lengths.tolist(), strict=True):
            rows.append((u.id, u.duration_s))
            raws.append(row[:n])
    mean, text_mean = projector.speech_mean, projector.text_mean
    if run.config.method in {
        "asr",
        "none",
    }:  # they keep none: that of what is heard, as `align` judges them
        every = torch.cat(raws)
        mean = masked_mean(every[None], torch.tensor([len(every)]))
        text_mean = table.mean(0)
    clips = [Heard(name, raw - mean, s) for (name, s), raw in zip(rows, raws, strict=True)]
    clock = clock_of(speech_config.audio_config, settings.factor)
    return Space(clips, clock, table - text_mean, load_tokenizer(run.config.llm))


def told(run: Made, bench: Bench, late_s: float, updates: int) -> Projector:
    """A projector that learned from the true word of each frame, or of `late_s` before; silence teaches it nothing."""
    speech_config, tower, _, _ = load_front_end(run.checkpoint)
    table, tokenizer = load_embedding_table(run.config.llm), load_tokenizer(run.config.llm)
    torch.manual_seed(run.config.train.seed)
    projector = Projector(tower.hidden_size, table.shape[1], ProjectorSettings())
    projector.text_mean.copy_(table.mean(0))
    clock = clock_of(speech_config.audio_config, projector.settings.factor)
    clock = Clock(clock.step_s, clock.first_s - late_s)
    assert run.config.feature_cache is not None
    kept = FeatureCache(run.config.feature_cache, tower)
    examples: list[tuple[Tensor, Tensor]] = []
    for batch in in_order(scan([run.config.data], split="train")[0], batch_s=60.0):
        frames, counts = kept.encode(batch.audio, batch.audio_lengths)
        for u, row, n in zip(batch.utterances, frames, counts.tolist(), strict=True):
            ids = _said(tokenizer, bench.times[u.id], clock, projector.output_lengths(n))
            examples.append((row[:n].clone(), ids))

    def project(rows: Sequence[Tensor]) -> Tensor:
        frames = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return projector.aligned(frames, torch.tensor([len(x) for x in rows]))

    _learn(project, projector, examples, table - projector.text_mean, updates)
    return projector


@torch.no_grad()
def mel_space(run: Made, bench: Bench, updates: int) -> Space:
    """Held-out clips as a small network projects log-mels of 200 ms before and after each 20 ms."""
    torch.manual_seed(run.config.train.seed)
    table, tokenizer = load_embedding_table(run.config.llm), load_tokenizer(run.config.llm)
    table = table - table.mean(0)
    clock = clock_of(load_front_end(run.checkpoint)[0].audio_config, 1)
    heard: dict[str, list[tuple[Any, Tensor]]] = {"train": [], "dev": []}
    for split, rows in heard.items():
        manifest = scan([run.config.data], split=split)[0]
        for batch in in_order(manifest, batch_s=60.0, normalised=False):
            clips = zip(batch.utterances, batch.audio, batch.audio_lengths.tolist(), strict=True)
            rows += [(u, _log_mels(samples[:n])) for u, samples, n in clips]
    examples = [(x, _said(tokenizer, bench.times[u.id], clock, len(x))) for u, x in heard["train"]]
    width = examples[0][0].shape[1]
    network = torch.nn.Sequential(
        torch.nn.Linear(width, 256), torch.nn.GELU(), torch.nn.Linear(256, table.shape[1])
    )

    def project(rows: Sequence[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([network(row) for row in rows], batch_first=True)

    _learn(project, network, examples, table, updates)
    projected = [Heard(u.id, network(x), u.duration_s) for u, x in heard["dev"]]
    return Space(projected, clock, table, tokenizer)


def _log_mels(samples: Tensor) -> Tensor:
    """(I, 21 * 80): 25 ms windows every 10 ms in pairs, each with the ten pairs before and after it."""
    bins = fbank(samples[None] * 2**15, num_mel_bins=40)
    bins = (bins - bins.mean(0)) / (bins.std(0) + 1e-5)
    pairs = bins[: len(bins) // 2 * 2].reshape(len(bins) // 2, -1)
    around = functional.pad(pairs, (0, 0, 10, 10)).unfold(0, 21, 1)
    return around.reshape(len(pairs), -1)


def _learn(
    project: Callable[[Sequence[Tensor]], Tensor],
    module: torch.nn.Module,
    examples: Sequence[tuple[Tensor, Tensor]],
    table: Tensor,
    updates: int,
) -> None:
    """Trains a module to put each frame where its token is; tokens below 0 are none."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    order = np.random.default_rng(0)
    with torch.enable_grad():
        for _ in range(updates):
            rows = order.choice(len(examples), min(TOLD_ROWS, len(examples)), replace=False)
            raw = project([examples[i][0] for i in rows])
            ids = torch.nn.utils.rnn.pad_sequence([examples[i][1] for i in rows], True, -1)
            raw = raw[:, : ids.shape[1]][ids >= 0]
            loss = (1 - functional.cosine_similarity(raw, table[ids[ids >= 0]], dim=-1)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


def _said(tokenizer: Any, times: Timed, clock: Clock, frames: int) -> Tensor:
    """Token at the middle of each frame, -1 where none is said, (I,)."""
    word = _word_of_frame(times, clock, frames)
    ids = torch.tensor(token_ids(tokenizer, ["".join(times.words)])[0])
    return torch.where(word < 0, -1, ids[word])


def _word_of_frame(times: Timed, clock: Clock, frames: int) -> Tensor:
    """Number of the word at the middle of each frame, -1 where none is said, (I,)."""
    middle = torch.tensor([clock.at(i + 0.5) for i in range(frames)])
    inside = (middle[:, None] >= torch.tensor(times.start_s)) & (
        middle[:, None] < torch.tensor(times.end_s)
    )
    return torch.where(inside.any(1), inside.int().argmax(1), -1)
