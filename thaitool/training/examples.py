"""What each row is asked and what it should answer, for training and for evaluation alike; and which rows can be asked.

Renders no chat template (`models.processor` does) and reads no audio.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.data.manifest import Manifest
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.records import Rejected
from thaitool.text.context import parse_context, with_context
from thaitool.text.tasks import instruction, task_of
from thaitool.training.hotwords import drawn_context

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thaitool.records import Utterance
    from thaitool.text.tasks import TaskSpec
    from thaitool.training.hotwords import HotwordDraws

#: Paraphrases are drawn as if from so many; a multiple of all small numbers, so that each comes equally often.
_DRAWS = 27_720
#: Rows that are Python objects at a time.
_BLOCK_ROWS = 1 << 16


def asked(
    utterances: Sequence[Utterance],
    tasks: Mapping[str, TaskSpec],
    *,
    seed: int | None,
    contexts: HotwordDraws | None = None,
) -> tuple[list[str], list[str]]:
    """The instruction and the answer of each row.

    Args:
        utterances: Rows; one without a task is a transcription.
        tasks: All tasks by name.
        seed: None asks as evaluation does: by the first prompt, with the row's own context. A number draws a paraphrase
            for each row, and its hotwords if there are `contexts`, from (seed, id of the row) alone: the same in any
            batch and process.
        contexts: How hotword lists are drawn; None keeps those of the row.

    Raises:
        InputError: a row has another task, or a context that cannot be read.
    """
    instructions, answers = [], []
    for utterance in utterances:
        spec = task_of(utterance.task or "asr", tasks)
        context = parse_context(utterance.context)
        draw: int | None = None
        if seed is not None:
            # crc32, not hash(): Python's string hash differs between processes.
            rng = np.random.default_rng([seed, zlib.crc32(utterance.id.encode())])
            draw = int(rng.integers(_DRAWS))
            if contexts is not None:
                context = drawn_context(utterance, contexts, rng)
        own = utterance.prompt or instruction(spec, draw=draw)
        instructions.append(with_context(own, context))
        answers.append(answer_of(utterance, spec))
    return instructions, answers


def answer_of(utterance: Utterance, spec: TaskSpec) -> str:
    """What a row should answer: its label; for a task scored as transcription, its text if it has no label."""
    if utterance.label is None and spec.metric == "asr":
        return utterance.text or ""
    return utterance.label or ""


def askable(manifest: Manifest, tasks: Mapping[str, TaskSpec]) -> tuple[Manifest, list[Rejected]]:
    """The rows that can be learned from, and why the others cannot.

    Set aside are rows whose answer is empty (`no_answer`: a model would learn to say nothing), whose answer, prompt or
    context holds the audio placeholder (`placeholder`: every embedding would shift), or whose context cannot be read
    (`bad_context`).

    Raises:
        InputError: a row has a task that is not among `tasks`, or no row is left.
    """
    _require_known(manifest, tasks)
    reasons: dict[int, tuple[str, str]] = {}
    names = ("text", "task", "label", "prompt", "context")
    rows = np.arange(len(manifest)) if manifest.rows is None else manifest.rows
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = Manifest(manifest.table, rows[start : start + _BLOCK_ROWS])
        columns = [block.column(name).to_pylist() for name in names]
        for k, (text, task, label, prompt, context) in enumerate(zip(*columns, strict=True)):
            is_text = label is None and tasks[task or "asr"].metric == "asr"
            found = _problem(text if is_text else label, prompt, context)
            if found is not None:
                reasons[start + k] = found
    rejected = [Rejected(manifest[k].place, *reason) for k, reason in reasons.items()]
    if len(reasons) == len(manifest):
        first = f"; the first: {rejected[0].item}: {rejected[0].detail}" if rejected else ""
        raise InputError(
            f"Rows must have something to answer, but none of {len(manifest)} can be learned from{first}."
        )
    if not reasons:
        return manifest, []
    keep = np.ones(len(manifest), dtype=bool)
    keep[list(reasons)] = False
    return manifest.select(keep), rejected


def _require_known(manifest: Manifest, tasks: Mapping[str, TaskSpec]) -> None:
    present = pc.unique(pc.fill_null(manifest.column("task"), "asr")).to_pylist()
    for name in present:
        task_of(name, tasks)


def _problem(answer: str | None, prompt: str | None, context: str | None) -> tuple[str, str] | None:
    """Reason and detail why a row cannot be learned from."""
    if not answer or not answer.strip():
        return "no_answer", "its answer is empty"
    texts = {"answer": answer, "prompt": prompt, "context": context}
    held = [name for name, text in texts.items() if text is not None and AUDIO_TOKEN in text]
    if held:
        return "placeholder", f"its {held[0]} holds {AUDIO_TOKEN}, the audio placeholder"
    if context is not None:
        try:
            parse_context(context)
        except InputError as error:
            return "bad_context", str(error)
    return None


def task_rows(manifest: Manifest, names: Sequence[str]) -> Manifest:
    """The rows of some tasks; a row without one is a transcription."""
    column = pc.fill_null(manifest.column("task"), "asr")
    is_one = pc.is_in(column, value_set=pa.array(list(names), pa.string()))
    return manifest.select(np.asarray(is_one.to_numpy(), dtype=bool))
