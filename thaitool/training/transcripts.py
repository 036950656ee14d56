"""Which transcripts a recogniser can be trained on, in what units, and an account of those that it cannot.

Reads manifests, not audio. Every row that is not used has a reason; rows that are used although some of their symbols
are not in the vocabulary are listed, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.augment import changed_length
from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.models.ctc import frames_needed
from thaitool.records import Rejected
from thaitool.text.normalize import NORMALIZER, normalize
from thaitool.text.units import UNKNOWN_ID, Kind, Vocabulary, build_vocabulary, split_units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest

#: Rows whose texts are Python strings at a time.
_ROWS = 10_000
#: How many units the account names.
_NAMED = 20


@dataclass(frozen=True)
class Unknown:
    """A row that is used although some of its units are not in the vocabulary: they become <unk>."""

    item: str
    units: tuple[str, ...]
    of: int
    """Units of the whole text."""


@dataclass(frozen=True)
class Usable:
    """What can be trained on, and what was set aside."""

    keep: NDArray[np.bool_]
    """Shape (rows,)."""
    rejected: list[Rejected]
    unknown: list[Unknown]
    limited: int
    """Rows that only some of the speeds leave enough frames for; they are played at those."""

    def account(self, rows: int) -> dict[str, Any]:
        """Counts of rows by what became of them, and the commonest unknown units."""
        units = Counter(unit for row in self.unknown for unit in row.units)
        return {
            "rows": rows,
            "used": int(self.keep.sum()),
            **Counter(r.reason for r in self.rejected),
            "with_unknown_units": len(self.unknown),
            "unknown_units": units.total(),
            "commonest_unknown_units": dict(units.most_common(_NAMED)),
            "not_at_every_speed": self.limited,
        }


def texts_of(manifest: Manifest) -> Iterator[str | None]:
    """The transcripts in the form `NORMALIZER`, row by row; None where there is none."""
    for chunk in manifest.column("text").chunks:
        for first in range(0, len(chunk), _ROWS):
            for text in chunk.slice(first, _ROWS).to_pylist():
                yield None if text is None else normalize(text)


def training_vocabulary(train_set: Manifest, *, kind: Kind, min_frequency: int) -> Vocabulary:
    """The units of the training transcripts.

    Raises:
        InputError: there is no text, or no unit is that frequent.
    """
    texts = (text for text in texts_of(train_set) if text)
    try:
        return build_vocabulary(texts, min_frequency, kind=kind, normalizer=NORMALIZER)
    except InputError as error:
        raise InputError(
            f"A recogniser is trained on transcripts, but the {len(train_set)} training rows give no vocabulary:"
            f" {error} Name data whose rows have text, such as a manifest or a Kaldi directory with a `text` file."
        ) from error


def usable(
    manifest: Manifest,
    vocabulary: Vocabulary,
    *,
    longest_s: float,
    speeds: Sequence[float],
    frames: Callable[[int], int],
    held_out: bool = False,
) -> Usable:
    """Looks at every row.

    A row is set aside, with its reason, when it has no text (`no_text`), none is left after normalisation
    (`empty_text`), none of its units is in the vocabulary (`unknown_text`), it is longer than `longest_s` (`too_long`),
    or its audio has fewer frames than CTC needs for its text, at whatever speed (`too_long_for_audio`).

    Args:
        manifest: The rows.
        vocabulary: Units that can be trained.
        longest_s: Longest recording.
        speeds: What recordings may be played at in training.
        frames: Frames that the encoder makes of a number of samples; the one length function.
        held_out: Rows to be scored, not trained on: what cannot be said is an error of the model, not of the data, so
            that only rows without text and too long ones are set aside.
    """
    keep = np.zeros(len(manifest), bool)
    rejected: list[Rejected] = []
    unknown: list[Unknown] = []
    limited = 0
    for row, text in enumerate(texts_of(manifest)):
        duration_s = float(manifest.duration_s[row])
        wrong = _without_text(manifest, row, text) or _too_long(duration_s, longest_s)
        ids = vocabulary.encode(text).ids if text and wrong is None else ()
        if ids and not held_out:
            need = frames_needed(ids)
            n_fit = sum(frames(n) >= need for n in _played(duration_s, speeds, longest_s))
            limited += 0 < n_fit < len(speeds)
            wrong = _unknown_only(ids, text or "") or _not_carried(ids, duration_s, n_fit, frames)
        if wrong is not None:
            rejected.append(Rejected(manifest[row].place, *wrong))
            continue
        keep[row] = True
        if UNKNOWN_ID in ids:
            units = split_units(text or "", vocabulary.kind)
            missing = tuple(u for u, i in zip(units, ids, strict=True) if i == UNKNOWN_ID)
            unknown.append(Unknown(manifest[row].place, missing, len(ids)))
    return Usable(keep, rejected, unknown, limited)


def playable(samples: int, speeds: Sequence[float], longest_s: float) -> list[float]:
    """The speeds at which a recording of `samples` samples stays within `longest_s`, or else the fastest."""
    limit = int(longest_s * SAMPLE_RATE_HZ)
    fitting = [s for s in speeds if s >= 1 or changed_length(samples, s) <= limit]
    return fitting or [max(speeds)]


def _played(duration_s: float, speeds: Sequence[float], longest_s: float) -> list[int]:
    samples = round(duration_s * SAMPLE_RATE_HZ)
    return [changed_length(samples, s) for s in playable(samples, speeds, longest_s)]


_Wrong = tuple[str, str] | None


def _without_text(manifest: Manifest, row: int, text: str | None) -> _Wrong:
    if text is None:
        return "no_text", "the row has audio and no transcript"
    if text:
        return None
    written = manifest[row].text or ""
    return "empty_text", f"nothing is left of {written[:40]!r} in the form {NORMALIZER}"


def _too_long(duration_s: float, longest_s: float) -> _Wrong:
    if duration_s <= longest_s:
        return None
    return "too_long", f"{duration_s:.2f} s, longest_s is {longest_s:g}"


def _unknown_only(ids: Sequence[int], text: str) -> _Wrong:
    if any(i != UNKNOWN_ID for i in ids):
        return None
    return "unknown_text", f"none of the {len(ids)} units of {text[:40]!r} is in the vocabulary"


def _not_carried(
    ids: Sequence[int], duration_s: float, n_fit: int, frames: Callable[[int], int]
) -> _Wrong:
    if n_fit:
        return None
    have = frames(round(duration_s * SAMPLE_RATE_HZ))
    return (
        "too_long_for_audio",
        f"{len(ids)} units with {frames_needed(ids) - len(ids)} repeats need {frames_needed(ids)} frames, and"
        f" {duration_s:.2f} s are {have}",
    )
