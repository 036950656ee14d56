"""Brings two spellings of one Thai text to one form, `thai-v1`: scores compare words, not typing.

It does not rewrite words: numbers stay digits, ๆ stays ๆ, and no mark is ever deleted.

The rules are tables (below) whose sha256 every report prints. They are our own rather than
`pythainlp.util.normalize`, which also deletes repeated vowels and tone marks: that would forgive a
model that loops ("นานาาา"), and would let a library update change published numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata

#: Name of the rules. A change to any table below is a new name (a test pins name and sha256).
NORMALIZER = "thai-v1"

TONE_MARKS = "\u0e48\u0e49\u0e4a\u0e4b"
SARA_AM = "\u0e33"

# Invisible: soft hyphen, zero-width (non-)joiners and spaces, directional controls, BOM.
_ZERO_WIDTH = "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"

# Applied in this order. All but the first come from what Thai keyboards let people type.
_SPELLING = (
    ("\u0e40\u0e40", "\u0e41"),  # two Sara E look like one Sara Ae
    ("(?<![\u0e24\u0e26])\u0e45", "\u0e32"),  # Lakkhangyao used for Sara Aa (right only after ฤ, ฦ)
    (
        f"\u0e4d([{TONE_MARKS}]*)\u0e32",
        f"\\1{SARA_AM}",
    ),  # Nikhahit (tone) Sara Aa -> (tone) Sara Am
    (f"([\u0e30\u0e32\u0e33])([{TONE_MARKS}]+)", "\\2\\1"),  # the tone sits on the consonant
)

# Order of marks on one consonant: Phinthu, below vowels, above vowels, tones, silencing signs.
# NFC alone leaves tone + Sara I as typed, since U+0E34 has combining class 0. The order agrees
# with the combining classes that do exist (U+0E3A 9, U+0E38-39 103, tones 107).
_MARK_ORDER = (
    "\u0e3a",
    "\u0e38\u0e39",
    "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e47\u0e4d",
    TONE_MARKS,
    "\u0e4c\u0e4e",
)

_THAI_DIGITS = "๐๑๒๓๔๕๖๗๘๙"

# A full stop goes unless it stands between digits: 3.5 and 35 are different words.
_FULL_STOP = r"(?<![0-9])\.|\.(?![0-9])"

# Kept because they are read aloud: # $ % & + = @ ฿ ฯ ๆ and the minus sign U+2212.
_PUNCTUATION = (
    "!\"'()*,-/:;<>?[\\]^_`{|}~"
    "\u00ab\u00b7\u00bb\u2010\u2011\u2012\u2013\u2014\u2015\u2018\u2019\u201a\u201c\u201d\u201e"
    "\u2022\u2026\u2032\u2033\u2039\u203a\u3001\u3002\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
    "\u0e4f\u0e5a\u0e5b"  # ๏ ๚ ๛
)

_STEPS = ("zero_width", "nfc", "spelling", "mark_order", "digits", "full_stop", "punctuation")
_LAST_STEPS = ("lower", "spaces", "repeat until nothing changes")

# Patterns, not str.translate: most texts need no change, and finding that out is three times faster.
_ZERO_WIDTH_RE = re.compile(f"[{_ZERO_WIDTH}]+")
_THAI_DIGITS_RE = re.compile(f"[{_THAI_DIGITS}]+")
_DIGITS_TO_ARABIC = str.maketrans(_THAI_DIGITS, "0123456789")
_PUNCTUATION_RE = re.compile(f"[{re.escape(_PUNCTUATION)}]+")
# What a text must contain for each rule of _SPELLING to find anything; "" is in every text.
_NEEDLES = ("\u0e40\u0e40", "\u0e45", "\u0e4d", "")
_SPELLING_RE = tuple(
    (needle, re.compile(pattern), new)
    for needle, (pattern, new) in zip(_NEEDLES, _SPELLING, strict=True)
)
_FULL_STOP_RE = re.compile(_FULL_STOP)
_RANK = {mark: rank for rank, marks in enumerate(_MARK_ORDER) for mark in marks}
_MARK_RUN_RE = re.compile(f"[{''.join(_MARK_ORDER)}]{{2,}}")
# A mark right after one that it belongs in front of; the mark itself comes first in the pattern,
# since most characters are none and are passed over quickly.
_DISORDER_RE = re.compile(
    f"[{''.join(_MARK_ORDER[:-1])}](?:"
    + "|".join(
        f"(?<=[{''.join(_MARK_ORDER[rank + 1 :])}][{marks}])"
        for rank, marks in enumerate(_MARK_ORDER[:-1])
    )
    + ")"
)


def canonical(text: str) -> str:
    """One spelling for what looks the same: NFC, sara am, แ, order of marks, nothing invisible.

    Case, digits, punctuation and spaces stay. This is the form in which CTC units are cut.
    The rules only delete invisible characters, shorten, or sort marks, so repeating them ends;
    repeating is what makes the result idempotent when one rule exposes work for another.
    """
    while (new := _respelled(text)) != text:
        text = new
    return text


def normalize(text: str) -> str:
    """The `thai-v1` form: `canonical`, Arabic digits, no punctuation, lower case, single spaces.

    Tone marks come out in the order and number in which they went in: ข่าว and ข้าว stay different.
    """
    while True:
        spelled = canonical(text)
        new = _read(spelled)
        if new in {text, spelled}:
            return new
        text = new


def remove_spaces(text: str) -> str:
    """Drop all white space; in Thai it separates phrases, not words."""
    return "".join(text.split())


def compact(text: str) -> str:
    """`thai-v1` without spaces: what headline CER, intents and entity surfaces compare.

    Spaces go after `normalize`, so that "5. 10" does not become the decimal 5.10.
    """
    return canonical(remove_spaces(normalize(text)))


def normalizer_sha256() -> str:
    """Digest of the rule tables and of the order of the steps, for reports."""
    rules = {
        "name": NORMALIZER,
        "steps": [*_STEPS, *_LAST_STEPS],
        "zero_width": _ZERO_WIDTH,
        "spelling": _SPELLING,
        "mark_order": _MARK_ORDER,
        "digits": _THAI_DIGITS,
        "full_stop": _FULL_STOP,
        "punctuation": _PUNCTUATION,
    }
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _respelled(text: str) -> str:
    text = unicodedata.normalize("NFC", _ZERO_WIDTH_RE.sub("", text))
    for needle, pattern, new in _SPELLING_RE:
        if needle in text:
            text = pattern.sub(new, text)
    if _DISORDER_RE.search(text) is None:
        return text
    return _MARK_RUN_RE.sub(lambda run: "".join(sorted(run.group(), key=_RANK.__getitem__)), text)


def _read(text: str) -> str:
    """Digits, punctuation, case and spaces of a text in `canonical` form."""
    text = _THAI_DIGITS_RE.sub(lambda run: run.group().translate(_DIGITS_TO_ARABIC), text)
    text = _PUNCTUATION_RE.sub("", _FULL_STOP_RE.sub("", text))
    return " ".join(text.lower().split())
