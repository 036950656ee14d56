"""Tokens to a sentence as people write it, and where each token lies in it. Splits nothing and corrects nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: As the Penn Treebank writes brackets and quotes.
_PENN = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "``": '"', "''": '"'}
_NO_SPACE_BEFORE = re.compile(r"[,.;:?!%)\]}]|\.\.+|n't|'(?:s|S|m|d|re|ve|ll)?")
_NO_SPACE_AFTER = re.compile(r"[(\[{$£€#]")


def join_thai(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The tokens without spaces between them, as spaces are tokens of their own; and (start, end) of each."""
    extents: list[tuple[int, int]] = []
    length = 0
    for token in tokens:
        extents.append((length, length + len(token)))
        length += len(token)
    return "".join(tokens), extents


def join_english(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The tokens with spaces between them, but none where punctuation has none; and (start, end) of each."""
    text = ""
    extents: list[tuple[int, int]] = []
    is_glued = True
    in_quotes = False
    for raw in tokens:
        word = _PENN.get(raw, raw).strip()
        if not word:  # a space, which stands between words as it is
            extents.append((len(text), len(text)))
            continue
        closes = word == '"' and in_quotes
        if not is_glued and not closes and not _NO_SPACE_BEFORE.fullmatch(word):
            text += " "
        extents.append((len(text), len(text) + len(word)))
        text += word
        if word == '"':
            in_quotes = not in_quotes
        is_glued = bool(_NO_SPACE_AFTER.fullmatch(word)) or (word == '"' and in_quotes)
    return text, extents
