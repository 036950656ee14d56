"""Random choices that depend on nothing but their arguments: the same on every machine and Python.

Not for simulation: each draw costs one SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(*parts: str | int) -> int:
    """A number below 2**64 that is a hash of `parts`; put the seed first, then what is drawn."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def pick(options: Sequence[T], *parts: str | int) -> T:
    """One of `options`, drawn by `parts`."""
    return options[draw(*parts) % len(options)]
