"""Rephrasings put before a judge, every vote on disk as it comes. The grading itself is `metrics.judge`'s."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

from thaitool.errors import EnvironmentProblem, InputError
from thaitool.files import disk_full_is_explained
from thaitool.metrics.gate import failures_of
from thaitool.metrics.judge import (
    LEAST_COVERAGE,
    Rephrasing,
    Vote,
    judge,
    judge_gate,
    prompt_sha256,
    server_judge,
)
from thaitool.reports.report import Instrument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from thaitool.metrics.endpoint import Endpoint
    from thaitool.metrics.judge import Judgement
    from thaitool.metrics.tasks import TaskScores


@dataclass(frozen=True)
class Judged:
    """The tasks with the judge's scores added to `sr`, and what the report says about the judge."""

    tasks: tuple[TaskScores, ...]
    judgement: Judgement | None
    notes: tuple[str, ...] = ()
    instruments: tuple[Instrument, ...] = ()


def judge_tasks(
    tasks: Sequence[TaskScores],
    spoken: Mapping[str, str],
    endpoint: Endpoint,
    out: Path,
    *,
    draws: int,
    seed: int,
) -> Judged:
    """Examines the judge, and asks for its votes on the answers of `sr` if it passes.

    What the judge's file in `out` has is not asked for again.

    Raises:
        InputError: that file is damaged.
    """
    found = next((task for task in tasks if task.task == "sr"), None)
    if found is None:
        return Judged(tuple(tasks), None)
    # One file for each judge and prompt; `out` is that of one set of answers, as eval claims it for them.
    judge_id = hashlib.sha256(f"{endpoint.model}\n{prompt_sha256()}".encode()).hexdigest()
    file = out / f"votes-{judge_id[:8]}.jsonl"
    known, ask = _votes(file), server_judge(endpoint)
    gate, problem = judge_gate(ask, known=known, on_vote=lambda vote: _append(file, vote))
    failures = failures_of(gate)
    result = judge(
        [Rephrasing(i.id, spoken.get(i.id, ""), i.reference, i.hypothesis) for i in found.items],
        ask,
        known=known,
        on_vote=lambda vote: _append(file, vote),
        refusal=f"It failed its gate and was not asked ({failures}). {problem}".strip()
        if failures
        else "",
        clusters=found.clusters,
        draws=draws,
        seed=seed,
    )
    # Behind the proxies, so that the first score of the task does not depend on whether a server was there.
    scored = replace(
        found, scores=(*found.scores, *result.scores), columns=(*found.columns, result.column)
    )
    by = f"judge {', '.join(result.models) or endpoint.model or '(unnamed)'}, prompt sha256 {result.prompt_sha256[:12]}"
    return Judged(
        tuple(scored if task is found else task for task in tasks),
        result,
        _notes(result, by, failures),
        (Instrument("sr_score", by, gate),),
    )


def require_coverage(judgement: Judgement | None) -> None:
    """Raises `EnvironmentProblem` if the judge left out too many answers; called when the report is on disk."""
    if judgement is not None and not judgement.enough:
        coverage = next(s.value for s in judgement.scores if s.name == "sr_judge_coverage")
        raise EnvironmentProblem(
            f"The judge graded {coverage or 0:.1%} of the rephrasings, under {LEAST_COVERAGE:.0%}; sr_score does not"
            f" stand for the test set. {judgement.problem} The report is written; the same command asks for the missing"
            " votes only, once the judge answers, or with another judge."
        )


def _notes(result: Judgement, by: str, failures: str) -> tuple[str, ...]:
    notes = [f"sr_score: {by}."]
    if failures:
        notes.append(f"The judge failed its gate and was not asked: {failures}.")
    elif not result.trusted:
        notes.append(
            "The judge was wrong about answers of known worth (canaries): do not use its scores."
        )
    if not result.enough:
        notes.append(
            f"The judge graded fewer than {LEAST_COVERAGE:.0%} of the answers: sr_score does not stand for the test"
            " set."
        )
    return tuple(notes)


def _append(file: Path, vote: Vote) -> None:
    with disk_full_is_explained(file), file.open("a", encoding="utf-8") as target:
        target.write(json.dumps(asdict(vote), ensure_ascii=False) + "\n")


def _votes(file: Path) -> dict[tuple[str, int], Vote]:
    if not file.exists():
        return {}
    known = {field.name for field in fields(Vote)}
    votes: dict[tuple[str, int], Vote] = {}
    *whole, _half = file.read_text("utf-8").split(
        "\n"
    )  # a vote that was cut off is asked for again
    try:
        for line in whole:
            vote = Vote(**{k: v for k, v in json.loads(line).items() if k in known})
            votes[vote.id, vote.number] = vote
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} must hold the votes of a judge, but a line does not: {error}. Remove the file to ask again."
        ) from error
    return votes
