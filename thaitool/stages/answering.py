"""The answers of a model to the items of a test set, each on disk as soon as it is made. Scores nothing.

A run that was stopped goes on where it was: what its file already holds is not asked again.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thaitool.data.manifest import Manifest
from thaitool.errors import InputError
from thaitool.records import Prediction, Utterance
from thaitool.reports.items import read_keywords
from thaitool.reports.predictions import Answers, Failure, append, reopen
from thaitool.text.context import context_text, parse_context
from thaitool.text.prompts import PROMPTS
from thaitool.training.hotwords import hotword_pool, listed_context
from thaitool.training.interrupt import noting_signals, stop_if_asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from thaitool.config import EvalConfig
    from thaitool.models.answerer import Answerer
    from thaitool.models.drafter import Drafter
    from thaitool.records import Progress
    from thaitool.text.context import Context
    from thaitool.text.tasks import TaskSpec

PREDICTIONS = "predictions.jsonl"
SHUFFLED = "predictions.shuffled.jsonl"
#: The answers of a second pass without what is known beforehand.
NO_CONTEXT = "predictions.no-context.jsonl"


@dataclass(frozen=True)
class Asking:
    """How items are put to a model."""

    config: EvalConfig
    tasks: Mapping[str, TaskSpec]
    loaded: Callable[[], tuple[Answerer, Drafter | None]]
    """The model, and the recogniser of its drafts; asked for with the first question: a finished file needs none."""
    progress: Progress


def item_contexts(
    config: EvalConfig, items: Manifest, tasks: Mapping[str, TaskSpec]
) -> dict[str, str]:
    """What is known beforehand about each item that has such a thing, as JSON, by id; with the hotwords asked for.

    Raises:
        InputError: a list is to be drawn, but the data has no names; or a context cannot be read.
    """
    known = items.column("context")
    if config.hotwords is None and config.hotwords_file is None:
        if known.null_count == len(items):
            return {}
        pairs = zip(items.column("id").to_pylist(), known.to_pylist(), strict=True)
        return {name: text for name, text in pairs if text is not None}
    return {
        item.id: text
        for item, context in _with_hotwords(config, items, tasks)
        if (text := context_text(context)) is not None
    }


def _with_hotwords(
    config: EvalConfig, items: Manifest, tasks: Mapping[str, TaskSpec]
) -> Iterator[tuple[Utterance, Context]]:
    rows = (items[k] for k in range(len(items)))
    if config.hotwords_file is not None:
        words = read_keywords(config.hotwords_file)
        yield from ((u, replace(_known(u.id, u.context), hotwords=words)) for u in rows)
        return
    # Of all rows of the data, not only of those that are asked: names of other items are the others of a list.
    pool = hotword_pool(
        Manifest(items.table), [name for name, spec in tasks.items() if spec.metric == "ner"]
    )
    if not pool.words:
        raise InputError(
            f"hotwords: {config.hotwords} draws lists of names, but {config.data} has none: it needs rows of task ner,"
            " or contexts with hotwords. Give a list by hotwords_file."
        )
    for u in rows:
        _known(u.id, u.context)
        rng = np.random.default_rng([config.seed, zlib.crc32(u.id.encode())])
        yield u, listed_context(u, pool, config.hotwords or 1, rng)


def listed_words(contexts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The hotwords of the contexts that have some, by id of the item."""
    known = ((name, _known(name, text).hotwords) for name, text in contexts.items())
    return {name: words for name, words in known if words}


def _known(name: str, text: str | None) -> Context:
    """`parse_context`, for an item that its error names."""
    try:
        return parse_context(text)
    except InputError as error:
        raise InputError(f"Item {name}: {error}") from error


