"""Synthetic speech with known alignments, on which DTW alignment losses collapse or do not. Trains nothing.

Everything is drawn from one seed: a token table (what an LLM would have), a sound for each token, silence, transcripts,
and the noisy frames that say them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64


@dataclass(frozen=True)
class Problem:
    """Ranges include both ends."""

    vocabulary: int = 200
    anisotropy: float = 0.7
    """Length of the direction that all tokens share, in units of a token's own length."""
    tokens: tuple[int, int] = (10, 25)
    first_half: tuple[int, int] = (2, 10)
    """Frames of a token in the first half of an utterance."""
    second_half: tuple[int, int] = (2, 10)
    silence_share: float = 0.3
    """Share of tokens that silence follows."""
    silence: tuple[int, int] = (2, 8)
    noise: float = 0.6
    batch: int = 24
    convolutions: bool = False
    utterance_mean: bool = False


BASE = Problem()
PROBLEMS = {
    "base": BASE,
    "a": replace(BASE, vocabulary=1000, anisotropy=1.5),
    "b": replace(
        BASE,
        tokens=(20, 60),
        first_half=(2, 15),
        second_half=(2, 15),
        silence_share=0.5,
        silence=(2, 15),
    ),
    "c": replace(BASE, first_half=(2, 5), second_half=(6, 14)),
    "d": replace(BASE, noise=1.2, convolutions=True),
    "e": replace(BASE, batch=8),
    "u": replace(BASE, utterance_mean=True),
    "g": replace(
        BASE,
        vocabulary=1000,
        anisotropy=1.5,
        first_half=(2, 6),
        second_half=(5, 11),
        silence_share=0.5,
        noise=1.2,
        batch=8,
        convolutions=True,
    ),
}


@dataclass(frozen=True)
class Utterances:
    """A padded batch, with its true alignment."""

    frames: Tensor
    """[B, I, WIDTH]"""
    frame_counts: Tensor
    tokens: Tensor
    """Ids [B, J]."""
    token_counts: Tensor
    token_of_frame: Tensor
    """Position in the transcript [B, I]; -1 in silence and padding."""


class Language:
    """Tables and a stream of transcripts of one problem and seed."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.random = torch.Generator().manual_seed(1000 + seed)
        shared = functional.normalize(self._normal(WIDTH), dim=0)
        stretch = problem.anisotropy * math.sqrt(WIDTH)
        self.table = self._normal(problem.vocabulary, WIDTH) + stretch * shared
        #: The sound of each token; the last one is silence.
        self.sounds = self._normal(problem.vocabulary + 1, WIDTH)

    def transcripts(self, count: int) -> tuple[Tensor, Tensor]:
        """Token ids of `count` utterances one after the other, and the number of tokens of each."""
        sizes = self._integers(self.problem.tokens, count)
        frequency = 1 / torch.arange(1, self.problem.vocabulary + 1, dtype=torch.float64)
        total = int(sizes.sum())
        return torch.multinomial(frequency, total, replacement=True, generator=self.random), sizes

    def say(self, ids: Tensor, sizes: Tensor) -> Utterances:
        """Durations, silences and noise for transcripts as `transcripts` gives them."""
        problem, count = self.problem, len(ids)
        position = torch.arange(count) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        early = position < torch.repeat_interleave(sizes, sizes) / 2
        durations = torch.where(
            early,
            self._integers(problem.first_half, count),
            self._integers(problem.second_half, count),
        )
        silent = torch.rand(count, generator=self.random) < problem.silence_share
        pauses = self._integers(problem.silence, count) * silent
        spans = torch.stack([durations, pauses], 1).flatten()
        sound = torch.stack([ids, torch.full_like(ids, problem.vocabulary)], 1).flatten()
        token = torch.stack([position, torch.full_like(ids, -1)], 1).flatten()
        heard = self.sounds[sound.repeat_interleave(spans)]
        utterance = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        lengths = torch.zeros_like(sizes).index_add_(0, utterance, durations + pauses)
        return Utterances(
            _padded(heard + problem.noise * self._normal(*heard.shape), lengths, 0),
            lengths,
            _padded(ids, sizes, 0),
            sizes,
            _padded(token.repeat_interleave(spans), lengths, -1),
        )

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.random)

    def _integers(self, ends: tuple[int, int], count: int) -> Tensor:
        return torch.randint(ends[0], ends[1] + 1, (count,), generator=self.random)


class Encoder(nn.Module):
    """The adapter of the problem, with the convolutions or the utterance mean that some variations add."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, 5, padding=2) for _ in range(2 * problem.convolutions)
        )
        self.mean = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
            for _ in range(int(problem.utterance_mean))
        )
        self.adapter = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256), nn.GELU(), nn.Linear(256, WIDTH)
        )

    def forward(self, frames: Tensor, frame_counts: Tensor) -> Tensor:
        """Frames [B, I, WIDTH] to embeddings of the same shape."""
        inside = (torch.arange(frames.shape[1]) < frame_counts[:, None])[..., None]
        for convolution in self.convolutions:
            mixed = functional.gelu(convolution(frames.transpose(1, 2)).transpose(1, 2))
            frames = (frames + mixed) * inside
        for mean in self.mean:
            frames = frames + mean((frames * inside).sum(1) / frame_counts[:, None])[:, None]
        embeddings: Tensor = self.adapter(frames)
        return embeddings


def _padded(flat: Tensor, lengths: Tensor, value: float) -> Tensor:
    rows = torch.split(flat, lengths.tolist())
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
