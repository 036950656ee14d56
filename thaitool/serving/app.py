"""The endpoints: OpenAI's two for sound, the list of models, health, metrics, and the page. Runs no model itself."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from thaitool.inference.recordings import is_split
from thaitool.serving import pages, said
from thaitool.serving.answering import Answer
from thaitool.serving.asked import Asked, chat_asked, transcription_asked
from thaitool.serving.forms import read_form
from thaitool.serving.gate import Gate, Rules, refuse
from thaitool.serving.measures import Measures, exposition
from thaitool.serving.refusal import Refusal, unsupported
from thaitool.serving.uploads import upload

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
    )
    from typing import IO

    from thaitool.serving.scheduler import Scheduler
    from thaitool.text.tasks import TaskSpec

Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """What the endpoints need to know."""

    name: str
    """What the model is called to clients."""
    tasks: Mapping[str, TaskSpec]
    takes_prompts: bool
    """Whether anything else than a task can be asked."""
    scheduler: Scheduler
    measures: Measures
    rules: Rules
    started: int
    """Unix time in seconds."""
    longest_upload_s: float
    longest_clip_s: float
    """Longer recordings are cut, or refused."""
    max_new_tokens: int
    timeout_s: float
    """From the end of the upload to the end of the answer."""
    grace_s: float


def application(service: Service) -> Gate:
    """The ASGI application of a service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        await asyncio.to_thread(service.scheduler.close, service.grace_s)

    # Without pages of the API: they load programs from elsewhere.
    app = FastAPI(title="thaitool", openapi_url=None, lifespan=lifespan, redirect_slashes=False)
    _add_answers(app, service)
    _add_facts(app, service)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        request.state.outcome = refusal.code
        return _Refused(refusal)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        return _Refused(_hung_up())

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        request.state.outcome = "not_found"
        what = f"{request.method} {request.url.path}"
        return _Refused(Refusal(error.status_code, f"There is no {what} here.", "not_found"))

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:
        """A mistake of ours; it is raised again afterwards, and logged."""
        request.state.outcome = "failed"
        return _Refused(Refusal(500, "The server failed on this; see its log.", "failed"))

    return Gate(app, service.rules, service.measures)


