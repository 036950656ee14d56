"""Pace, repetition and giving up, on functions that fail as told. No network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.synth import calls
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.calls import Budget, Endpoint, Limits, Price, TokenBucket
from thaitool.synth.parallel import as_they_end, in_order


class Server:
    """Answers a call with the next of `outcomes`: a number, or a failure to raise; the last one for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes, self.calls, self.at_once, self.most = list(outcomes), 0, 0, 0

    async def __call__(self) -> int:
        self.calls += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return int(outcome)


def passing(retry_after_s: float | None = None) -> CallFailed:
    return CallFailed("http_429", "busy", again=True, retry_after_s=retry_after_s)


def endpoint(**limits: Any) -> Endpoint:
    return Endpoint("the server", Limits(**{"base_s": 0.001, **limits}))


def test_a_passing_failure_is_tried_again_and_a_final_one_is_not() -> None:
    async def main() -> None:
        failures: list[str] = []

        def failed(error: CallFailed) -> None:
            failures.append(error.reason)

        server = Server(passing(), passing(), 7)
        assert await endpoint().call(server, failed=failed) == 7
        assert (server.calls, failures) == (3, ["http_429"] * 2)
        refusing = Server(CallFailed("http_400", "no", again=False))
        with pytest.raises(CallFailed, match="http_400"):
            await endpoint().call(refusing, failed=failed)
        assert refusing.calls == 1
        busy = Server(passing())
        with pytest.raises(CallFailed, match="http_429"):
            await endpoint(attempts=4).call(busy, failed=failed)
        assert busy.calls == 4
        assert len(failures) == 2 + 1 + 4

    asyncio.run(main())


def test_retry_after_is_waited_for_and_a_hang_is_ended() -> None:
    async def main() -> None:
        began = time.monotonic()
        assert await endpoint().call(Server(passing(0.2), 1), failed=lambda _: None) == 1
        assert time.monotonic() - began >= 0.2

        async def hang() -> int:
            await asyncio.sleep(3600)
            return 0

        with pytest.raises(CallFailed, match=r"timeout: no answer within 0.02 s"):
            await endpoint(timeout_s=0.02, attempts=2).call(hang, failed=lambda _: None)

    asyncio.run(main())


def test_no_more_calls_at_once_than_allowed_and_no_more_a_second() -> None:
    async def main() -> None:
        server = Server(1)
        shared = endpoint(in_flight=5)
        await asyncio.gather(*(shared.call(server, failed=lambda _: None) for _ in range(40)))
        assert (server.calls, server.most) == (40, 5)
        bucket = TokenBucket(100.0, capacity=10.0)
        began = time.monotonic()
        await asyncio.gather(*(bucket.take() for _ in range(40)))
        assert time.monotonic() - began >= 0.295  # ten at once, thirty at 100 a second

    asyncio.run(main())


def test_a_server_that_is_down_ends_the_run_with_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LONGEST_S", 0.002)

    async def main() -> int:
        server = Server(CallFailed("http_503", "down", again=True))
        shared = endpoint(in_flight=4)

        async def row(_: int) -> int:
            try:
                return await shared.call(server, failed=lambda _: None)
            except CallFailed:
                return -1

        with pytest.raises(EnvironmentProblem, match=r"the server has failed .* http_503: down"):
            async for _ in as_they_end(range(1000), row, 8):
                pass
        return server.calls

    # FAILURES close the gate, those in flight end, then one at a time tries.
    assert asyncio.run(main()) <= calls.FAILURES + 4 + calls.PROBES


def test_a_server_that_comes_back_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "LONGEST_S", 0.002)
    down = [CallFailed("http_503", "down", again=True)] * (calls.FAILURES + 3)

    async def main() -> list[int]:
        shared = endpoint(in_flight=4, attempts=10)
        server = Server(*down, 1)

        async def row(_: int) -> int:
            return await shared.call(server, failed=lambda _: None)

        return [made async for _, made in as_they_end(range(50), row, 8)]

    assert asyncio.run(main()) == [1] * 50


def test_the_budget_is_never_passed() -> None:
    price = Price(prompt=2.0, completion=10.0)
    assert price.of(1000, 100) == pytest.approx(0.003)
    budget = Budget(1.0, spent_usd=0.5)
    budget.reserve(0.3)
    with pytest.raises(ConfigError, match=r"cost 0.5000 USD, .* cost 0.3000, .* next 0.3000"):
        budget.reserve(0.3)
    budget.settle(0.3, 0.1)
    budget.reserve(0.3)
    free = Budget(None)
    free.reserve(1e9)


def test_parallel_work_keeps_its_bound_its_order_and_its_errors() -> None:
    async def main() -> None:
        at_once = most = 0

        async def work(n: int) -> int:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001 * (n % 3))
            at_once -= 1
            return n * n

        squares = {n: n * n for n in range(30)}
        assert {n: r async for n, r in as_they_end(range(30), work, 4)} == squares
        assert most == 4
        for width in (1, 4):
            ordered = [r async for _, r in in_order(range(30), work, width)]
            assert ordered == list(squares.values())
        assert most == 4
        cancelled = 0

        async def slow_or_wrong(n: int) -> int:
            nonlocal cancelled
            if n == 3:
                raise ValueError("three")
            try:
                await asyncio.sleep(0 if n < 3 else 3600)
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return n

        def numbers() -> Iterator[int]:
            yield from range(8)

        for run in (as_they_end, in_order):
            cancelled = 0
            with pytest.raises(ValueError, match="three"):
                async for _ in run(numbers(), slow_or_wrong, 8):
                    pass
            assert cancelled == 4

    asyncio.run(main())
