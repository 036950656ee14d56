"""The thread that owns the model: clips of many requests decoded together, new ones joining while others run.

A clip joins at the next step in which a row is free, in the order of coming: the engine pads nothing, so that clips of
any length go together. Knows nothing of HTTP; whoever waits does so in an asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.serving.refusal import Refusal, invalid

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from thaitool.inference.engine import Engine, Running
    from thaitool.inference.request import Reply, Request
    from thaitool.serving.measures import Measures

_log = logging.getLogger("thaitool.serving")


class Ticket:
    """One clip on its way; belongs to the event loop, and the scheduler's thread writes to it through that loop."""

    def __init__(self, request: Request, *, streams: bool) -> None:
        self.request, self.streams = request, streams
        self.text = ""
        self.reply: Reply | None = None
        self.refusal: Refusal | None = None
        self._changed = asyncio.Event()
        self.running: Running | None = None
        """Of the scheduler's thread alone."""

    @property
    def is_over(self) -> bool:
        """Answered or refused."""
        return self.reply is not None or self.refusal is not None

    def tell(self, text: str, reply: Reply | None, refusal: Refusal | None) -> None:
        """What the thread has to say; runs in the loop."""
        self.text, self.reply, self.refusal = text, reply, refusal
        self._changed.set()

    async def answer(self) -> Reply:
        """The whole answer.

        Raises:
            Refusal: it cannot be given.
        """
        async for _ in self.deltas():
            pass
        assert self.reply is not None  # noqa: S101 (deltas end with a reply or a refusal)
        return self.reply

    async def deltas(self) -> AsyncGenerator[str]:
        """The text as it grows; joined, the pieces are `reply.text`.

        Raises:
            Refusal: the answer cannot be given.
        """
        sent = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.refusal is not None:
                raise self.refusal
            text = self.text if self.reply is None else self.reply.text
            if len(text) > sent:
                yield text[sent:]
                sent = len(text)
            if self.reply is not None:
                return


class Scheduler:
    """Takes tickets from an event loop and gives them their answers."""

    def __init__(self, engine: Engine, measures: Measures) -> None:
        self._engine, self._measures = engine, measures
        self._changed = threading.Condition()
        self._fresh: list[Ticket] = []
        self._left: list[Ticket] = []
        self._entering: list[Ticket] = []
        self._stops = False
        self._tickets: dict[int, Ticket] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="thaitool-model", daemon=True)

    def start(self) -> None:
        """Starts the thread; from inside the loop that will wait for answers."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether anybody works on the queue."""
        return self._thread.is_alive() and not self._stops

    def submit(self, request: Request, *, streams: bool) -> Ticket:
        """Puts a clip into the queue.

        Raises:
            Refusal: nobody works on the queue any more.
        """
        ticket = Ticket(request, streams=streams)
        with self._changed:
            if not self.is_alive:
                raise _stopping()
            self._fresh.append(ticket)
            self._changed.notify()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Nobody waits for this one any more; those beside it do not notice."""
        if ticket.is_over:
            return
        with self._changed:
            self._left.append(ticket)
            self._changed.notify()

    def close(self, patience_s: float) -> None:
        """Ends the thread after its present step; what has no answer yet is refused."""
        with self._changed:
            self._stops = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        try:
            while self._round():
                pass
        except Exception:  # noqa: BLE001 (whatever it is, nobody may wait for an answer for ever)
            _log.exception("The model's thread has ended; the server takes no more requests.")
        finally:
            with self._changed:
                self._stops = True
                rest = [*self._entering, *self._fresh, *self._tickets.values()]
                self._fresh = []
            self._publish([(ticket, "", None, _stopping()) for ticket in rest])

    def _round(self) -> bool:
        """Who has come, who has left, and a step; False when it is to stop."""
        with self._changed:
            while not (self._fresh or self._left or self._tickets or self._stops):
                self._changed.wait()
            if self._stops:
                return False
            fresh, self._fresh = self._fresh, []
            left, self._left = self._left, []
        self._entering = fresh
        self._take_in(fresh)
        self._entering = []
        self._take_out(left)
        if self._tickets:
            self._step()
        self._measures.waiting.set(max(0, self._engine.load - self._engine.max_rows))
        return True

    def _take_in(self, fresh: Sequence[Ticket]) -> None:
        """Refuses what cannot be answered before it is in anybody's way."""
        told: list[_Told] = []
        for ticket in fresh:
            try:
                running = self._engine.submit(ticket.request)
            except InputError as problem:
                told.append((ticket, "", None, invalid(str(problem), None, "unanswerable")))
                continue
            except Exception:  # noqa: BLE001 (whatever it is, other requests go on)
                _log.exception("The model failed on a request before it began.")
                told.append((ticket, "", None, _failed()))
                continue
            ticket.running = running
            self._tickets[id(running)] = ticket
        self._publish(told)

    def _take_out(self, left: Sequence[Ticket]) -> None:
        for ticket in left:
            running = ticket.running
            if running is not None and self._tickets.pop(id(running), None) is not None:
                self._engine.drop(running)

    def _step(self) -> None:
        """One token for every row. What goes wrong inside the model is told to those that it concerns, and logged."""
        try:
            changed = self._engine.step()
        except Exception:  # noqa: BLE001 (whatever it is, other requests go on)
            _log.exception("The model failed; all clips that it had are refused.")
            tickets, self._tickets = list(self._tickets.values()), {}
            for ticket in tickets:
                if ticket.running is not None:
                    self._engine.drop(ticket.running)
            self._publish([(ticket, "", None, _failed()) for ticket in tickets])
            return
        self._measures.steps.inc()
        self._measures.rows.observe(len(changed))
        told: list[_Told] = []
        for running in changed:
            ticket = self._tickets[id(running)]
            if running.done:
                del self._tickets[id(running)]
                told.append(self._ended(ticket, running))
            elif ticket.streams:
                told.append((ticket, running.text, None, None))
        self._publish(told)

    def _ended(self, ticket: Ticket, running: Running) -> _Told:
        if running.reply is None:
            return (
                ticket,
                "",
                None,
                invalid(running.error or "It has no answer.", None, "unanswerable"),
            )
        self._measures.audio_s.inc(running.reply.audio_s)
        self._measures.tokens.inc(running.reply.tokens)
        return ticket, running.reply.text, running.reply, None

    def _publish(self, told: Sequence[_Told]) -> None:
        """Hands results to the loop, all of a step at once: waking it costs more than a token of a small model."""
        if told and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell, told)


_Told = tuple[Ticket, str, "Reply | None", "Refusal | None"]


def _failed() -> Refusal:
    return Refusal(500, "The model failed on this request; see the server's log.", "model_failed")


def _stopping() -> Refusal:
    return Refusal(503, "The server is stopping.", "stopping", retry_after_s=5)


def _tell(told: Sequence[_Told]) -> None:
    for ticket, text, reply, refusal in told:
        ticket.tell(text, reply, refusal)
