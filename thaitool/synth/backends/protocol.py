"""What a language model and a voice must offer to be used by `synth`, and how they say that a call failed.

Knows no network, no retries and no cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from thaitool.synth.espeak import Speech


class CallFailed(Exception):
    """One call brought nothing. Never leaves `synth`: it is tried again, or the row is rejected for `reason`."""

    def __init__(
        self, reason: str, detail: str, *, again: bool, retry_after_s: float | None = None
    ) -> None:
        """`again`: whether the same call may succeed later; `retry_after_s`: what the server asked for."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.again, self.retry_after_s = again, retry_after_s


class NotYetAnswered(Exception):
    """The request was written down for a batch; its answer comes another day."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What answers: part of every cache key."""

    backend: str
    """The URL without model and key."""
    model: str
    revision: str
    """Digest of the weights where they are at hand; a remote model has none but its name."""

    def __str__(self) -> str:
        return f"{self.backend}#{self.model}" + (f"@{self.revision[:12]}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a language model is asked."""

    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    more: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the server's own, such as a switch for thinking; they go before those of the same name."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What it said, and what that is billed for."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    is_whole: bool = True
    """False if it was cut off at `max_tokens`."""


class Llm(Protocol):
    """A language model."""

    @property
    def identity(self) -> Identity:
        """What answers."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One answer.

        Raises:
            CallFailed: no answer came.
            NotYetAnswered: the request waits in a batch.
        """

    async def close(self) -> None:
        """Gives connections and memory back."""


class Tts(Protocol):
    """A program, server or model that speaks Thai in one or more voices."""

    @property
    def identity(self) -> Identity:
        """What speaks."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices; one that stands here twice is drawn twice as often."""

    @property
    def in_flight(self) -> int:
        """How many clips it may be asked for at once."""

    async def speak(
        self, text: str, voice: str, *, speed: float, pitch_shift: int, seed: int
    ) -> Speech:
        """Says `text` (spoken form). What the backend cannot vary (speed, pitch) stays as it is.

        Raises:
            CallFailed: no audio came.
            InputError: the text cannot be spoken.
        """

    async def close(self) -> None:
        """Gives connections and memory back."""
