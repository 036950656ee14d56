"""A stand-in for an OpenAI-compatible server: simple Thai by rule, and every fault a real one has, on request.

Run as `python -m tests.stand_in`; `thaitool synth --llm openai:http://127.0.0.1:8000/v1#stand-in` then works
without network and key. It understands no English: nouns come from a list, names are spelled in a way of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import soundfile
from aiohttp import web

from thaitool.synth.draws import draw, pick

MARKED = re.compile(r"\[(\d+)\|([^\[\]|]*)\]")
WORDS = ("บ้าน", "น้ำ", "รถ", "เพลง", "ข้าว", "เมือง", "วันนี้", "ถนน", "หนังสือ", "ดอกไม้", "แม่น้ำ", "ตลาด")
NAMES = ("สมชาย", "มาลี", "เชียงใหม่", "ขอนแก่น", "ประเสริฐ", "วันเพ็ญ", "อยุธยา", "นครปฐม", "อรทัย", "ภูเก็ต")
OPENINGS = (
    "please", "could you", "would you kindly", "hey", "quickly", "now", "I want you to", "if you can",
    "right away", "once more", "for my friend", "this time",
)  # fmt: skip


@dataclass(frozen=True)
class Faults:
    """What goes wrong, as shares of the requests; drawn from the number of the request, so nothing repeats itself."""

    busy: float = 0.0
    error: float = 0.0
    hang: float = 0.0
    malformed: float = 0.0
    blank: float = 0.0
    markers: float = 0.0
    """Share of sentences (not requests) whose brackets get lost in translation; half of them even after a repair."""

    def of(self, number: int) -> str:
        """The fault of request `number`, or ""."""
        at = draw("fault", number) % 10_000 / 10_000
        for name in ("busy", "error", "hang", "malformed", "blank"):
            at -= getattr(self, name)
            if at < 0:
                return name
        return ""


@dataclass
class Stats:
    """What the server has seen."""

    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Good answers by question, to see that none is answered twice."""


def answer(content: str, *, repaired: bool, markers: float) -> dict[str, Any]:
    """What a language model might say to one of the prompts of `synth`."""
    sentence = re.search(r"Sentence: (.*)", content)
    text = sentence[1] if sentence else ""
    if '"variants"' in content:
        wanted = re.search(r"Write (\d+) variants", content)
        count = int(wanted[1]) if wanted else 0
        return {"variants": [f"{OPENINGS[n]} {text}" for n in range(count)]}
    if '"names"' in content:
        names = re.findall(r"^(\d+): (.*)$", content, re.MULTILINE)
        thai = {number: NAMES[int(number)] for number, _ in names}
        said = f"{_thai(text)} {' กับ '.join(thai.values())}"
        return {"spoken": said, "written": said, "names": thai}
    if '"entities"' in content:
        listed = re.findall(r"^- (.*)$", content, re.MULTILINE)
        return {"intent": pick(listed, text) if listed else None, "entities": []}
    broken = draw("markers", text) % 1000 < 1000 * markers
    if broken and not (repaired and draw("repair", text) % 2):
        return {"spoken": _thai(text), "written": _thai(text)}
    said = _thai(text) + "".join(
        f" [{n}|{pick(NAMES, name, int(n) - 1)}]" for n, name in MARKED.findall(text)
    )
    return {"spoken": said, "written": _thai(text)}


def _thai(text: str) -> str:
    words = MARKED.sub("", text).split()[:8] or ["-"]
    return "".join(pick(WORDS, word.lower()) for word in words)


def glide(text: str) -> tuple[float, float]:
    """Pitch at the start and at the end, as factors, by the tone that the first syllable is written with."""
    mark = next((letter for letter in text if letter in "\u0e48\u0e49"), "")
    if text[:1] in "ขฉถผฝสห":
        return {"": (0.85, 1.2), "\u0e48": (0.9, 0.8), "\u0e49": (1.25, 0.9)}[mark]
    return {"": (1.0, 1.0), "\u0e48": (1.25, 0.9), "\u0e49": (1.2, 1.3)}[mark]


def application(
    *,
    latency_s: float = 0.0,
    in_flight: int | None = None,
    faults: Faults | None = None,
    answering: Callable[..., dict[str, Any]] = answer,
) -> web.Application:
    """The server; `in_flight` requests at once are served, the next gets 429. `answering` speaks as `answer` does."""
    stats, wrong = Stats(), faults or Faults()
    app = web.Application()

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        stats.requests += 1
        fault = wrong.of(stats.requests)
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        try:
            if in_flight is not None and stats.in_flight > in_flight:
                fault = "busy"
            if fault == "hang":
                stats.outcomes[fault] += 1
                await asyncio.sleep(3600)
            await asyncio.sleep(latency_s)
            stats.outcomes[fault or "ok"] += 1
            return _response(body, fault, wrong.markers, stats, answering)
        finally:
            stats.in_flight -= 1

    async def speech(request: web.Request) -> web.Response:
        body = await request.json()
        stats.requests += 1
        stats.outcomes["speech"] += 1
        # A tone as long as the text, so that the gates on the rate of speech let it pass.
        n = int(16_000 * max(0.3, len(body["input"]) / 12) / body["speed"])
        pitch_hz = (150 + 20 * len(body["voice"])) * np.linspace(*glide(body["input"]), n)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / 16_000)
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 16_000, format="WAV", subtype="PCM_16")
        return web.Response(body=buffer.getvalue(), content_type="audio/wav")

    async def seen(_: web.Request) -> web.Response:
        twice = sum(count > 1 for count in stats.answered.values())
        return web.json_response(
            {
                "requests": stats.requests,
                "most_in_flight": stats.most_in_flight,
                "outcomes": dict(stats.outcomes),
                "answered": len(stats.answered),
                "answered_twice": twice,
            }
        )

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stand-in"}]})

    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/audio/speech", speech)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/stats", seen)
    return app


def _response(
    body: dict[str, Any],
    fault: str,
    markers: float,
    stats: Stats,
    answering: Callable[..., dict[str, Any]],
) -> web.Response:
    if fault == "busy":
        return web.Response(status=429, headers={"Retry-After": "0.2"}, text="too many requests")
    if fault == "error":
        return web.Response(status=500, text="internal error")
    turns = body["messages"]
    said = json.dumps(
        answering(turns[1]["content"], repaired=len(turns) > 2, markers=markers), ensure_ascii=False
    )
    text = {"malformed": said[:-3], "blank": "   "}.get(fault, said)
    if not fault:
        stats.answered[json.dumps(turns, ensure_ascii=False)] += 1
    usage = {"prompt_tokens": len(str(turns)) // 4, "completion_tokens": len(text) // 2}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"choices": [choice], "usage": usage})


@asynccontextmanager
async def running(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """`http://HOST:PORT` of a server in this event loop."""
    # A caller that hangs up frees its place, also where the answer would never have come.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


def _serve(port: int, found: Any, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with running(application(**options), port) as url:
            found.put(url)
            await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def serving(**options: Any) -> Iterator[str]:
    """`http://HOST:PORT` of a server in a process of its own, as `application` makes it."""
    context = get_context("spawn")
    found: Any = context.Queue()
    process = context.Process(target=_serve, args=(0, found, options), daemon=True)
    process.start()
    try:
        yield found.get(timeout=300)
    finally:
        process.kill()
        process.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--in-flight", type=int, default=32)
    given = parser.parse_args()
    context_queue = get_context("spawn").Queue()
    _serve(given.port, context_queue, {"latency_s": given.latency_s, "in_flight": given.in_flight})
