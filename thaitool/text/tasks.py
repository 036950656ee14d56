"""Tasks: how each is asked, in Thai and English, what its answers are and what scores them; built in or from YAML.

Asks nothing itself: `models.processor` puts an instruction into a prompt, `training.examples` draws one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from thaitool.errors import ConfigError, InputError
from thaitool.records import TASKS
from thaitool.text.prompts import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Answer = Literal["text", "label", "json"]
#: In a checkpoint: the tasks that its model was trained on.
TASKS_FILE = "tasks.json"
#: Names that mean something else where a task is asked for.
_RESERVED = {"slu"}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
#: What the answers of a task are that is scored as a built-in one.
_ANSWER_OF: dict[str, Answer] = {
    "asr": "text",
    "ic": "label",
    "ner": "json",
    "sr": "text",
    "qa": "text",
}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task by its name."""

    name: str
    prompts: tuple[str, ...]
    """Ways to ask for it; evaluation, inference and servers use the first, training may draw."""
    answer: Answer = "text"
    """Any text, one name of a closed set, or JSON."""
    metric: str = "asr"
    """One of `records.TASKS`: whose metrics score the answers."""
    labels: tuple[str, ...] | None = None
    """The closed set of a `label` task; None takes the labels that the data has."""


_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "asr": (
        "พิมพ์ตามที่ได้ยินในเสียงนี้",
        "ผู้พูดพูดว่าอะไร เขียนให้ตรงตามที่พูด",
        "Transcribe this speech in Thai.",
        "Write down exactly what the speaker says.",
    ),
    "ic": (
        "คำพูดนี้มีเจตนาใด ตอบเฉพาะชื่อเจตนา",
        "ระบุเจตนาของผู้พูดด้วยชื่อเจตนาเดียว",
        "What does the speaker want? Answer with the name of the intent.",
        "Classify the intent of this speech. Answer with its name only.",
    ),
    "ner": (
        "ระบุชื่อบุคคล สถานที่ องค์กร และชื่ออื่นๆ ที่พูดถึง ตอบเป็น JSON",
        "ในเสียงนี้มีชื่อเฉพาะอะไรบ้าง ตอบเป็น JSON",
        "Find the named entities in this speech. Answer in JSON.",
        "List the names of people, places and organisations that are said. Answer in JSON.",
    ),
    "sr": (
        "เขียนสิ่งที่พูดนี้ใหม่ให้เป็นภาษาเขียนที่อ่านง่าย",
        "เปลี่ยนคำพูดนี้เป็นข้อความภาษาเขียน โดยคงความหมายเดิม",
        "Rewrite this speech as clear written Thai.",
        "Rephrase what is said in written Thai, with the same meaning.",
    ),
    "qa": (
        "ทำตามคำสั่งในเสียงนี้ แล้วตอบเป็นภาษาไทย",
        "ตอบคำถามหรือคำขอที่ได้ยินเป็นข้อความภาษาไทย",
        "Listen to the instruction and answer in Thai.",
        "Answer the spoken request in written Thai.",
    ),
}

#: The tasks of `records.TASKS`; the first prompts are those of `text.prompts`.
BUILT_IN: dict[str, TaskSpec] = {
    name: TaskSpec(name, (PROMPTS[name], *_PARAPHRASES[name]), _ANSWER_OF[name], name)
    for name in TASKS
}


