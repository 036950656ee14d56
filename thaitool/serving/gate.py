"""What every request passes before it costs anything: who may ask, how many at once, how large, how slow.

Reads no body; it stands between the body and who reads it, so that one too large or too slow ends while it comes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thaitool.serving.refusal import Refusal, busy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from thaitool.serving.measures import Measures

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: A body may take this long, and as long again as its bytes need at `SLOWEST_BYTES_PER_S`.
BODY_PATIENCE_S = 20.0
SLOWEST_BYTES_PER_S = 10_000
#: How long a client may leave an answer unread.
SEND_PATIENCE_S = 30.0
#: After a refusal, what the client is still sending is read and thrown away for this long, at most this much: a
#: connection that is closed under a writer takes the refusal with it before it is read.
_DRAIN_S, _DRAIN_BYTES = 2.0, 32_000_000
#: Of a body that is read as a whole: a minute of any sound, as base64.
MOST_BYTES_IN_MEMORY = 32_000_000
#: Names under which a server on loopback is asked. Any other is a foreign page that had its name point here.
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
FORMS = "/v1/audio/transcriptions"
_ENDPOINTS = frozenset({FORMS, "/v1/chat/completions", "/v1/models"})


@dataclass(frozen=True)
class Rules:
    """What the gate holds requests to."""

    key: str | None
    """What clients must send as a bearer; None lets all in."""
    only_loopback_names: bool
    """Whether requests by another host's name, or from another site's page, are refused."""
    max_requests: int
    max_bytes: int
    body_patience_s: float = BODY_PATIENCE_S


class Gate:
    """ASGI middleware."""

    def __init__(self, app: Application, rules: Rules, measures: Measures) -> None:
        self._app, self._rules, self._measures = app, rules, measures
        self._open = 0
        self._in_hand = 0
        self.cut_off = 0
        """Requests that had no answer when the server ended."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with a refusal."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not path.startswith("/v1/"):
            await self._unmeasured(scope, headers, receive, send)
            return
        endpoint = path if path in _ENDPOINTS else "other"
        scope.setdefault("state", {})["outcome"] = "left"
        began = time.perf_counter()
        self._open += 1
        self._measures.open_requests.set(self._open)
        try:
            await self._measured(scope, headers, receive, send)
        finally:
            self._open -= 1
            self._measures.open_requests.set(self._open)
            outcome = scope["state"]["outcome"]
            self._measures.requests.labels(endpoint, outcome).inc()
            if "first_s" in scope["state"]:
                first_s = scope["state"]["first_s"] - began
                self._measures.first_text_s.labels(endpoint).observe(first_s)
            if outcome == "ok":
                self._measures.latency_s.labels(endpoint).observe(time.perf_counter() - began)

    async def _unmeasured(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        try:
            self._check_site(headers)
            if scope["path"] == "/metrics":
                self._check_key(headers)
        except Refusal as refusal:
            await refuse(refusal, receive, send)
            return
        await self._app(scope, receive, send)

    async def _measured(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        send: Send,
    ) -> None:
        state, path = scope["state"], scope["path"]
        try:
            self._check_site(headers)
            self._check_key(headers)
            if scope["method"] == "POST":
                self._check_size(int(headers.get(b"content-length", b"0")), path)
                self._check_room()
        except Refusal as refusal:
            state["outcome"] = refusal.code
            await refuse(refusal, receive, send)
            return

        async def watched_send(message: Message) -> None:
            async with asyncio.timeout(SEND_PATIENCE_S):
                await send(message)
            if message["type"] == "http.response.start" and message["status"] < 400:
                state["status"] = message["status"]
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.body" and not ended and "first_s" not in state:
                state["first_s"] = time.perf_counter()
            if ended and "status" in state and state["outcome"] == "left":
                state["outcome"] = "ok"

        # What was refused and only hears it to its end is in nobody's way.
        self._in_hand += 1
        try:
            await self._app(scope, self._watched(receive, path, state), watched_send)
        except TimeoutError:
            # Nobody reads the answer; the server closes the connection when nothing more is sent.
            state["outcome"] = "left"
        except asyncio.CancelledError:
            # The server ends, and nothing but this was the task; uvicorn would log a page about each.
            state["outcome"] = "stopping"
            self.cut_off += 1
        finally:
            self._in_hand -= 1

    def _check_site(self, headers: dict[bytes, bytes]) -> None:
        if not self._rules.only_loopback_names:
            return
        host = _host(b"//" + headers.get(b"host", b""))
        if host not in _LOOPBACK_NAMES:
            raise Refusal(
                403,
                f"This server answers this machine only, under the name localhost, but was asked as {host!r}. Start it"
                " with an API key, or with --open.",
                "wrong_host",
            )
        origin = headers.get(b"origin")
        if origin is not None and _host(origin) not in _LOOPBACK_NAMES:
            raise Refusal(
                403,
                "This server answers no pages of other sites. Start it with an API key, or with --open.",
                "wrong_origin",
            )

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        if self._rules.key is None:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        # In constant time: how long a comparison takes tells how much of a guess was right.
        right = hmac.compare_digest(given.strip(), self._rules.key.encode())
        if scheme.lower() != b"bearer" or not right:
            raise Refusal(
                401,
                "The request must carry this server's API key as `Authorization: Bearer KEY`, but does not.",
                "invalid_api_key",
            )

    def _check_room(self) -> None:
        if self._in_hand >= self._rules.max_requests:
            raise busy(
                f"The server has {self._rules.max_requests} requests in hand and takes no more. Ask again in a moment.",
                1,
            )

    def _most_bytes(self, path: str) -> int:
        """A form is kept on disk; anything else in memory."""
        most = self._rules.max_bytes
        return most if path == FORMS else min(most, MOST_BYTES_IN_MEMORY)

    def _check_size(self, n_bytes: int, path: str) -> None:
        most = self._most_bytes(path)
        if n_bytes > most:
            raise Refusal(
                413,
                f"A request to {path} must have {most:,} bytes at most, but this one has {n_bytes:,} or more."
                " Send a compressed form (FLAC, Opus, MP3), or a part.",
                "too_large",
                param="file",
            )

    def _watched(self, receive: Receive, path: str, state: dict[str, Any]) -> Receive:
        """Receives within the limits; `state["unread"]` says whether more of the body may come."""
        began, n_bytes, is_over = time.monotonic(), 0, False
        state["unread"] = True

        async def watched() -> Message:
            nonlocal n_bytes, is_over
            if is_over:
                return await receive()
            deadline = began + self._rules.body_patience_s + n_bytes / SLOWEST_BYTES_PER_S
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                is_over = True
                raise Refusal(
                    408,
                    f"A request must come at {SLOWEST_BYTES_PER_S:,} bytes a second at least, but {n_bytes:,} bytes"
                    f" came in {time.monotonic() - began:.0f} s.",
                    "too_slow",
                ) from None
            n_bytes += len(message.get("body", b""))
            state["unread"] = message.get("more_body", False)
            # What follows a refusal is nobody's but `refuse`'s.
            is_over = n_bytes > self._most_bytes(path) or not state["unread"]
            self._check_size(n_bytes, path)
            return message

        return watched


def _host(url: bytes) -> str | None:
    try:
        return urlsplit(url.decode("latin-1")).hostname
    except ValueError:  # brackets that close nothing
        return None


async def refuse(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Answers where the body was not read to its end, and closes."""
    body = json.dumps(refusal.body(), ensure_ascii=False).encode()
    headers = {
        **refusal.headers,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        async with asyncio.timeout(_DRAIN_S):
            read, more = 0, True
            while more and read < _DRAIN_BYTES:
                message = await receive()
                read += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        pass  # the refusal was sent; a client that is still writing now will not read it
    await send({"type": "http.response.body", "body": b"", "more_body": False})