def questions_sha256(utterances: Sequence[Utterance], tasks: Mapping[str, TaskSpec]) -> str | None:
    """Hash of what is asked about all utterances; None if each is asked by the built-in prompt of its task alone.

    Prompts, words and contexts are files that may change; answers on disk are not those to others.
    """
    from thaitool.training.examples import asked

    instructions, _ = asked(utterances, tasks, seed=None)
    if all(
        i == PROMPTS.get(u.task or "asr") for u, i in zip(utterances, instructions, strict=True)
    ):
        return None
    digest = hashlib.sha256()
    for u, text in zip(utterances, instructions, strict=True):
        digest.update(f"{u.id}\0{text}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def answer_all(
    config: EvalConfig,
    utterances: Sequence[Utterance],
    tasks: Mapping[str, TaskSpec],
    progress: Progress,
) -> tuple[Answers, Answers | None]:
    """The answers about all utterances, and those with the audio of others if that is wanted.

    With `context: both`, those without context go to their file. A model that was trained with drafts gets them with
    its context, of what it hears.
    """
    models: list[tuple[Answerer, Drafter | None]] = []

    def loaded() -> tuple[Answerer, Drafter | None]:
        if not models:
            from thaitool.models.answerer import load_answerer
            from thaitool.models.device import choose_device
            from thaitool.models.drafter import drafter_of
            from thaitool.training.run_dir import resolve

            assert config.model is not None  # noqa: S101 (checked by the stage; narrows the type)
            path = resolve(config.model)
            drafter = drafter_of(path, config.drafter, choose_device(config.device))
            models.append((load_answerer(path, config), drafter))
        return models[0]

    asking = Asking(config, tasks, loaded, progress)
    out = config.out
    bare = [replace(u, context=None) for u in utterances] if config.context != "with" else []
    asked = bare if config.context == "without" else utterances
    drafts = config.context != "without"
    answers = _answer(asking, asked, asked, out / PREDICTIONS, "eval", with_drafts=drafts)
    if config.context == "both":
        described = "eval, without context"
        _answer(asking, bare, bare, out / NO_CONTEXT, described, with_drafts=False)
    if not config.shuffled:
        return answers, None
    failed = {(f.id, f.task) for f in answers.failures}
    good = [u for u in asked if (u.id, u.task or "asr") not in failed]
    others = shuffle_audio(good, config.seed)
    file, described = out / SHUFFLED, "eval, shuffled audio"
    return answers, _answer(asking, good, others, file, described, with_drafts=drafts)


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
    asking: Asking,
    asked: Sequence[Utterance],
    heard: Sequence[Utterance],
    file: Path,
    description: str,
    *,
    with_drafts: bool,
) -> Answers:
    """Answers the question of each utterance of `asked` about the audio of the one at the same place in `heard`.

    What `file` already holds is not asked again.
    """
    done = reopen(file)
    known = {(p.id, p.task) for p in done.predictions} | {(f.id, f.task) for f in done.failures}
    # Longest first: memory runs out at once or never.
    order = sorted(range(len(heard)), key=lambda i: -heard[i].duration_s)
    order = [i for i in order if (asked[i].id, asked[i].task or "asr") not in known]
    if not order:
        return done
    model, drafter = asking.loaded()
    drafter = drafter if with_drafts else None
    said = asking.progress(description, len(asked), len(known))
    with noting_signals() as received, said as advance:
        start = 0
        while start < len(order):
            size = max(1, int(asking.config.batch_s // heard[order[start]].duration_s))
            rows = order[start : start + size]
            start += size
            pairs = [(asked[i], heard[i]) for i in rows]
            made, failed = _batch(pairs, model, drafter, asking.tasks)
            append(file, made, failed)
            done.predictions.extend(made)
            done.failures.extend(failed)
            advance(len(rows))
            stop_if_asked(received, description)
    return done


def _batch(
    pairs: Sequence[tuple[Utterance, Utterance]],
    model: Answerer,
    drafter: Drafter | None,
    tasks: Mapping[str, TaskSpec],
) -> tuple[list[Prediction], list[Failure]]:
    """The answers about some recordings, each asked what goes with the other one of its pair, and what failed."""
    from thaitool.data.loader import collate, pad
    from thaitool.training.drafts import with_draft
    from thaitool.training.examples import asked

    began = time.perf_counter()
    bad: dict[str, str] = {}
    for _, heard in pairs:
        if reason := model.too_long(heard.duration_s) or _too_long(drafter, heard.duration_s):
            bad[heard.place] = reason
    usable = [heard for _, heard in pairs if heard.place not in bad]
    # A recogniser takes audio at its own level.
    batch = collate(0, 0, usable, normalised=model.normalises and drafter is None)
    bad |= {r.item: f"{r.reason}: {r.detail}" for r in batch.rejected}
    good = [question for question, heard in pairs if heard.place not in bad]
    answers: list[tuple[str, bool]] = []
    if good:
        audio, lengths = batch.audio, batch.audio_lengths
        if drafter is not None:
            clips = [row[:n].numpy() for row, n in zip(audio, lengths.tolist(), strict=True)]
            drafts = zip(good, drafter(clips), strict=True)
            good = [u if parse_context(u.context).draft else with_draft(u, d) for u, d in drafts]
            audio, lengths = pad(clips, normalised=model.normalises)
        answers = model.answer(audio, lengths, asked(good, tasks, seed=None)[0])
    seconds = round((time.perf_counter() - began) / max(1, len(good)), 4)
    made = [
        Prediction(u.id, u.task or "asr", text, stopped, heard.duration_s, seconds)
        for u, heard, (text, stopped) in zip(good, batch.utterances, answers, strict=True)
    ]
    failed = [
        Failure(u.id, u.task or "asr", bad[heard.place]) for u, heard in pairs if heard.place in bad
    ]
    return made, failed


def _too_long(drafter: Drafter | None, duration_s: float) -> str | None:
    """The reason why a clip cannot be drafted, as in the ledger; None if it can."""
    if drafter is None or drafter.longest_s is None or duration_s <= drafter.longest_s:
        return None
    return f"too_long: {duration_s:.2f} s, the recogniser of drafts hears {drafter.longest_s:g} s"
