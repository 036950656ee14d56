"""JSON lines of a recording and what is said or answered, as speech LLM tools list them. Keeps no other keys.

SLAM-LLM `{key, source, target, prompt?}`, its multitask lists `{key, task, path, target}`, wenet and West
`{key?, wav, txt}`, Qwen3-ASR `{audio, text, prompt?}`. A relative path starts at the list's folder or at the working
directory: at the one that holds the first relative path.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.data.readers.lines import (
    Paths,
    Problems,
    folder_of,
    json_objects,
    optional_text,
    seconds,
    shown,
)
from thaitool.records import AudioRef, Rejected, Utterance
from thaitool.text.context import Context, context_text

if TYPE_CHECKING:
    from collections.abc import Iterator

SLAM, MULTITASK, WENET, QWEN_ASR = "slam", "multitask", "wenet", "qwen_asr"
#: `file.ark:1234`: a recording inside a Kaldi archive.
_IN_ARCHIVE = re.compile(r".+\.ark:\d+")
#: Qwen3-ASR writes the language before the transcript.
_LANGUAGE = re.compile(r"language [^<]{0,40}<asr_text>")


@dataclass(frozen=True)
class _Keys:
    """Under which keys a form keeps the recording's path and the answer."""

    audio: str
    answer: str
    form: str


_FORMS = {
    SLAM: _Keys(
        "source", "target", "a SLAM list (JSON objects with source and target, one a line)"
    ),
    MULTITASK: _Keys(
        "path", "target", "a multitask list (JSON objects with task, path and target)"
    ),
    WENET: _Keys("wav", "txt", "a wenet list (JSON objects with wav and txt, one a line)"),
    QWEN_ASR: _Keys("audio", "text", "a Qwen3-ASR list (JSON objects with audio and text)"),
}


def keyed_form(row: dict[str, Any]) -> str | None:
    """Which of these forms an object is a line of, if any."""
    for name, keys in _FORMS.items():
        if keys.audio in row and keys.answer in row and not isinstance(row[keys.audio], dict):
            return name
    return None


def read_keyed(path: Path, form: str, prefix: str = "") -> Iterator[Utterance | Rejected]:
    """The utterances of one list. An id is the row's key, or else `prefix` and the path as written.

    `target` of a row with a prompt of its own, or of another task than `asr`, is its label; else it is its transcript.
    Qwen3-ASR's `prompt` is what is known beforehand, and becomes the scene of the row's context.

    Raises:
        InputError: a line is malformed, or no listed file exists.
    """
    keys = _FORMS[form]
    problems = Problems(path, keys.form)
    paths = Paths(path, (folder_of(path), Path.cwd()))
    for number, row in json_objects(problems):
        wrong = _wrong(row, keys)
        if wrong:
            problems.add(number, wrong)
            continue
        written: str = row[keys.audio]
        if _IN_ARCHIVE.fullmatch(written):
            detail = f"{written}: Kaldi archives are not read; copy the recordings to files"
            yield Rejected(f"{path}:{number}", "archive", detail)
            continue
        place = paths.find(written, number)
        yield (
            place
            if isinstance(place, Rejected)
            else _utterance(path, place, row, form=form, prefix=prefix)
        )
    problems.check()
    paths.check()


def _wrong(row: dict[str, Any], keys: _Keys) -> str | None:
    """What keeps a line from being used, in words."""
    if not isinstance(row.get(keys.audio), str) or not row[keys.audio]:
        return f"{keys.audio} must be a path, but is {shown(row.get(keys.audio))}"
    if keys.answer not in row:
        return f"{keys.answer} must be there, but is not"
    for key in (keys.answer, "key", "task", "prompt", "speaker"):
        wrong = optional_text(row, key)[1]
        if wrong:
            return wrong
    start, end = row.get("start"), row.get("end")
    first, last = seconds(start or 0.0), seconds(end)
    if first is None or (end is not None and (last is None or last <= first)):
        return f"start and a later end must be seconds, but are {shown(start)} and {shown(end)}"
    return None


def _utterance(path: Path, place: str, row: dict[str, Any], *, form: str, prefix: str) -> Utterance:
    keys = _FORMS[form]
    written: str = row[keys.audio]
    start, end = seconds(row.get("start")) or 0.0, seconds(row.get("end"))
    answer: str | None = row[keys.answer]
    prompt: str | None = row.get("prompt")
    task = row["task"].lower() if row.get("task") else None
    context = None
    if form == QWEN_ASR:
        answer = None if answer is None else _LANGUAGE.sub("", answer, count=1)
        prompt, context = None, context_text(Context(scene=prompt or ""))
    is_label = bool(prompt) or task not in {None, "asr"}
    stretch = "" if end is None and not start else f"@{round(1000 * start)}-{_milliseconds(end)}"
    return Utterance(
        id=row.get("key") or f"{prefix}{written}{stretch}",
        audio=AudioRef(place),
        duration_s=math.nan if end is None else end - start,
        sample_rate_hz=0,
        start_s=start,
        end_s=end,
        text=None if is_label else answer,
        task=task,
        label=answer if is_label else None,
        speaker=row.get("speaker"),
        source=str(path),
        source_id=row.get("key") or f"{prefix}{written}",
        prompt=prompt or None,
        context=context,
    )


def _milliseconds(end_s: float | None) -> str:
    return "" if end_s is None else str(round(1000 * end_s))
