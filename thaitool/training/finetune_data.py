"""The rows that `finetune` learns from and those it is judged on: read, sorted by task and split, counted.

Reads manifests, not audio; draws nothing at random.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.manifest import Manifest, check_share, require_trainable
from thaitool.data.plan import BatchPlan, make_plan, make_token_plan
from thaitool.data.scan import scan
from thaitool.data.window import within_window
from thaitool.errors import InputError
from thaitool.models.packing import row_tokens
from thaitool.records import Rejected
from thaitool.text.context import Context, context_text, parse_context, with_context
from thaitool.text.tasks import load_tasks, task_of, tasks_of
from thaitool.training.drafts import with_draft
from thaitool.training.examples import askable, asked, task_rows
from thaitool.training.hotwords import HotwordDraws, hotword_pool
from thaitool.training.pretraining import held_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from thaitool.config import FinetuneConfig
    from thaitool.models.encoders.interface import SpeechEncoder
    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.records import Utterance
    from thaitool.text.tasks import TaskSpec

#: Rows that are Python objects at a time.
_ROWS = 1 << 16
#: Words whose length is looked at; and deviations by which a list of many is longer than most are.
_WORDS, _DEVIATIONS = 10_000, 3


@dataclass(frozen=True)
class Sets:
    """Training and held-out rows, and what was set aside of either."""

    train: Manifest
    dev: Manifest
    rejected: list[Rejected]
    contexts: HotwordDraws | None
    """How lists of words that may be said are drawn for training, if they are."""


@dataclass(frozen=True)
class Fitting:
    """The rows that a model can be given whole."""

    train: Manifest
    tokens: NDArray[np.int32]
    """Of each training row with its audio and answer, at most: asked in the longest wording, with the longest list of
    words that may be drawn; shape (N,). A draft counts as its transcript."""
    dev: Manifest
    rejected: list[Rejected]
    """All that was set aside so far."""


def known_tasks(config: FinetuneConfig, model: Path) -> dict[str, TaskSpec]:
    """The tasks of a checkpoint and those of the configuration's file, all that are asked for among them.

    Raises:
        InputError: a task that is asked for is not known.
        ConfigError: the file has mistakes.
    """
    tasks = tasks_of(model)
    if config.task_file is not None:
        tasks = load_tasks(config.task_file, tasks)
    for name in config.tasks:
        task_of(name, tasks)
    return tasks


def row_tasks(manifest: Manifest, config: FinetuneConfig) -> NDArray[np.int16]:
    """Which of the configuration's tasks each row is of, shape (N,)."""
    column = pc.fill_null(manifest.column("task"), "asr")
    found = pc.index_in(column, value_set=pa.array(config.tasks, pa.string()))
    return np.asarray(found.to_numpy(), dtype=np.int16)


def read_sets(config: FinetuneConfig, tasks: Mapping[str, TaskSpec]) -> Sets:
    """All rows of the tasks asked for that can be asked and answered.

    Raises:
        InputError: a task has no rows, or rows are not to be trained on.
        QuarantineError: too many rows cannot be used.
    """
    limit = config.train.max_rejected_share
    train, rejected = scan(config.data, split="train", max_rejected_share=limit)
    dev, dev_rejected = scan(config.dev_data or config.data, split="dev", max_rejected_share=limit)
    if not config.dev_data:
        train, dev = _apart(train, dev, config)
    contexts = _contexts(train, config, tasks)
    train, no_answer = _of_tasks(train, "train", config, tasks)
    dev, dev_no_answer = _of_tasks(dev, "dev", config, tasks)
    check_share([*no_answer, *dev_no_answer], len(train) + len(dev), limit)
    require_trainable(train, allowed=config.allow_untrainable)
    rejected += [*dev_rejected, *no_answer, *dev_no_answer]
    return Sets(train, dev, rejected, contexts)


def _contexts(
    train: Manifest, config: FinetuneConfig, tasks: Mapping[str, TaskSpec]
) -> HotwordDraws | None:
    if not config.hotword_share:
        return None
    pool = hotword_pool(train, [name for name, spec in tasks.items() if spec.metric == "ner"])
    if not pool.words:
        raise InputError(
            f"hotword_share is {config.hotword_share:g}, but the training rows name no words: none has an entity label,"
            " and none a context with hotwords. Set it to 0, or add such rows."
        )
    return HotwordDraws(pool, config.hotword_share, config.hotwords)


def _apart(train: Manifest, dev: Manifest, config: FinetuneConfig) -> tuple[Manifest, Manifest]:
    """Rows of no known split are in both; they are trained on, but a share of them where nothing is held out."""
    known = ~np.asarray(pc.is_null(dev.column("split")).to_numpy(), dtype=bool)
    if known.any() or not len(dev):
        return train, dev.select(known)
    without = np.asarray(pc.is_null(train.column("split")).to_numpy(), dtype=bool)
    held = np.zeros(len(train), dtype=bool)
    held[without] = held_out(
        train.select(without), share=config.dev_share, limit_s=3600 * config.dev_hours
    )
    return train.select(~held), train.select(held)


def _of_tasks(
    manifest: Manifest, split: str, config: FinetuneConfig, tasks: Mapping[str, TaskSpec]
) -> tuple[Manifest, list[Rejected]]:
    counts = task_counts(manifest)
    if missing := [name for name in config.tasks if not counts[name]]:
        data = ", ".join(str(path) for path in config.data)
        raise InputError(
            f"{data} must have {split} rows for every task asked for, but has none for {', '.join(missing)}."
        )
    return askable(task_rows(manifest, config.tasks), tasks)


