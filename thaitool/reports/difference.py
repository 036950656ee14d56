"""Where a hypothesis differs from its reference, in pieces a browser can mark. Counts nothing.

The pieces are whole grapheme clusters: a mark is never parted from its consonant, so that Thai is drawn right however
a piece is coloured. What `thai-v1` ignores (spaces, punctuation, case) is no difference here either.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein

from thaitool.text.normalize import SARA_AM, canonical, compact

Kind = Literal["same", "changed", "only"]
#: Longer pairs are shown without marks: the alignment takes time and memory quadratic in the length.
LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one text: the same in the other text, changed there, or only here."""

    kind: Kind
    text: str


def grapheme_clusters(text: str) -> list[str]:
    """The characters as readers see them: a base with its marks, and with the sara am behind it.

    `"".join(grapheme_clusters(text)) == text`.
    """
    clusters: list[str] = []
    for char in text:
        joins = char == SARA_AM or unicodedata.category(char) in {"Mn", "Mc", "Me", "Cf"}
        if joins and clusters and not clusters[-1].isspace():
            clusters[-1] += char
        else:
            clusters.append(char)
    return clusters


def difference(reference: str, hypothesis: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts (in one spelling, see `canonical`) as pieces; neighbours of a kind are one piece."""
    wanted = grapheme_clusters(canonical(reference))
    given = grapheme_clusters(canonical(hypothesis))
    kinds_wanted: list[Kind] = ["same"] * len(wanted)
    kinds_given: list[Kind] = ["same"] * len(given)
    if max(len(wanted), len(given)) <= LONGEST:
        read, keys = _keys(wanted)
        heard, other_keys = _keys(given)
        for edit in Levenshtein.opcodes(keys, other_keys):
            if edit.tag == "equal":
                continue
            kind: Kind = "changed" if edit.tag == "replace" else "only"
            for k in range(edit.src_start, edit.src_end):
                kinds_wanted[read[k]] = kind
            for k in range(edit.dest_start, edit.dest_end):
                kinds_given[heard[k]] = kind
    return _joined(wanted, kinds_wanted), _joined(given, kinds_given)


def _keys(clusters: list[str]) -> tuple[list[int], list[str]]:
    """Positions and compared forms of the clusters that count."""
    forms = [compact(cluster) for cluster in clusters]
    kept = [k for k, form in enumerate(forms) if form]
    return kept, [forms[k] for k in kept]


def _joined(clusters: list[str], kinds: list[Kind]) -> list[Piece]:
    pieces: list[Piece] = []
    for cluster, kind in zip(clusters, kinds, strict=True):
        if pieces and pieces[-1].kind == kind:
            pieces[-1] = Piece(kind, pieces[-1].text + cluster)
        else:
            pieces.append(Piece(kind, cluster))
    return pieces
