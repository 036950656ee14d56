"""Answers of a model, or a file of answers, to scores with intervals and a report (arXiv:2509.14804, section 4).

Answering and scoring are separate: each answer is in `predictions.jsonl` as soon as it is made, a run that was stopped
goes on there, and scoring again needs no model. Trains nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from thaitool.config import Decoding, EvalConfig
from thaitool.errors import ConfigError, InputError
from thaitool.files import disk_full_is_explained
from thaitool.metrics.endpoint import Endpoint, check_endpoint
from thaitool.records import Prediction, Progress, Rejected, Utterance, silent
from thaitool.reports import embedded
from thaitool.reports.asked import afresh, open_test_set
from thaitool.reports.claim import claim, file_sha256
from thaitool.reports.judged import Judged, judge_tasks, require_coverage
from thaitool.reports.leaks import leakage
from thaitool.reports.players import shown_examples
from thaitool.reports.predictions import (
    Answers,
    Failure,
    append,
    named_files,
    read_answers,
    read_predictions,
    reopen,
)
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
from thaitool.reports.write import write_report
from thaitool.text.normalize import NORMALIZER, normalizer_sha256
from thaitool.text.prompts import task_prompt
from thaitool.training.interrupt import noting_signals, stop_if_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from thaitool.data.manifest import Manifest
    from thaitool.metrics.embeddings import Embed
    from thaitool.metrics.tasks import TaskScores
    from thaitool.models.answerer import Answerer
    from thaitool.reports.report import Instrument

__all__ = ["EvalResult", "read_predictions", "run", "shuffle_audio"]

PREDICTIONS = "predictions.jsonl"
SHUFFLED = "predictions.shuffled.jsonl"
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


@dataclass(frozen=True)
class EvalResult:
    """The report, and where it lies."""

    out: Path
    report: Report


def run(config: EvalConfig, progress: Progress = silent) -> EvalResult:
    """Scores `config.model` or `config.predictions` on one split.

    Raises:
        InputError: neither or both are given, ids do not match, or the data lacks a task.
        QuarantineError: more than the allowed share of the items has no answer.
    """
    if (config.model is None) == (config.predictions is None):
        raise InputError(
            "eval needs either a model or a predictions file, and not both; pass --model or --predictions."
        )
    if config.model is not None:
        _require_task(config.model, config.task)
    # Mistakes in what is used after the answers are told before the model is asked for hours.
    named_files(config.also, "--also")
    judge, embedder = _instruments(config)
    test, set_aside = open_test_set(config)
    settings = config.model_dump(mode="json", include=_IDENTITY)
    made_by = (
        file_sha256(config.predictions) if config.predictions else _weights_sha256(config.model)
    )
    claim(config.out, settings, made_by, test.references)
    shuffled: Answers | None = None
    if config.predictions is not None:
        answers = read_answers(config.predictions, (r.id for r in test.references))
    else:
        answers, shuffled = _answer_all(config, test.items, progress)
    scored, judged = _score(config, test, answers, judge, embedder)
    other_audio = _score_shuffled(config, test, shuffled, scored)
    instruments = (*(embedder[1:] if embedder else ()), *judged.instruments)
    report = _report(config, test, scored, judged, other_audio, instruments, set_aside)
    with disk_full_is_explained(config.out):
        write_report(report, config.out)
    require_coverage(judged.judgement)
    return EvalResult(config.out, report)


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


def _answer_all(
    config: EvalConfig, items: Manifest, progress: Progress
) -> tuple[Answers, Answers | None]:
    utterances = [items[i] for i in range(len(items))]
    model: list[
        Answerer
    ] = []  # loaded when the first question is asked: a finished file needs none

    def loaded() -> Answerer:
        if not model:
            from thaitool.models.answerer import load_answerer
            from thaitool.training.run_dir import resolve

            assert config.model is not None  # noqa: S101 (checked by run; narrows the type)
            model.append(load_answerer(resolve(config.model), config))
        return model[0]

    answers = _answer(
        config, loaded, utterances, utterances, config.out / PREDICTIONS, "eval", progress
    )
    if not config.shuffled:
        return answers, None
    failed = {(f.id, f.task) for f in answers.failures}
    good = [u for u in utterances if (u.id, u.task or "asr") not in failed]
    others = shuffle_audio(good, config.seed)
    file = config.out / SHUFFLED
    return answers, _answer(config, loaded, good, others, file, "eval, shuffled audio", progress)


def shuffle_audio(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """For each utterance one of the same task with another source item; the order of the result is that of the input.

    Raises:
        InputError: a task has a single source item, so that there is nothing to exchange.
    """
    rng = np.random.default_rng(seed)
    out = list(utterances)
    for task in dict.fromkeys(u.task for u in utterances):
        rows = [i for i, u in enumerate(utterances) if u.task == task]
        places: dict[str | None, list[int]] = {}
        for place, i in enumerate(rows):
            places.setdefault(utterances[i].source_id, []).append(place)
        for i in rows:
            own = places[utterances[i].source_id]
            if len(own) == len(rows):
                raise InputError(
                    f"Audio of task {task} cannot be shuffled: all rows have one source; pass --no-shuffled."
                )
            k = int(rng.integers(len(rows) - len(own)))
            # The k-th row that is not of this source: own[j] - j others stand before own[j].
            k += bisect_left(range(len(own)), True, key=lambda j: own[j] - j > k)
            out[i] = utterances[rows[k]]
    return out


def _answer(
    config: EvalConfig,
    loaded: Callable[[], Answerer],
    asked: Sequence[Utterance],
    heard: Sequence[Utterance],
    file: Path,
    description: str,
    progress: Progress,
) -> Answers:
    """Answers the question of each utterance of `asked` about the audio of the one at the same place in `heard`.

    What `file` already holds is not asked again.
    """
    from thaitool.data.loader import collate

    done = reopen(file)
    known = {(p.id, p.task) for p in done.predictions} | {(f.id, f.task) for f in done.failures}
    # Longest first: memory runs out at once or never.
    order = sorted(range(len(heard)), key=lambda i: -heard[i].duration_s)
    order = [i for i in order if (asked[i].id, asked[i].task or "asr") not in known]
    if not order:
        return done
    model = loaded()
    with noting_signals() as received, progress(description, len(asked), len(known)) as advance:
        start = 0
        while start < len(order):
            size = max(1, int(config.batch_s // heard[order[start]].duration_s))
            rows = order[start : start + size]
            start += size
            began = time.perf_counter()
            bad = {
                str(heard[i].audio): reason
                for i in rows
                if (reason := model.too_long(heard[i].duration_s))
            }
            usable = [heard[i] for i in rows if str(heard[i].audio) not in bad]
            batch = collate(0, 0, usable, normalised=model.normalises)
            bad |= {r.item: f"{r.reason}: {r.detail}" for r in batch.rejected}
            good = [asked[i] for i in rows if str(heard[i].audio) not in bad]
            answers: list[tuple[str, bool]] = []
            if good:
                prompts = [task_prompt(u.task or "asr") for u in good]
                answers = model.answer(batch.audio, batch.audio_lengths, prompts)
            seconds = round((time.perf_counter() - began) / max(1, len(good)), 4)
            made = [
                Prediction(u.id, u.task or "asr", text, stopped, h.duration_s, seconds)
                for u, h, (text, stopped) in zip(good, batch.utterances, answers, strict=True)
            ]
            failed = [
                Failure(asked[i].id, asked[i].task or "asr", bad[str(heard[i].audio)])
                for i in rows
                if str(heard[i].audio) in bad
            ]
            append(file, made, failed)
            done.predictions.extend(made)
            done.failures.extend(failed)
            advance(len(rows))
            stop_if_asked(received, description)
    return done


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
            "split": config.split,
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
        sources=score_sources(test, scored.tasks, config.also, draws=draws, seed=seed),
        instruments=instruments,
        confusion=intent_confusion(test, scored.tasks),
        intents=test.closed_set,
        failures=tuple((f.id, f.task, f.reason) for f in scored.failures),
        references=kept,
        spoken=spoken_texts(test, kept),
    )


def _curves(model: Path) -> dict[str, list[tuple[int, float]]]:
    """Training curves of the run that made the model, if `model` is a run directory."""
    from thaitool.training.run_dir import METRICS, RunDir

    if not (model / METRICS).is_file():
        return {}
    rows = RunDir(model).metrics()
    names = dict.fromkeys(n for row in rows for n in row if n not in {"update", "train_s"})
    return {n: [(row["update"], row[n]) for row in rows if n in row] for n in names}
