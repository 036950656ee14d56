"""Report B against report A on the items that both answered. The statistics are `metrics.compare`'s."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.metrics.compare import ALPHA
from thaitool.metrics.paired import compare_tasks
from thaitool.reports.report import MARKS, percent
from thaitool.reports.stored import StoredReport, own_tasks, rescore
from thaitool.reports.view import (
    Difference,
    PairedExample,
    View,
    ViewTable,
    p_text,
    points,
    points_interval,
    rows_of,
)
from thaitool.text.normalize import NORMALIZER, normalizer_sha256

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.metrics.paired import TaskComparison
    from thaitool.metrics.tasks import ClusterBy, TaskScores

#: Items per task and direction that the page shows.
EXAMPLES = 3


def pair_view(
    a: StoredReport,
    b: StoredReport,
    *,
    draws: int,
    seed: int,
    cluster_by: ClusterBy,
    created: str,
) -> View:
    """Paired differences, b minus a, with intervals and verdicts.

    Raises:
        InputError: the reports share no item, or the same item has another reference.
    """
    common = a.keys() & b.keys()
    if not common:
        raise InputError(
            f"{a.name} and {b.name} must be reports on the same items, but none of {len(a.keys())} and {len(b.keys())}"
            " is in both. For reports on different tests see --view transfer and --view paper."
        )
    # A label outside one set but inside the other is an intent all the same.
    intents = tuple(sorted({*a.report.intents, *b.report.intents}))
    marks, mark_notes = _shared_marks(a, b)
    scored = [
        rescore(
            r,
            common,
            draws=draws,
            seed=seed,
            cluster_by=cluster_by,
            intents=intents,
            marks=marks,
            own=own_tasks(a.report, b.report),
        )
        for r in (a, b)
    ]
    found = compare_tasks(scored[0], scored[1], draws=draws, seed=seed)
    names = (a.name, b.name if b.name != a.name else f"{b.name} (2)")
    differences = tuple(
        Difference(f"{task.task}: {c.name}", c.difference, c.low, c.high)
        for task in found
        for c in task.comparisons
        if c.difference is not None and c.name not in MARKS  # marks have another scale
    )
    return View(
        "pair",
        f"{names[1]} against {names[0]}",
        created,
        _tables(found, names),
        _data(a, b, names, found, seed, draws, cluster_by),
        notes=(*_notes(a, b, common, found, draws, cluster_by), *mark_notes),
        plot_heading=f"{names[1]} minus {names[0]}, in percentage points, 95 % intervals",
        differences=differences,
        examples=_examples(scored[0], scored[1], names),
    )


def _tables(found: Sequence[TaskComparison], names: tuple[str, str]) -> tuple[ViewTable, ...]:
    # What neither has (too few entities, no number in any sentence) is in the JSON only.
    shown = [
        (task.task, c)
        for task in found
        for c in task.comparisons
        if c.a is not None or c.b is not None
    ]
    differences = [
        (
            task,
            c.name,
            _rate(c.name, c.a),
            _rate(c.name, c.b),
            points(c.difference, c.name),
            points_interval(c.low, c.high, c.name),
            c.verdict,
        )
        for task, c in shown
    ]
    sureness = [
        (
            task,
            c.name,
            "-" if c.probability_better is None else percent(c.probability_better),
            "-" if c.only_a_right is None else str(c.only_a_right),
            "-" if c.only_b_right is None else str(c.only_b_right),
            p_text(c.mcnemar_p),
            p_text(c.p_value),
            p_text(c.p_holm),
        )
        for task, c in shown
    ]
    first = ("task", "score", *names, "points", "95 %", "verdict")
    second = ("task", "score", "P(better)", "only A right", "only B", "McNemar p", "p", "p (Holm)")
    return (
        ViewTable(f"A {names[0]}, B {names[1]}: B minus A", first, rows_of(differences), left=2),
        ViewTable("How sure that is", second, rows_of(sureness), left=2),
    )


def _rate(name: str, value: float | None) -> str:
    return f"{value:.2f}" if name in MARKS and value is not None else percent(value)


def _shared_marks(
    a: StoredReport, b: StoredReport
) -> tuple[dict[str, set[tuple[str, str]]], tuple[str, ...]]:
    """The items to which the same judge or embedder gave marks in both reports, by score, and notes on the others."""
    by = [{i.score: i.by for i in r.report.instruments} for r in (a, b)]
    shared: dict[str, set[tuple[str, str]]] = {}
    notes = []
    for name in sorted(a.items.marks.keys() & b.items.marks.keys()):
        one, other = by[0].get(name), by[1].get(name)
        if one is None or one != other:
            notes.append(
                f"{name} is not compared: it is by {one} in {a.name} and by {other} in {b.name}."
            )
            continue
        shared[name] = a.items.marks[name].keys() & b.items.marks[name].keys()
    return shared, tuple(notes)


def _data(
    a: StoredReport,
    b: StoredReport,
    names: tuple[str, str],
    found: Sequence[TaskComparison],
    seed: int,
    draws: int,
    cluster_by: ClusterBy,
) -> dict[str, object]:
    systems = [
        {"name": name, "title": r.report.title, "created": r.report.created, "items": len(r.keys())}
        for name, r in zip(names, (a, b), strict=True)
    ]
    return {
        "systems": systems,
        "normalizer": NORMALIZER,
        "normalizer_sha256": normalizer_sha256(),
        "seed": seed,
        "draws": draws,
        "cluster_by": cluster_by,
        "tasks": [
            {"task": task.task, "comparisons": [asdict(c) for c in task.comparisons]}
            for task in found
        ],
    }


def _notes(
    a: StoredReport,
    b: StoredReport,
    common: set[tuple[str, str]],
    found: Sequence[TaskComparison],
    draws: int,
    cluster_by: ClusterBy,
) -> tuple[str, ...]:
    notes = [
        f"{len(common)} items, answered by both; {draws} paired bootstrap draws, clustered by"
        f" {'source item and speaker' if cluster_by == 'both' else cluster_by}. The first score of each task is"
        f" corrected for the number of tasks (Holm); the others explain a difference, they do not find one. p above"
        f" {ALPHA:g} is noise. Nothing here tells how another training seed would have done."
    ]
    for one, other in ((a, b), (b, a)):
        only = len(one.keys() - common)
        if only:
            notes.append(
                f"{only} items of {one.name} were left out: {other.name} was not asked them, or failed on them"
                f" ({len(other.report.failures)} failures)."
            )
    now = normalizer_sha256()
    old = [r.name for r in (a, b) if r.report.normalizer_sha256 != now]
    if old:
        notes.append(
            f"{' and '.join(old)} had been scored by another normaliser; here both are scored again by {NORMALIZER}"
            f" ({now[:12]})."
        )
    weak: dict[str, list[str]] = {}
    for task in found:
        headline = task.comparisons[0]
        if headline.note:
            weak.setdefault(headline.note, []).append(headline.name)
    return (*notes, *(f"{', '.join(names)}: {note}." for note, names in weak.items()))


def _examples(
    a: Sequence[TaskScores], b: Sequence[TaskScores], names: tuple[str, str]
) -> tuple[PairedExample, ...]:
    found: list[PairedExample] = []
    for one, other in zip(a, b, strict=True):
        theirs = {item.id: item for item in other.items}
        pairs = [(item, theirs[item.id]) for item in one.items]
        pairs = [(x, y) for x, y in pairs if x.error != y.error]
        pairs.sort(key=lambda pair: pair[1].error - pair[0].error)
        better = [p for p in pairs[:EXAMPLES] if p[1].error < p[0].error]
        worse = [p for p in pairs[::-1][:EXAMPLES] if p[1].error > p[0].error]
        for kind, chosen in (("better", better), ("worse", worse)):
            found += [
                PairedExample(
                    "better" if kind == "better" else "worse",
                    x.task,
                    x.id,
                    x.reference,
                    ((names[0], x.hypothesis, x.error), (names[1], y.hypothesis, y.error)),
                )
                for x, y in chosen
            ]
    return tuple(found)
