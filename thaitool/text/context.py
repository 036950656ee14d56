"""What is known before a recording is heard (names, scene, dialogue, a draft), and its one wording in a prompt.

Training, evaluation, inference and servers all call `with_context`. Draws no words: see `training.hotwords`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from thaitool.errors import InputError


@dataclass(frozen=True, slots=True)
class Context:
    """Fields of a prompt beside the instruction; an empty one is not mentioned."""

    hotwords: tuple[str, ...] = ()
    """Words that may be said, such as names of people and products; most of them are not."""
    scene: str = ""
    """Who speaks, where, about what."""
    history: tuple[str, ...] = ()
    """Earlier turns of the dialogue, oldest first."""
    draft: str = ""
    """A transcript by another recogniser, with its mistakes."""

    def __bool__(self) -> bool:
        return bool(self.hotwords or self.scene or self.history or self.draft)


#: What goes before each field; a reader of the prompt must be able to tell them apart.
_SCENE, _HOTWORDS, _HISTORY, _DRAFT = "สถานการณ์:", "คำที่อาจได้ยิน:", "บทสนทนาก่อนหน้า:", "ร่างถอดเสียง:"


def with_context(instruction: str, context: Context | None) -> str:
    """An instruction with its context before it, one field a line; without context as it is.

    White space in a field becomes single spaces, so that no field can begin another.
    """
    if not context:
        return instruction
    lines = []
    if scene := _one_line(context.scene):
        lines.append(f"{_SCENE} {scene}")
    if words := [line for word in context.hotwords if (line := _one_line(word))]:
        lines.append(f"{_HOTWORDS} {', '.join(words)}")
    if turns := [line for turn in context.history if (line := _one_line(turn))]:
        lines += [_HISTORY, *(f"- {turn}" for turn in turns)]
    if draft := _one_line(context.draft):
        lines.append(f"{_DRAFT} {draft}")
    return "\n".join([*lines, instruction])


def context_text(context: Context) -> str | None:
    """The JSON that `records.Utterance.context` holds, only of fields that are not empty; None if all are."""
    fields: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name in ("hotwords", "scene", "history", "draft")
        if (value := getattr(context, name))
    }
    return json.dumps(fields, ensure_ascii=False) if fields else None


def parse_context(text: str | None) -> Context:
    """The context in `context_text`; an empty one for None.

    Raises:
        InputError: it is no JSON object of these fields.
    """
    if text is None:
        return Context()
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"A context must be a JSON object, but {text[:80]!r} is not: {error}."
        ) from error
    return context_of(fields)


def context_of(fields: object) -> Context:
    """The context of a mapping, as JSON or YAML has it: hotwords and history lists of texts, scene and draft texts.

    Raises:
        InputError: it has other fields, or values of another kind.
    """
    if not isinstance(fields, dict) or not fields.keys() <= {
        "hotwords",
        "scene",
        "history",
        "draft",
    }:
        raise InputError(
            f"A context must be an object with hotwords, scene, history and draft (each may be absent), but is"
            f" {str(fields)[:80]!r}."
        )
    known: dict[str, Any] = {}
    for name, value in fields.items():
        if name in {"scene", "draft"}:
            is_right, kind = isinstance(value, str), "a text"
        else:
            is_right = isinstance(value, list) and all(isinstance(v, str) for v in value)
            kind = "a list of texts"
        if not is_right:
            raise InputError(f"{name} of a context must be {kind}, but is {str(value)[:80]!r}.")
        known[name] = tuple(value) if isinstance(value, list) else value
    return Context(**known)


def _one_line(text: str) -> str:
    return " ".join(text.split())
