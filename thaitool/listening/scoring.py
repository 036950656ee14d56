"""Ratings to what they say: naturalness, tones, intelligibility, how far raters agree, and who did not listen.

Reads and writes no files. The intervals redraw source items and raters, so that they say how far a number would move
with other sentences and other people; of three raters the second is a rough guess, and the notes say so. Those of
agreement redraw source items only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from thaitool.errors import InputError
from thaitool.listening.key import ANCHOR, ITEM, Key
from thaitool.listening.ratings import Rating
from thaitool.listening.spoil import GOOD, SPOILT, fails
from thaitool.metrics.agreement import Level, krippendorff_alpha
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.pooled import pooled_score
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import edit_sums
from thaitool.records import Score
from thaitool.text.normalize import compact

#: Share of the spoilt clips that a rater must have told from good ones, as is asked of a judge.
LEAST_CANARIES = 0.8
_TONES = ("yes", "no", "unsure")


@dataclass(frozen=True, slots=True)
class Group:
    """The scores of some of the clips: `mos` (1 to 5), `tones_right`, `tones_unsure`, `cer`."""

    by: str
    """`kind`, `task`, `voice` or `length`; all but the first are of rows of the data set only."""
    value: str
    clips: int
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class RaterLine:
    """What is known about one rater."""

    rater: str
    clips: int
    missing: int
    """Clips without an answer to everything that was asked."""
    mos: float | None
    """Mean naturalness of what they rated of the data set; people differ in how strict they are."""
    canaries_told: int
    """Spoilt clips that they said enough about."""
    canaries_right: int
    excluded: bool
    finds_good: bool
    """Whether they called any clip that is not spoilt good; of who did not, the spoilt clips show nothing."""

    @property
    def failed(self) -> bool:
        """Whether they took too many spoilt clips for good ones."""
        return _failed(self.canaries_right, self.canaries_told)


@dataclass(frozen=True)
class Heard:
    """What all ratings say."""

    groups: tuple[Group, ...]
    agreement: tuple[tuple[str, Score], ...]
    """(which clips and question, alpha)."""
    raters: tuple[RaterLine, ...]
    without_file: tuple[str, ...]
    """Raters of the pack from whom nothing was given."""

    @property
    def missing(self) -> int:
        """Clips that a rater who sent a file left without an answer."""
        return sum(line.missing for line in self.raters)


def score_ratings(
    ratings: Sequence[Rating],
    key: Key,
    *,
    exclude_failed: bool,
    draws: int = DRAWS,
    seed: int = 0,
) -> Heard:
    """All scores. Raters who fail the spoilt clips are named, and left out only with `exclude_failed`.

    Raises:
        InputError: nobody is left, or there was nobody.
    """
    if not ratings:
        raise InputError("There are no ratings to score; give the files that raters sent back.")
    raters = tuple(_rater_line(r, ratings, exclude_failed=exclude_failed) for r in _names(ratings))
    kept_names = {line.rater for line in raters if not line.excluded}
    if not kept_names:
        raise InputError(
            f"All {len(raters)} raters took more than {1 - LEAST_CANARIES:.0%} of the spoilt clips for good ones, so"
            " that nothing is left to score; look at the clips, and score without leaving raters out."
        )
    kept = [r for r in ratings if r.rater in kept_names]
    items = [r for r in kept if r.clip.kind == ITEM]

    def group(by: str, value: str, some: Sequence[Rating]) -> Group:
        count = len({r.clip.id for r in some})
        return Group(by, value, count, _scores(some, draws=draws, seed=seed))

    groups: list[Group] = []
    for by, pool, name in _BY:
        some = items if pool == ITEM else kept
        groups += [
            group(by, value, [r for r in some if name(r) == value])
            for value in _ordered({name(r) for r in some}, by)
        ]
    agreement = _agreement("data set", items, draws, seed)
    if len(items) < len(kept):
        agreement += _agreement("all clips", kept, draws, seed)
    return Heard(
        tuple(groups), agreement, raters, tuple(r for r in key.orders if r not in _names(ratings))
    )


#: Name, clips that are grouped, and the group of a rating.
_BY: tuple[tuple[str, str, Callable[[Rating], str]], ...] = (
    ("kind", "", lambda r: r.clip.kind),
    ("task", ITEM, lambda r: r.clip.task),
    ("voice", ITEM, lambda r: r.clip.voice),
    ("length", ITEM, lambda r: r.clip.length),
)


def _ordered(values: Iterable[str], by: str) -> list[str]:
    if by == "kind":
        return [kind for kind in (ITEM, ANCHOR, *SPOILT) if kind in set(values)]
    return sorted(values, key=lambda v: (float(v.split()[0]) if by == "length" else 0, v))


def _names(ratings: Sequence[Rating]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.rater for r in ratings))


def _rater_line(rater: str, ratings: Sequence[Rating], *, exclude_failed: bool) -> RaterLine:
    mine = [r for r in ratings if r.rater == rater]
    verdicts = [
        fails(kind, r.naturalness, r.tones) for kind in SPOILT for r in mine if r.clip.kind == kind
    ]
    told = [verdict for verdict in verdicts if verdict is not None]
    right = told.count(False)
    marks = [r.naturalness for r in mine if r.clip.kind == ITEM and r.naturalness is not None]
    return RaterLine(
        rater,
        len(mine),
        sum(not r.is_whole for r in mine),
        sum(marks) / len(marks) if marks else None,
        len(told),
        right,
        excluded=exclude_failed and _failed(right, len(told)),
        finds_good=any(
            r.tones == "yes" or (r.naturalness or 0) >= GOOD
            for r in mine
            if r.clip.kind not in SPOILT
        ),
    )


def _failed(right: int, told: int) -> bool:
    return told > 0 and right / told < LEAST_CANARIES


def _scores(ratings: Sequence[Rating], *, draws: int, seed: int) -> tuple[Score, ...]:
    clusters: list[Cluster] = [(r.clip.source_id, r.rater) for r in ratings]
    given = [r.naturalness is not None for r in ratings]
    told = [r.tones in _TONES for r in ratings]
    columns: list[ItemSums] = [
        item_sums("mos", [r.naturalness or 0 for r in ratings], given, is_share=False),
        item_sums("tones_right", [r.tones == "yes" for r in ratings], told),
        item_sums(
            "tones_unsure", [r.tones == "unsure" for r in ratings], told, higher_is_better=False
        ),
    ]
    found = list(scores_of(columns, clusters, draws=draws, seed=seed))
    # Apart: its clips are others, and a clip that was not written down is no empty transcript.
    written = [r for r in ratings if r.transcription is not None]
    if written:
        errors = edit_sums(
            "cer", compact, [r.clip.text for r in written], [r.transcription or "" for r in written]
        )
        who: list[Cluster] = [(r.clip.source_id, r.rater) for r in written]
        found += scores_of([errors], who, draws=draws, seed=seed)
    return tuple(score for score in found if score.value is not None)


def _agreement(
    what: str, ratings: Sequence[Rating], draws: int, seed: int
) -> tuple[tuple[str, Score], ...]:
    """Alphas of naturalness (ordinal and interval) and of the answer about tones (nominal), over redrawn clips."""
    clips = list(dict.fromkeys(r.clip.id for r in ratings))
    sources = {r.clip.id: r.clip.source_id for r in ratings}
    marks: dict[str, list[int]] = {clip: [] for clip in clips}
    tones: dict[str, list[int]] = {clip: [] for clip in clips}
    for r in ratings:
        if r.naturalness is not None:
            marks[r.clip.id].append(r.naturalness - 1)
        if r.tones in _TONES:
            tones[r.clip.id].append(_TONES.index(r.tones))
    asked: tuple[tuple[str, dict[str, list[int]], int, Level], ...] = (
        ("naturalness", marks, 5, "ordinal"),
        ("naturalness", marks, 5, "interval"),
        ("tones", tones, len(_TONES), "nominal"),
    )
    clusters: list[Cluster] = [sources[clip] for clip in clips]
    return tuple(
        (
            f"{question}, {what}",
            pooled_score(
                krippendorff_alpha([given[clip] for clip in clips], values, level=level),
                clusters,
                draws=draws,
                seed=seed,
            ),
        )
        for question, given, values, level in asked
    )
