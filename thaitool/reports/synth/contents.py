"""What the quality report of a data set says: plain values. Counts nothing and renders nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Units of speech whose coverage is counted.
UNITS = ("phone", "tone", "syllable", "diphone")


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one task and split, as the shards hold them."""

    task: str
    split: str
    rows: int
    hours: float


@dataclass(frozen=True, slots=True)
class Step:
    """What was left after a step from source rows to rows with speech."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What one reason set aside, with a few cases."""

    step: str
    """`text`: a source row or all its sentences; `row`: a sentence for one task, or its clip, by its `data_id`."""
    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]
    """(item, detail)."""


@dataclass(frozen=True, slots=True)
class Balance:
    """How often one label occurs in each split."""

    task: str
    name: str
    """The label itself: an intent in Thai, or an entity type."""
    id: str
    """Its English name, where the provenance has one."""
    splits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Labels:
    """What can be said of the labels of any task."""

    task: str
    rows: int
    empty: int
    same_as_text: int
    """Labels that are the text itself: right for asr, copies for sr."""
    unreadable: int
    """NER labels that are not the published JSON object."""


@dataclass(frozen=True, slots=True)
class Against:
    """One unit of speech in the data set beside the same in real text."""

    tokens: int
    counts: Mapping[str, int]
    missing: tuple[str, ...]
    """Types of the real text that the data set lacks, the commonest first."""
    covered: float
    """Share of the real text's tokens whose type the data set has."""
    distance: float
    """Jensen-Shannon, base 2, of all tokens on both sides."""
    equal_size: float
    """The same of samples that are as large as those behind `chance`; median of the draws."""
    chance: tuple[float, float]
    """2.5th and 97.5th percentile of the distance of two disjoint samples of the real text."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Counts of one unit of speech."""

    unit: str
    tokens: int
    counts: Mapping[str, int]
    """By type, the commonest first."""
    inventory: int | None
    """How many types Thai has, where that is a closed list."""
    missing: tuple[str, ...]
    """Types of that list which the data set lacks."""
    against: Against | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """Which real text the coverage was compared with."""

    files: tuple[str, ...]
    lines: int
    used: int
    """Different lines behind `chance`: all, or a sample."""
    sample_tokens: int
    """Syllables in each of the samples behind `chance`; 0 if there were too few to draw."""


@dataclass(frozen=True, slots=True)
class VoiceSpread:
    """A measure for one voice."""

    voice: str
    count: int
    p5: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Measure:
    """The distribution of one number over rows. Quantiles are right to `bin_width`; what lies beyond the scale of a
    measure counts as its end."""

    name: str
    unit: str
    count: int
    mean: float
    minimum: float
    maximum: float
    quantiles: Mapping[str, float]
    bin_low: float
    bin_width: float
    bins: tuple[int, ...]
    """The outermost bins also hold what lies beyond them."""
    voices: tuple[VoiceSpread, ...]


@dataclass(frozen=True, slots=True)
class Voice:
    """Who is heard how much."""

    name: str
    rows: int
    hours: float
    splits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Licence:
    """What one corpus gave, and under which licence."""

    corpus: str
    licence: str
    rows: int
    hours: float
    sources: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What two splits have in common."""

    first: str
    second: str
    rows: int
    """Rows of `second` whose text `first` has too (`thai-v1`, without spaces)."""
    sources: int
    """Source items in both."""
    voices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Texts and ids that are there more than once."""

    ids: int
    """Rows whose data_id an earlier row has."""
    texts: Mapping[str, int]
    """By task: rows whose text an earlier row of that task has."""
    shared: tuple[Shared, ...]


@dataclass(frozen=True, slots=True)
class SynthExample:
    """One row to look at and listen to."""

    kind: str
    """`drawn`, `fastest` or `slowest`."""
    task: str
    split: str
    id: str
    text: str
    spoken: str
    label: str
    english: str
    ipa: str
    """By the rules of spelling."""
    voiced_as: str
    """What the voice was given, in its own notation; "" if it read the text."""
    voice: str
    duration_s: float
    gates: str
    effects: str
    audio: bytes = field(default=b"", repr=False)
    """A whole sound file for a player in the HTML; not part of report.json."""


@dataclass(frozen=True)
class SynthReport:
    """Everything that report.json and report.html show."""

    title: str
    seed: int
    notes: tuple[str, ...]
    rows: int
    hours: float
    parts: tuple[Part, ...]
    funnel: tuple[Step, ...]
    losses: tuple[Loss, ...]
    labels: tuple[Labels, ...]
    balance: tuple[Balance, ...]
    coverage: tuple[Coverage, ...]
    words_unread: tuple[int, int]
    """Words that the rules of spelling cannot read, and all words."""
    reference: Reference | None
    measures: tuple[Measure, ...]
    voices: tuple[Voice, ...]
    voice_entropy_bits: float
    repeats: Repeats
    licences: tuple[Licence, ...]
    trainable: Mapping[str, int]
    """Rows by `yes`, `no` and `unknown` (without provenance)."""
    spending: Mapping[str, float] | None
    """Calls, tokens and USD of the run; None where it was not recorded."""
    gates: Mapping[str, Any] | None
    """What the data set's card says about its gates."""
    settings: Mapping[str, Any]
    examples: tuple[SynthExample, ...] = ()
