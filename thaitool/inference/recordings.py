"""Recordings of any length: where they are cut, and the text of their stretches together. Asks no model.

A recording is never in memory as a whole: levels of its frames decide the cuts, then each stretch is decoded alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.audio.silence import measure, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thaitool.text.tasks import TaskSpec

#: Cut at, where nothing else is said: what speech models are mostly trained on, and all that Whisper hears.
STRETCH_S = 30.0

#: What scores the tasks whose answers write down speech, and so can be put together from stretches.
_WRITES_DOWN = {"asr", "sr"}


@dataclass(frozen=True)
class Segment:
    """What was said in a stretch of a recording, in seconds from its start; `end_s` is exclusive."""

    start_s: float
    end_s: float
    text: str
    stopped: bool = True


def stretches(
    source: str | bytes,
    item: str,
    longest_s: float,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    offset: int | None = None,
    n_bytes: int | None = None,
) -> list[tuple[float, float]]:
    """Where to cut a recording: start and end of stretches of at most `longest_s` seconds, in order, disjoint.

    Long pauses are in none of them; cuts fall into the quietest places (`audio.silence.pieces`).

    Args: as `audio.decode.decode`, whose `start_s` and `end_s` the results are for.

    Raises:
        BadAudio: it is unreadable, empty, truncated, silent or not finite, anywhere in it.
    """
    levels = measure(source, item, start_s=start_s, end_s=end_s, offset=offset, n_bytes=n_bytes)
    return [
        (round(start_s + a * levels.frame_s, 6), round(start_s + b * levels.frame_s, 6))
        for a, b in pieces(levels, longest_s)
    ]


def is_split(task: TaskSpec) -> bool:
    """Whether the answers about the stretches of a recording make the answer about all of it."""
    return task.metric in _WRITES_DOWN


def joined(segments: Iterable[Segment]) -> str:
    """The texts in order with a space at each cut, as Thai has between phrases; stretches without text leave none."""
    return " ".join(segment.text for segment in segments if segment.text)
