"""Puts the report of some runs together: which can be compared, numbers of vectors, a map. Renders nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import InputError
from thaitool.reports.align.boundaries import Boundaries, boundary_errors
from thaitool.reports.align.contents import read_runs
from thaitool.reports.align.neighbours import Mix, can_map, mix_of, tsne

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.models.align_shown import Shown, Vectors
    from thaitool.records import Score
    from thaitool.reports.align.contents import RunRecord
    from thaitool.reports.report import Report

#: Fewer vectors of a kind make no map.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Point:
    """A run with the cost of all training behind it and the CER of its evaluation."""

    name: str
    flops: float
    cer: Score


@dataclass(frozen=True)
class AlignReport:
    """What the page shows."""

    title: str
    created: str
    runs: tuple[RunRecord, ...]
    mixes: tuple[tuple[str, Mix], ...]
    """By run, where it has vectors."""
    boundaries: tuple[tuple[str, Boundaries], ...]
    """By run, where true times of words are known."""
    points: tuple[Point, ...]
    mapped: tuple[str, ...] = ()
    """Runs on the map."""
    places: tuple[Any, ...] | None = None
    """Of tokens and of each mapped run's frames (n, 2)."""
    remarks: tuple[str, ...] = ()
    """What is not shown, and why."""


def build_align_report(
    paths: Sequence[Path],
    *,
    created: str,
    scores: Sequence[tuple[str, Report]] = (),
    mapped: bool = True,
    seed: int = 0,
) -> AlignReport:
    """The report of runs.

    Args:
        paths: Run directories of `align`, and of `finetune`.
        created: When, as text.
        scores: Evaluation reports by the name of the run that they are of.
        mapped: Make a t-SNE map, which takes seconds.
        seed: Of the map.

    Raises:
        InputError: a directory is no such run, or a score is of none of them.
    """
    runs = _scored(read_runs(paths), scores)
    shown = [(run, run.shown) for run in runs if run.shown is not None]
    told: list[str] = []
    names: tuple[str, ...] = ()
    places = None
    if mapped:
        on_map, told = _on_map([(run.name, s.vectors) for run, s in shown if _has_both(s)])
        if on_map:
            names = tuple(name for name, _ in on_map)
            places = tsne([on_map[0][1].text, *(v.frames for _, v in on_map)], seed)
    points, unknown = _points(runs)
    compared = [(run.name, s, boundary_errors(s.alignments)) for run, s in shown]
    return AlignReport(
        f"thaitool align: {', '.join(run.name for run in runs)}",
        created,
        tuple(runs),
        tuple((run.name, mix_of(s.vectors)) for run, s in shown if _has_both(s)),
        tuple((name, found) for name, _, found in compared if found is not None),
        tuple(points),
        names,
        places,
        (
            *told,
            *unknown,
            *(
                f"{name} has true word times, but none to compare: no word after the first of a clip begins"
                " where a token begins, or the words are not the transcript."
                for name, s, found in compared
                if found is None and any(one.words for one in s.alignments)
            ),
        ),
    )


def _has_both(shown: Shown) -> bool:
    return min(len(shown.vectors.text), len(shown.vectors.frames)) >= FEWEST


def _on_map(
    given: Sequence[tuple[str, Vectors]],
) -> tuple[list[tuple[str, Vectors]], list[str]]:
    """Runs with the first one's token embeddings, and why others, or all, are left out."""
    if not given:
        return [], []
    if not can_map():
        return [], [
            "No t-SNE map: scikit-learn is not installed. Run `pip install thaitool[report]`, then `thaitool report`"
            " on the run directories."
        ]
    first_name, first = given[0]
    alike = {
        name
        for name, v in given
        if v.text.shape == first.text.shape and np.allclose(v.text, first.text, atol=1e-2)
    }
    return [one for one in given if one[0] in alike], [
        f"{name} is not on the t-SNE map: its token embeddings are not those of {first_name} (another LLM, other"
        " held-out clips, or --plain, which does not centre them)."
        for name, _ in given
        if name not in alike
    ]


def _scored(runs: Sequence[RunRecord], scores: Sequence[tuple[str, Report]]) -> list[RunRecord]:
    known = {run.name: run for run in runs}
    for name, report in scores:
        if name not in known:
            raise InputError(
                f"--scores {name}=... must name a run of this report ({', '.join(known)})."
            )
        cer = [s for task in report.tasks for s in task.scores if s.name == "cer"]
        if not cer:
            raise InputError(f"The report given for {name} has no CER; evaluate its task asr.")
        known[name] = replace(known[name], scores=(cer[0],))
    return list(known.values())


def _points(runs: Sequence[RunRecord]) -> tuple[list[Point], list[str]]:
    """Scored runs whose whole training is known, and why others have no point."""
    by_path = {run.path: run for run in runs}
    found, told = [], []
    for run in runs:
        if not run.scores:
            continue
        behind = _behind(run, by_path)
        costs = [one.cost.get("flops") for one in behind]
        known = [c for c in costs if c is not None]
        if behind[-1].model is not None:
            told.append(
                f"{run.name} is not drawn by FLOPs: {behind[-1].name} started from {behind[-1].model}, which is not"
                " among the runs of this report; name that run, too."
            )
        elif len(known) < len(costs):
            told.append(
                f"{run.name} is not drawn by FLOPs: those of {behind[costs.index(None)].name} were not counted"
                " (a compiled model, an older version, or no evaluation yet)."
            )
        elif run.scores[0].value is None:
            told.append(f"{run.name} is not drawn by FLOPs: its report has no value for CER.")
        else:
            found.append(Point(run.name, sum(known), run.scores[0]))
    return found, told


def _behind(run: RunRecord, by_path: dict[Path, RunRecord]) -> list[RunRecord]:
    """A run, the one that it started from, and so on, as far as they are given."""
    behind = [run]
    while (model := behind[-1].model) is not None:
        model = model.resolve()
        start = next((by_path[p] for p in (model, *model.parents) if p in by_path), None)
        if start is None or start in behind:
            break
        behind.append(start)
    return behind
