"""What goes to a server with each question besides it: fields of the server's own, and the key of its host."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.stand_in import running
from thaitool.config import Calls
from thaitool.synth.asking import Answer, Asker, load_prompt
from thaitool.synth.backends import open_llm
from thaitool.synth.backends.protocol import ChatRequest, Message
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Budget, Endpoint, Limits, Price

THINKING = {"thinking": {"type": "disabled"}}


class Said(Answer):
    text: str


def echoing(seen: list[tuple[dict[str, Any], str]]) -> web.Application:
    """A server that writes down bodies and keys."""

    async def chat(request: web.Request) -> web.Response:
        seen.append((await request.json(), request.headers.get("Authorization", "")))
        choice = {"message": {"content": '{"text": "x"}'}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    return app


def test_fields_of_the_server_are_sent_and_are_part_of_the_question(tmp_path: Path) -> None:
    seen: list[tuple[dict[str, Any], str]] = []

    async def ask(llm: Any, more: dict[str, Any]) -> None:
        cache = Cache(tmp_path / "cache.sqlite", "run")
        endpoint = Endpoint("m", Limits(base_s=0.001))
        asker = Asker(llm, endpoint, cache, Budget(None), Price(0, 0), 0.7, more=more)
        values = {"complaint": "c"}
        await asker.ask("s", load_prompt("repair-1"), values, Said, lambda _: None)
        cache.close()

    async def main() -> None:
        async with running(echoing(seen)) as url:
            llm = await open_llm(f"openai:{url}/v1#m", Calls.model_validate({}), "llm")
            for more in ({}, THINKING, {}, THINKING, {"max_tokens": 9}):
                await ask(llm, more)
            await llm.close()

    asyncio.run(main())
    bodies = [body for body, _ in seen]
    assert len(bodies) == 3  # the repeated questions were known
    assert "thinking" not in bodies[0]
    assert bodies[1] == {**bodies[0], **THINKING}
    assert bodies[2] == {**bodies[0], "max_tokens": 9}


def test_each_host_gets_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_ONE", "one")
    monkeypatch.setenv("KEY_OF_ALL", "all")
    seen: list[tuple[dict[str, Any], str]] = []

    async def main() -> None:
        async with running(echoing(seen)) as url:
            for host in ("127.0.0.1", "elsewhere.example"):
                given = {"key_variable": "KEY_OF_ALL", "key_variables": {host: "KEY_OF_ONE"}}
                llm = await open_llm(f"openai:{url}/v1#m", Calls.model_validate(given), "llm")
                await llm.complete(request())
                await llm.close()

    asyncio.run(main())
    assert [key for _, key in seen] == ["Bearer one", "Bearer all"]


def request() -> ChatRequest:
    return ChatRequest((Message("user", "x"),), temperature=0.0, max_tokens=5)
