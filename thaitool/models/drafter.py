"""A recogniser whose transcripts stand in the prompts of a speech LLM: the cascade, in training and afterwards.

A model that was trained with drafts names the recogniser and its hash, and hears with no other. Trains nothing; what a
prompt says about a draft is `text.context`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ, normalise
from thaitool.config import Decoding
from thaitool.errors import InputError
from thaitool.files import write_json
from thaitool.models.checkpoint import weights_sha256
from thaitool.models.decoding import new_search, transcribe
from thaitool.models.recogniser import Recogniser, is_recogniser, load_recogniser

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from thaitool.models.decoding import Search

#: In a checkpoint: the recogniser of its drafts.
DRAFTER = "drafter.json"


@dataclass(frozen=True)
class Drafter:
    """A loaded recogniser on its device, and the search that it is used with: joint with attention, else greedy."""

    model: Recogniser
    search: Search
    path: Path
    sha256: str
    """Of its weights."""

    @property
    def longest_s(self) -> float | None:
        """Seconds that it hears at once; None if there is no limit."""
        samples = self.model.encoder.longest_samples
        return None if samples is None else samples / SAMPLE_RATE_HZ

    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> list[str]:
        """Transcripts of clips (N,) at 16 kHz, mono, at their own level; the shorter ones are padded to the longest.

        Raises:
            InputError: a clip is longer than it hears at once.
        """
        if not clips:
            return []
        longest = max(map(len, clips))
        if self.longest_s is not None and longest > self.longest_s * SAMPLE_RATE_HZ:
            raise InputError(
                f"{self.path} hears {self.longest_s:g} s at once, but a clip to be drafted has"
                f" {longest / SAMPLE_RATE_HZ:.2f} s. Cut it, or use a recogniser without this limit."
            )
        audio = torch.zeros(len(clips), longest)
        for row, clip in zip(audio, clips, strict=True):
            heard = normalise(clip) if self.model.encoder.normalises else clip
            row[: len(clip)] = torch.from_numpy(heard)
        return transcribe(self.model, audio, torch.tensor([len(c) for c in clips]), self.search)


def load_drafter(path: Path, device: torch.device | str = "cpu") -> Drafter:
    """The recogniser of a directory.

    Raises:
        InputError: there is none, or it is damaged.
    """
    require_recogniser(path)
    model = load_recogniser(path).to(device)
    return Drafter(
        model, new_search(model, Decoding.model_validate({})), path, weights_sha256(path)
    )


def require_recogniser(path: Path) -> None:
    """Raises `InputError` if a directory holds none."""
    if not is_recogniser(path):
        raise InputError(
            f"{path} must be a recogniser (`thaitool finetune --head`) to draft with, but is none."
        )


def save_drafter(checkpoint: Path, path: Path | str, sha256: str) -> None:
    """Writes into a checkpoint which recogniser its model was trained with; a text names a folder of the checkpoint."""
    place = path if isinstance(path, str) else str(path.resolve())
    write_json(checkpoint / DRAFTER, {"recogniser": place, "sha256": sha256})


def drafter_place(checkpoint: Path, place: Path | None = None) -> Path | None:
    """Where the recogniser of a model's drafts lies, if it has one; arguments and errors as of `drafter_of`."""
    told = _told(checkpoint, place)
    return None if told is None else told[0]


def drafter_of(
    checkpoint: Path, place: Path | None = None, device: torch.device | str = "cpu"
) -> Drafter | None:
    """The recogniser that a model was trained with; None if it was trained without drafts.

    Args:
        checkpoint: The model's directory.
        place: Where the recogniser lies now, if not where it was.
        device: Where it is to run.

    Raises:
        InputError: it is not there, is another one, or `place` is given for a model without drafts.
    """
    told = _told(checkpoint, place)
    if told is None:
        return None
    path, sha256 = told
    found = load_drafter(path, device)
    if found.sha256 != sha256:
        raise InputError(
            f"{checkpoint} was trained with drafts by a recogniser whose weights hash to {sha256[:12]}, but those in"
            f" {path} hash to {found.sha256[:12]}. Name the right one (drafter)."
        )
    return found


def _told(checkpoint: Path, place: Path | None) -> tuple[Path, str] | None:
    """Where the recogniser lies and the hash of its weights; None without one."""
    file = checkpoint / DRAFTER
    if not file.is_file():
        if place is not None:
            raise InputError(
                f"{checkpoint} was trained without drafts and cannot read any; leave out drafter."
            )
        return None
    try:
        told = json.loads(file.read_text("utf-8"))
        known, sha256 = checkpoint / told["recogniser"], str(told["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged: {error!r}. Copy or make the checkpoint again."
        ) from error
    path = known if place is None else place
    if not path.is_dir():
        raise InputError(
            f"{checkpoint} was trained with drafts by the recogniser {path}, which is not there. Say where it lies now"
            " (drafter)."
        )
    return path, sha256
