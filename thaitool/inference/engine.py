"""A loaded model that answers requests which come and go, token by token. One thread owns it; knows no files.

Requests join a running decode at any step and leave it when they end. With a speech LLM in float32 on a CPU, an answer
is the same bit for bit whatever is answered beside it (`models.rows`); a recogniser hears each clip alone there.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ, normalise
from thaitool.errors import InputError
from thaitool.inference.forms import entity_form, label_form
from thaitool.inference.request import Reply, Request, Sampling
from thaitool.models.answerer import load_answerer
from thaitool.models.drafter import drafter_of
from thaitool.models.generate import Choice
from thaitool.text.context import Context, with_context
from thaitool.text.tasks import instruction, task_of, tasks_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from thaitool.config import EvalConfig, InferConfig, ServeConfig
    from thaitool.models.answerer import Answerer
    from thaitool.models.drafter import Drafter
    from thaitool.models.generate import Form, Row
    from thaitool.text.tasks import TaskSpec

#: Closed sets that are kept ready.
_MOST_FORMS = 32

__all__ = ["Engine", "Reply", "Request", "Running", "Sampling", "load_engine"]


@dataclass
class Running:
    """A request between its coming and its answer."""

    request: Request
    """Without its audio once it is done."""
    instruction: str
    engine: Engine = field(repr=False)
    prompt_tokens: int = 0
    row: Row | None = field(default=None, repr=False)
    reply: Reply | None = None
    error: str | None = None
    began_s: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether `reply` or `error` is there."""
        return self.reply is not None or self.error is not None

    @property
    def text(self) -> str:
        """What is said so far; it only grows."""
        if self.reply is not None:
            return self.reply.text
        if self.row is None or self.engine.model.decoder is None:
            return ""
        # A character of several tokens is not there before its last one.
        return self.engine.model.decoder.text(self.row).rstrip("\ufffd")

    def forget(self) -> None:
        """Lets the audio go: whoever keeps answers of hours must not keep the hours."""
        self.request = replace(self.request, audio=np.zeros(0, np.float32))
        self.row = None


