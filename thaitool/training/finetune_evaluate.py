"""Held-out evaluation of `finetune`: nats of all held-out answers, and what the model itself answers to a fixed sample.

Each row of the sample is answered twice, the second time with the audio of a row that has another answer: a score that
stays as good is none for listening. Answers are kept in `predictions-UPDATE.jsonl`, in the form of `eval`'s.
Several processes share the rows, and all get the figures of all rows.
Trains nothing; rows are `training.finetune_held_out`'s, figures `training.finetune_figures`', their meaning
`training.finetune_judge`'s.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.data.loader import collate, in_order, listed
from thaitool.data.manifest import append_quarantine
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained
from thaitool.models import generate
from thaitool.training.finetune_figures import (
    ERROR,
    HeldTask,
    Told,
    directions,
    figures,
    row_errors,
)
from thaitool.training.finetune_judge import NATS, selection
from thaitool.training.ranks import gathered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator
    from torch import nn

    from thaitool.config import FinetuneConfig
    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance
    from thaitool.training.finetune import Objective
    from thaitool.training.finetune_held_out import HeldOut
    from thaitool.training.run_dir import RunDir


def require_changeable(
    config: FinetuneConfig, held: HeldOut, objective: Objective, trained: Iterable[nn.Parameter]
) -> None:
    """Refuses to choose checkpoints by a metric that cannot change, with the reason; to be called before training.

    Answers come from the encoder, the projector and the LLM; a head beside them (`ctc_weight`) has no say in them.

    Raises:
        InputError: there is no metric `config.select`; nothing that is trained lies on its way; the held-out rows have
            nothing that it counts; or the labels of its task are all the same.
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
        if select in directions(task) and select not in figures(task, _right(task), {}):
            raise InputError(
                f"select is {select}, but the {len(task.rows)} held-out rows of {task.name} that are answered have"
                " nothing that it counts, such as tone marks or entities. Raise judge_items, mark other rows as dev, or"
                " set select to another metric."
            )
        if task.kind != "ic" or task.others or not select.startswith(f"{task.name}_"):
            continue
        raise InputError(
            f"select is {select}, but all {len(task.rows)} held-out rows of {task.name} have the label"
            f" {task.references[0]!r}, so that one answer, whatever is heard, is always right. Mark rows with other"
            " labels as dev, or set select to another metric."
        )


def _right(task: HeldTask) -> dict[str, Told]:
    return {row.id: Told(text, True) for row, text in zip(task.rows, task.references, strict=True)}


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
    of = None if objective.sharded else accelerator
    share = slice(None) if of is None else slice(of.process_index, None, of.num_processes)
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
    everyone = [(sums, mine)] if of is None else gathered(of, (sums, mine))
    found = _nats([sums for sums, _ in everyone], len(held.manifest), ledger)
    answers: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for number, task in enumerate(held.tasks):
        told, other = (
            {name: said for _, theirs in everyone for name, said in theirs[number][which].items()}
            for which in (0, 1)
        )
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
