"""SIGINT and SIGTERM in training: noted, so that the loop can finish its update and write a checkpoint."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thaitool.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Received:
    """The first signal that came, if any. Mutable, as a handler has nowhere else to put it."""

    number: int | None = None


def stop_if_asked(received: Received, what: str) -> None:
    """Ends work that starts anew next time. Called between items: an exception that a signal handler raises is lost
    when it happens to strike inside a callback of a C library, and the work would go on.

    Raises:
        Interrupted: a signal was noted.
    """
    if received.number is not None:
        raise Interrupted(
            f"Stopped by signal {received.number} during {what}. Files are whole or absent; run the command again.",
            received.number,
        )


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
