"""What a report says, and how its numbers read. It scores nothing and reads no clock."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from thaitool.metrics.compare import Comparison
from thaitool.metrics.gate import GateRow
from thaitool.metrics.paired import TaskComparison
from thaitool.metrics.tasks import ItemScore, TaskScores
from thaitool.records import Reference, Score

Scalar = str | int | float | bool | None
#: A flat table, or a table of tables one level deep (planned and done, per stage, ...).
Table = Mapping[str, "Scalar | Mapping[str, Scalar]"]

#: Scores that are marks from 1 to 5, not rates.
MARKS = frozenset({"sr_score"})
#: Scores that a judge or an embedder gave item by item: they cannot be made again from the texts alone.
BY_INSTRUMENT = frozenset({"sr_score", "embedding_similarity"})


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance to look at: what was right, what was said, how wrong (0 is right)."""

    id: str
    task: str
    reference: str
    hypothesis: str
    error: float
    audio: bytes = field(default=b"", repr=False)
    """A whole sound file for a player in the HTML; not part of report.json."""
    audio_type: str = "audio/flac"
    kind: Literal["worst", "random"] = "worst"


@dataclass(frozen=True, slots=True)
class Slice:
    """The scores of those items whose `field` has one value."""

    field: str
    value: str
    tasks: tuple[TaskScores, ...]


@dataclass(frozen=True, slots=True)
class Instrument:
    """A judge or an embedder behind a score, and how it passed its gate (`thaitool.metrics.gate`)."""

    score: str
    by: str
    """Which one: scores of two instruments are not compared."""
    gate: tuple[GateRow, ...]

    @property
    def passed(self) -> bool:
        """Whether it told every kind of answer apart."""
        return all(row.passed for row in self.gate)


@dataclass(frozen=True, slots=True)
class Source:
    """Other answers to the same items (a teacher, another system, a vote) and their scores."""

    name: str
    tasks: tuple[TaskScores, ...]
    failed: int = 0
    against: tuple[TaskComparison, ...] = ()
    """This source minus the system of the report, on the items that both answered."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each intent (row) was taken for each (column); the last column counts answers outside the set."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Report:
    """Everything that is printed. `created` and `versions` come from the caller, so that a report
    is a function of its arguments.

    `shuffled` are scores of the same model on the same items with the audio of other items: where
    they are as good as `tasks`, the audio was not used. `curves` are (update, value) by name; a
    value that is not finite breaks the line and is null in JSON. `sources` were scored on the same
    references, so that they show what the labels and the task allow. `intents` are all names of the
    closed set. `instruments` are behind the scores that need one. `failures` are (id, task, reason)
    of items without an answer; no score counts them.
    `references` are those behind `tasks`, and `spoken` the transcripts of what was to be rephrased, by
    id: for per_item.jsonl.
    """

    title: str
    stage: str
    created: str
    tasks: tuple[TaskScores, ...] = ()
    shuffled: tuple[TaskScores, ...] = ()
    normalizer: str = ""
    normalizer_sha256: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Table = field(default_factory=dict)
    accounting: Table = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    slices: tuple[Slice, ...] = ()
    sources: tuple[Source, ...] = ()
    confusion: Confusion | None = None
    intents: tuple[str, ...] = ()
    instruments: tuple[Instrument, ...] = ()
    failures: tuple[tuple[str, str, str], ...] = ()
    references: Sequence[Reference] = field(default=(), repr=False)
    spoken: Mapping[str, str] = field(default_factory=dict, repr=False)


def worst_examples(
    tasks: Iterable[TaskScores], per_task: int, audio: Mapping[str, bytes] | None = None
) -> tuple[Example, ...]:
    """The `per_task` items with the largest error of each task, ties in order of the test set.

    Items that are right are no examples of errors and are not shown. `audio`: sound files by id;
    each is embedded in the HTML whole, so pass a few.
    """
    sounds = audio or {}
    found: list[Example] = []
    for task in tasks:
        # One item at a time: of a million, all that are wrong would be 100 MB.
        wrong = (item for item in task.items if item.error > 0)
        worst = heapq.nlargest(per_task, wrong, key=lambda item: item.error)
        found += [_example(item, sounds) for item in worst]
    return tuple(found)


def random_examples(
    tasks: Iterable[TaskScores], per_task: int, seed: int, audio: Mapping[str, bytes] | None = None
) -> tuple[Example, ...]:
    """`per_task` items of each task by chance, right or wrong: what the usual answer looks like."""
    found: list[Example] = []
    for task in tasks:
        chosen = random.Random(seed).sample(range(len(task.items)), min(per_task, len(task.items)))  # noqa: S311
        found += [_example(task.items[k], audio or {}) for k in sorted(chosen)]
    return tuple(replace(example, kind="random") for example in found)


def _example(item: ItemScore, audio: Mapping[str, bytes]) -> Example:
    return Example(
        item.id, item.task, item.reference, item.hypothesis, item.error, audio.get(item.id, b"")
    )


def flat(table: Table) -> list[tuple[str, Scalar]]:
    """Rows of a table; the rows of an inner table are named "outer.inner"."""
    rows: list[tuple[str, Scalar]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}.{inner}", entry) for inner, entry in value.items()]
        else:
            rows.append((name, value))
    return rows


def percent(value: float | None) -> str:
    """A rate as people read it; a dash when nothing was counted."""
    return "-" if value is None else f"{100 * value:.2f} %"


def rate(score: Score | None) -> str:
    """The value of a score as people read it: marks out of five as such, everything else in percent."""
    if score is not None and score.name in MARKS and score.value is not None:
        return f"{score.value:.2f}"
    return percent(None if score is None else score.value)


def interval(score: Score | None) -> str:
    """The 95 % interval of a score; empty without one."""
    if score is None or score.low is None or score.high is None:
        return ""
    factor = 1 if score.name in MARKS else 100
    return f"{factor * score.low:.2f} to {factor * score.high:.2f}"


def counts(score: Score) -> str:
    """Numerator / denominator, whole or with two decimals; report.json has them in full."""
    numerator, denominator = round(score.numerator, 2), round(score.denominator, 2)
    return f"{numerator:.15g} / {denominator:.15g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A score with the same score on shuffled audio, if that was measured."""

    task: str
    count: int
    score: Score
    shuffled: Score | None
    system: str = ""
    """Name of the source; empty for the system that the report is about."""
    against: Comparison | None = None
    """The source minus that system."""


