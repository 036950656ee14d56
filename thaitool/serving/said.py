"""Answers in the forms of OpenAI's API: JSON, plain text, subtitles, and events of a stream. Looks nothing up.

Fields of OpenAI's that this model knows nothing about (log probabilities, a compression ratio) are absent, not made up.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.inference.recordings import Segment
    from thaitool.serving.asked import BodyForm

MEDIA_TYPES: dict[BodyForm, str] = {
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Said:
    """A whole answer."""

    text: str
    segments: tuple[Segment, ...]
    duration_s: float
    prompt_tokens: int
    tokens: int
    stopped: bool
    """Whether the model ended by itself, and not at the limit."""


def transcription(said: Said, form: BodyForm) -> str:
    """The body of an answer in a form; a JSON one ends in no line break."""
    if form == "text":
        return said.text + "\n"
    if form == "srt":
        return _srt(said.segments)
    if form == "vtt":
        return _vtt(said.segments)
    body: dict[str, Any] = {"text": said.text, "usage": _usage(said)}
    if form == "verbose_json":
        body = {
            "task": "transcribe",
            "language": "thai",
            "duration": round(said.duration_s, 3),
            "segments": [
                {"id": i, "start": round(s.start_s, 3), "end": round(s.end_s, 3), "text": s.text}
                for i, s in enumerate(said.segments)
            ],
            **body,
        }
    return json.dumps(body, ensure_ascii=False)


def transcription_delta(text: str) -> bytes:
    """A piece of a transcript, as an event."""
    return event({"type": "transcript.text.delta", "delta": text})


def transcription_done(said: Said) -> bytes:
    """The last event of a transcript."""
    return event({"type": "transcript.text.done", "text": said.text, "usage": _usage(said)})


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


@dataclass(frozen=True)
class Chat:
    """What all parts of one answer of chat have in common."""

    id: str
    created: int
    model: str

    def whole(self, said: Said) -> dict[str, Any]:
        """The body of an answer."""
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish_reason(said),
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": _chat_usage(said)}

    def delta(self, text: str, *, first: bool) -> bytes:
        """A piece of an answer, as an event."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._chunk(delta, None)

    def last(self, said: Said) -> bytes:
        """Why the answer ended, as an event."""
        return self._chunk({}, _finish_reason(said))

    def count(self, said: Said) -> bytes:
        """What `stream_options.include_usage` asks for, as an event."""
        head = self._head("chat.completion.chunk")
        return event({**head, "choices": [], "usage": _chat_usage(said)})

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def new_chat(model: str) -> Chat:
    """A fresh id, at this second."""
    return Chat(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model)


def _finish_reason(said: Said) -> str:
    return "stop" if said.stopped else "length"


def _usage(said: Said) -> dict[str, Any]:
    return {
        "type": "tokens",
        "input_tokens": said.prompt_tokens,
        "output_tokens": said.tokens,
        "total_tokens": said.prompt_tokens + said.tokens,
    }


def _chat_usage(said: Said) -> dict[str, int]:
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.tokens,
        "total_tokens": said.prompt_tokens + said.tokens,
    }


def _srt(segments: Sequence[Segment]) -> str:
    """SubRip: numbered from 1, decimal commas, blocks apart by a blank line."""
    blocks = [
        f"{i}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{_cue(s.text)}\n"
        for i, s in enumerate((s for s in segments if s.text.strip()), start=1)
    ]
    return "\n".join(blocks)


def _vtt(segments: Sequence[Segment]) -> str:
    """WebVTT (W3C, section 4): `&` and `<` are markup in a cue."""
    blocks = [
        f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n"
        + _cue(s.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        + "\n"
        for s in segments
        if s.text.strip()
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _cue(text: str) -> str:
    """One line: a blank one would end the block."""
    return " ".join(text.split())


def _clock(at_s: float, point: str) -> str:
    ms = round(1000 * at_s)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"
