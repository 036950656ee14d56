"""Choices that depend on nothing but a seed and names: the same on every machine, in any order of rows."""

from __future__ import annotations

import hashlib


def draw(seed: int, name: str) -> int:
    """A number below 2**63 that is a hash of both."""
    # Backslashreplace: an id may come from a file name that is not UTF-8.
    text = f"{seed}\x1f{name}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def name_hash(name: str) -> int:
    """64 bits of a name, to compare many names in little memory."""
    text = name.encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
