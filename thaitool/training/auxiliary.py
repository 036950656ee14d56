"""An auxiliary CTC head on what the projector gives the LLM: transcripts in grapheme clusters. The LLM never sees it.

It makes the projector say what is heard before and while the LLM learns to read it (the CTC-first order of stages).
Rows whose audio cannot carry their text are left out and counted: torch's `zero_infinity` would count them as learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from thaitool.errors import InputError
from thaitool.models.ctc import ctc_loss, emitted, frames_needed
from thaitool.models.encoder import damage_is_explained
from thaitool.text.normalize import normalize
from thaitool.text.units import Vocabulary, load_vocabulary
from thaitool.training.transcripts import training_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from thaitool.data.manifest import Manifest

#: The head's weights and its units, beside the model in a checkpoint.
HEAD, UNITS = "ctc_head.safetensors", "ctc_units.json"
#: Units that occur less often in the training transcripts become <unk>.
MIN_FREQUENCY = 2
#: Updates that `remark_ctc` looks at; shares of rows and of frames above which it speaks.
WATCHED, MOST_UNALIGNABLE, MOST_BLANKS = 20, 0.1, 0.98


@dataclass(frozen=True)
class Heard:
    """The CTC loss of a batch, as sums."""

    nats: Tensor | None
    """Minus the log probability of the transcripts; None if no row can be aligned."""
    units: float
    """Units of the transcripts that can be aligned."""
    fits: list[bool]
    """Of each row, whether it can be aligned."""
    logs: dict[str, tuple[Tensor | float, float]]


class CtcHead(nn.Module):
    """Projected frames (B, I, D) to scores of units, and their loss."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        """For frames of `width` D. They are normed first: embeddings of an LLM may be very short vectors."""
        super().__init__()
        self.vocabulary = vocabulary
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, len(vocabulary))

    def ids(self, text: str | None) -> tuple[int, ...]:
        """Units of a transcript."""
        return self.vocabulary.encode(normalize(text or "")).ids

    def fits(self, text: str | None, count: int) -> bool:
        """Whether there is a transcript, and `count` frames can carry it."""
        return _carries(count, self.ids(text))

    def forward(self, frames: Tensor, counts: Tensor, texts: Sequence[str | None]) -> Heard:
        """The loss of the rows whose true counts (B,) of frames can carry their texts, in float32."""
        ids = [self.ids(text) for text in texts]
        fits = [_carries(n, row) for n, row in zip(counts.tolist(), ids, strict=True)]
        rows, total = float(sum(fits)), float(len(fits))
        left_out: dict[str, tuple[Tensor | float, float]] = {
            "ctc_unalignable": (total - rows, total)
        }
        if not rows:
            return Heard(None, 0.0, fits, left_out)
        kept = [row for row, fit in zip(ids, fits, strict=True) if fit]
        units = float(sum(map(len, kept)))
        with torch.autocast(frames.device.type, enabled=False):
            logits = self.scores(self.norm(frames[fits].float()))
            nats = ctc_loss(logits, counts[fits], kept)
        said = emitted(logits, counts[fits])
        logs = {
            "ctc_nats": (nats.detach(), units),
            "ctc_blank_share": (said.blanks, float(counts[fits].sum())),
        }
        return Heard(nats, units, fits, logs | left_out)

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Writes the head, its weights by its own names, beside the model of a checkpoint."""
        whole = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        save_file(whole, path / HEAD)
        self.vocabulary.save(path / UNITS)


def _carries(count: int, ids: Sequence[int]) -> bool:
    return count >= frames_needed(ids) > 0


def remark_ctc(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the last updates say about the CTC loss, in words; nothing if it does its work.

    Args:
        rows: Metrics of updates, oldest first; the last `WATCHED` with a CTC loss are looked at, fewer say nothing.
    """
    recent = [row for row in rows if "ctc_unalignable" in row][-WATCHED:]
    if len(recent) < WATCHED:
        return []
    alarms = []
    left_out = sum(row["ctc_unalignable"] for row in recent) / WATCHED
    if left_out > MOST_UNALIGNABLE:
        alarms.append(
            f"ctc: {left_out:.0%} of the rows of the last {WATCHED} updates have no transcript or one that their audio"
            " cannot carry, and CTC learns nothing from them. Check that transcripts are whole and belong to their"
            " audio, or choose a projector that shortens less."
        )
    blanks = [row["ctc_blank_share"] for row in recent if "ctc_blank_share" in row]
    if len(blanks) == WATCHED and min(blanks) > MOST_BLANKS:
        alarms.append(
            f"ctc: its head has put out blanks alone in more than {MOST_BLANKS:.0%} of the frames of every one of the"
            f" last {WATCHED} updates. Every CTC training begins so; if it stays, raise ctc_first_updates or"
            " ctc_learning_rate."
        )
    return alarms


def new_head(width: int, train_set: Manifest) -> CtcHead:
    """A head for the units of the training transcripts.

    Raises:
        InputError: there are no transcripts.
    """
    return CtcHead(width, training_vocabulary(train_set, kind="thai", min_frequency=MIN_FREQUENCY))


def load_head(path: Path, width: int) -> CtcHead | None:
    """The head of a checkpoint, None if it has none.

    Raises:
        InputError: its files are damaged, or of another model.
    """
    if not (path / HEAD).is_file():
        return None
    with damage_is_explained(path / HEAD):
        weights: dict[str, Any] = load_file(path / HEAD)
    head = CtcHead(width, load_vocabulary(path / UNITS))
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path / HEAD} must fit {UNITS} and the model beside it, but does not:"
            f" {str(error).splitlines()[-1].strip()} Copy the checkpoint again, or delete both files for a new head."
        ) from error
    return head
