"""Answers of a model, or a file of answers, to scores with intervals and a report (arXiv:2509.14804, section 4).

Answering and scoring are separate: `predictions.jsonl` is complete on disk before anything is scored, and scoring it
again needs no model. Trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.config import EvalConfig
from thaitool.data.loader import collate
from thaitool.data.manifest import Manifest, append_quarantine, check_share, scan
from thaitool.data.shards import read_audio
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.metrics.tasks import TaskScores, score_tasks
from thaitool.models.checkpoint import weights_sha256
from thaitool.records import TASKS, Prediction, Progress, Reference, Rejected, Utterance, silent
from thaitool.reports.report import Example, Report, worst_examples
from thaitool.reports.write import write_report
from thaitool.text.normalize import NORMALIZER, normalizer_sha256
from thaitool.text.prompts import task_prompt
from thaitool.training.interrupt import noting_signals, stop_if_asked
from thaitool.training.run_dir import METRICS, RunDir, resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PREDICTIONS = "predictions.jsonl"
IDENTITY = "eval.json"
SHUFFLED = "predictions.shuffled.jsonl"
#: Wrong answers of each task that the report shows, with a player.
EXAMPLES = 4
SYNTHETIC = (
    "The test speech is synthetic (embedded voices, trainable: false): figures show that the pipeline learns, not how"
    " well it understands people."
)


@dataclass(frozen=True)
class EvalResult:
    """The report, and where it lies."""

    out: Path
    report: Report


def run(config: EvalConfig, progress: Progress = silent) -> EvalResult:
    """Scores `config.model` or `config.predictions` on one split.

    Raises:
        InputError: neither or both are given, ids do not match, or the data lacks a task.
    """
    if (config.model is None) == (config.predictions is None):
        raise InputError(
            "eval needs either a model or a predictions file, and not both; pass --model or --predictions."
        )
    tasks = TASKS if config.task == "slu" else (config.task,)
    references = _select(config, tasks)
    _claim(config, references)
    shuffled: list[Prediction] | None = None
    rejected: list[Rejected] = []
    if config.predictions is not None:
        predictions = read_predictions(config.predictions)
    else:
        predictions, shuffled, rejected = _answer_all(config, references, progress)
    append_quarantine(config.out / "quarantine.jsonl", rejected)
    check_share(rejected, len(references), config.max_rejected_share)
    bad = {r.item for r in rejected}
    scored = [u for u in references if str(u.audio) not in bad]
    report = _report(config, scored, predictions, shuffled, len(rejected))
    with disk_full_is_explained(config.out):
        write_report(report, config.out)
    return EvalResult(config.out, report)


def _claim(config: EvalConfig, references: Sequence[Utterance]) -> None:
    """Makes the report directory, or returns to that of the same evaluation; any other is left alone."""
    answers = config.predictions or resolve(config.model or config.out)
    is_file = config.predictions is not None
    answered = (
        hashlib.sha256(answers.read_bytes()).hexdigest() if is_file else weights_sha256(answers)
    )
    settings = config.model_dump(
        mode="json", exclude={"out", "data", "model", "predictions", "llm", "device"}
    )
    asked = hashlib.sha256("".join(f"{u.id}/{u.task}/{u.label}\n" for u in references).encode())
    identity = {"settings": settings, "answers": answered, "references": asked.hexdigest()}
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


def _select(config: EvalConfig, tasks: Sequence[str]) -> list[Utterance]:
    manifest, _ = scan([config.data], split=config.split)
    column = manifest.table.column("task").to_pylist()
    chosen: list[Utterance] = []
    for task in tasks:
        rows = [i for i, t in enumerate(column) if t == task]
        if not rows:
            raise InputError(
                f"{config.data} must have {config.split} rows of task {task}, but has none."
            )
        if config.limit is not None and config.limit < len(rows):
            # Evenly over the shard, which is ordered by source: a prefix would hold one intent only.
            rows = [
                rows[i] for i in np.linspace(0, len(rows) - 1, config.limit).round().astype(int)
            ]
        chosen += [manifest[i] for i in rows]
    return chosen


def _answer_all(
    config: EvalConfig, references: list[Utterance], progress: Progress
) -> tuple[list[Prediction], list[Prediction] | None, list[Rejected]]:
    from thaitool.models.checkpoint import load_speech_lm
    from thaitool.models.device import choose_device

    assert config.model is not None  # noqa: S101 (checked by run; narrows the type)
    device = choose_device(config.device)
    model, processor = load_speech_lm(resolve(config.model), llm=config.llm)
    model.to(device)
    predictions, rejected = _answer(
        config, model, processor, references, references, "eval", progress
    )
    _write_predictions(config.out / PREDICTIONS, predictions)
    if not config.shuffled:
        return predictions, None, rejected
    bad = {r.item for r in rejected}
    good = [u for u in references if str(u.audio) not in bad]
    others = shuffle_audio(good, config.seed)
    shuffled, _ = _answer(config, model, processor, good, others, "eval, shuffled audio", progress)
    _write_predictions(config.out / SHUFFLED, shuffled)
    return predictions, shuffled, rejected


def shuffle_audio(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """For each utterance one of the same task with another source item; the order of the result is that of the input.

    Raises:
        InputError: a task has a single source item, so that there is nothing to exchange.
    """
    rng = np.random.default_rng(seed)
    out = list(utterances)
    for task in dict.fromkeys(u.task for u in utterances):
        rows = [i for i, u in enumerate(utterances) if u.task == task]
        for i in rows:
            others = [k for k in rows if utterances[k].source_id != utterances[i].source_id]
            if not others:
                raise InputError(
                    f"Audio of task {task} cannot be shuffled: all rows have one source; pass --no-shuffled."
                )
            out[i] = utterances[others[int(rng.integers(len(others)))]]
    return out


def _answer(
    config: EvalConfig,
    model: Any,
    processor: Any,
    references: Sequence[Utterance],
    heard: Sequence[Utterance],
    description: str,
    progress: Progress,
) -> tuple[list[Prediction], list[Rejected]]:
    """Answers the question of each reference about the audio of the utterance at the same place in `heard`."""
    from thaitool.models.generate import answer

    predictions: list[Prediction] = []
    rejected: list[Rejected] = []
    # Longest first: memory runs out at once or never.
    order = sorted(range(len(heard)), key=lambda i: -heard[i].duration_s)
    with noting_signals() as received, progress(description, len(order)) as advance:
        start = 0
        while start < len(order):
            size = max(1, int(config.batch_s // heard[order[start]].duration_s))
            rows = order[start : start + size]
            start += size
            began = time.perf_counter()
            batch = collate(0, 0, [heard[i] for i in rows])
            rejected += batch.rejected
            bad = {r.item for r in batch.rejected}
            asked = [references[i] for i in rows if str(heard[i].audio) not in bad]
            if asked:
                answers = answer(
                    model,
                    processor,
                    batch.audio,
                    batch.audio_lengths,
                    [task_prompt(u.task or "asr") for u in asked],
                    max_new_tokens=config.max_new_tokens,
                )
                seconds = (time.perf_counter() - began) / len(asked)
                predictions += [
                    Prediction(
                        u.id, u.task or "asr", text, stopped, h.duration_s, round(seconds, 4)
                    )
                    for u, h, (text, stopped) in zip(asked, batch.utterances, answers, strict=True)
                ]
            advance(len(rows))
            stop_if_asked(received, description)
    return predictions, rejected


def _write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    lines = (json.dumps(asdict(p), ensure_ascii=False) for p in predictions)
    temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    temporary.replace(path)


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions from JSONL: `id`, `task` and `text` in each line, other fields of `Prediction` if known.

    Raises:
        InputError: a line is not JSON or lacks a field; file, line and field are named.
    """
    try:
        # Not splitlines(): an answer may hold a character that it takes for the end of a line.
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be a JSONL file of predictions in UTF-8, but cannot be read: {error}."
        ) from error
    predictions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number} must be a JSON object, but is not: {error}."
            ) from error
        for name in ("id", "task", "text"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str):
                raise InputError(
                    f"{path}:{number} must have the text field {name!r}, but it is missing or no text."
                )
        numbers = [row.get("audio_s", 0), row.get("seconds", 0)]
        if not all(isinstance(n, int | float) for n in numbers):
            raise InputError(
                f"{path}:{number} must have numbers in 'audio_s' and 'seconds', but has {numbers}."
            )
        stopped = bool(row.get("stopped", True))
        predictions.append(Prediction(row["id"], row["task"], row["text"], stopped, *numbers))
    return predictions