def task_counts(manifest: Manifest) -> Counter[str]:
    """Rows by task; a row without one is a transcription."""
    counted = pc.value_counts(pc.fill_null(manifest.column("task"), "asr")).to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in counted})


def fitting(
    config: FinetuneConfig,
    sets: Sets,
    tasks: Mapping[str, TaskSpec],
    encoder: SpeechEncoder,
    model_config: Any,
    processor: ThaiSpeechProcessor,
) -> Fitting:
    """Rows that the encoder can hear at once and that are within the LLM's context, nothing being cut off.

    Raises:
        QuarantineError: too many rows are left out.
    """
    context = model_config.text_config.max_position_embeddings
    limit = config.train.max_rejected_share
    rejected = list(sets.rejected)
    found = []
    asked_longest = longest_wordings(tasks, processor) if config.paraphrases else tasks
    listed = 0 if sets.contexts is None else list_tokens(sets.contexts, processor)
    for rows in (sets.train, sets.dev):
        heard, too_long = within_window(rows, encoder.longest_samples, max_rejected_share=limit)
        drawn = rows is sets.train
        tokens = _row_tokens(
            heard,
            asked_longest if drawn else tasks,
            processor,
            drafts=config.drafter is not None,
            listed=listed if drawn else 0,
        )
        fits = tokens <= context
        beyond = [
            Rejected(
                heard[int(row)].place,
                "beyond_context",
                f"{tokens[row]} tokens with audio and answer, the LLM has places for {context}",
            )
            for row in (~fits).nonzero()[0]
        ]
        check_share(beyond, len(heard), limit)
        rejected += [*too_long, *beyond]
        found.append((heard.select(fits) if beyond else heard, tokens[fits]))
    (train, tokens), (dev, _) = found
    return Fitting(train, tokens, dev, rejected)


def _row_tokens(
    manifest: Manifest,
    tasks: Mapping[str, TaskSpec],
    processor: ThaiSpeechProcessor,
    *,
    drafts: bool,
    listed: int,
) -> NDArray[np.int32]:
    found = []
    for start in range(0, len(manifest), _ROWS):
        rows = [manifest[i] for i in range(start, min(start + _ROWS, len(manifest)))]
        if drafts:  # not made yet: a transcript is about as long
            rows = [with_draft(row, row.text or "") for row in rows]
        if listed:  # drawn lists take the place of the rows' own
            rows = [_without_hotwords(row) for row in rows]
        instructions, answers = asked(rows, tasks, seed=None)
        samples = [round(row.duration_s * SAMPLE_RATE_HZ) for row in rows]
        found.append(row_tokens(processor, instructions, samples, answers) + np.int32(listed))
    return np.concatenate(found)


def _without_hotwords(row: Utterance) -> Utterance:
    if row.context is None:
        return row
    return replace(row, context=context_text(replace(parse_context(row.context), hotwords=())))


def longest_wordings(
    tasks: Mapping[str, TaskSpec], processor: ThaiSpeechProcessor
) -> dict[str, TaskSpec]:
    """The tasks with one wording each, the one of most tokens."""

    def size(prompt: str) -> int:
        ids: list[int] = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return len(ids)

    return {
        name: replace(spec, prompts=(max(spec.prompts, key=size),)) for name, spec in tasks.items()
    }


def list_tokens(draws: HotwordDraws, processor: ThaiSpeechProcessor) -> int:
    """Tokens that a drawn list of words adds to a prompt: of lists of full length hardly one in 700 has more."""
    words = draws.pool.words
    chosen = [words[k] for k in np.linspace(0, len(words) - 1, min(len(words), _WORDS)).astype(int)]
    ids = processor.tokenizer([f", {word}" for word in chosen], add_special_tokens=False)
    sizes = np.array([len(row) for row in ids["input_ids"]])
    n = min(draws.most, len(words))
    most = min(n * sizes.mean() + _DEVIATIONS * math.sqrt(n) * sizes.std(), n * sizes.max())
    first = with_context("", Context(hotwords=(chosen[0],)))
    before = len(processor.tokenizer(first, add_special_tokens=False)["input_ids"])
    return before + math.ceil(float(most))


def plan_batches(
    manifest: Manifest, tokens: NDArray[np.int32], config: FinetuneConfig
) -> BatchPlan:
    """The order of training: by seconds or by tokens, with the tasks' weights.

    Args:
        manifest: Rows of training.
        tokens: Of each row, shape (N,).
        config: Its `weights`, `batch_tokens` and `packing`.
    """
    part, repeat = None, None
    if config.weights is not None:
        part = row_tasks(manifest, config)
        repeat = repeats(part, [config.weights[name] for name in config.tasks])
    seed = config.train.seed
    if config.batch_tokens is None:
        batch_s = config.train.batch_s
        return make_plan(manifest.duration_s, batch_s=batch_s, seed=seed, part=part, repeat=repeat)
    return make_token_plan(
        tokens,
        batch_tokens=config.batch_tokens,
        seed=seed,
        part=part,
        repeat=repeat,
        mixed=config.packing,
    )


def repeats(part: NDArray[np.integer], weights: Sequence[float]) -> list[float]:
    """By part, how many times an epoch takes each row, so that rows are drawn in the ratio of the weights.

    An epoch has as many rows as there are, up to rounding.

    Args:
        part: Of every row, shape (N,); every part has rows.
        weights: By part, above 0.
    """
    counts = np.bincount(part, minlength=len(weights))
    per_weight = len(part) / sum(weights)
    return [w * per_weight / int(n) for w, n in zip(weights, counts.tolist(), strict=True)]
