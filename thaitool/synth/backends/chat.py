"""Language models behind `/v1/chat/completions`: at once over HTTP, or by files in OpenAI's batch format.

Answers are handed on as they came; what is valid is decided where they are asked for.

A batch directory holds `requests.jsonl`, which we write (`custom_id`, `method`, `url`, `body`), and any other
`*.jsonl`, which whoever ran the batch puts there (`custom_id`, `response` with `status_code` and `body`). vLLM's
`run-batch` and the batch services of OpenAI and others read and write these forms. A recording is a file of such
answers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from thaitool.errors import ConfigError, InputError
from thaitool.synth.backends.protocol import (
    CallFailed,
    ChatReply,
    ChatRequest,
    Identity,
    NotYetAnswered,
)
from thaitool.synth.backends.web import WebClient
from thaitool.synth.cache import canonical_json
from thaitool.synth.jsonrows import lines_of_objects, raise_problems, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PATH = "/chat/completions"
REQUESTS = "requests.jsonl"


class OpenAiLlm:
    """Any OpenAI-compatible server: DeepSeek, Gemini, vLLM, Ollama, `transformers serve`."""

    def __init__(self, client: WebClient, model: str, record: Path | None = None) -> None:
        self._client, self._record = client, record
        self.identity = Identity(f"openai:{client.base_url}", model, "")

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One call; see `Llm.complete`."""
        body = _body(self.identity.model, request)
        response = WebClient.json_of(await self._client.post(_PATH, body))
        reply = _reply(response)
        if self._record is not None and reply.text.strip():
            line = {
                "custom_id": _custom_id(body),
                "response": {"status_code": 200, "body": response},
            }
            # One write of one line: appends of several processes do not mix.
            with self._record.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
        return reply

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


class RecordedLlm:
    """Answers that were recorded, or that a batch brought; the model's name is part of what they answer."""

    def __init__(
        self, backend: str, model: str, files: Iterable[Path], waiting: Path | None
    ) -> None:
        """`waiting` is where unanswered requests go at `close`; None makes them failures.

        Raises:
            InputError: a file cannot be read, or holds something else than answers.
        """
        # Not the files: the same question may be answered by a batch today and by its recording tomorrow.
        self.identity = Identity(backend, model, "")
        self._answers = {k: v for path in files for k, v in _read_answers(path).items()}
        self._waiting = waiting
        self._asked: dict[str, str] = {}

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The stored answer; see `Llm.complete`."""
        body = _body(self.identity.model, request)
        identity = _custom_id(body)
        found = self._answers.get(identity)
        if found is None and self._waiting is not None:
            line = {"custom_id": identity, "method": "POST", "url": f"/v1{_PATH}", "body": body}
            self._asked[identity] = json.dumps(line, ensure_ascii=False)
            raise NotYetAnswered
        if found is None:
            detail = f"the recording has no answer to {identity[:12]}"
            raise CallFailed("not_recorded", detail, again=False)
        status, response = found
        if status != 200:
            raise CallFailed(f"http_{status}", "in the batch's answers", again=False)
        return _reply(response)

    async def close(self) -> None:
        """Writes the requests that have no answer, and only these: what was answered needs no second answer."""
        if self._waiting is None:
            return
        self._waiting.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._waiting.with_name(f".{self._waiting.name}.tmp")
        lines = (self._asked[identity] for identity in sorted(self._asked))
        temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        temporary.replace(self._waiting)


async def only_model(client: WebClient) -> str:
    """The name of the one model that a server has.

    Raises:
        ConfigError: it has several, or does not tell.
    """
    try:
        listed = await client.get_json("/models")
        names = [str(model["id"]) for model in listed["data"]]
    except (CallFailed, KeyError, TypeError) as error:
        raise ConfigError(
            f"{client.base_url}/models must list the models, but: {error}. Name one: openai:{client.base_url}#MODEL."
        ) from error
    if len(names) != 1:
        raise ConfigError(
            f"{client.base_url} has {len(names)} models ({', '.join(names[:8])}); name one:"
            f" openai:{client.base_url}#MODEL."
        )
    return names[0]


def _body(model: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        # Everybody who knows response_format knows this form; a JSON schema they do not.
        "response_format": {"type": "json_object"},
        **request.more,
    }


def _custom_id(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _reply(response: Any) -> ChatReply:
    try:
        choice = response["choices"][0]
        usage = response.get("usage") or {}
        return ChatReply(
            choice["message"]["content"] or "",
            int(usage.get("prompt_tokens", 0)),
            int(usage.get("completion_tokens", 0)),
            choice.get("finish_reason") != "length",
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        detail = f"no chat completion: {error!r}"
        raise CallFailed("bad_reply", detail, again=True) from error


def _read_answers(path: Path) -> dict[str, tuple[int, Any]]:
    problems: list[str] = []
    answers: dict[str, tuple[int, Any]] = {}
    for place, line in lines_of_objects(read_text(path), problems):
        response = line.get("response")
        if not isinstance(line.get("custom_id"), str):
            problems.append(f"{place}: field 'custom_id' must be a string")
        elif not isinstance(response, dict):
            # Services list requests that failed with an `error` and no response.
            answers.setdefault(str(line["custom_id"]), (500, None))
        else:
            answers[str(line["custom_id"])] = (
                int(response.get("status_code", 200)),
                response.get("body"),
            )
    raise_problems(path, problems, "Give answers in OpenAI's batch output format, one a line.")
    if not answers:
        raise InputError(f"{path} holds no answers; give a file of OpenAI's batch output format.")
    return answers
