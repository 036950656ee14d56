"""What is behind the clips of a pack: the file that raters must not see, and that scoring needs. Scores nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "thaitool-listening-key-1"
#: Kinds of clips beside the spoilt ones: rows of the data set, and recordings of people.
ITEM, ANCHOR = "item", "anchor"


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a pack, and all that its page does not say."""

    id: str
    """Within the key; raters see another name, each their own."""
    kind: str
    """`item`, `anchor`, or one of `spoil.SPOILT`."""
    data_id: str
    task: str
    voice: str
    length: str
    """Bucket of duration."""
    source_id: str
    duration_s: float
    gain_db: float
    """What brought it to the loudness of the others."""
    text: str
    """What is said, as the data set has it."""
    shown: str
    """The text on the page; empty where raters write down what they hear."""


@dataclass(frozen=True)
class Key:
    """A pack behind its pages."""

    pack: str
    """A digest of clips, texts and orders: pages of another pack are told by it."""
    data: str
    seed: int
    clips: Mapping[str, Clip]
    """By id."""
    orders: Mapping[str, Mapping[str, str]]
    """Of each rater: names on the page to ids of clips, in the order of the page."""


def key_path(pack: Path) -> Path:
    """Where the key of a pack lies: beside its directory, as the directory is handed out."""
    named = pack.resolve() if pack.name in {"", ".."} else pack
    return named.with_name(f"{named.name}.key.json")


def write_key(key: Key, path: Path) -> None:
    """Writes the key, whole or not at all."""
    clips = [asdict(clip) for clip in key.clips.values()]
    orders = {rater: dict(order) for rater, order in key.orders.items()}
    write_json(
        path,
        {
            "format": FORMAT,
            "pack": key.pack,
            "data": key.data,
            "seed": key.seed,
            "orders": orders,
            "clips": clips,
        },
    )


def read_key(path: Path) -> Key:
    """The key of a pack.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}, not {FORMAT!r}")
        clips = {clip["id"]: Clip(**clip) for clip in value["clips"]}
        key = Key(value["pack"], value["data"], value["seed"], clips, value["orders"])
        lost = {c for order in key.orders.values() for c in order.values()} - clips.keys()
        if lost:
            raise ValueError(f"it lacks {len(lost)} of its clips")
    except OSError as error:
        raise InputError(
            f"{path} must be the key that `thaitool listen pack` wrote beside the pack, but cannot be read:"
            f" {error.strerror or error}. Give its place with --key."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must be the key of a listening pack, but is not: {type(error).__name__} {error}."
        ) from error
    return key