def _report(
    config: EvalConfig,
    utterances: Sequence[Utterance],
    predictions: Sequence[Prediction],
    shuffled: Sequence[Prediction] | None,
    n_rejected: int,
) -> Report:
    references = [
        Reference(u.id, u.task or "asr", u.label or "", u.source_id or u.id, u.speaker or "unknown")
        for u in utterances
    ]
    asked = {(u.id, u.task) for u in utterances}
    if config.limit is not None or config.task != "slu":
        # A predictions file may answer more than is asked for here; what is asked must all be there.
        predictions = [p for p in predictions if (p.id, p.task) in asked]
    closed_set = _closed_set(config)
    spoken = {u.id: u.text or "" for u in utterances}

    def scores(answers: Sequence[Prediction]) -> tuple[TaskScores, ...]:
        return score_tasks(
            references,
            answers,
            closed_set=closed_set,
            spoken=spoken,
            seed=config.seed,
            draws=config.draws,
        )

    tasks = scores(predictions)
    return Report(
        title=f"{config.model or config.predictions} on {config.data}, {config.split}",
        stage="eval",
        created=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        tasks=tasks,
        shuffled=scores(shuffled) if shuffled is not None else (),
        normalizer=NORMALIZER,
        normalizer_sha256=normalizer_sha256(),
        seed=config.seed,
        versions={
            n: version(n) for n in ("thaitool", "torch", "transformers", "pythainlp", "jiwer")
        },
        settings={
            "split": config.split,
            "intents": len(closed_set),
            "bootstrap draws, clustered by source item": config.draws,
        },
        accounting={
            "utterances": len(utterances),
            "source items": len({u.source_id for u in utterances}),
            "speakers": ", ".join(sorted({u.speaker or "unknown" for u in utterances})),
            "audio s": round(sum(u.duration_s for u in utterances), 1),
            "answering s": round(sum(p.seconds for p in predictions), 1),
            "unusable recordings": n_rejected,
        },
        examples=_examples(tasks, utterances),
        curves=_curves(config.model) if config.model else {},
        notes=() if all(u.trainable for u in utterances) else (SYNTHETIC,),
    )


