"""Answers of a model, or a file of answers, to scores with intervals and a report (arXiv:2509.14804, section 4).

Answering and scoring are separate: scoring again needs no model. Trains nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from thaitool.config import Decoding, EvalConfig
from thaitool.errors import ConfigError, InputError
from thaitool.files import disk_full_is_explained
from thaitool.metrics.endpoint import Endpoint, check_endpoint
from thaitool.records import TASKS, Progress, Rejected, silent
from thaitool.reports import embedded
from thaitool.reports.asked import afresh, open_test_set
from thaitool.reports.claim import claim, file_sha256
from thaitool.reports.judged import Judged, judge_tasks, require_coverage
from thaitool.reports.leaks import leakage
from thaitool.reports.players import shown_examples
from thaitool.reports.predictions import Answers, named_files, read_answers, read_predictions
from thaitool.reports.report import Report
from thaitool.reports.scoring import (
    Scored,
    TestSet,
    accounting,
    intent_confusion,
    notes,
    quarantine_failures,
    score_answers,
    score_slices,
    scored_items,
    spoken_texts,
)
from thaitool.reports.sources import score_sources
from thaitool.reports.stored import SCORED_AS, WEIGHTS, scored_as
from thaitool.reports.write import write_report
from thaitool.stages.answering import (
    NO_CONTEXT,
    answer_all,
    item_contexts,
    listed_words,
    questions_sha256,
    shuffle_audio,
)
from thaitool.text.normalize import NORMALIZER, normalizer_sha256
from thaitool.text.tasks import BUILT_IN, load_tasks, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from thaitool.data.manifest import Manifest
    from thaitool.metrics.embeddings import Embed
    from thaitool.metrics.tasks import TaskScores
    from thaitool.records import Utterance
    from thaitool.reports.report import Instrument
    from thaitool.text.tasks import TaskSpec

__all__ = ["EvalResult", "read_predictions", "run", "shuffle_audio"]

_CLUSTERS = {
    "both": "source item and speaker",
    "source_id": "source item",
    "speaker": "speaker",
}
#: What decides the answers or which items are asked; all else may change between two scorings of one directory.
_IDENTITY = {
    *("task", "split", "shuffled", "limit", "batch_s", "max_new_tokens", "seed"),
    *Decoding.model_fields,
}
#: The same, of keys that came later: one that is as it was before is not mentioned.
_YOUNGER = ("context", "hotwords", "hotwords_file")


@dataclass(frozen=True)
class EvalResult:
    """The report, and where it lies."""

    out: Path
    report: Report


def run(config: EvalConfig, progress: Progress = silent) -> EvalResult:
    """Scores `config.model` or `config.predictions` on one split.

    Raises:
        ConfigError: there is no such task.
        InputError: neither or both are given, ids do not match, or the data lacks a task.
        QuarantineError: more than the allowed share of the items has no answer.
    """
    if (config.model is None) == (config.predictions is None):
        raise InputError(
            "eval needs either a model or a predictions file, and not both; pass --model or --predictions."
        )
    tasks = _tasks(config)
    if config.model is not None:
        _require_task(config.model, config.task)
    # Mistakes in what is used after the answers are told before the model is asked for hours.
    named_files(config.also, "--also")
    judge, embedder = _instruments(config)
    test, set_aside = open_test_set(config, tasks)
    contexts = item_contexts(config, test.items, tasks)
    test = replace(test, hotwords=listed_words(contexts))
    settings = config.model_dump(mode="json", include=_IDENTITY)
    younger = config.model_dump(mode="json", include={*_YOUNGER}, exclude_defaults=True)
    made_by = (
        file_sha256(config.predictions) if config.predictions else _weights_sha256(config.model)
    )
    utterances: list[Utterance] = []
    if config.model is not None:
        utterances = [test.items[i] for i in range(len(test.items))]
        utterances = [replace(u, context=contexts.get(u.id)) for u in utterances]
        if (questions := questions_sha256(utterances, tasks)) is not None:
            younger["questions"] = questions
    claim(config.out, settings | younger, made_by, test.references)
    shuffled: Answers | None = None
    if config.predictions is not None:
        answers = read_answers(config.predictions, (r.id for r in test.references))
    else:
        answers, shuffled = answer_all(config, utterances, tasks, progress)
    scored, judged = _score(config, test, answers, judge, embedder)
    other_audio = _score_shuffled(config, test, shuffled, scored)
    instruments = (*(embedder[1:] if embedder else ()), *judged.instruments)
    report = _report(config, test, scored, judged, other_audio, instruments, set_aside)
    if config.model is not None:
        report = replace(report, settings={**report.settings, WEIGHTS: made_by})
    with disk_full_is_explained(config.out):
        write_report(report, config.out)
    require_coverage(judged.judgement)
    return EvalResult(config.out, report)


def _tasks(config: EvalConfig) -> Mapping[str, TaskSpec]:
    """All tasks by name: built in, of the model, of the file."""
    known: Mapping[str, TaskSpec] = BUILT_IN
    if config.model is not None:
        from thaitool.training.run_dir import resolve

        known = tasks_of(resolve(config.model))
    if config.task_file is not None:
        known = load_tasks(config.task_file, known)
    if config.task not in {"slu", *known}:
        raise ConfigError(
            f"--task must be slu or one of {', '.join(known)}, but is {config.task!r}. Other tasks come with the model"
            " or with --task-file."
        )
    return known


def _instruments(config: EvalConfig) -> tuple[Endpoint | None, tuple[Embed, Instrument] | None]:
    """The judge's server, and the embedder once it has passed its gate; the judge is examined when it is used.

    Raises:
        ConfigError: one is given for a task that has no use for it, or an address or key is wrong.
        InputError: the embedder fails its gate.
    """
    used_by = {"judge": ("sr",), "keywords": ("asr",), "embedder": embedded.TASKS}
    for name, tasks in used_by.items():
        if getattr(config, name) is not None and config.task not in {"slu", *tasks}:
            raise ConfigError(
                f"--{name} is for {' and '.join(tasks)}, but --task is {config.task}; leave one of them out."
            )
    judge = None
    if config.judge is not None:
        judge = Endpoint(config.judge, config.judge_model, config.judge_key_variable)
        check_endpoint(judge)
    if config.embedder is None:
        return judge, None
    return judge, embedded.open_embedder(
        config.embedder, config.embedder_model, config.embedder_key_variable
    )


def _weights_sha256(model: Path | None) -> str:
    # Here and below: what imports torch is imported for a model only. Scoring a file needs a tenth of that memory.
    from thaitool.models.checkpoint import weights_sha256
    from thaitool.training.run_dir import resolve

    assert model is not None  # noqa: S101 (checked by run; narrows the type)
    return weights_sha256(resolve(model))


def _require_task(model: Path, task: str) -> None:
    from thaitool.models.answerer import require_task
    from thaitool.training.run_dir import resolve

    require_task(resolve(model), [task])


def _score(
    config: EvalConfig,
    test: TestSet,
    answers: Answers,
    judge: Endpoint | None,
    embedder: tuple[Embed, Instrument] | None,
) -> tuple[Scored, Judged]:
    """The scores of the answers, with those of the embedder and the judge; `answers` is emptied."""
    draws, seed = config.draws, config.seed
    # A predictions file may answer more than is asked for here; what is asked must all be there.
    partly = config.limit is not None or config.task != "slu"
    scored = score_answers(
        test, answers, draws=draws, seed=seed, may_have_more=partly, consume=True
    )
    quarantine_failures(test, scored.failures, config.out, config.max_rejected_share)
    if embedder is not None:
        tasks = embedded.embedded_tasks(scored.tasks, embedder[0], draws=draws, seed=seed)
        scored = replace(scored, tasks=tasks)
    if judge is None:
        return scored, Judged(scored.tasks, None)
    spoken = spoken_texts(test, test.references)
    judged = judge_tasks(scored.tasks, spoken, judge, config.out, draws=draws, seed=seed)
    return replace(scored, tasks=judged.tasks), judged


def _score_shuffled(
    config: EvalConfig, test: TestSet, shuffled: Answers | None, scored: Scored
) -> tuple[TaskScores, ...]:
    """The scores of the answers to other audio; items that failed with their own are left out of both."""
    if shuffled is None:
        return ()
    both = Answers(shuffled.predictions, [*shuffled.failures, *scored.failures])
    return score_answers(test, both, draws=config.draws, seed=config.seed).tasks


def _report(
    config: EvalConfig,
    test: TestSet,
    scored: Scored,
    judged: Judged,
    shuffled: tuple[TaskScores, ...],
    instruments: tuple[Instrument, ...],
    set_aside: Sequence[Rejected],
) -> Report:
    draws, seed = config.draws, config.seed
    kept = test.references
    if len(scored.rows) < len(kept):
        kept = [kept[k] for k in scored.rows.tolist()]

    def items() -> Manifest:
        return scored_items(afresh(config, test), scored)

    leaked, leak_notes = leakage(items(), config.trained_on) if config.trained_on else ({}, ())
    return Report(
        title=f"{config.model or config.predictions} on {config.data}, {config.split}",
        stage="eval",
        created=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        tasks=scored.tasks,
        shuffled=shuffled,
        normalizer=NORMALIZER,
        normalizer_sha256=normalizer_sha256(),
        seed=seed,
        versions={
            n: version(n) for n in ("thaitool", "torch", "transformers", "pythainlp", "jiwer")
        },
        settings={
            **_asked_how(config, test),
            "data": str(config.data),
            "task": config.task,
            "split": config.split,
            **({} if config.limit is None else {"limit": config.limit}),
            "intents": len(test.closed_set),
            f"bootstrap draws, clustered by {_CLUSTERS[config.cluster_by]}": draws,
        },
        accounting={**accounting(items(), scored, set_aside), **leaked},
        examples=shown_examples(items(), scored.tasks, seed),
        curves=_curves(config.model) if config.model else {},
        notes=(*notes(items(), scored.failures, len(test.references)), *leak_notes, *judged.notes),
        slices=tuple(
            score_slices(afresh(config, test), scored, config.slices, draws=draws, seed=seed)
        ),
        sources=score_sources(test, scored.tasks, _others(config), draws=draws, seed=seed),
        instruments=instruments,
        confusion=intent_confusion(test, scored.tasks),
        intents=test.closed_set,
        failures=tuple((f.id, f.task, f.reason) for f in scored.failures),
        references=kept,
        spoken=spoken_texts(test, kept),
    )


def _asked_how(config: EvalConfig, test: TestSet) -> dict[str, Any]:
    """Settings of a report that most have not."""
    table: dict[str, Any] = {}
    if own := {task: kind for task, kind in test.kinds.items() if task not in TASKS}:
        table[SCORED_AS] = scored_as(own, test.labels)
    if test.hotwords or config.context != "with":
        table["context"] = config.context
    if config.hotwords is not None:
        table["hotwords with each item"] = config.hotwords
    if config.hotwords_file is not None:
        table["hotwords with each item"] = str(config.hotwords_file)
    return table


def _others(config: EvalConfig) -> list[str]:
    """Other answers to score beside these, NAME=PATH."""
    both = config.model is not None and config.context == "both"
    return [*config.also, *([f"without context={config.out / NO_CONTEXT}"] if both else [])]


def _curves(model: Path) -> dict[str, list[tuple[int, float]]]:
    """Training curves of the run that made the model, if `model` is a run directory."""
    from thaitool.training.run_dir import METRICS, RunDir

    if not (model / METRICS).is_file():
        return {}
    rows = RunDir(model).metrics()
    names = dict.fromkeys(
        n for row in rows for n in row if n not in {"update", "train_s", "alarms"}
    )
    return {n: [(row["update"], row[n]) for row in rows if n in row] for n in names}
