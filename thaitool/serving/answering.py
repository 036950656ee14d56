"""One request's clips through the scheduler and back as one text: long recordings piece by piece, in order.

Knows neither HTTP nor the model.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thaitool.inference.recordings import Segment, joined
from thaitool.inference.request import Request, Sampling
from thaitool.serving.refusal import Refusal, invalid
from thaitool.serving.said import Said
from thaitool.text.context import Context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from thaitool.inference.request import Reply
    from thaitool.serving.asked import Asked
    from thaitool.serving.scheduler import Scheduler, Ticket
    from thaitool.serving.uploads import Upload

#: Pieces of one recording that wait or run at a time: enough to fill idle rows, few enough to leave some to others.
_PIECES_AHEAD = 4


@dataclass
class Answer:
    """The answer to one request while it is being made."""

    scheduler: Scheduler
    asked: Asked
    upload: Upload
    longest_s: float
    """Of a clip."""
    splits: bool
    """Whether a longer recording is answered about piece by piece."""
    max_new_tokens: int
    """Of the answer about a piece."""
    _tickets: deque[tuple[float, float, Ticket]] = field(default_factory=deque)
    _segments: list[Segment] = field(default_factory=list)
    _replies: list[Reply] = field(default_factory=list)

    async def deltas(self) -> AsyncGenerator[str]:
        """The text as it grows; afterwards `said` is there. Whoever stops early drops what is still under way.

        Raises:
            Refusal: it cannot be answered.
        """
        try:
            sampling = self._sampling()
            pieces = deque(await self._stretches())
            while pieces or self._tickets:
                while pieces and len(self._tickets) < _PIECES_AHEAD:
                    await self._submit(*pieces.popleft(), sampling)
                if not self._tickets:
                    break
                start_s, end_s, ticket = self._tickets[0]
                before = joined(self._segments)
                is_first = True
                async for delta in ticket.deltas():
                    # What joins two pieces comes before the first text of the second.
                    yield _joint(self._segments, before) + delta if is_first else delta
                    is_first = False
                self._tickets.popleft()
                if ticket.reply is not None:
                    self._replies.append(ticket.reply)
                    self._segments.append(
                        Segment(start_s, end_s, ticket.reply.text, ticket.reply.stopped)
                    )
            if not self._segments:
                raise invalid(
                    f"file must have speech in it, but {self.upload.name} is silent.",
                    "file",
                    "silent",
                )
        finally:
            for _, _, ticket in self._tickets:
                self.scheduler.drop(ticket)
            self.upload.close()

    def said(self) -> Said:
        """The whole, after `deltas`."""
        return Said(
            joined(self._segments),
            tuple(self._segments),
            self.upload.duration_s,
            sum(r.prompt_tokens for r in self._replies),
            sum(r.tokens for r in self._replies),
            all(r.stopped for r in self._replies),
        )

    async def whole(self) -> Said:
        """The whole answer at once.

        Raises:
            Refusal: it cannot be given.
        """
        async for _ in self.deltas():
            pass
        return self.said()

    async def _stretches(self) -> list[tuple[float, float]]:
        """Raises `Refusal` for a long recording where the answers about pieces make no answer about all."""
        if self.upload.duration_s > self.longest_s and not self.splits:
            raise Refusal(
                400,
                f"A recording for this must last {self.longest_s:g} s at most, but {self.upload.name} lasts"
                f" {self.upload.duration_s:.1f} s. Only what writes down speech (asr, sr) is done piece by piece.",
                "too_long",
                param="file",
            )
        return await asyncio.to_thread(self.upload.stretches, self.longest_s)

    async def _submit(self, start_s: float, end_s: float, sampling: Sampling) -> None:
        try:
            samples = await asyncio.to_thread(self.upload.samples, start_s, end_s)
        except Refusal as refusal:
            # A piece of a long recording may be silent: then nothing was said there.
            if self.upload.duration_s <= self.longest_s or refusal.code not in {
                "silent",
                "too_short",
            }:
                raise
            return
        asked = self.asked
        context = Context(asked.hotwords, asked.scene, asked.history, asked.draft)
        request = Request(
            audio=samples,
            task=asked.task,
            prompt=asked.prompt,
            context=context or None,
            sampling=sampling,
            form=asked.form,
            labels=asked.labels,
        )
        ticket = self.scheduler.submit(request, streams=asked.stream)
        self._tickets.append((start_s, end_s, ticket))

    def _sampling(self) -> Sampling:
        asked = self.asked
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        wanted = asked.max_new_tokens or self.max_new_tokens
        if wanted > self.max_new_tokens:
            raise invalid(
                f"max_tokens must be {self.max_new_tokens} at most here, but is {wanted}.",
                "max_tokens",
            )
        return Sampling(
            temperature=asked.temperature, top_p=asked.top_p, seed=seed, max_new_tokens=wanted
        )


def _joint(segments: list[Segment], before: str) -> str:
    """What `joined` puts between the text so far and that of one more piece."""
    if not before:
        return ""
    one_more = joined([*segments, Segment(0.0, 0.0, "ก")])
    return one_more[len(before) : -1]