def _examples(tasks: Sequence[TaskScores], utterances: Sequence[Utterance]) -> tuple[Example, ...]:
    """The worst answers of each task, with the audio that shards hold."""
    by_id = {u.id: u.audio for u in utterances}
    refs = {e.id: by_id[e.id] for e in worst_examples(tasks, EXAMPLES)}
    audio = {item: read_audio(ref) for item, ref in refs.items() if ref.row is not None}
    return worst_examples(tasks, EXAMPLES, audio)


def _closed_set(config: EvalConfig) -> tuple[str, ...]:
    """Every intent label of the data set, all splits: a label that the test lacks may still be answered."""
    manifest: Manifest = scan([config.data])[0]
    pairs = zip(
        manifest.table.column("task").to_pylist(),
        manifest.table.column("label").to_pylist(),
        strict=True,
    )
    return tuple(sorted({label for task, label in pairs if task == "ic"}))


def _curves(model: Path) -> dict[str, list[tuple[int, float]]]:
    """Training curves of the run that made the model, if `model` is a run directory."""
    if not (model / METRICS).is_file():
        return {}
    rows = RunDir(model).metrics()
    names = dict.fromkeys(n for row in rows for n in row if n not in {"update", "train_s"})
    return {n: [(row["update"], row[n]) for row in rows if n in row] for n in names}
