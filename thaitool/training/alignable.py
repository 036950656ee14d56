"""Which transcripts `align` can use: those that have text, in symbols the LLM knows, and audio that can carry them.

Reads manifests, not audio, before training starts; every row that is left out has a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.manifest import check_share
from thaitool.errors import InputError
from thaitool.models.alignment import TEXTS_AT_ONCE, token_ids
from thaitool.models.ctc import frames_needed
from thaitool.records import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from thaitool.data.manifest import Manifest

#: Share of unknown tokens in all transcripts above which the tokenizer is taken for another language's.
MOST_UNKNOWN = 0.1


@dataclass(frozen=True)
class Alignable:
    """The rows that can be aligned, and the others with their reasons."""

    manifest: Manifest
    rejected: list[Rejected]
    token_counts: Tensor
    """How often each token of the vocabulary occurs in the rows that are left, int64 (V,)."""


def alignable(
    manifest: Manifest,
    tokenizer: Any,
    *,
    vocabulary: int,
    max_rejected_share: float,
    frames: Callable[[int], int] | None = None,
    repeats: bool = False,
) -> Alignable:
    """Looks at every row.

    A row is left out when it has no text (`no_text`, `empty_text`), the tokenizer knows none of it (`unknown_text`), or
    it has more tokens than frames (`too_long_for_audio`).

    Args:
        manifest: The rows.
        tokenizer: The LLM's.
        vocabulary: Rows V of the LLM's token table.
        max_rejected_share: Share of rows left out that is an error.
        frames: Projected frames that a number of samples gives; None looks at the texts only.
        repeats: Count a frame more for each two neighbours that are the same token, as CTC has a blank between them.

    Raises:
        InputError: the tokenizer knows too little of the language, or has ids that the table lacks.
        QuarantineError: too many rows are left out.
    """
    texts: list[str | None] = manifest.column("text").to_pylist()
    counts = torch.zeros(vocabulary, dtype=torch.long)
    keep = np.zeros(len(manifest), bool)
    rejected: list[Rejected] = []
    n_tokens = n_unknown = 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        used: list[int] = []
        # A text of none is tokenised as an empty one, so that rows keep their places.
        for row, ids in enumerate(token_ids(tokenizer, [t or "" for t in part]), start=start):
            _require_in_table(ids, vocabulary)
            unknown = ids.count(tokenizer.unk_token_id)
            n_tokens, n_unknown = n_tokens + len(ids), n_unknown + unknown
            wrong = _unusable_text(texts[row], ids, unknown)
            if wrong is None and frames is not None:
                wrong = _not_carried(ids, float(manifest.duration_s[row]), frames, repeats=repeats)
            if wrong is not None:
                rejected.append(Rejected(manifest[row].place, *wrong))
                continue
            keep[row] = True
            used += ids
        counts += torch.bincount(torch.tensor(used, dtype=torch.long), minlength=vocabulary)
    share = n_unknown / max(1, n_tokens)
    if share > MOST_UNKNOWN:
        raise InputError(
            f"The LLM's tokenizer must know the language of the transcripts, but {share:.0%} of their {n_tokens} tokens"
            f" are {tokenizer.unk_token}. Take an LLM whose tokenizer has Thai, or falls back to bytes."
        )
    check_share(rejected, len(manifest), max_rejected_share)
    return Alignable(manifest.select(keep) if rejected else manifest, rejected, counts)


def _require_in_table(ids: Sequence[int], vocabulary: int) -> None:
    if ids and max(ids) >= vocabulary:
        raise InputError(
            f"The LLM's tokenizer gives the id {max(ids)}, but its token table has {vocabulary} rows; tokenizer and"
            " weights belong to different models, or tokens were added without resizing the table."
        )


_Wrong = tuple[str, str] | None


def _unusable_text(text: str | None, ids: Sequence[int], unknown: int) -> _Wrong:
    if text is None:
        return "no_text", "the row has audio and no transcript"
    if not ids or not text.strip():
        return "empty_text", f"the transcript {text[:40]!r} has no tokens"
    if unknown == len(ids):
        return "unknown_text", f"the LLM's tokenizer knows nothing of {text[:40]!r}"
    return None


def _not_carried(
    ids: Sequence[int], duration_s: float, frames: Callable[[int], int], *, repeats: bool
) -> _Wrong:
    need = frames_needed(ids) if repeats else len(ids)
    have = frames(round(duration_s * SAMPLE_RATE_HZ))
    if have >= need:
        return None
    blanks = f" with {need - len(ids)} repeats" if repeats else ""
    return (
        "too_long_for_audio",
        f"{len(ids)} tokens{blanks} need {need} projected frames, and {duration_s:.2f} s are {have}; a smaller"
        " projector_factor gives more",
    )