class _Refused(Response):
    """A refusal; the connection is closed if the body was not read to its end."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(status_code=refusal.status)
        self.refusal = refusal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self.refusal
        if scope["state"].get("unread"):
            await refuse(refusal, receive, send)
        else:
            plain = JSONResponse(refusal.body(), refusal.status, refusal.headers)
            await plain(scope, receive, send)


def _add_answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        form = await read_form(request)
        try:
            asked = transcription_asked(form.fields)
            _check_asked(asked, service)
            answer = await _answer(service, asked, form.file.file, form.name)
        finally:
            # What is needed of it is in memory, or copied.
            await form.file.close()
        if asked.stream:
            return await _stream(request, service, _transcription_events(answer))
        whole = await _unless_left(request, service, answer.whole())
        media_type = said.MEDIA_TYPES.get(asked.response_format, "application/json")
        return Response(said.transcription(whole, asked.response_format), media_type=media_type)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        # Not `request.body()`: that keeps megabytes for as long as the answer takes.
        body = b"".join([chunk async for chunk in request.stream()])
        asked, sound = await asyncio.to_thread(chat_asked, body)
        del body
        _check_asked(asked, service)
        answer = await _answer(service, asked, sound, "input_audio")
        chat = said.new_chat(service.name)
        if asked.stream:
            return await _stream(request, service, _chat_events(answer, chat))
        return JSONResponse(chat.whole(await _unless_left(request, service, answer.whole())))


def _add_facts(app: FastAPI, service: Service) -> None:
    model = {
        "id": service.name,
        "object": "model",
        "created": service.started,
        "owned_by": "thaitool",
        "tasks": list(service.tasks),
        "prompts": service.takes_prompts,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        _check_model(Asked("asr", model=name), service)
        return model

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        is_ready = service.scheduler.is_alive
        status = "ready" if is_ready else "not ready"
        return JSONResponse({"status": status}, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(
            exposition(service.measures), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    for path in pages.FILES:
        app.add_api_route(path, _page(path), include_in_schema=False)


def _page(path: str) -> Callable[[], Awaitable[Response]]:
    content, media_type = pages.page_file(path)

    async def page() -> Response:
        return Response(content, media_type=media_type, headers=pages.HEADERS)

    return page


def _check_model(asked: Asked, service: Service) -> None:
    if asked.model not in {None, service.name}:
        raise Refusal(
            404,
            f"The model here is {service.name!r}, but {asked.model!r} was asked for.",
            "model_not_found",
            param="model",
        )


def _check_asked(asked: Asked, service: Service) -> None:
    _check_model(asked, service)
    if service.takes_prompts:
        return
    # A recogniser would pass over these without a word.
    for name in ("hotwords", "scene", "history", "draft", "temperature"):
        if given := getattr(asked, name):
            shown = given if isinstance(given, float) else "a context"
            raise unsupported(
                name, shown, f"{service.name} is a recogniser: it knows the sound only."
            )


async def _answer(service: Service, asked: Asked, content: bytes | IO[bytes], name: str) -> Answer:
    heard = await asyncio.to_thread(upload, content, name, service.longest_upload_s)
    splits = asked.prompt is None and asked.task in service.tasks
    splits = splits and is_split(service.tasks[asked.task])
    return Answer(
        service.scheduler, asked, heard, service.longest_clip_s, splits, service.max_new_tokens
    )


async def _transcription_events(answer: Answer) -> AsyncGenerator[bytes]:
    async with aclosing(answer.deltas()) as deltas:
        async for delta in deltas:
            yield said.transcription_delta(delta)
    yield said.transcription_done(answer.said())


async def _chat_events(answer: Answer, chat: said.Chat) -> AsyncGenerator[bytes]:
    is_first = True
    async with aclosing(answer.deltas()) as deltas:
        async for delta in deltas:
            yield chat.delta(delta, first=is_first)
            is_first = False
    whole = answer.said()
    yield chat.last(whole)
    if answer.asked.usage_at_end:
        yield chat.count(whole)
    yield said.DONE


async def _unless_left(
    request: Request, service: Service, work: Awaitable[Result], began_s: float | None = None
) -> Result:
    """The result of some work, which ends when the client hangs up or the time is over.

    Args:
        request: Of the client.
        service: Knows how much time there is.
        work: To be awaited.
        began_s: Since when the time runs, on the loop's clock; None is now.

    Raises:
        Refusal: either of these happened, or the work raised it.
    """
    elapsed_s = 0.0 if began_s is None else asyncio.get_running_loop().time() - began_s
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait(
            {working, leaving},
            timeout=max(0.0, service.timeout_s - elapsed_s),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if working.done():
            return working.result()
        if leaving.done():
            raise _hung_up()
        raise _too_late(service)
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})


async def _left(request: Request) -> None:
    """Returns when the client hangs up; its request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _hung_up() -> Refusal:
    return Refusal(499, "The client has left.", "left")


def _too_late(service: Service) -> Refusal:
    return Refusal(
        504,
        f"An answer must be there after {service.timeout_s:g} s, but was not. Send shorter audio, or ask when the"
        " server has less to do.",
        "timeout",
    )


async def _stream(request: Request, service: Service, events: AsyncGenerator[bytes]) -> Response:
    """A response of events, once there is a first one: until then a refusal still has a status of its own."""
    began_s = asyncio.get_running_loop().time()
    first = await _unless_left(request, service, anext(events))
    return _Stream(request, service, first, events, began_s)


class _Stream(Response):
    """Events as they come. What goes wrong between them is an event, too."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        service: Service,
        first: bytes,
        events: AsyncGenerator[bytes],
        began_s: float,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request, self._service = request, service
        self._first, self._events, self._began_s = first, events, began_s

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._events):
                sending = self._send_all(send)
                await _unless_left(self._request, self._service, sending, self._began_s)
        except Refusal as refusal:
            self._request.state.outcome = refusal.code
            if refusal.code == "left":
                return
            await send(
                {
                    "type": "http.response.body",
                    "body": said.event(refusal.body()),
                    "more_body": True,
                }
            )
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Any) -> None:
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
