"""Recordings to answers, in their order, as they become ready; a long recording is many clips. Loads no model.

As many clips as the engine has rows are on their way at a time, whatever their lengths: rows are packed, not padded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thaitool.audio.headers import BadAudio
from thaitool.data.loader import load_audio
from thaitool.data.shards import read_audio
from thaitool.errors import InputError
from thaitool.inference.recordings import STRETCH_S, Segment, is_split, joined, stretches
from thaitool.inference.request import Request, Sampling
from thaitool.text.context import Context, parse_context
from thaitool.text.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thaitool.config import InferConfig
    from thaitool.inference.engine import Engine, Running
    from thaitool.inference.sources import Recording
    from thaitool.records import Utterance

#: Clips that are decoded and wait beside those on their way.
_AHEAD = 8


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
    id: str | None = None
    """Of a recording that a list names."""
    segments: tuple[Segment, ...] | None = None
    """Of a recording that was cut."""


@dataclass
class _Open:
    """A recording whose answer is not given yet."""

    recording: Recording
    task: str
    spans: deque[tuple[float, float] | None] = field(default_factory=deque)
    """Stretches that are not asked about yet; None is all of it."""
    asked: list[tuple[tuple[float, float] | None, Running]] = field(default_factory=list)
    problem: str = ""
    told: int = 0
    """Characters that were told."""

    @property
    def done(self) -> bool:
        return bool(self.problem) or (not self.spans and all(r.done for _, r in self.asked))


def answers(
    engine: Engine,
    config: InferConfig,
    found: Iterator[Recording],
    told: Callable[[str, str], None] | None = None,
) -> Iterator[Answer]:
    """Answers in the order of the recordings; one that cannot be used gives an `Answer` with its error.

    Args:
        engine: Made with `config.rows`.
        config: What to ask.
        found: About which recordings.
        told: Called with a path and new text as it comes, of one recording after the other.

    Raises:
        InputError: there is no such task.
    """
    if config.task is not None:
        task_of(config.task, engine.tasks)
    waiting: deque[_Open] = deque()
    exhausted = False
    try:
        while True:
            exhausted = exhausted or _fill(config, engine, found, waiting)
            while waiting and waiting[0].done:
                _tell(waiting[0], told)
                yield _answer(waiting.popleft())
            if engine.busy:
                engine.step()
                if waiting:
                    _tell(waiting[0], told)
            elif exhausted and not waiting:
                return
    finally:
        # Whoever stops listening must not find old requests in the engine.
        for one in waiting:
            for _, running in one.asked:
                engine.drop(running)


def _fill(
    config: InferConfig, engine: Engine, found: Iterator[Recording], waiting: deque[_Open]
) -> bool:
    """Asks about the next stretches until there are enough to work on; whether there are no more recordings."""
    while engine.load < engine.max_rows + _AHEAD and len(waiting) < 8 * engine.max_rows:
        begun = next((one for one in waiting if one.spans and not one.problem), None)
        if begun is None:
            recording = next(found, None)
            if recording is None:
                return True
            waiting.append(_opened(config, engine, recording))
            continue
        span = begun.spans.popleft()
        try:
            begun.asked.append((span, engine.submit(_request(config, begun, span))))
        except BadAudio as bad:
            # A stretch of a recording may be silent: then nothing was said there.
            if span is None or bad.reason not in {"silent", "too_short"}:
                begun.problem = f"{bad.reason}: {bad.detail}"
        except InputError as error:
            begun.problem = str(error)
        if begun.problem:
            begun.spans.clear()
            for _, running in begun.asked:
                engine.drop(running)
    return False


def _opened(config: InferConfig, engine: Engine, recording: Recording) -> _Open:
    utterance = recording.utterance
    task = config.task or (utterance.task if utterance else None) or "asr"
    if utterance is None:
        return _Open(recording, task, problem=recording.problem)
    try:
        longest_s = _longest_s(config, engine, task)
        if longest_s is None or utterance.duration_s <= longest_s:
            return _Open(recording, task, deque([None]))
        spans = _cut(utterance, longest_s)
    except BadAudio as bad:
        return _Open(recording, task, problem=f"{bad.reason}: {bad.detail}")
    except InputError as error:
        return _Open(recording, task, problem=str(error))
    return _Open(recording, task, deque(spans), problem="" if spans else "silent: no speech in it")


def _longest_s(config: InferConfig, engine: Engine, task: str) -> float | None:
    """Seconds from which on a recording is cut; None never cuts, and what is too long is an error then."""
    hears = engine.longest_s
    wanted = config.split_s
    if wanted is None:
        splits = config.prompt is None and is_split(task_of(task, engine.tasks))
        wanted = STRETCH_S if splits else None
    if wanted is None or hears is None:
        return wanted
    return min(wanted, hears)


def _cut(utterance: Utterance, longest_s: float) -> list[tuple[float, float]]:
    ref = utterance.audio
    return stretches(
        ref.path if ref.row is None else read_audio(ref),
        str(ref),
        longest_s,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        offset=ref.offset,
        n_bytes=ref.n_bytes,
    )


def _request(config: InferConfig, one: _Open, span: tuple[float, float] | None) -> Request:
    utterance = one.recording.utterance
    assert utterance is not None  # noqa: S101 (it would have a problem; narrows the type)
    known = parse_context(utterance.context)
    context = Context(
        tuple(config.hotwords) or known.hotwords,
        config.scene or known.scene,
        tuple(config.history) or known.history,
        known.draft,
    )
    prompt = config.prompt
    if prompt is None and config.task in {None, utterance.task}:
        prompt = utterance.prompt
    return Request(
        load_audio(utterance, span),
        one.task,
        prompt,
        context,
        Sampling(config.temperature, config.top_p, config.seed, config.max_new_tokens),
        config.form,
        tuple(config.labels),
    )


def _tell(one: _Open, told: Callable[[str, str], None] | None) -> None:
    """Tells what is new of a recording, as far as its stretches before are done."""
    if told is None or one.problem:
        return
    texts = []
    for _, running in one.asked:
        texts.append(running.text)
        if not running.done:
            break
    text = " ".join(t for t in texts if t)
    if len(text) > one.told:
        told(one.recording.path, text[one.told :])
        one.told = len(text)


def _answer(one: _Open) -> Answer:
    recording, utterance = one.recording, one.recording.utterance
    name = utterance.id if utterance is not None and recording.listed else None
    problem = one.problem or next((r.error for _, r in one.asked if r.error is not None), "")
    if utterance is None or problem:
        return Answer(recording.path, one.task, None, error=problem, id=name)
    replies = [(span, r.reply) for span, r in one.asked if r.reply is not None]
    if not replies:
        return Answer(recording.path, one.task, None, error="silent: no speech in it", id=name)
    segments = tuple(
        Segment(*span, reply.text, reply.stopped) for span, reply in replies if span is not None
    )
    return Answer(
        recording.path,
        one.task,
        joined(segments) if segments else replies[0][1].text,
        all(reply.stopped for _, reply in replies),
        round(utterance.duration_s, 3),
        round(sum(reply.seconds for _, reply in replies), 4),
        id=name,
        segments=segments or None,
    )
