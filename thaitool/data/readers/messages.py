"""Chats about a recording as JSON lines: `messages` and `audios` of ms-swift and LLaMA-Factory, or `conversations`.

One user turn and one assistant turn are one row: the user's words are its prompt, the assistant's its label, a system
turn the scene of its context. Chats of several turns or recordings are set aside; this reads no images and no tools.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.data.readers.lines import Paths, Problems, folder_of, json_objects, shown
from thaitool.records import AudioRef, Rejected, Utterance
from thaitool.text.context import Context, context_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "a list of chats (JSON objects with messages and audios, one a line)"
#: Where a recording stands in a user's words.
_PLACEHOLDER = "<audio>"
#: Names of a turn's speaker and words: ms-swift and OpenAI, sharegpt.
_TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
_ROLES = {"human": "user", "gpt": "assistant"}


def is_messages(row: dict[str, Any]) -> bool:
    """Whether an object is a line of such a list."""
    return not _TURNS.keys().isdisjoint(row)


def read_messages(path: Path, prefix: str = "") -> Iterator[Utterance | Rejected]:
    """The utterances of one list; an id is the row's `id`, or else `prefix`, the list's name and the line.

    A relative path starts at the list's folder or at the working directory, whichever holds the first one. Set aside
    are chats of `several_turns`, with `several_audios` or with `no_audio`.

    Raises:
        InputError: a line is malformed, or no listed file exists.
    """
    problems = Problems(path, FORM)
    paths = Paths(path, (folder_of(path), Path.cwd()))
    for number, row in json_objects(problems):
        turns, wrong = _turns(row)
        audios, wrong_audios = _audios(row, turns)
        if wrong or wrong_audios:
            problems.add(number, wrong or wrong_audios)
            continue
        reason = _set_aside(turns, audios)
        if reason is not None:
            yield Rejected(f"{path}:{number}", *reason)
            continue
        place = paths.find(audios[0], number)
        name = row.get("id")
        yield (
            place
            if isinstance(place, Rejected)
            else Utterance(
                id=str(name) if isinstance(name, str | int) else f"{prefix}{path.stem}:{number}",
                audio=AudioRef(place),
                duration_s=math.nan,
                sample_rate_hz=0,
                task=row["task"].lower() if isinstance(row.get("task"), str) else None,
                label=_words(turns, "assistant"),
                source=str(path),
                source_id=f"{prefix}{audios[0]}",
                prompt=_words(turns, "user").replace(_PLACEHOLDER, "").strip() or None,
                context=context_text(Context(scene=_words(turns, "system"))),
            )
        )
    problems.check()
    paths.check()


#: Speaker, words and the recordings among them.
_Turn = tuple[str, str, list[str]]


def _turns(row: dict[str, Any]) -> tuple[list[_Turn], str]:
    """The turns of a chat, and what is wrong with them in words, if anything."""
    key = next((name for name in _TURNS if name in row), None)
    if key is None:
        return [], "messages must be there, but are not"
    role_key, words_key = _TURNS[key]
    if not isinstance(row[key], list) or not all(isinstance(turn, dict) for turn in row[key]):
        return [], f"{key} must be a list of turns, but is {shown(row[key])}"
    turns: list[_Turn] = []
    if isinstance(row.get("system"), str) and row["system"]:
        turns.append(("system", row["system"], []))
    for turn in row[key]:
        role, words = turn.get(role_key), turn.get(words_key)
        if not isinstance(role, str):
            return [], f"a turn must have a {role_key}, but is {shown(turn)}"
        parts = [{"type": "text", "text": words}] if isinstance(words, str) else words
        if not isinstance(parts, list) or not all(_is_part(part) for part in parts):
            return (
                [],
                f"{words_key} of a turn must be text, or parts of text and audio, but is {shown(words)}",
            )
        said = "".join(part["text"] for part in parts if part["type"] == "text")
        heard = [part["audio"] for part in parts if part["type"] == "audio" and "audio" in part]
        turns.append((_ROLES.get(role, role), said, heard))
    return turns, ""


def _is_part(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    if part.get("type") == "text":
        return isinstance(part.get("text"), str)
    return part.get("type") == "audio" and isinstance(part.get("audio", ""), str)


def _audios(row: dict[str, Any], turns: list[_Turn]) -> tuple[list[str], str]:
    """The recordings of a chat as written, and what is wrong with them in words, if anything."""
    given = row.get("audios")
    listed = [given] if isinstance(given, str) else given
    if listed is None:
        return [place for _, _, heard in turns for place in heard], ""
    if not isinstance(listed, list) or not all(isinstance(a, str) and a for a in listed):
        return [], f"audios must be a list of paths, but is {shown(given)}"
    return listed, ""


def _set_aside(turns: list[_Turn], audios: list[str]) -> tuple[str, str] | None:
    """Reason and detail of a chat that is no single question about one recording."""
    roles = [role for role, _, _ in turns]
    if not audios:
        return "no_audio", "it has no recording"
    marks = sum(words.count(_PLACEHOLDER) for _, words, _ in turns)
    if len(audios) > 1 or marks > 1:
        return "several_audios", f"it has {len(audios)} recordings and {marks} {_PLACEHOLDER}"
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        return "several_turns", f"it has the turns {', '.join(roles)}, not user and assistant"
    return None


def _words(turns: list[_Turn], role: str) -> str:
    return "\n".join(words.strip() for speaker, words, _ in turns if speaker == role)
