"""Hears a few held-out clips at the end of `align`, for the report: paths in seconds, and vectors of both kinds.

Trains nothing, and judges nothing by them: the figures of a run are those of all held-out rows (`align_evaluate`).
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from torch.nn import functional

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.loader import in_order, load_audio
from thaitool.errors import InputError
from thaitool.models.align_shown import (
    ShownAlignment,
    Span,
    Vectors,
    as_pieces,
    path_spans,
    peaks,
)
from thaitool.models.alignment import masked_mean
from thaitool.ops.dtw import dtw_alignment
from thaitool.ops.path import token_durations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from torch import Tensor

    from thaitool.config import AlignConfig
    from thaitool.data.loader import Batch
    from thaitool.records import Utterance
    from thaitool.training.align import AsrObjective, Objective
    from thaitool.training.align_evaluate import HeldOut

#: Clips whose paths are drawn, and their longest duration; clips, tokens and frames behind the vectors.
CLIPS = 6
LONGEST_S = 20.0
VECTOR_CLIPS = 48
TOKENS = 400
FRAMES = 600
#: Parts of a drawn waveform.
PEAKS = 400


def hear_shown(
    objective: Objective | AsrObjective,
    held: HeldOut,
    config: AlignConfig,
    words: Mapping[str, tuple[Span, ...]],
) -> tuple[tuple[ShownAlignment, ...], Vectors]:
    """Paths of a few clips, and vectors of some more; the same clips for every method of the same data and seed.

    Args:
        objective: In evaluation mode.
        held: Held-out rows.
        config: Of the run.
        words: True word times by utterance; empty where none are known.
    """
    order = np.random.default_rng(config.train.seed).permutation(len(held.manifest))[:VECTOR_CLIPS]
    keep = np.zeros(len(held.manifest), bool)
    keep[order] = True
    chosen = held.manifest.select(keep)
    # The first that are short enough for a picture; in a corpus of long clips, the shortest.
    by_length = np.argsort(np.maximum(chosen.duration_s, LONGEST_S), kind="stable").tolist()
    drawn = {chosen[i].id for i in by_length[:CLIPS]}
    batches = list(
        in_order(
            chosen,
            batch_s=config.train.batch_s,
            normalised=objective.front_end.encoder.normalises,
        )
    )
    heard = [(b, *objective.front_end(b)) for b in batches if b.utterances]
    speech_mean, text_mean = objective.means()
    if speech_mean is None:
        speech_mean = _mean(heard)
    shown: dict[str, ShownAlignment] = {}
    for batch, raw, counts in heard:
        for row, utterance in enumerate(batch.utterances):
            if utterance.id in drawn and counts[row]:
                means = speech_mean, text_mean
                one = _shown(objective, utterance, raw[row, : counts[row]], means)
                shown[utterance.id] = replace(one, words=words.get(utterance.id, ()))
    vectors = _vectors(objective, heard, speech_mean, text_mean, config.train.seed)
    return tuple(shown[name] for name in sorted(shown)), vectors


def _mean(heard: Iterable[tuple[Batch, Tensor, Tensor]]) -> Tensor:
    """Mean of all frames (D,)."""
    sums = [(masked_mean(raw, n) * n.sum(), n.sum()) for _, raw, n in heard]
    return torch.stack([s for s, _ in sums]).sum(0) / sum(int(n) for _, n in sums)


def _shown(
    objective: Objective | AsrObjective,
    utterance: Utterance,
    raw: Tensor,
    means: tuple[Tensor, Tensor],
) -> ShownAlignment:
    """The plain path of one clip's projections (I, D)."""
    text, tokenizer = utterance.text or "", objective.tokens.tokenizer
    ids = objective.tokens.ids([text])
    embedded, count, _ = objective.tokens(ids)
    frames = torch.tensor([len(raw)])
    found = dtw_alignment(
        raw[None],
        embedded.to(raw.dtype),
        frames.to(raw.device),
        count,
        speech_mean=means[0],
        text_mean=means[1],
    )
    # Arithmetic only, so a long stretch is free: it gives the hop without the ends of a clip.
    longest = objective.front_end.encoder.longest_samples or 600 * SAMPLE_RATE_HZ
    hop_s = longest / objective.front_end.output_lengths(longest) / SAMPLE_RATE_HZ
    intervals = [(int(a), int(b)) for a, b in found.intervals[0].tolist()]
    spans = path_spans(intervals, len(ids[0]), hop_s)
    durations = token_durations(found.intervals[0], len(ids[0]))
    samples = load_audio(utterance)
    target = io.BytesIO()
    soundfile.write(target, samples, SAMPLE_RATE_HZ, format="FLAC")
    return ShownAlignment(
        utterance.id,
        text,
        len(samples) / SAMPLE_RATE_HZ,
        round(float(found.loss[0]), 4),
        round(float((durations == 1).float().mean()), 4) if len(ids[0]) else 0.0,
        as_pieces(text, _offsets(tokenizer, text, ids[0]), spans),
        peaks(samples, PEAKS),
        audio=target.getvalue(),
    )


