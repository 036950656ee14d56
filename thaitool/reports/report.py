"""What a report says, and how its numbers read. It scores nothing and reads no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from thaitool.metrics.tasks import TaskScores
from thaitool.records import Score

Scalar = str | int | float | bool | None
#: A flat table, or a table of tables one level deep (planned and done, per stage, ...).
Table = Mapping[str, "Scalar | Mapping[str, Scalar]"]


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


@dataclass(frozen=True)
class Report:
    """Everything that is printed. `created` and `versions` come from the caller, so that a report
    is a function of its arguments.

    `shuffled` are scores of the same model on the same items with the audio of other items: where
    they are as good as `tasks`, the audio was not used. `curves` are (update, value) by name; a
    value that is not finite breaks the line and is null in JSON.
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
        wrong = [item for item in task.items if item.error > 0]
        wrong.sort(key=lambda item: -item.error)
        found += [
            Example(i.id, i.task, i.reference, i.hypothesis, i.error, sounds.get(i.id, b""))
            for i in wrong[:per_task]
        ]
    return tuple(found)


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


def interval(score: Score | None) -> str:
    """The 95 % interval of a score; empty without one."""
    if score is None or score.low is None or score.high is None:
        return ""
    return f"{100 * score.low:.2f} to {100 * score.high:.2f}"


def counts(score: Score) -> str:
    """Numerator / denominator, without decimals where they are whole."""
    return f"{score.numerator:.10g} / {score.denominator:.10g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A score with the same score on shuffled audio, if that was measured."""

    task: str
    count: int
    score: Score
    shuffled: Score | None


def score_rows(report: Report) -> list[Row]:
    """Scores of all tasks beside those on shuffled audio, matched by task and name."""
    return _rows(report, "scores")


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
