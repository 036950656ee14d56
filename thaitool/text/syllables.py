"""Reads one written Thai word as spelled syllables: onset letters, vowel, final letter, tone mark.

It knows spelling, not sound: classes, tones and phonemes are made in `thaitool.text.phonemes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

CONSONANTS = "กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮ"
#: Letters that can close a syllable.
FINALS = "กขคฆงจชซญฎฏฐฑฒณดตถทธนบปพฟภมยรลวศษสฬ"

_SINGLE = f"[{CONSONANTS}]"
# True clusters, ทร = s and the like (จริง, สร้าง), a ห that only gives its class, and อย (อยู่).
_CLUSTER = "(?:[กขคปพ][รล]|ตร|[กขค]ว|ผล|[บฟ][รล]|ดร|ทร|[จซสศ]ร|ห[งญนมยรลว]|อย(?=[่า]|ู่))"
_TONE = "(?P<tone>[่้๊๋]?)"
_FINAL = f"(?P<final>[{FINALS}])"
_PLAIN_FINAL = f"(?P<final>[{''.join(letter for letter in FINALS if letter not in 'ยวร')}])"
# A consonant that starts a syllable of its own has a vowel sign after it; a final has none.
_NOT_ONSET = "(?![ะ-ู็่-๋])"


@dataclass(frozen=True, slots=True)
class Spelled:
    """One written syllable; `final` is a letter or empty, `weak` a bare consonant read with a."""

    onset: str
    vowel: str
    is_long: bool
    final: str
    mark: str
    weak: bool = False


# A bare consonant between a vowel that is written first and its onset: เสนอ, แสดง, เฉลี่ย.
_BARE = "(?P<bare>[กขจฉตถปผฝสศ])(?P<onset>[งนมยรลวพดบถษช])"


@dataclass(frozen=True, slots=True)
class _Frame:
    pattern: re.Pattern[str]
    vowel: str
    is_long: bool
    final: str
    cost: float
    weak: bool = False


# (spelling; vowel; long; fixed final; extra cost). In a spelling O is the onset, T a tone mark or
# none, K a final letter and G one of those that close a syllable without a vowel sign.
_SPELLINGS: tuple[tuple[str, str, bool, str, float], ...] = (
    ("OTะ", "a", False, "", 0), ("OัTK", "a", False, "", 0),
    ("OัTว", "ua", True, "", -0.1), ("OัTวะ", "ua", False, "", 0),
    ("OTา", "a", True, "", 0), ("OTาK", "a", True, "", 0), ("OTำ", "a", False, "ม", 0),
    ("OิT", "i", False, "", 0), ("OิTK", "i", False, "", 0),
    ("OีT", "i", True, "", 0), ("OีTK", "i", True, "", 0),
    ("OึT", "ɯ", False, "", 0), ("OึTK", "ɯ", False, "", 0),
    ("OืTอ", "ɯ", True, "", 0), ("OืTK", "ɯ", True, "", 0),
    ("OุT", "u", False, "", 0), ("OุTK", "u", False, "", 0),
    ("OูT", "u", True, "", 0), ("OูTK", "u", True, "", 0),
    ("เOT", "e", True, "", 0), ("เOTK", "e", True, "", 0),
    ("เOTะ", "e", False, "", 0), ("เO็K", "e", False, "", 0),
    ("เOTา", "a", False, "ว", 0), ("เOTาะ", "ɔ", False, "", 0),
    ("เOีTย", "ia", True, "", 0), ("เOีTยK", "ia", True, "", 0), ("เOีTยะ", "ia", False, "", 0),
    ("เOืTอ", "ɯa", True, "", 0), ("เOืTอK", "ɯa", True, "", 0),
    ("เOTอ", "ɤ", True, "", 0), ("เOTอK", "ɤ", True, "", 0.3), ("เOTอะ", "ɤ", False, "", 0),
    ("เOิTK", "ɤ", True, "", 0), ("เOTย", "ɤ", True, "ย", -0.1),
    ("แOT", "ɛ", True, "", 0), ("แOTK", "ɛ", True, "", 0),
    ("แOTะ", "ɛ", False, "", 0), ("แO็K", "ɛ", False, "", 0),
    ("โOT", "o", True, "", 0), ("โOTK", "o", True, "", 0), ("โOTะ", "o", False, "", 0),
    ("[ไใ]OTย?", "a", False, "ย", 0),
    ("OTอ", "ɔ", True, "", 0), ("OTอK", "ɔ", True, "", 0), ("O็TอK", "ɔ", False, "", 0),
    ("OTวK", "ua", True, "", 0.1),
    ("OรรG", "a", False, "", 0), ("Oรร", "a", False, "น", 0),
    ("OTG", "o", False, "", 0.3), ("OTร", "ɔ", True, "น", 0.35),
)  # fmt: skip


@cache
def _frames() -> tuple[_Frame, ...]:
    frames = []
    for spelling, vowel, is_long, final, cost in _SPELLINGS:
        for onset in (f"(?P<onset>{_CLUSTER})", f"(?P<onset>{_SINGLE})", _BARE):
            if onset == _BARE and spelling[0] not in "เแโ[":
                continue
            regex = spelling.replace("O", "(?P<onset>)").replace("T", _TONE)
            regex = regex.replace("K", _FINAL + _NOT_ONSET).replace("G", _PLAIN_FINAL + _NOT_ONSET)
            regex = regex.replace("(?P<onset>)", onset)
            if not spelling.endswith(("K", "G", "ะ", "ำ")):
                regex += _NOT_ONSET.replace("ะ-ู", "ัิ-ู") if spelling.endswith("T") else _NOT_ONSET
            extra = 0.6 if onset == _BARE else 0.25 if "รล" in onset and spelling == "OTร" else 0.0
            frames.append(_Frame(re.compile(regex), vowel, is_long, final, cost + extra))
    weak = f"(?P<onset>{_SINGLE})(?P<tone>){_NOT_ONSET}"
    frames.append(_Frame(re.compile(weak), "a", False, "", 0.6, weak=True))
    return tuple(frames)


# A consonant after the final one that is written and not read: the ร of บัตร, the second ท of พุทธ.
_SILENT_AFTER = re.compile(
    "(?<=[กคขตทดชพ])ร$|(?<=ท)ธ$|(?<=ต)ถ$|(?<=[ฏฎ])ฐ$|(?<=ก)[ขษ]$|(?<=[ตจ])[ตฉ]$|(?<=ต)ว$"
)
# Pairs of consonants in words from Pali and Sanskrit of which the first closes a syllable and is
# then read again with a: รัฐบาล, วิทยา, ราชการ.
_LINKED = frozenset(
    first + second
    for first, seconds in (
        ("ก", "ภ"), ("ข", "ภวศ"), ("จ", "ก"), ("ช", "กดทธนบพภวส"),
        ("ฐ", "กธบมศ"), ("ฒ", "น"), ("ณ", "ภส"),
        ("ต", "กนยว"), ("ท", "ย"), ("ธ", "ย"), ("ศ", "นว"), ("ษ", "ฎณบย"), ("ส", "น"),
    )
    for second in seconds
)  # fmt: skip

# The ม of กรรม and ธรรม is linked before these: กรรมการ, ธรรมชาติ, ธรรมดา, กรรมวิธี.
_AFTER_RRM = frozenset("กชดสวจน")


def is_linked(left: str, right: str) -> bool:
    """Whether the last letter of `left` is read twice before `right`, as the ช of ราช in ราชการ."""
    after_rr = (left.endswith("รรม") and right[:1] in _AFTER_RRM) or left.endswith("รรพ")
    return left[-1:] + right[:1] in _LINKED or (after_rr and bool(right))


def spell(word: str) -> tuple[Spelled, ...] | None:
    """The cheapest reading of a word as syllables, or None if there is none.

    The word holds Thai consonants, vowels and tone marks only; silenced letters (การันต์) are gone.
    """
    best: list[tuple[float, tuple[Spelled, ...]] | None] = [None] * (len(word) + 1)
    best[0] = (0.0, ())
    for at in range(len(word)):
        here = best[at]
        if here is None:
            continue
        for end, cost, found in _candidates(word, at):
            total = here[0] + cost
            known = best[end]
            if known is None or total < known[0] - 1e-9:
                best[end] = (total, here[1] + found)
    last = best[len(word)]
    return last[1] if last else None


def _candidates(word: str, at: int) -> list[tuple[int, float, tuple[Spelled, ...]]]:
    """(end, cost, syllables) of everything that can be read from position `at`."""
    out: list[tuple[int, float, tuple[Spelled, ...]]] = []
    for frame in _frames():
        match = frame.pattern.match(word, at)
        if match is None:
            continue
        groups = match.groupdict()
        letter = groups.get("final") or ""
        mark = groups.get("tone") or ""
        final = frame.final or letter
        one = Spelled(groups["onset"], frame.vowel, frame.is_long, final, mark, frame.weak)
        bare = groups.get("bare")
        read = (_weak(bare), one) if bare else (one,)
        end, cost = match.end(), 1.0 + frame.cost
        if frame.weak and end == len(word):
            cost += 3.0
        out.append((end, cost, read))
        is_implicit = frame.vowel == "o" and not frame.is_long
        if not letter or is_implicit:
            continue
        silent = _SILENT_AFTER.match(word, end)
        # พยากร ends in กอน: after a long vowel only a ร behind ต and its like is silent.
        if silent and not (frame.is_long and word[end] == "ร" and letter in "กขค"):
            out.append((silent.end(), cost + 0.5, read))
        if is_linked(word[:end], word[end:]):
            out.append((end, cost - 0.1, (*read, _weak(letter))))
    return out


def _weak(letter: str) -> Spelled:
    return Spelled(letter, "a", False, "", "", weak=True)
