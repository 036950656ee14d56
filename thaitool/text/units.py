"""CTC units for Thai: a base character and the marks above and below it are one unit, or plain characters.

It does not segment words and knows no phonemes. Text is brought to `canonical` spelling first, so
both forms of sara am give the same units; `normalize` (case, digits, punctuation) is the caller's
choice, and the vocabulary records its name.

Sara am (U+0E33) is a letter to Unicode (category Lo), not a mark, and takes its own column in
print: it is a unit of its own, น้ำ -> น้ | ำ. Gluing it to what comes before would add a rare unit
for every consonant and tone.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from thaitool.errors import InputError
from thaitool.text.normalize import canonical

BLANK_ID = 0
UNKNOWN_ID = 1
#: Names of the two reserved ids in files. No text contains them as one unit (a unit has one base).
BLANK, UNKNOWN = "<blank>", "<unk>"
#: What an unknown unit reads as: one wrong character, never an empty string that hides it.
UNKNOWN_TEXT = "\N{REPLACEMENT CHARACTER}"

_FORMAT = "thaitool-ctc-units-1"
#: `thai`: a base character with its marks; `characters`: every code point by itself.
Kind = Literal["thai", "characters"]


def split_units(text: str, kind: Kind = "thai") -> list[str]:
    """Cut `canonical(text)` into base characters with their following marks (general category M).

    White space never carries marks; marks without a base form a unit of their own. The kind
    `characters` cuts at every code point instead.
    `join_units(split_units(text)) == canonical(text)` for every text and kind.
    """
    if kind == "characters":
        return list(canonical(text))
    units: list[str] = []
    for char in canonical(text):
        if unicodedata.category(char).startswith("M") and units and not units[-1].isspace():
            units[-1] += char
        else:
            units.append(char)
    return units


def join_units(units: Iterable[str]) -> str:
    """The text of units: plain concatenation."""
    return "".join(units)


@dataclass(frozen=True)
class Encoded:
    """Unit ids of one text, and how many of them are `UNKNOWN_ID`."""

    ids: tuple[int, ...]
    unknown: int


@dataclass(frozen=True)
class Vocabulary:
    """Units and their ids: 0 is the CTC blank, 1 is unknown, `units[k]` has id k + 2.

    `dropped_units` distinct units were rarer than `min_frequency` when the vocabulary was built;
    they stood for `dropped_count` of the `total_count` units seen.
    """

    units: tuple[str, ...]
    min_frequency: int = 1
    total_count: int = 0
    dropped_units: int = 0
    dropped_count: int = 0
    kind: Kind = "thai"
    normalizer: str = ""
    """Name of the form (`thai-v1`) that texts were brought to before; empty is none."""

    def __post_init__(self) -> None:
        doubled = [unit for unit, count in Counter(self.units).items() if count > 1]
        if doubled or not all(self.units) or {BLANK, UNKNOWN} & set(self.units):
            raise InputError(
                "The units of a vocabulary must be different, not empty and not reserved names; "
                f"doubled: {doubled[:5]}. Build it again with build_vocabulary()."
            )

    def __len__(self) -> int:
        """V, the width of a CTC output layer: units, blank and unknown."""
        return len(self.units) + 2

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {unit: number for number, unit in enumerate(self.units, start=2)}

    def encode(self, text: str) -> Encoded:
        """Ids of the units of `text`; units not in the vocabulary are `UNKNOWN_ID`, and counted."""
        ids = tuple(self._ids.get(unit, UNKNOWN_ID) for unit in split_units(text, self.kind))
        return Encoded(ids, ids.count(UNKNOWN_ID))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of unit ids. Blanks give nothing, unknown gives `UNKNOWN_TEXT`.

        Raises:
            InputError: an id is outside 0..V-1.
        """
        parts: list[str] = []
        for number in ids:
            if not 0 <= number < len(self):
                raise InputError(
                    f"Unit id {number} is outside this vocabulary of {len(self)} ids; the model "
                    "and the vocabulary file belong to different runs."
                )
            if number == UNKNOWN_ID:
                parts.append(UNKNOWN_TEXT)
            elif number != BLANK_ID:
                parts.append(self.units[number - 2])
        return join_units(parts)

    def decode_frames(self, frame_ids: Sequence[int]) -> str:
        """Text of the best id per frame [I]: repeats merge, then blanks go (the CTC rule)."""
        return self.decode(
            number for i, number in enumerate(frame_ids) if i == 0 or number != frame_ids[i - 1]
        )

    def save(self, path: str | Path) -> None:
        """Write JSON through a temporary file, so that no reader ever sees half of it."""
        target = Path(path)
        value = {
            "format": _FORMAT,
            "kind": self.kind,
            "normalizer": self.normalizer,
            "blank": BLANK,
            "unknown": UNKNOWN,
            "min_frequency": self.min_frequency,
            "total_count": self.total_count,
            "dropped_units": self.dropped_units,
            "dropped_count": self.dropped_count,
            "units": list(self.units),
        }
        part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        part.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        part.replace(target)


def build_vocabulary(
    texts: Iterable[str], min_frequency: int = 1, *, kind: Kind = "thai", normalizer: str = ""
) -> Vocabulary:
    """Units seen at least `min_frequency` times, most frequent first, ties by code point.

    `texts` are in the form that `normalizer` names already.

    Raises:
        InputError: `min_frequency` is below 1, or no unit is that frequent.
    """
    if min_frequency < 1:
        raise InputError(f"min_frequency must be at least 1; it is {min_frequency}.")
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_units(text, kind))
    kept = sorted(
        (u for u, n in counts.items() if n >= min_frequency), key=lambda u: (-counts[u], u)
    )
    if not kept:
        raise InputError(
            f"No unit occurs {min_frequency} times or more in {counts.total()} units of text; "
            "pass more text or a smaller min_frequency."
        )
    kept_count = sum(counts[unit] for unit in kept)
    return Vocabulary(
        units=tuple(kept),
        min_frequency=min_frequency,
        total_count=counts.total(),
        dropped_units=len(counts) - len(kept),
        dropped_count=counts.total() - kept_count,
        kind=kind,
        normalizer=normalizer,
    )


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Read what `Vocabulary.save` wrote.

    Raises:
        InputError: the file is missing, is not JSON, or is not a unit vocabulary.
    """
    source = Path(path)
    try:
        value = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(
            f"{source} cannot be read as a unit vocabulary (JSON): {problem}"
        ) from problem
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise InputError(
            f"{source} is not a unit vocabulary: its format must be {_FORMAT}. "
            "Point to the file that `Vocabulary.save` wrote."
        )
    units = value.get("units")
    if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
        raise InputError(f'{source}: "units" must be a list of strings.')
    numbers: dict[str, int] = {}
    for key in ("min_frequency", "total_count", "dropped_units", "dropped_count"):
        if not isinstance(value.get(key), int):
            raise InputError(f'{source}: "{key}" must be a whole number; it is {value.get(key)!r}.')
        numbers[key] = value[key]
    kind, normalizer = value.get("kind"), value.get("normalizer")
    if kind not in get_args(Kind) or not isinstance(normalizer, str):
        raise InputError(
            f'{source}: "kind" must be one of {", ".join(get_args(Kind))} and "normalizer" a name; they are {kind!r}'
            f" and {normalizer!r}."
        )
    return Vocabulary(
        units=tuple(units),
        kind="characters" if kind == "characters" else "thai",
        normalizer=normalizer,
        **numbers,
    )
