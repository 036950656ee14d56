"""Questions to a language model whose answers are JSON of a known form: cached, checked, and repaired once.

What the questions are about is in `llm_augment` and `llm_translate`; how calls are paced and repeated is in `calls`.

Prompts are the files in `prompts/`, a system and a user part with `$name` places. Their names end in a version and
their text is part of the cache key: an edited prompt is another question.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from thaitool.synth.backends.protocol import CallFailed, ChatReply, ChatRequest, Llm, Message
from thaitool.synth.cache import Attempt, Cache, Question, canonical_json, sha256_of

if TYPE_CHECKING:
    from thaitool.synth.calls import Budget, Endpoint, Price

PROMPTS = Path(__file__).with_name("prompts")
#: Characters per token, for estimates before a call: English prompts, with JSON and some Thai.
CHARS_PER_TOKEN = 3.5

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Answer(BaseModel):
    """What a model must answer: JSON with these keys. Others are ignored, as models like to comment."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True)


A = TypeVar("A", bound=Answer)


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why an answer of the right form is not accepted: a reason code, and a sentence for the model."""

    reason: str
    sentence: str


@dataclass(frozen=True)  # without slots, as its hash is kept
class Prompt:
    """One wording, with places to fill in."""

    name: str
    system: str
    user: str

    @cached_property
    def sha256(self) -> str:
        """Digest of the whole wording, and of that of the repair turn."""
        return sha256_of(f"{self.system}\x1f{self.user}\x1f{_repair_wording()}")

    def messages(self, values: dict[str, str]) -> tuple[Message, ...]:
        """The conversation; every place must have a value."""
        return (
            Message("system", Template(self.system).substitute(values)),
            Message("user", Template(self.user).substitute(values)),
        )


@cache
def load_prompt(name: str) -> Prompt:
    """The prompt `name`, such as `augment-1`, from the package."""
    system, _, user = (PROMPTS / f"{name}.md").read_text("utf-8").partition("\n---\n")
    return Prompt(name, system.strip(), user.strip())


@cache
def _repair_wording() -> str:
    return (PROMPTS / "repair-1.md").read_text("utf-8").strip()


@cache
def _schema_sha256(answer: type[Answer]) -> str:
    # The schema is made anew each time it is asked for, which takes longer than anything else about a question.
    return sha256_of(canonical_json(answer.model_json_schema()))


@dataclass(frozen=True, slots=True)
class _Sent:
    """A call that brought text, before anybody has looked at it."""

    stage: str
    reply: ChatReply
    usd: float
    seconds: float

    def attempt(self, outcome: str) -> Attempt:
        tokens = (self.reply.prompt_tokens, self.reply.completion_tokens)
        return Attempt(self.stage, outcome, *tokens, self.usd, self.seconds)


@dataclass(frozen=True)
class Asker:
    """A language model with everything that a question to it needs."""

    llm: Llm
    endpoint: Endpoint
    cache: Cache
    budget: Budget
    price: Price
    temperature: float
    max_tokens: int = 2048
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the server's own in each request."""

    async def ask(
        self,
        stage: str,
        prompt: Prompt,
        values: dict[str, str],
        answer: type[A],
        check: Callable[[A], Complaint | None],
        sample: int = 0,
    ) -> A:
        """The stored answer, or a new one, which is stored if it is of the right form and passes `check`.

        Raises:
            CallFailed: no call brought an answer, or the repaired one is still wrong; nothing is stored.
            NotYetAnswered: the question waits in a batch.
            ConfigError: the budget is used up.
            EnvironmentProblem: the endpoint is down, or refuses.
        """
        question = self._question(stage, prompt, values, answer, sample)
        stored = self.cache.get(question)
        if stored is not None:
            return answer.model_validate_json(stored)
        request = ChatRequest(prompt.messages(values), self.temperature, self.max_tokens, self.more)
        sent = await self._call(stage, request)
        read = _read(sent.reply.text, answer, check)
        if isinstance(read, Complaint):
            self.cache.note(sent.attempt(read.reason))
            repair = Template(_repair_wording()).substitute(complaint=read.sentence)
            turns = (Message("assistant", sent.reply.text), Message("user", repair))
            again = replace(request, messages=(*request.messages, *turns))
            sent = await self._call(stage, again)
            read = _read(sent.reply.text, answer, check)
        if isinstance(read, Complaint):
            self.cache.note(sent.attempt(read.reason))
            raise CallFailed(read.reason, read.sentence, again=False)
        self.cache.put(question, read.model_dump_json().encode(), sent.attempt("ok"))
        return read

    def _question(
        self,
        stage: str,
        prompt: Prompt,
        values: dict[str, str],
        answer: type[Answer],
        sample: int,
    ) -> Question:
        identity = self.llm.identity
        parameters = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return Question(
            stage=stage,
            backend=identity.backend,
            model=identity.model,
            revision=identity.revision,
            prompt=prompt.sha256,
            schema=_schema_sha256(answer),
            # Without such fields it is the key that earlier versions stored answers under.
            parameters=canonical_json(
                {**parameters, "more": self.more} if self.more else parameters
            ),
            input=canonical_json(values),
            sample=sample,
        )

    async def _call(self, stage: str, request: ChatRequest) -> _Sent:
        prompt_tokens = estimated_tokens("".join(m.content for m in request.messages))
        most_usd = self.price.of(prompt_tokens, request.max_tokens)

        async def send() -> _Sent:
            self.budget.reserve(most_usd)
            usd, began = 0.0, time.monotonic()
            try:
                reply = await self.llm.complete(request)
                usd = self.price.of(reply.prompt_tokens, reply.completion_tokens)
            finally:
                self.budget.settle(most_usd, usd)
            sent = _Sent(stage, reply, usd, time.monotonic() - began)
            fault = _fault(reply)
            if fault is not None:
                self.cache.note(sent.attempt(fault))
                detail = f"{reply.completion_tokens} tokens of text that is {fault}"
                raise CallFailed(fault, detail, again=fault == "blank")
            return sent

        def failed(error: CallFailed) -> None:
            if error.reason not in {"blank", "truncated"}:  # noted above, with what they cost
                self.cache.note(Attempt(stage, error.reason))

        tokens = prompt_tokens + request.max_tokens // 4
        return await self.endpoint.call(send, tokens=tokens, failed=failed)


def estimated_tokens(text: str) -> int:
    """How many tokens a text has, roughly."""
    return int(len(text) / CHARS_PER_TOKEN) + 1


def _fault(reply: ChatReply) -> str | None:
    # Some servers answer spaces when JSON mode goes wrong, with finish_reason "stop" (DeepSeek's documentation).
    if not reply.text.strip():
        return "blank"
    return None if reply.is_whole else "truncated"


def _read(text: str, answer: type[A], check: Callable[[A], Complaint | None]) -> A | Complaint:
    fenced = _FENCE.match(text)
    try:
        read = answer.model_validate(json.loads(fenced[1] if fenced else text))
    except json.JSONDecodeError as error:
        return Complaint("invalid_json", f"it is not JSON: {error}")
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg']}" for e in error.errors()[:5]
        )
        return Complaint("invalid_json", f"it has not the asked form: {found}")
    return check(read) or read