def task_of(name: str, tasks: Mapping[str, TaskSpec]) -> TaskSpec:
    """The task of a name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in tasks:
        raise InputError(
            f"A task must be one of {', '.join(tasks)}, but is {name!r}. Define others in a YAML file of tasks when the"
            " model is finetuned."
        )
    return tasks[name]


def instruction(spec: TaskSpec, *, draw: int | None) -> str:
    """How a task is asked: by its first prompt, or by number `draw` (any whole number from 0) of all."""
    return spec.prompts[0 if draw is None else draw % len(spec.prompts)]


def load_tasks(path: Path, known: Mapping[str, TaskSpec] = BUILT_IN) -> dict[str, TaskSpec]:
    """The known tasks (of a model that is trained further: its own) and those of a YAML file.

    The file maps names of tasks to `prompts` (one text or a list), `metric` (one of `records.TASKS`), and, if wanted,
    `answer` and `labels`. Of a built-in task only `prompts` may be given; they are added behind its own, as all who ask
    use the first. Another known task is replaced.

    Raises:
        ConfigError: the file cannot be read, or has mistakes; the message lists all of them with their lines.
    """
    try:
        root = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(
            f"{path} must be a YAML file of tasks, but cannot be read: {error.strerror or error}."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} must be a YAML file of tasks, but is no YAML: {error}"
        ) from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise ConfigError(
            f"{path} must map names of tasks to their prompts and metric, e.g. `mood: {{metric: ic, prompts: [...]}}`,"
            " but does not."
        )
    problems: list[str] = []
    found: dict[str, TaskSpec | None] = {}
    for key, value in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        fields = _fields(value, problems, f"{path}:{line}: task {name!r}")
        if name in found:
            problems.append(f"{path}:{line}: task {name!r} is there twice.")
        found[name] = _spec(name, fields, known, problems, f"{path}:{line}: task {name!r}")
    if problems:
        listing = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(f"The tasks in {path} have {len(problems)} problem(s):{listing}")
    return {**known, **{name: spec for name, spec in found.items() if spec is not None}}


def tasks_sha256(tasks: Mapping[str, TaskSpec]) -> str:
    """Hash of everything about tasks, for fingerprints of runs."""
    return hashlib.sha256(_text(tasks).encode()).hexdigest()


def write_tasks(path: Path, tasks: Mapping[str, TaskSpec]) -> str:
    """Writes the tasks of a model into its directory; the hash of what was written, for `require_tasks`."""
    (path / TASKS_FILE).write_text(_text(tasks), encoding="utf-8", newline="\n")
    return tasks_sha256(tasks)


def require_tasks(path: Path, sha256: str | None) -> None:
    """Raises `InputError` if the tasks in a model directory are not those of the hash; None knows of no tasks."""
    file = path / TASKS_FILE
    if sha256 is None or (
        file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    ):
        return
    raise InputError(
        f"{file} must hold the tasks that the model was trained on, but is missing or changed, so the model would be"
        " asked something else. Restore the file, or train again."
    )


def _text(tasks: Mapping[str, TaskSpec]) -> str:
    return json.dumps([asdict(spec) for spec in tasks.values()], ensure_ascii=False, indent=1)


def tasks_of(path: Path) -> dict[str, TaskSpec]:
    """The tasks of a model directory: those it was trained on, or the built-in ones if it does not say.

    Raises:
        InputError: its file of tasks is damaged.
    """
    file = path / TASKS_FILE
    if not file.is_file():
        return dict(BUILT_IN)
    try:
        rows = json.loads(file.read_text("utf-8"))
        specs = [_from_row(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} must hold the tasks of the model, but is damaged: {error!r}. Copy or make the checkpoint again."
        ) from error
    return BUILT_IN | {spec.name: spec for spec in specs}


def _from_row(row: dict[str, Any]) -> TaskSpec:
    labels = row["labels"]
    spec = TaskSpec(
        row["name"],
        tuple(row["prompts"]),
        row["answer"],
        row["metric"],
        None if labels is None else tuple(labels),
    )
    texts = (spec.name, spec.metric, *spec.prompts, *(spec.labels or ()))
    if not spec.prompts or not all(isinstance(t, str) for t in texts) or spec.metric not in TASKS:
        raise ValueError(f"a task without prompts or metric: {row!r}")
    return spec


def _fields(node: yaml.Node, problems: list[str], where: str) -> dict[str, Any]:
    """The fields of one task as plain values; a doubled key is a problem."""
    if not isinstance(node, yaml.MappingNode):
        problems.append(f"{where} must be a mapping with prompts and metric.")
        return {}
    keys = [str(key.value) for key, _ in node.value]
    problems += [
        f"{where} has {key!r} twice." for key in sorted({k for k in keys if keys.count(k) > 1})
    ]
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        problems.append(f"{where} is not plain YAML: {getattr(error, 'problem', None) or error}.")
        return {}
    return {str(k): v for k, v in value.items()}


def _spec(
    name: str,
    fields: dict[str, Any],
    tasks: Mapping[str, TaskSpec],
    problems: list[str],
    where: str,
) -> TaskSpec | None:
    """A task of its fields; None, and what is wrong in `problems`, if it cannot be one."""
    known = {"prompts"} if name in BUILT_IN else {"prompts", "metric", "answer", "labels"}
    for key in sorted(fields.keys() - known):
        why = (
            "belongs to a built-in task and cannot be changed" if name in BUILT_IN else "is unknown"
        )
        problems.append(f"{where}: {key!r} {why}; the keys are {', '.join(sorted(known))}.")
    if name in _RESERVED or not _NAME.fullmatch(name):
        problems.append(
            f"{where} must have a name of small letters, digits, - and _, a letter first, other than"
            f" {' or '.join(_RESERVED)}."
        )
    prompts = _texts(fields.get("prompts"), problems, f"{where}: prompts", least=1)
    if name in BUILT_IN:
        own = tasks[name]
        return replace(own, prompts=(*own.prompts, *(p for p in prompts if p not in own.prompts)))
    metric = fields.get("metric")
    if not isinstance(metric, str) or metric not in TASKS:
        problems.append(
            f"{where}: metric must be the task that it is scored like ({', '.join(TASKS)}), but is {metric!r}."
        )
        return None
    answer = fields.get("answer", _ANSWER_OF[metric])
    fitting = {_ANSWER_OF[metric]} if metric in {"ic", "ner"} else {"text", "json"}
    if answer not in get_args(Answer) or answer not in fitting:
        problems.append(
            f"{where}: answer must be {' or '.join(sorted(fitting))} with metric {metric}, but is {answer!r}."
        )
        return None
    labels = None
    if fields.get("labels") is not None:
        labels = _texts(fields["labels"], problems, f"{where}: labels", least=2)
        if answer != "label":
            problems.append(
                f"{where}: labels are for metric ic, but metric is {metric}; leave them out."
            )
    return TaskSpec(name, prompts, answer, metric, labels)


def _texts(value: Any, problems: list[str], where: str, *, least: int) -> tuple[str, ...]:
    """One text or a list of different ones that are not blank, without white space around them."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(t, str) and t.strip() for t in given):
        problems.append(
            f"{where} must be texts that are not blank (in quotes, if YAML reads them as something else)."
        )
        return ()
    texts = tuple(text.strip() for text in given)
    twice = _first_twice(texts)
    if twice is not None:
        problems.append(f"{where} must be different, but {twice!r} is there twice.")
    elif len(texts) < least:
        problems.append(f"{where} must be {least} at least, but {len(texts)} are given.")
    return texts


def _first_twice(texts: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            return text
        seen.add(text)
    return None
