"""Answers about sound files, one at a time as they become ready. Scores nothing and writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.audio.headers import BadAudio, probe
from thaitool.config import InferConfig
from thaitool.data.loader import collate
from thaitool.models.answerer import Answerer, load_answerer, require_task
from thaitool.records import AudioRef, Progress, Utterance, silent
from thaitool.text.prompts import task_prompt
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """One line of output: an answer, or why there is none."""

    path: str
    task: str
    text: str | None
    stopped: bool = False
    audio_s: float = 0.0
    seconds: float = 0.0
    error: str | None = None


def run(config: InferConfig, progress: Progress = silent) -> Iterator[Answer]:
    """Answers in the order of `config.audio`; a file that cannot be read gives an `Answer` with its error.

    Raises:
        InputError: the model directory is none, its LLM is not where it was, or it is a recogniser and something else
            than a transcript was asked for.
        EnvironmentProblem: CUDA was asked for and there is none.
    """
    path = resolve(config.model)
    require_task(path, [config.task], config.prompt)
    model = load_answerer(path, config)
    prompt = config.prompt if config.prompt is not None else task_prompt(config.task)
    with progress("infer", len(config.audio)) as advance:
        for group in _groups(config.audio, config.batch_s, model):
            began = time.perf_counter()
            utterances = [u for u, _ in group if u is not None]
            batch = collate(0, 0, utterances, normalised=model.normalises)
            failed = {r.item: f"{r.reason}: {r.detail}" for r in batch.rejected}
            texts: list[tuple[str, bool]] = []
            if batch.utterances:
                texts = model.answer(
                    batch.audio, batch.audio_lengths, [prompt] * len(batch.utterances)
                )
            seconds = round((time.perf_counter() - began) / max(1, len(batch.utterances)), 4)
            said = {u.id: t for u, t in zip(batch.utterances, texts, strict=True)}
            for utterance, problem in group:
                advance()
                if utterance is None:
                    yield Answer(problem[0], config.task, None, error=problem[1])
                elif utterance.id in said:
                    text, stopped = said[utterance.id]
                    yield Answer(
                        utterance.audio.path,
                        config.task,
                        text,
                        stopped,
                        round(utterance.duration_s, 3),
                        seconds,
                    )
                else:
                    yield Answer(
                        utterance.audio.path, config.task, None, error=failed[str(utterance.audio)]
                    )


def _groups(
    paths: list[Path], batch_s: float, model: Answerer
) -> Iterator[list[tuple[Utterance | None, tuple[str, str]]]]:
    """Files in their order, cut where the padded seconds would pass `batch_s`; unusable ones carry their error."""
    group: list[tuple[Utterance | None, tuple[str, str]]] = []
    longest = 0.0
    for number, path in enumerate(paths):
        utterance, problem = _look(path, number, model)
        length = utterance.duration_s if utterance else 0.0
        if group and max(longest, length) * (len(group) + 1) > batch_s:
            yield group
            group, longest = [], 0.0
        group.append((utterance, (str(path), problem)))
        longest = max(longest, length)
    if group:
        yield group


def _look(path: Path, number: int, model: Answerer) -> tuple[Utterance | None, str]:
    try:
        header = probe(path)
    except BadAudio as bad:
        return None, f"{bad.reason}: {bad.detail}"
    except OSError as error:
        return None, f"unreadable: {error.strerror or error}"
    if too_long := model.too_long(header.duration_s):
        return None, too_long
    return Utterance(f"{number}", AudioRef(str(path)), header.duration_s, header.sample_rate_hz), ""
