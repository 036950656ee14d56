"""Rows to listen to: some of each task and split, of different voices, and the fastest and slowest of all."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from thaitool.data.shards import read_audio
from thaitool.records import AudioRef
from thaitool.reports.players import LONGEST_S
from thaitool.reports.synth.contents import SynthExample
from thaitool.reports.synth.coverage import ipa, read_aloud

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thaitool.reports.synth.row_facts import RowFacts
    from thaitool.reports.synth.shard_rows import Candidate, ShardRows


def choose_examples(
    candidates: Sequence[Candidate], shards: ShardRows, facts: RowFacts, per_part: int
) -> tuple[SynthExample, ...]:
    """`per_part` rows of each task and split, as far as can be of different voices, then the extremes of the rate.

    Raises:
        InputError: the sound of one cannot be read.
    """
    parts: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        parts[candidate.task, candidate.split].append(candidate)
    found = [
        _example("drawn", candidate, facts.wanted[candidate.id])
        for drawn in parts.values()
        for candidate in _of_different_voices(drawn, facts.wanted, per_part)
    ]
    for kind, extremes in (("fastest", facts.fastest), ("slowest", facts.slowest)):
        for _, _, place, row in sorted(extremes, key=lambda extreme: extreme[:2], reverse=True):
            found.append(_example(kind, shards.at(place), row))
    return tuple(found)


def _of_different_voices(
    drawn: Sequence[Candidate], known: Mapping[str, Mapping[str, Any]], most: int
) -> list[Candidate]:
    heard: set[str] = set()
    first: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in drawn:
        voice = known[candidate.id].get("voice") or ""
        (rest if voice in heard else first).append(candidate)
        heard.add(voice)
    return [*first, *rest][:most]


def _example(kind: str, candidate: Candidate, row: Mapping[str, Any]) -> SynthExample:
    spoken = row.get("text_spoken") or ""
    is_short = candidate.duration_s <= LONGEST_S  # a page holds a few dozen players
    return SynthExample(
        kind,
        candidate.task,
        candidate.split,
        candidate.id,
        candidate.text,
        spoken,
        candidate.label,
        row.get("text_en") or "",
        ipa(read_aloud(spoken)),
        row.get("phonemes") or "",
        row.get("voice") or "",
        round(candidate.duration_s, 3),
        row.get("gates") or "",
        row.get("effects") or "",
        read_audio(AudioRef(candidate.path, candidate.row)) if is_short else b"",
    )
