"""Held-out evaluation of `finetune`: nats of all held-out answers, and what the model itself answers to a fixed sample.

Each row of the sample is answered twice, the second time with the audio of a row that has another answer: a score that
stays as good is none for listening. Answers are kept in `predictions-UPDATE.jsonl`, in the form of `eval`'s.
Several processes share the rows, and all get the figures of all rows.
Trains nothing; figures are `training.finetune_figures`', their meaning `training.finetune_judge`'s.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.data.loader import collate, in_order, listed
from thaitool.data.manifest import append_quarantine
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.metrics.entity_labels import parse_entities
from thaitool.models import generate
from thaitool.text.normalize import compact
from thaitool.training.examples import asked, task_rows
from thaitool.training.finetune_figures import ERROR, HeldTask, Told, figures, row_errors
from thaitool.training.finetune_judge import NATS, selection
from thaitool.training.ranks import gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator
    from torch import nn

    from thaitool.config import FinetuneConfig
    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance
    from thaitool.text.tasks import TaskSpec
    from thaitool.training.finetune import Objective
    from thaitool.training.run_dir import RunDir


@dataclass(frozen=True)
class HeldOut:
    """What a run is judged on: always the same rows."""

    manifest: Manifest
    """All held-out rows, whose answers are measured in nats."""
    tasks: tuple[HeldTask, ...]
    """The rows that are answered."""


def closed_sets(
    train_set: Manifest, dev_set: Manifest, tasks: Mapping[str, TaskSpec]
) -> dict[str, tuple[str, ...]]:
    """The labels of every task that is answered by one of a set: its own, or those that the data has.

    Two spellings of a label that are one in `thai-v1` without spaces count as one.
    """
    found = {}
    for name, spec in tasks.items():
        if spec.metric != "ic":
            continue
        labels: dict[str, str] = {compact(label): label for label in spec.labels or ()}
        for manifest in () if spec.labels else (train_set, dev_set):
            column = task_rows(manifest, [name]).column("label")
            for label in column.unique().to_pylist():
                if label:
                    labels.setdefault(compact(label), label)
        found[name] = tuple(label for form, label in sorted(labels.items()) if form)
    return found


def hold_out(
    dev_set: Manifest,
    config: FinetuneConfig,
    tasks: Mapping[str, TaskSpec],
    *,
    closed_sets: Mapping[str, Sequence[str]],
) -> HeldOut:
    """At most `judge_items` held-out rows of each task, drawn by the seed, and the wrong audio for each.

    Args:
        dev_set: Rows of `config.tasks`, with something to answer.
        config: Of the run.
        tasks: All tasks by name.
        closed_sets: See the function of that name.

    Raises:
        InputError: a task has no held-out row, or one that cannot be scored: before training, as it would otherwise
            show at the first evaluation.
    """
    held = []
    for name in config.tasks:
        mine = task_rows(dev_set, [name])
        if not len(mine):
            raise InputError(
                f"Finetuning is judged on the dev split, but {config.data} has no row of it for task {name} that can be"
                " heard and has an answer; mark some rows as dev, or leave the task out."
            )
        rows = [mine[k] for k in _drawn(len(mine), config.judge_items, config.train.seed)]
        _, references = asked(rows, tasks, seed=None)
        kind = tasks[name].metric
        _require_scorable(name, kind, rows, references, closed_sets.get(name, ()))
        others = _with_other_audio(rows, references)
        held.append(
            HeldTask(
                name,
                kind,
                tuple(rows),
                tuple(asked(rows, tasks, seed=None)[0]),
                tuple(references),
                tuple(others),
                tuple(asked(others, tasks, seed=None)[0]),
                tuple(closed_sets.get(name, ())),
            )
        )
    return HeldOut(dev_set, tuple(held))


def prepared(
    held: HeldOut,
    tasks: Mapping[str, TaskSpec],
    prepare: Callable[[Utterance], Utterance],
) -> HeldOut:
    """The same rows, asked with what `prepare` puts into their contexts, such as a draft of the audio beside them."""
    made = []
    for task in held.tasks:
        rows = tuple(prepare(row) for row in task.rows)
        others = tuple(prepare(row) for row in task.others)
        made.append(
            replace(
                task,
                rows=rows,
                instructions=tuple(asked(rows, tasks, seed=None)[0]),
                others=others,
                other_instructions=tuple(asked(others, tasks, seed=None)[0]),
            )
        )
    return replace(held, tasks=tuple(made))


def _drawn(total: int, count: int, seed: int) -> list[int]:
    """Numbers of `count` rows, ascending; all if there are no more."""
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def _require_scorable(
    name: str,
    kind: str,
    rows: Sequence[Utterance],
    references: Sequence[str],
    closed_set: Sequence[str],
) -> None:
    known = {compact(label) for label in closed_set}
    for row, reference in zip(rows, references, strict=True):
        if kind == "ic" and compact(reference) not in known:
            raise InputError(
                f"Held-out row {row.id} of task {name} has label {reference!r}, which is none of its"
                f" {len(closed_set)} labels ({', '.join(list(closed_set)[:5])}); correct the row or the task's labels."
            )
        if kind == "ner":
            try:
                parse_entities(reference)
            except InputError as error:
                raise InputError(
                    f"Held-out row {row.id} of task {name} has a label that cannot be scored: {error}"
                ) from error


def _with_other_audio(rows: Sequence[Utterance], references: Sequence[str]) -> list[Utterance]:
    """Each row with the audio of the next longer one that has another answer, in a round; none if all answers are one.

    Of like length, so that no model can tell by that.
    """
    forms = [compact(reference) for reference in references]
    if len(set(forms)) < 2:
        return []
    order = sorted(range(len(rows)), key=lambda k: (rows[k].duration_s, k))
    n, found = len(rows), list(rows)
    for place, k in enumerate(order):
        after = next(j for step in range(1, n) if forms[j := order[(place + step) % n]] != forms[k])
        heard = rows[after]
        found[k] = replace(
            rows[k],
            audio=heard.audio,
            duration_s=heard.duration_s,
            sample_rate_hz=heard.sample_rate_hz,
            start_s=heard.start_s,
            end_s=heard.end_s,
        )
    return found


def require_changeable(
    config: FinetuneConfig, held: HeldOut, objective: Objective, trained: Iterable[nn.Parameter]
) -> None:
    """Refuses to choose checkpoints by a metric that cannot change, with the reason; to be called before training.

    Answers come from the encoder, the projector and the LLM; a head beside them (`ctc_weight`) has no say in them.

    Raises:
        InputError: there is no metric `config.select`; nothing that is trained lies on its way; or the labels of its
            task are all the same.
    """
    select, _ = selection(config.select, held.tasks)
    on_the_way = {id(p) for p in objective.model.parameters()}
    if not any(id(p) in on_the_way and p.requires_grad for p in trained):
        raise InputError(
            f"select is {select}, which cannot change: encoder, projector and LLM are all frozen, and the best"
            " checkpoint would be the first. Train the projector (train_projector), the LLM (lora_rank above 0) or the"
            " encoder (unfreeze_layers)."
        )
    for task in held.tasks:
        if task.kind != "ic" or task.others or not select.startswith(f"{task.name}_"):
            continue
        raise InputError(
            f"select is {select}, but all {len(task.rows)} held-out rows of {task.name} have the label"
            f" {task.references[0]!r}, so that one answer, whatever is heard, is always right. Mark rows with other"
            " labels as dev, or set select to another metric."
        )


def evaluate(
    objective: Objective,
    held: HeldOut,
    config: FinetuneConfig,
    out: RunDir,
    accelerator: Accelerator | None = None,
) -> dict[str, float]:
    """All figures of one evaluation; the same weights give the same figures.

    Args:
        objective: In evaluation mode.
        held: What to hear.
        config: Of the run.
        out: Where answers are kept, and recordings that cannot be decoded are listed.
        accelerator: Of all processes of the run: each hears its share of the rows (all rows if each holds a share of
            the weights, as all must then call them equally often), and the first one writes. None is one process.

    Returns:
        `answer_nats` per answer token over all held-out rows, also `answer_nats_TASK`; `error`, the mean of the tasks'
        `TASK_error`; and what `finetune_figures.figures` gives for each task.

    Raises:
        InputError: no held-out recording, or none of a task, can be read.
    """
    shared = accelerator is not None and not objective.sharded
    share = slice(None)
    if accelerator is not None and shared:
        share = slice(accelerator.process_index, None, accelerator.num_processes)
    ledger = out.quarantine
    # First: under FSDP2 the objective's own call leaves the weights outside of layers whole, and answering needs them.
    sums = _sums(objective, held.manifest, config, ledger, share)
    mine = [
        (
            _answers(objective, task.rows, task.instructions, config, ledger, share),
            _answers(objective, task.others, task.other_instructions, config, ledger, share),
        )
        for task in held.tasks
    ]
    everyone = gathered(accelerator, (sums, mine)) if accelerator and shared else [(sums, mine)]
    found = _nats([sums for sums, _ in everyone], len(held.manifest), ledger)
    answers: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for number, task in enumerate(held.tasks):
        told: dict[str, Told] = {}
        other: dict[str, Told] = {}
        for _, theirs in everyone:
            told |= theirs[number][0]
            other |= theirs[number][1]
        if not told:
            raise InputError(
                f"Task {task.name} is judged on held-out recordings, but none of the {len(task.rows)} could be read;"
                f" see {ledger}."
            )
        found |= figures(task, told, other)
        answers += _lines(task, told)
        others += _lines(task, other)
    found[ERROR] = sum(found[f"{task.name}_{ERROR}"] for task in held.tasks) / len(held.tasks)
    if accelerator is None or accelerator.is_main_process:
        _keep(predictions_file(out, objective.update), answers)
        _keep(out.path / f"predictions-{objective.update}.shuffled.jsonl", others)
    return found


def predictions_file(out: RunDir, update: int) -> Path:
    """Where the answers of an evaluation are kept."""
    return out.path / f"predictions-{update}.jsonl"


def _sums(
    objective: Objective, manifest: Manifest, config: FinetuneConfig, ledger: Path, share: slice
) -> dict[str, tuple[float, float]]:
    """Summed nats and answer tokens by name, of a share of the rows, longest first."""
    sums: dict[str, tuple[float, float]] = {}
    normalised = objective.model.audio_tower.normalises
    mine = np.zeros(len(manifest), dtype=bool)
    mine[np.argsort(-manifest.duration_s, kind="stable")[share]] = True
    source = in_order(manifest.select(mine), batch_s=config.train.batch_s, normalised=normalised)
    for batch in listed(source, ledger):
        for name, (nats, count) in objective(batch, None).logs.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + float(nats), before[1] + float(count)
    return sums


def _nats(
    sums: Sequence[Mapping[str, tuple[float, float]]], n_rows: int, ledger: Path
) -> dict[str, float]:
    """Cross entropy per answer token of all held-out rows, in nats, from the sums of every process."""
    nats: dict[str, float] = defaultdict(float)
    tokens: dict[str, float] = defaultdict(float)
    for theirs in sums:
        for name, (total, count) in theirs.items():
            nats[name] += total
            tokens[name] += count
    if not tokens[NATS]:
        raise InputError(
            f"Finetuning is judged on the dev split, but none of its {n_rows} recordings could be read; see {ledger}."
        )
    return {name: nats[name] / count for name, count in tokens.items() if count}


def _answers(
    objective: Objective,
    rows: Sequence[Utterance],
    instructions: Sequence[str],
    config: FinetuneConfig,
    ledger: Path,
    share: slice,
) -> dict[str, Told]:
    """What the model says to each row of a share by id; rows whose audio cannot be read are absent."""
    questions = {row.id: text for row, text in zip(rows, instructions, strict=True)}
    found: dict[str, Told] = {}
    normalised = objective.model.audio_tower.normalises
    for chunk in _chunks(rows, config.train.batch_s, share):
        batch = collate(0, 0, chunk, normalised=normalised)
        append_quarantine(ledger, batch.rejected)
        if not batch.utterances:
            continue
        said = generate.answer(
            objective.model,
            objective.processor,
            batch.audio,
            batch.audio_lengths,
            [questions[u.id] for u in batch.utterances],
            max_new_tokens=config.max_new_tokens,
        )
        for utterance, (text, stopped) in zip(batch.utterances, said, strict=True):
            found[utterance.id] = Told(text, stopped)
    return found


def _chunks(rows: Sequence[Utterance], batch_s: float, share: slice) -> Iterator[list[Utterance]]:
    """A share of the rows, longest first, in batches of at most `batch_s` padded seconds."""
    ordered = sorted(rows, key=lambda row: -row.duration_s)[share]
    start = 0
    while start < len(ordered):
        size = max(1, int(batch_s // ordered[start].duration_s))
        yield ordered[start : start + size]
        start += size


def _lines(task: HeldTask, told: Mapping[str, Told]) -> list[dict[str, Any]]:
    errors = row_errors(task, told)
    return [
        {
            "id": row.id,
            "task": task.name,
            "text": told[row.id].text,
            "stopped": told[row.id].stopped,
            "reference": reference,
            "row_error": round(errors[row.id], 4),
        }
        for row, reference in zip(task.rows, task.references, strict=True)
        if row.id in told
    ]


def _keep(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Whole or not at all: a run may be killed while it writes."""
    with disk_full_is_explained(file):
        temporary = file.with_name(f".{file.name}.tmp")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        temporary.write_text(text, "utf-8")
        temporary.replace(file)
