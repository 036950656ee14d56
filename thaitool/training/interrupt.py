"""SIGINT and SIGTERM in training: noted, so that the loop can finish its update and write a checkpoint."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Received:
    """The first signal that came, if any. Mutable, as a handler has nowhere else to put it."""

    number: int | None = None


@contextmanager
def noting_signals() -> Iterator[Received]:
    """Within the block the first SIGINT or SIGTERM is only noted; a second one acts as it would outside."""
    received = Received()
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:  # noqa: ARG001
        received.number = number
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield received
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