def score_rows(report: Report) -> list[Row]:
    """Scores of all tasks beside those on shuffled audio, matched by task and name; the same score of every source
    follows, with its difference."""
    differences = {
        (source.name, task.task, found.name): found
        for source in report.sources
        for task in source.against
        for found in task.comparisons
    }
    rows: list[Row] = []
    for row in _rows(report, "scores"):
        rows.append(row)
        key = (row.task, row.score.name)
        rows += [
            Row(
                task.task,
                task.count,
                score,
                None,
                source.name,
                differences.get((source.name, *key)),
            )
            for source in report.sources
            for task in source.tasks
            for score in task.scores
            if (task.task, score.name) == key
        ]
    return rows


def difference_cells(row: Row) -> tuple[str, str]:
    """What a source is worth beside the system of the report, with interval, and the verdict; empty for that system.

    In percentage points, or in marks.
    """
    found = row.against
    if found is None:
        return "", ""
    if found.difference is None:
        return "-", found.verdict
    factor = 1 if found.name in MARKS else 100
    text = f"{factor * found.difference:+.2f}"
    if found.low is not None and found.high is not None:
        text += f" ({factor * found.low:+.2f} to {factor * found.high:+.2f})"
    return text, found.verdict


def gate_rows(instrument: Instrument) -> list[tuple[str, str, str, str, str]]:
    """Kind, value, place, what was wanted, and whether it passed, as people read them."""
    return [
        (r.kind, _decimal(r.value), _decimal(r.place), r.wanted, "yes" if r.passed else "no")
        for r in instrument.gate
    ]


def _decimal(number: float) -> str:
    return f"{number:.3f}" if math.isfinite(number) else "-"


def monitor_rows(report: Report) -> list[Row]:
    """Monitors of all tasks beside those on shuffled audio."""
    return _rows(report, "monitors")


def _rows(report: Report, which: str) -> list[Row]:
    def scores_of(task: TaskScores) -> tuple[Score, ...]:
        return task.scores if which == "scores" else task.monitors

    beside = {
        (task.task, score.name): score for task in report.shuffled for score in scores_of(task)
    }
    return [
        Row(task.task, task.count, score, beside.get((task.task, score.name)))
        for task in report.tasks
        for score in scores_of(task)
    ]


def slice_rows(report: Report) -> dict[tuple[str, str], list[tuple[str, TaskScores]]]:
    """(value, scores) by (field, task), in the order of the report."""
    groups: dict[tuple[str, str], list[tuple[str, TaskScores]]] = {}
    for part in report.slices:
        for task in part.tasks:
            groups.setdefault((part.field, task.task), []).append((part.value, task))
    return groups
