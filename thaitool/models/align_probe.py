"""A linear CTC probe: how much of what was said can be read off single frames. It never trains what it probes.

The probe is a linear layer on standardised frames, trained from zero for a fixed number of updates on fixed clips: the
same frames give the same error rate. Its units are Thai base characters with their marks. Retrieval of whole sentences
says little of what single frames hold; this does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from thaitool.errors import InputError
from thaitool.models.ctc import ctc_loss, emitted, frames_needed
from thaitool.text.normalize import NORMALIZER, compact, normalize
from thaitool.text.units import Vocabulary, build_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Clips of one update, and AdamW's peak rate, which falls to 0.
CLIPS_AT_ONCE = 16
LEARNING_RATE = 0.02
#: Added to standard deviations.
EPSILON = 1e-6


@dataclass(frozen=True)
class Probe:
    """A trained probe."""

    vocabulary: Vocabulary
    layer: nn.Linear
    mean: Tensor
    """Of the frames it was trained on (D,)."""
    scale: Tensor
    """One over their standard deviation (D,)."""

    @torch.no_grad()
    def read(self, clip: Tensor) -> str:
        """Text of the frames (I, D) of one clip, greedily."""
        if not len(clip):
            return ""
        scores = self.layer((clip.float() - self.mean) * self.scale)[None]
        best = emitted(scores, torch.tensor([len(clip)], device=clip.device)).best[0]
        return self.vocabulary.decode_frames(best.tolist())


def require_readable(texts: Sequence[str], frames: Sequence[int]) -> None:
    """Raises `InputError` if no clip of so many frames carries the characters of its text: no probe could learn."""
    _usable(_coded(texts)[1], frames)


def train_probe(
    clips: Sequence[Tensor], texts: Sequence[str], *, updates: int, seed: int = 0
) -> Probe:
    """A probe of `updates` updates.

    Args:
        clips: Frames (I, D) of each clip, all on one device; constants.
        texts: Their transcripts.
        updates: Budget.
        seed: Decides the order.

    Raises:
        InputError: no clip has frames enough for its text.
    """
    vocabulary, coded = _coded(texts)
    usable = [(clips[i], coded[i]) for i in _usable(coded, [len(clip) for clip in clips])]
    every = torch.cat([clip for clip, _ in usable]).float()
    mean, scale = every.mean(0), 1 / (every.std(0) + EPSILON)
    layer = nn.Linear(every.shape[1], len(vocabulary)).to(every.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    probe = Probe(vocabulary, layer, mean, scale)
    with torch.enable_grad(), torch.autocast(every.device.type, enabled=False):
        _train(probe, usable, updates, seed)
    return probe


def _coded(texts: Sequence[str]) -> tuple[Vocabulary, list[tuple[int, ...]]]:
    written = [normalize(text) for text in texts]
    vocabulary = build_vocabulary((text for text in written if text), normalizer=NORMALIZER)
    return vocabulary, [vocabulary.encode(text).ids for text in written]


def _usable(coded: Sequence[Sequence[int]], frames: Sequence[int]) -> list[int]:
    """Clips with text that their frames can carry."""
    pairs = enumerate(zip(coded, frames, strict=True))
    found = [i for i, (ids, n) in pairs if n >= frames_needed(ids) > 0]
    if not found:
        raise InputError(
            f"The CTC probe needs clips with a frame for each character, but none of {len(coded)} has that many; use a"
            " smaller projector_factor."
        )
    return found


def _train(
    probe: Probe, usable: Sequence[tuple[Tensor, Sequence[int]]], updates: int, seed: int
) -> None:
    optimizer = torch.optim.AdamW(probe.layer.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    order = np.random.default_rng(seed)
    size = min(CLIPS_AT_ONCE, len(usable))
    for update in range(updates):
        chosen = [usable[i] for i in order.choice(len(usable), size, replace=False)]
        lengths = torch.tensor([len(clip) for clip, _ in chosen], device=probe.mean.device)
        frames = pad_sequence([clip.float() for clip, _ in chosen], batch_first=True)
        scores = probe.layer((frames - probe.mean) * probe.scale)
        loss = ctc_loss(scores, lengths, [ids for _, ids in chosen])
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / updates)
        optimizer.zero_grad()
        torch.autograd.backward(loss / sum(len(ids) for _, ids in chosen))
        optimizer.step()


def character_error_rate(said: Sequence[str], wanted: Sequence[str]) -> float:
    """Edits over characters, summed over the rows, in the form that `eval` counts (thai-v1, no spaces)."""
    pairs = [(compact(a), compact(b)) for a, b in zip(said, wanted, strict=True)]
    edits = sum(Levenshtein.distance(a, b) for a, b in pairs)
    return edits / max(1, sum(len(b) for _, b in pairs))
