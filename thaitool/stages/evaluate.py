"""Answers of a model, or a file of answers, to scores with intervals and a report (arXiv:2509.14804, section 4).

Answering and scoring are separate: each answer is in `predictions.jsonl` as soon as it is made, a run that was stopped
goes on there, and scoring again needs no model. Trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_left
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.config import EvalConfig
from thaitool.data.manifest import append_quarantine, check_share, open_manifest, require_unique_ids
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.metrics.endpoint import Endpoint
from thaitool.records import TASKS, Prediction, Progress, Reference, Rejected, Utterance, silent
from thaitool.reports.items import intent_names, read_keywords, references, select
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
from thaitool.reports.report import Report, Source
from thaitool.reports.scoring import (
    TestSet,
    accounting,
    intent_confusion,
    notes,
    score_answers,
    score_slices,
    spoken_texts,
)
from thaitool.reports.write import write_report
from thaitool.text.normalize import NORMALIZER, normalizer_sha256
from thaitool.text.prompts import task_prompt
from thaitool.training.interrupt import noting_signals, stop_if_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from thaitool.data.manifest import Manifest
    from thaitool.metrics.judge import Judgement
    from thaitool.metrics.tasks import TaskScores

__all__ = ["EvalResult", "read_predictions", "run", "shuffle_audio"]

PREDICTIONS = "predictions.jsonl"
IDENTITY = "eval.json"
SHUFFLED = "predictions.shuffled.jsonl"
_CLUSTERS = {
    "both": "source item and speaker",
    "source_id": "source item",
    "speaker": "speaker",
}
#: What decides the answers or which items are asked; all else may change between two scorings of one directory.
_IDENTITY = {"task", "split", "shuffled", "limit", "batch_s", "max_new_tokens", "seed"}


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
    named_files(config.also, "--also")  # its mistakes are told before the model is asked for hours
    test, set_aside = _test_set(config)
    _claim(config, test.references)
    shuffled: Answers | None = None
    if config.predictions is not None:
        answers = read_answers(config.predictions, (r.id for r in test.references))
    else:
        answers, shuffled = _answer_all(config, test.items, progress)
    report, judgement = _report(config, test, answers, shuffled, set_aside)
    with disk_full_is_explained(config.out):
        write_report(report, config.out)
    require_coverage(judgement)
    return EvalResult(config.out, report)


def _test_set(config: EvalConfig) -> tuple[TestSet, list[Rejected]]:
    tasks = TASKS if config.task == "slu" else (config.task,)
    # A manifest of ours stays on disk; anything else is listed in memory.
    everything, set_aside = (
        (open_manifest(config.data), []) if config.data.suffix == ".arrow" else scan([config.data])
    )
    require_unique_ids(everything)
    items = select(everything, tasks, split=config.split, limit=config.limit, where=config.data)
    name = f"split {config.split} of {config.data}"
    keywords = read_keywords(config.keywords) if config.keywords else ()
    found = TestSet(
        items, references(items), intent_names(everything), name, keywords, config.cluster_by
    )
    return found, set_aside


def _claim(config: EvalConfig, asked: Sequence[Reference]) -> None:
    """Makes the report directory, or returns to that of the same evaluation; any other is left alone."""
    answered = (
        _file_sha256(config.predictions)
        if config.predictions is not None
        else _weights_sha256(config.model)
    )
    digest = hashlib.sha256()
    for r in asked:
        digest.update(f"{r.id}/{r.task}/{r.text}\n".encode())
    settings = config.model_dump(mode="json", include=_IDENTITY)
    identity = {"settings": settings, "answers": answered, "references": digest.hexdigest()}
    file = config.out / IDENTITY
    if file.is_file():
        if json.loads(file.read_text("utf-8")) != identity:
            raise InputError(
                f"{config.out} holds the report of another model, data set or setting; choose another --out."
            )
        return
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise InputError(f"{config.out} must be new, but holds other files; choose another --out.")
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)


def _weights_sha256(model: Path | None) -> str:
    # Here and below: what imports torch is imported for a model only. Scoring a file needs a tenth of that memory.
    from thaitool.models.checkpoint import weights_sha256
    from thaitool.training.run_dir import resolve

    assert model is not None  # noqa: S101 (checked by run; narrows the type)
    return weights_sha256(resolve(model))


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} must be a JSONL file of predictions, but cannot be read: {error.strerror or error}."
        ) from error


def _answer_all(
    config: EvalConfig, items: Manifest, progress: Progress
) -> tuple[Answers, Answers | None]:
    utterances = [items[i] for i in range(len(items))]
    model: list[Any] = []  # loaded when the first question is asked: a finished file needs none

    def loaded() -> list[Any]:
        if not model:
            from thaitool.models.checkpoint import load_speech_lm
            from thaitool.models.device import choose_device
            from thaitool.training.run_dir import resolve

            assert config.model is not None  # noqa: S101 (checked by run; narrows the type)
            device = choose_device(config.device)
            model.extend(load_speech_lm(resolve(config.model), llm=config.llm))
            model[0].to(device)
        return model

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
    loaded: Callable[[], list[Any]],
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
    from thaitool.models.generate import answer

    done = reopen(file)
    known = {(p.id, p.task) for p in done.predictions} | {(f.id, f.task) for f in done.failures}
    # Longest first: memory runs out at once or never.
    order = sorted(range(len(heard)), key=lambda i: -heard[i].duration_s)
    order = [i for i in order if (asked[i].id, asked[i].task or "asr") not in known]
    if not order:
        return done
    model, processor = loaded()
    with noting_signals() as received, progress(description, len(asked), len(known)) as advance:
        start = 0
        while start < len(order):
            size = max(1, int(config.batch_s // heard[order[start]].duration_s))
            rows = order[start : start + size]
            start += size
            began = time.perf_counter()
            batch = collate(0, 0, [heard[i] for i in rows])
            bad = {r.item: f"{r.reason}: {r.detail}" for r in batch.rejected}
            good = [asked[i] for i in rows if str(heard[i].audio) not in bad]
            answers: list[tuple[str, bool]] = []
            if good:
                answers = answer(
                    model,
                    processor,
                    batch.audio,
                    batch.audio_lengths,
                    [task_prompt(u.task or "asr") for u in good],
                    max_new_tokens=config.max_new_tokens,
                )
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


def _report(
    config: EvalConfig,
    test: TestSet,
    answers: Answers,
    shuffled: Answers | None,
    set_aside: Sequence[Rejected],
) -> tuple[Report, Judgement | None]:
    # A predictions file may answer more than is asked for here; what is asked must all be there.
    partly = config.limit is not None or config.task != "slu"
    draws, seed = config.draws, config.seed
    scored = score_answers(test, answers, draws=draws, seed=seed, may_have_more=partly)
    answers.predictions.clear()  # their texts are in `scored`; of a million, 240 MB are not needed any more
    _count_failures(config, test, scored.failures)
    other_audio: tuple[TaskScores, ...] = ()
    if shuffled is not None:
        both = Answers(shuffled.predictions, [*shuffled.failures, *scored.failures])
        other_audio = score_answers(test, both, draws=draws, seed=seed).tasks
    items = test.items.select(np.isin(np.arange(len(test.items)), scored.rows))
    kept = [test.references[k] for k in scored.rows.tolist()]
    spoken = spoken_texts(test, kept)
    judged = Judged(scored.tasks, None)
    if config.judge is not None:
        endpoint = Endpoint(config.judge, config.judge_model, config.judge_key_variable)
        judged = judge_tasks(scored.tasks, spoken, endpoint, config.out, draws=draws, seed=seed)
    leaked, leak_notes = leakage(items, config.trained_on) if config.trained_on else ({}, ())
    report = Report(
        title=f"{config.model or config.predictions} on {config.data}, {config.split}",
        stage="eval",
        created=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        tasks=judged.tasks,
        shuffled=other_audio,
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
        accounting={**accounting(items, scored, set_aside), **leaked},
        examples=shown_examples(items, scored.tasks, seed),
        curves=_curves(config.model) if config.model else {},
        notes=(*notes(items, scored.failures, len(test.references)), *leak_notes, *judged.notes),
        slices=tuple(score_slices(test, scored, config.slices, draws=draws, seed=seed)),
        sources=tuple(_sources(config, test)),
        confusion=intent_confusion(test, scored.tasks),
        intents=test.closed_set,
        failures=tuple((f.id, f.task, f.reason) for f in scored.failures),
        references=kept,
        spoken=spoken,
    )
    return report, judged.judgement


def _count_failures(config: EvalConfig, test: TestSet, failures: Sequence[Failure]) -> None:
    """Every item without an answer into quarantine.jsonl; too many end the run."""
    failed = {(f.id, f.task): f.reason for f in failures}
    rejected = []
    for k, r in enumerate(test.references if failed else ()):
        if (r.id, r.task) in failed:
            reason, _, detail = failed[r.id, r.task].partition(": ")
            rejected.append(Rejected(str(test.items[k].audio), reason, detail or reason))
    append_quarantine(config.out / "quarantine.jsonl", rejected)
    check_share(rejected, len(test.references), config.max_rejected_share)


def _sources(config: EvalConfig, test: TestSet) -> Iterator[Source]:
    for name, path in named_files(config.also, "--also").items():
        other = score_answers(
            test,
            read_answers(path),
            draws=config.draws,
            seed=config.seed,
            may_lack_tasks=True,
            may_have_more=True,
        )
        tasks = tuple(replace(t, items=(), columns=(), clusters=()) for t in other.tasks)
        yield Source(name, tasks, len(other.failures))


def _curves(model: Path) -> dict[str, list[tuple[int, float]]]:
    """Training curves of the run that made the model, if `model` is a run directory."""
    from thaitool.training.run_dir import METRICS, RunDir

    if not (model / METRICS).is_file():
        return {}
    rows = RunDir(model).metrics()
    names = dict.fromkeys(n for row in rows for n in row if n not in {"update", "train_s"})
    return {n: [(row["update"], row[n]) for row in rows if n in row] for n in names}
