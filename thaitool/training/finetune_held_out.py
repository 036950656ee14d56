"""The held-out rows that a finetune run is judged on: a fixed sample of each task, and for each row the wrong audio.

Asks no model: `training.finetune_evaluate` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thaitool.errors import InputError
from thaitool.metrics.entity_labels import parse_entities
from thaitool.text.normalize import compact
from thaitool.training.examples import asked, task_rows
from thaitool.training.finetune_figures import HeldTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from thaitool.config import FinetuneConfig
    from thaitool.data.manifest import Manifest
    from thaitool.records import Utterance
    from thaitool.text.tasks import TaskSpec


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