def _offsets(tokenizer: Any, text: str, ids: list[int]) -> list[tuple[int, int]]:
    """Where each token stands in the text, in characters; a slow tokenizer does not say, so by decoded lengths."""
    if tokenizer.is_fast:
        told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(int(a), int(b)) for a, b in told["offset_mapping"]]
    lengths = [len(tokenizer.decode([token])) for token in ids]
    ends = np.minimum(np.cumsum(lengths), len(text)).tolist()
    return list(zip([0, *ends], ends, strict=False))


def _vectors(
    objective: Objective | AsrObjective,
    heard: list[tuple[Batch, Tensor, Tensor]],
    speech_mean: Tensor,
    text_mean: Tensor,
    seed: int,
) -> Vectors:
    """Unit vectors of the tokens that the clips say, and of frames drawn among theirs."""
    texts = [u.text for batch, _, _ in heard for u in batch.utterances]
    rows = objective.tokens.ids(texts)
    known = list(dict.fromkeys(token for row in rows for token in row))[:TOKENS]
    place = {token: number for number, token in enumerate(known)}
    embedded = objective.tokens.table[torch.tensor(known, device=speech_mean.device)]
    frames = [
        (raw[row, : counts[row]] - speech_mean).float().cpu()
        for _, raw, counts in heard
        for row in range(len(raw))
    ]
    clip = np.repeat(np.arange(len(frames)), [len(f) for f in frames])
    every = torch.cat(frames)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(every))[:FRAMES])
    unit = functional.normalize(embedded.float().cpu() - text_mean.float().cpu(), dim=-1)
    tokenizer = objective.tokens.tokenizer
    return Vectors(
        tuple(str(tokenizer.decode([token])) for token in known),
        unit.numpy(),
        functional.normalize(every[torch.from_numpy(drawn)], dim=-1).numpy(),
        clip[drawn].astype(np.int64),
        tuple(tuple(place[t] for t in row if t in place) for row in rows),
    )


def read_word_times(path: Path) -> dict[str, tuple[Span, ...]]:
    """Words by utterance from a CTM file: utterance, channel, start, duration, word, separated by spaces, in seconds.

    The utterance is the id of the row. Form: NIST sctk, also written by Kaldi.

    Raises:
        InputError: the file cannot be read, or a line is not of this form.
    """
    found: dict[str, list[Span]] = defaultdict(list)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}, word_times, cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or line.startswith(";;"):
            continue
        try:
            start_s, duration_s = float(parts[2]), float(parts[3])
            found[parts[0]].append(Span(parts[4], start_s, start_s + duration_s))
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}, must be `utterance channel start duration word`, but is {line!r}."
            ) from error
    return {name: tuple(sorted(spans, key=lambda s: s.start_s)) for name, spans in found.items()}
