"""The figures of one evaluation of `finetune`, from what was answered: scores, signs of collapse, and wrong audio's.

Asks no model, and judges nothing: `training.finetune_judge` says what is wrong. Per task, `TASK_` stands before each
name; figures that need something to compare with have it beside them, named `..._references` or `..._shuffled_audio`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thaitool.metrics.answers import answer_sums
from thaitool.metrics.entities import count_entities, entity_sums
from thaitool.metrics.intents import accuracy_sums, intent_outcomes, invalid_sums, macro_f1
from thaitool.metrics.join import Pair
from thaitool.metrics.monitors import collapse_monitors, distinct_ngrams, echoed_prompts
from thaitool.metrics.rephrase import proxy_sums
from thaitool.metrics.tones import tone_sums
from thaitool.metrics.transcripts import transcript_sums
from thaitool.records import Prediction, Reference, Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from thaitool.metrics.sums import ItemSums
    from thaitool.records import Utterance

    Errors = NDArray[np.float64]

#: By kind of task, the scores that are followed, the main one first; +1 where more is better, else -1.
SCORES: dict[str, dict[str, int]] = {
    "asr": {"cer": -1, "tone_error": -1},
    "ic": {"ic_accuracy": 1, "ic_macro_f1": 1, "ic_invalid_rate": -1},
    "ner": {"ner_f1_micro": 1, "ner_acc_all": 1, "ner_invalid_rate": -1},
    "sr": {"sr_proxy_chrf": 1, "sr_proxy_cer": -1, "sr_proxy_copy_rate": -1},
    "qa": {"qa_proxy_chrf": 1, "qa_proxy_exact": 1},
}
#: Signs of collapse that mean something only beside those of the references.
BESIDE = ("distinct_share", "top_share", "empty_share", "repeated_ngram_rate")
REFERENCES, SHUFFLED = "references", "shuffled_audio"
#: The mean over rows of what is wrong with each, at most 1, so that one answer that loops is one error.
ERROR = "error"
#: Draws of signs, and signs that exist at once.
_FLIPS, _SIGNS = 9_999, 1 << 20


@dataclass(frozen=True)
class HeldTask:
    """The held-out rows of one task that every evaluation answers, N of them."""

    name: str
    kind: str
    """One of `records.TASKS`: whose scores are its own."""
    rows: tuple[Utterance, ...]
    instructions: tuple[str, ...]
    references: tuple[str, ...]
    others: tuple[Utterance, ...] = ()
    """The same rows with the audio of a row that has another answer; empty if there is no other answer."""
    other_instructions: tuple[str, ...] = ()
    closed_set: tuple[str, ...] = ()


@dataclass(frozen=True)
class Told:
    """An answer, and whether the model ended it by itself."""

    text: str
    stopped: bool


def score_name(task: HeldTask, name: str) -> str:
    """What a score is called among the figures: `asr_cer` for `cer` of asr, `ic_accuracy` for `ic_accuracy` of ic."""
    return f"{task.name}_{name.removeprefix(f'{task.kind}_')}"


def directions(task: HeldTask) -> dict[str, int]:
    """The scores of a task that a checkpoint may be chosen by: +1 where more is better, else -1; the main one first."""
    return {score_name(task, name): sign for name, sign in SCORES[task.kind].items()}


def figures(
    task: HeldTask, told: Mapping[str, Told], other: Mapping[str, Told]
) -> dict[str, float]:
    """All figures of a task.

    Args:
        task: What was asked.
        told: By id of the row; rows whose audio could not be read are absent, one at least is there.
        other: The same with the audio of another row.

    Raises:
        InputError: a reference cannot be scored.
    """
    rows = [k for k, u in enumerate(task.rows) if u.id in told]
    answers = [told[task.rows[k].id] for k in rows]
    scores, errors = _scored(task, rows, answers)
    found = {"items": float(len(rows)), ERROR: float(errors.mean()), **scores}
    found |= _monitors(task, rows, answers)
    both = [place for place, k in enumerate(rows) if task.rows[k].id in other]
    if both:
        heard = [rows[place] for place in both]
        scores, wrong = _scored(task, heard, [other[task.rows[k].id] for k in heard])
        shuffled = {ERROR: float(wrong.mean()), **scores}
        found |= {f"{name}_{SHUFFLED}": value for name, value in shuffled.items()}
        found["audio_ignored_p"] = flip_test((wrong - errors[both]).tolist())
    return {f"{task.name}_{name}": value for name, value in found.items()}


def row_errors(task: HeldTask, told: Mapping[str, Told]) -> dict[str, float]:
    """How wrong each answer is, by id: from 0, right, to 1."""
    rows = [k for k, u in enumerate(task.rows) if u.id in told]
    if not rows:
        return {}
    _, errors = _scored(task, rows, [told[task.rows[k].id] for k in rows])
    return {task.rows[k].id: float(error) for k, error in zip(rows, errors, strict=True)}


def flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Chance of a mean as large or larger, if each difference had either sign by chance (Fisher's randomisation test).

    Of all ways to choose the signs 9,999 are drawn, and that which was found counts as one more.
    """
    values = np.asarray(differences, dtype=np.float64)
    rng, as_large = np.random.default_rng(seed), 0
    block = max(1, _SIGNS // max(1, len(values)))
    for at in range(0, _FLIPS, block):
        signs = rng.choice((-1.0, 1.0), size=(min(block, _FLIPS - at), len(values)))
        # Sums that differ by rounding are equal.
        as_large += int((signs @ values >= values.sum() - 1e-9).sum())
    return (as_large + 1) / (_FLIPS + 1)


def _scored(
    task: HeldTask, rows: Sequence[int], answers: Sequence[Told]
) -> tuple[dict[str, float], Errors]:
    """The scores of `SCORES` by name without the task, if anything was counted, and each row's error, at most 1.

    Errors are those of `metrics.tasks.ItemScore`. Its other scores (word error rates) would take seconds of an answer
    that loops.
    """
    gold, told = [task.references[k] for k in rows], [a.text for a in answers]
    found: dict[str, float | None] = {}
    if task.kind == "ic":
        outcomes = intent_outcomes(gold, told, task.closed_set)
        columns: tuple[ItemSums, ...] = (accuracy_sums(outcomes), invalid_sums(outcomes))
        found["ic_macro_f1"] = macro_f1(outcomes, draws=1).value
        errors = 1 - columns[0].numerators.astype(np.float64)
    elif task.kind == "ner":
        counts = [count_entities(g, t) for g, t in zip(gold, told, strict=True)]
        columns = entity_sums(counts)
        errors = np.array([float(c.errors + c.invalid) for c in counts])
    elif task.kind == "asr":
        columns = (transcript_sums(gold, told)[0], tone_sums(gold, told))
        errors = columns[0].numerators / np.maximum(columns[0].denominators, 1)
    else:
        said = [task.rows[k].text for k in rows]
        columns = (
            proxy_sums(gold, told, spoken=said) if task.kind == "sr" else answer_sums(gold, told)
        )
        errors = 1 - columns[0].numerators.astype(np.float64)
    for column in columns:
        counted = float(column.denominators.sum())
        found[column.name] = float(column.numerators.sum()) / counted if counted else None
    values = {
        name.removeprefix(f"{task.kind}_"): value
        for name in SCORES[task.kind]
        if (value := found.get(name)) is not None
    }
    return values, np.minimum(errors, 1.0)


def _monitors(task: HeldTask, rows: Sequence[int], answers: Sequence[Told]) -> dict[str, float]:
    gold = [Reference(str(k), task.kind, task.references[k], "", "") for k in rows]
    told = [
        Pair(r, Prediction(r.id, r.task, a.text, a.stopped))
        for r, a in zip(gold, answers, strict=True)
    ]
    best = [Pair(r, Prediction(r.id, r.task, r.text)) for r in gold]
    found = _values(collapse_monitors(told))
    beside = _values(collapse_monitors(best))
    found |= {f"{name}_{REFERENCES}": beside[name] for name in BESIDE if name in beside}
    texts = [a.text for a in answers]
    ngrams = [distinct_ngrams(texts, n) for n in (2, 3)]
    found |= _values([*ngrams, echoed_prompts(texts, [task.instructions[k] for k in rows])])
    right = _values(distinct_ngrams([r.text for r in gold], n) for n in (2, 3))
    found |= {f"{name}_{REFERENCES}": value for name, value in right.items()}
    distinct = round(found["distinct_share"] * len(rows))
    return {"distinct": float(distinct), **found}


def _values(scores: Iterable[Score]) -> dict[str, float]:
    return {score.name: value for score in scores if (value := score.value) is not None}