class Engine:
    """Answers many requests at a time with one model."""

    def __init__(
        self,
        model: Answerer,
        *,
        name: str,
        tasks: dict[str, TaskSpec],
        max_rows: int = 32,
        drafter: Drafter | None = None,
    ) -> None:
        """Takes the model.

        Args:
            model: A speech LLM or a recogniser.
            name: What it is called.
            tasks: What can be asked, by name.
            max_rows: Answers on their way at the same time; more wait.
            drafter: Of a model that was trained with drafts: writes those that requests come without.
        """
        self.model, self.name, self.tasks, self.max_rows = model, name, tasks, max_rows
        self._drafter = drafter
        self._waiting: deque[Running] = deque()
        self._running: list[Running] = []
        self._forms: dict[tuple[str, tuple[str, ...]], Form] = {}

    @property
    def longest_s(self) -> float | None:
        """Seconds of the longest clip that it can hear at once; None if there is no limit."""
        return self.model.longest_s

    @property
    def busy(self) -> bool:
        """Whether anything waits or is on its way."""
        return bool(self._waiting or self._running)

    @property
    def load(self) -> int:
        """Requests that wait or are on their way."""
        return len(self._waiting) + len(self._running)

    def check(self, request: Request) -> None:
        """Raises `InputError` if the request cannot be answered: its audio, task, form or length."""
        self._prepared(request)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """The answers, in order.

        Raises:
            InputError: one of the requests cannot be answered; none is then.
        """
        prepared = [self._prepared(request) for request in requests]
        self._waiting.extend(prepared)
        try:
            while not all(running.done for running in prepared):
                self.step()
        finally:
            # After an interruption nobody waits for the others.
            for running in prepared:
                if not running.done:
                    self.drop(running)
        failed = next((r.error for r in prepared if r.error is not None), None)
        if failed is not None:
            raise InputError(failed)
        return [running.reply for running in prepared if running.reply is not None]

    def submit(self, request: Request) -> Running:
        """Puts a request behind those that wait.

        Raises:
            InputError: it cannot be answered.
        """
        running = self._prepared(request)
        self._waiting.append(running)
        return running

    def drop(self, running: Running) -> None:
        """Forgets a request, wherever it is; done ones need not be dropped."""
        self._waiting = deque(r for r in self._waiting if r is not running)
        self._running = [r for r in self._running if r is not running]

    def step(self) -> list[Running]:
        """One more token for every answer on its way; those that wait join as places are free.

        Returns:
            What has changed: more text, a reply or an error.
        """
        if self.model.decoder is None:
            return self._transcribe()
        ended = self._admit()
        began = time.perf_counter()
        rows = {id(r.row): r for r in self._running}
        stepped = self.model.decoder.step([r.row for r in self._running if r.row is not None])
        share = (time.perf_counter() - began) / max(1, len(stepped))
        changed = [rows[id(row)] for row in stepped]
        for running in changed:
            running.seconds += share
            row = running.row
            if row is not None and row.done:
                text = self.model.decoder.text(row)
                running.reply = self._reply(running, text, row.stopped, len(row.tokens))
                running.forget()
        self._running = [r for r in self._running if not r.done]
        return ended + changed

    def _admit(self) -> list[Running]:
        """Lets requests in as there is room; returns those that failed at the door."""
        failed = []
        while self._waiting and len(self._running) < self.max_rows:
            running = self._waiting.popleft()
            began = time.perf_counter()
            try:
                running.row = self._started(running)
            except InputError as error:
                running.error = str(error)
                running.forget()
                failed.append(running)
                continue
            running.seconds += time.perf_counter() - began
            self._running.append(running)
        return failed

    def _started(self, running: Running) -> Row:
        request, decoder = running.request, self.model.decoder
        assert decoder is not None  # noqa: S101 (asked by step; narrows the type)
        sampling = request.sampling
        choice = Choice(
            sampling.temperature,
            sampling.top_p,
            sampling.seed,
            sampling.max_new_tokens,
            self._form(request),
        )
        if self._drafter is not None and not (request.context and request.context.draft):
            (draft,) = self._drafter([request.audio])
            context = replace(request.context or Context(), draft=draft)
            # Looked at again: with the draft it may be too long for the LLM.
            drafted = self._prepared(replace(request, context=context))
            running.instruction, running.prompt_tokens = drafted.instruction, drafted.prompt_tokens
        return decoder.start(self._heard(request), running.instruction, choice)

    def _transcribe(self) -> list[Running]:
        """Texts of waiting clips by a recogniser: one at a time on a CPU, where padding would change last bits."""
        at_once = 1 if self.model.device == "cpu" else self.max_rows
        some = [self._waiting.popleft() for _ in range(min(at_once, len(self._waiting)))]
        if not some:
            return []
        began = time.perf_counter()
        clips = [self._heard(r.request) for r in some]
        lengths = torch.tensor([len(clip) for clip in clips])
        audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        found = self.model.answer(audio, lengths, [r.instruction for r in some])
        share = (time.perf_counter() - began) / len(some)
        for running, (text, stopped) in zip(some, found, strict=True):
            running.seconds = share
            running.reply = self._reply(running, text, stopped, 0)
            running.forget()
        return some

    def _heard(self, request: Request) -> Tensor:
        audio = np.ascontiguousarray(request.audio, np.float32)
        return torch.from_numpy(normalise(audio) if self.model.normalises else audio)

    def _reply(self, running: Running, text: str, stopped: bool, tokens: int) -> Reply:
        return Reply(
            text,
            stopped,
            len(running.request.audio) / SAMPLE_RATE_HZ,
            running.seconds,
            time.perf_counter() - running.began_s,
            tokens,
            running.prompt_tokens,
        )

    def _prepared(self, request: Request) -> Running:
        """A request with its instruction; raises what `check` does."""
        audio = request.audio
        if audio.dtype.kind != "f":
            raise InputError(
                f"Audio must be floating-point samples between -1 and 1, but is {audio.dtype}. Divide 16-bit samples"
                " by 32768."
            )
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise InputError(
                f"Audio must be finite numbers of shape (N,), mono, but has shape {audio.shape}"
                f"{'' if np.isfinite(audio).all() else ' and others'}. Decode it with thaitool.audio.decode."
            )
        too_long = self.model.too_long(len(audio) / SAMPLE_RATE_HZ)
        if too_long is not None:
            raise InputError(f"The recording cannot be answered about: {too_long}. Cut it.")
        spec = task_of(request.task, self.tasks)
        asked = request.prompt if request.prompt is not None else instruction(spec, draw=None)
        asked = with_context(asked, request.context)
        if self.model.decoder is None:
            if len(audio) == 0:
                raise InputError("The recording is empty: it has 0 samples. Leave it out.")
            if request.task != "asr" or request.prompt is not None or request.form != "free":
                raise InputError(
                    f"{self.name} is a recogniser, which only transcribes: task asr without prompt and form."
                )
            return Running(request, asked, self)
        processor = self.model.decoder.processor
        if processor.audio_tokens(len(audio)) == 0:
            raise InputError(
                f"The recording must be long enough for one embedding, but has {len(audio)} samples at 16 kHz. Leave"
                " it out."
            )
        form = self._form(request)
        if form is not None and form.least_tokens > request.sampling.max_new_tokens:
            raise InputError(
                f"max_new_tokens must be {form.least_tokens} or more for answers of the form {request.form}, but is"
                f" {request.sampling.max_new_tokens}."
            )
        n_prompt = processor.tokens([asked], [len(audio)]).input_ids.shape[1]
        limit, new = self.model.context_tokens, request.sampling.max_new_tokens
        if limit is not None and n_prompt + new > limit:
            raise InputError(
                f"Audio, prompt and answer must fit into the LLM's context of {limit} tokens, but the audio of"
                f" {len(audio) / SAMPLE_RATE_HZ:.1f} s with its prompt has {n_prompt}, and the answer up to {new}. Cut"
                " the recording (`infer --split-s`), or shorten the context or the answer."
            )
        return Running(request, asked, self, n_prompt)

    def _form(self, request: Request) -> Form | None:
        decoder = self.model.decoder
        if request.form == "free" or decoder is None:
            return None
        tokenizer = decoder.processor.tokenizer
        if request.form == "json":
            key: tuple[str, tuple[str, ...]] = ("json", ())
            if key not in self._forms:
                self._forms[key] = entity_form(tokenizer)
            return self._forms[key]
        labels = request.labels or self.tasks[request.task].labels or ()
        if not labels:
            raise InputError(
                f"Task {request.task} must have a closed set of labels for the form labels, but the model knows none."
                " Give them with the request (`infer --labels FILE`)."
            )
        key = ("labels", labels)
        if key not in self._forms:
            if len(self._forms) >= _MOST_FORMS:
                # The oldest: a server's clients each have their own labels.
                del self._forms[next(iter(self._forms))]
            self._forms[key] = label_form(tokenizer, labels)
        return self._forms[key]


def load_engine(
    path: Path, config: EvalConfig | InferConfig | ServeConfig, *, max_rows: int = 32
) -> Engine:
    """The engine of a model directory, on the device and in the form that a configuration says.

    Raises:
        InputError: neither a recogniser nor a speech LLM, or damaged.
        EnvironmentProblem: CUDA, or a library, was asked for and is not there.
    """
    model = load_answerer(path, config)
    drafter = None if model.decoder is None else drafter_of(path, config.drafter, model.device)
    return Engine(model, name=path.name, tasks=tasks_of(path), max_rows=max_rows, drafter=drafter)
