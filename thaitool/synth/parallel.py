"""Runs one coroutine function over many items, a bounded number at once. Neither repeats nor catches anything.

When the caller stops, or work raises, what is still under way is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable

T = TypeVar("T")
R = TypeVar("R")


async def as_they_end(
    items: Iterable[T], work: Callable[[T], Coroutine[None, None, R]], width: int
) -> AsyncGenerator[tuple[T, R]]:
    """(item, result) in the order in which they end; `width` items are under way."""
    running: dict[asyncio.Task[R], T] = {}
    waiting = iter(items)
    try:
        while True:
            for item in waiting:
                running[asyncio.create_task(work(item))] = item
                if len(running) >= width:
                    break
            if not running:
                return
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                yield running.pop(task), task.result()
    finally:
        await _cancel(running)


async def in_order(
    items: Iterable[T], work: Callable[[T], Coroutine[None, None, R]], width: int
) -> AsyncGenerator[tuple[T, R]]:
    """(item, result) in the order of the items; up to `width` are under way or wait for an earlier one."""
    if width == 1:  # a task for each would only cost time
        for item in items:
            yield item, await work(item)
        return
    running: deque[tuple[T, asyncio.Task[R]]] = deque()
    waiting = iter(items)
    try:
        while True:
            for item in waiting:
                running.append((item, asyncio.create_task(work(item))))
                if len(running) >= width:
                    break
            if not running:
                return
            item, task = running[0]
            result = await task
            running.popleft()
            yield item, result
    finally:
        await _cancel(task for _, task in running)


async def _cancel(tasks: Iterable[asyncio.Task[R]]) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    # Their own errors are not news: the first one is on its way already.
    await asyncio.gather(*left, return_exceptions=True)
