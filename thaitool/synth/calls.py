"""Calls to one endpoint: how many at once, how fast, how often again, when to stop. Knows nothing of what is asked.

Every endpoint (server) has one `Endpoint`, whichever stages use it, because a server counts all of them together. A
call that fails for a passing reason is tried again after `base * 2**n` seconds, drawn from 0 up to that (full jitter:
calls that failed together do not return together), or after what `Retry-After` says. Many failures in a row, with no
success in between, mean that the server is down rather than that rows are bad: the circuit breaker holds everything
back, lets one call try, and gives the run up after `PROBES` such calls. Nothing is lost: the same command goes on.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.synth.backends.protocol import CallFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

R = TypeVar("R")

#: First pause before a call is tried again, and the longest; doubled in between.
BASE_S, LONGEST_S = 0.5, 60.0
#: Failures without a success in between that open the circuit.
FAILURES = 12
#: Calls that are let through an open circuit, one after another, before the run is given up.
PROBES = 6


@dataclass(frozen=True, slots=True)
class Limits:
    """What an endpoint may be asked."""

    in_flight: int = 32
    requests_per_s: float | None = None
    tokens_per_minute: float | None = None
    timeout_s: float | None = 120.0
    attempts: int = 6
    """Calls for one answer, the first included."""
    base_s: float = BASE_S


class TokenBucket:
    """Lets `rate_per_s` units through on average and one second's worth at once."""

    def __init__(self, rate_per_s: float, capacity: float | None = None) -> None:
        self._rate = rate_per_s
        self._capacity = max(1.0, rate_per_s) if capacity is None else capacity
        self._held = self._capacity
        self._at = time.monotonic()

    async def take(self, units: float = 1.0) -> None:
        """Waits until `units` are there; more than the capacity is taken on credit."""
        now = time.monotonic()
        self._held = min(self._capacity, self._held + (now - self._at) * self._rate)
        self._at = now
        # Taken before the wait, so that those who come later wait behind.
        self._held -= min(units, self._capacity)
        if self._held < 0:
            await asyncio.sleep(-self._held / self._rate)


@dataclass
class Breaker:
    """Counts failures in a row; from `FAILURES` on everything waits and one call at a time tries."""

    name: str
    failures: int = 0
    probes: int = 0
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self.failures >= FAILURES

    async def run(self, send: Callable[[], Awaitable[R]], base_s: float) -> R:
        """Sends at once while closed; else waits for its turn to try."""
        if not self.is_open:
            return await self._sent(send)
        async with self._probing:
            if self.is_open:
                await asyncio.sleep(min(LONGEST_S, base_s * 2 ** (self.probes + 1)))
                self.probes += 1
            return await self._sent(send)

    async def _sent(self, send: Callable[[], Awaitable[R]]) -> R:
        try:
            result = await send()
        except CallFailed as error:
            if error.again:
                self.failures += 1
                if self.probes >= PROBES:
                    raise EnvironmentProblem(
                        f"{self.name} has failed {self.failures} times in a row, last with {error}. What it"
                        " answered before is kept: run the same command when it works again."
                    ) from error
            raise
        self.failures = self.probes = 0
        return result


class Endpoint:
    """One server (or local model) with its limits; safe to share among the tasks of one event loop."""

    def __init__(self, name: str, limits: Limits, seed: int = 0) -> None:
        self.limits = limits
        self._slots = asyncio.Semaphore(limits.in_flight)
        self._breaker = Breaker(name)
        self._requests = (
            None if limits.requests_per_s is None else TokenBucket(limits.requests_per_s)
        )
        self._tokens = (
            None
            if limits.tokens_per_minute is None
            else TokenBucket(limits.tokens_per_minute / 60, limits.tokens_per_minute)
        )
        # Pauses only: no result depends on them.
        self._random = random.Random(seed)  # noqa: S311

    async def call(
        self,
        send: Callable[[], Awaitable[R]],
        *,
        tokens: int = 0,
        failed: Callable[[CallFailed], None],
    ) -> R:
        """`await send()`, within the limits and as often as they allow.

        Args:
            send: Makes one call; raises `CallFailed`.
            tokens: What the call will be billed for, roughly, for `tokens_per_minute`.
            failed: Told of every failed call, also of those that are tried again.

        Raises:
            CallFailed: the last failure, when it is final or `attempts` are used up.
            EnvironmentProblem: the endpoint is down.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(send, tokens)
            except CallFailed as error:
                failed(error)
                if not error.again or attempt >= self.limits.attempts:
                    raise
                # Outside the slot: a call that waits does not keep others from being sent.
                await asyncio.sleep(self._pause_s(attempt, error.retry_after_s))

    async def _once(self, send: Callable[[], Awaitable[R]], tokens: int) -> R:
        async def timed() -> R:
            try:
                return await asyncio.wait_for(send(), self.limits.timeout_s)
            except TimeoutError as error:
                detail = f"no answer within {self.limits.timeout_s} s"
                raise CallFailed("timeout", detail, again=True) from error

        async with self._slots:
            if self._requests is not None:
                await self._requests.take()
            if self._tokens is not None:
                await self._tokens.take(tokens)
            return await self._breaker.run(timed, self.limits.base_s)

    def _pause_s(self, attempt: int, retry_after_s: float | None) -> float:
        longest = min(LONGEST_S, self.limits.base_s * 2 ** (attempt - 1))
        drawn = self._random.uniform(0, longest)
        # A little later than asked for, so that not all who were told the same return together.
        return drawn if retry_after_s is None else retry_after_s + min(drawn, self.limits.base_s)


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD of one call."""
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


class Budget:
    """Money: what was spent, what calls in flight may still cost, and the limit that both stay below."""

    def __init__(self, limit_usd: float | None, spent_usd: float = 0.0) -> None:
        self._limit, self._spent, self._reserved = limit_usd, spent_usd, 0.0

    def reserve(self, usd: float) -> None:
        """Sets aside the most that a call can cost.

        Raises:
            ConfigError: the limit could be passed.
        """
        if self._limit is not None and self._spent + self._reserved + usd > self._limit:
            raise ConfigError(
                f"The calls have cost {self._spent:.4f} USD, those in flight may cost {self._reserved:.4f}, and the"
                f" next {usd:.4f}; together that is more than max_cost_usd {self._limit:g}. All answers are kept:"
                " raise the limit and run the same command."
            )
        self._reserved += usd

    def settle(self, reserved_usd: float, usd: float) -> None:
        """Replaces a reservation by what the call did cost."""
        self._reserved -= reserved_usd
        self._spent += usd
