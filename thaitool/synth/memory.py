"""Loads a translation memory: English sentences with slots, and what Thai speakers say instead.

It checks the memory and looks sentences up; it does not fill slots (`translate`) or swap names
(`augment`).

A memory is JSON Lines; each line is one record, told apart by its key `record`:

* `template`: `en` "Call [1:PER]." with slots numbered in order, `mood`, `th` (spoken renderings
  with the slots `[1]`), `rephrase_th` (the formal written form). `[me]` is the speaker's pronoun.
  Renderings of a command start with a verb, so that ช่วย and the like can stand before them.
* `entity`: `type` (PER, LOC, ORG, OTH), `en`, `th`, and `kind`: names of one kind may be swapped.
* `frame`: words around a sentence, `en` "please {}", `th` ["ช่วย{}"], the `moods` it suits, and
  `then`, the mood of the whole (or "same").
* `ending`: a polite particle `th` for one `mood`, and the pronoun `me` that goes with it.
* `intent`: the Thai name `th` of the intent `id`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thaitool.errors import InputError
from thaitool.records import ENTITY_TYPES
from thaitool.synth.jsonrows import (
    JsonObject,
    lines_of_objects,
    raise_problems,
    read_text,
    text_field,
    undecoded,
)
from thaitool.synth.sources import normal_english

MOODS = ("command", "question", "statement")
EMBEDDED = Path(__file__).with_name("embedded")

_SLOT_EN = re.compile(r"\[(\d+):([A-Z]+)\]")
_SLOT_TH = re.compile(r"\[(\d+)\]")
# The grapheme-to-phoneme step speaks Thai letters and digits only.
_SPEAKABLE = re.compile(r"[\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e590-9 ]*")


@dataclass(frozen=True, slots=True)
class Template:
    """One English sentence and its Thai renderings; `slots` are the types of `[1]`, `[2]`, ..."""

    en: str
    mood: str
    slots: tuple[str, ...]
    th: tuple[str, ...]
    rephrase_th: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Name:
    """One name in both languages; names of one `type` and `kind` may stand for each other."""

    type: str
    kind: str
    en: str
    th: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Words around a sentence of one of `moods`; the whole has the mood `then` (or "same")."""

    en: str
    th: tuple[str, ...]
    moods: tuple[str, ...]
    then: str


@dataclass(frozen=True, slots=True)
class Ending:
    """A polite particle after a sentence of mood `mood`, and the pronoun its speaker uses."""

    mood: str
    th: str
    me: str


@dataclass(frozen=True, slots=True)
class Memory:
    """A checked translation memory: `templates` by skeleton, `names` by (type, English)."""

    templates: Mapping[str, Template]
    names: Mapping[tuple[str, str], Name]
    frames: tuple[Frame, ...]
    endings: tuple[Ending, ...]
    intents: Mapping[str, str]
    sha256: str

    def match(self, skeleton: str) -> tuple[Template, Frame | None] | None:
        """The template for a sentence, plain or in one frame that suits it; None without one."""
        if skeleton in self.templates:
            return self.templates[skeleton], None
        for frame in self.frames:
            before, after = normal_english(frame.en).split("{}")
            if not (skeleton.startswith(before) and skeleton.endswith(after)):
                continue
            inner = skeleton[len(before) : len(skeleton) - len(after)]
            template = self.templates.get(inner)
            if template is not None and template.mood in frame.moods:
                return template, frame
        return None

    def name(self, entity_type: str, text_en: str) -> Name | None:
        """The name that reads `text_en` in English, in any case."""
        return self.names.get((entity_type, text_en.casefold()))

    def alike(self, name: Name) -> tuple[Name, ...]:
        """All names of the type and kind of `name`, itself included, in the order of the file."""
        same = (name.type, name.kind)
        return tuple(other for other in self.names.values() if (other.type, other.kind) == same)


def load_memory(path: Path = EMBEDDED) -> Memory:
    """Reads the memory in the file `path`, or in all `*.jsonl` files of the folder `path`.

    Raises:
        InputError: no such file, or records that are wrong; up to 20 are named with line and field.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    records: dict[str, list[tuple[str, JsonObject]]] = defaultdict(list)
    problems: list[str] = []
    digest = hashlib.sha256()
    for file in files:
        text = read_text(file)
        digest.update(text.encode("utf-8", errors="surrogateescape"))
        if undecoded(text):
            problems.append(f"{file.name}: is not UTF-8 text")
        for line, record in lines_of_objects(text, problems):
            records[str(record.get("record"))].append((f"{file.name} {line}", record))
    known = {"template", "entity", "frame", "ending", "intent"}
    problems += [
        f"{place}: field 'record' must be one of {', '.join(sorted(known))}, not {kind!r}"
        for kind in records.keys() - known
        for place, _ in records[kind]
    ]
    memory = Memory(
        templates=_templates(records["template"], problems),
        names=_names(records["entity"], problems),
        frames=tuple(_frame(r, place, problems) for place, r in records["frame"]),
        endings=tuple(_ending(r, place, problems) for place, r in records["ending"]),
        intents=_intents(records["intent"], problems),
        sha256=digest.hexdigest(),
    )
    raise_problems(path, problems, "Correct these records of the translation memory.")
    if not memory.templates:
        raise InputError(
            f"{path} holds no sentence: a translation memory needs at least one record of kind "
            "'template' in a .jsonl file. Give the path of such a file or folder."
        )
    return memory


def load_intents(path: Path) -> dict[str, str]:
    """Thai names by intent, from a file whose records are all of kind `intent`.

    Raises:
        InputError: no such file, no record, or records that are wrong.
    """
    problems: list[str] = []
    records: list[tuple[str, JsonObject]] = []
    for line, record in lines_of_objects(read_text(path), problems):
        if record.get("record") != "intent":
            problems.append(f"{line}: field 'record' must be intent, not {record.get('record')!r}")
        records.append((line, record))
    intents = _intents(records, problems)
    raise_problems(path, problems, "Correct these records of the list of intents.")
    if not intents:
        raise InputError(f"{path} holds no intent; give a file with at least one.")
    return intents


def _templates(
    records: Sequence[tuple[str, JsonObject]], problems: list[str]
) -> dict[str, Template]:
    templates: dict[str, Template] = {}
    for place, record in records:
        en = text_field(record, "en", place, problems)
        slots = _slots(en, place, problems)
        template = Template(
            en=en,
            mood=_one_of(record, "mood", MOODS, place, problems),
            slots=slots,
            th=_texts(record, "th", place, problems),
            rephrase_th=_texts(record, "rephrase_th", place, problems),
        )
        for field, thai in (("th", template.th), ("rephrase_th", template.rephrase_th)):
            for text in thai:
                _check_thai(text, len(slots), f"{place}: field '{field}'", problems)
        key = normal_english(en)
        if key in templates:
            problems.append(f"{place}: field 'en' repeats the sentence {templates[key].en!r}")
        templates[key] = template
    return templates


def _slots(en: str, place: str, problems: list[str]) -> tuple[str, ...]:
    found = _SLOT_EN.findall(en)
    if [int(index) for index, _ in found] != list(range(1, len(found) + 1)):
        problems.append(f"{place}: field 'en' must number its slots 1, 2, ... in order: {en!r}")
    for _, kind in found:
        if kind not in ENTITY_TYPES:
            allowed = ", ".join(ENTITY_TYPES)
            problems.append(f"{place}: field 'en' has the slot type {kind}, not one of {allowed}")
    return tuple(kind for _, kind in found)


def _check_thai(text: str, slots: int, where: str, problems: list[str]) -> None:
    found = sorted(int(index) for index in _SLOT_TH.findall(text))
    if found != list(range(1, slots + 1)):
        problems.append(f"{where} must hold each of its {slots} slots exactly once: {text!r}")
    plain = _SLOT_TH.sub("", text).replace("[me]", "")
    if not _SPEAKABLE.fullmatch(plain):
        problems.append(f"{where} may hold Thai letters, digits and spaces only: {text!r}")


def _names(
    records: Sequence[tuple[str, JsonObject]], problems: list[str]
) -> dict[tuple[str, str], Name]:
    names: dict[tuple[str, str], Name] = {}
    for place, record in records:
        name = Name(
            type=_one_of(record, "type", ENTITY_TYPES, place, problems),
            kind=text_field(record, "kind", place, problems, required=False),
            en=text_field(record, "en", place, problems),
            th=text_field(record, "th", place, problems),
        )
        _check_thai(name.th, 0, f"{place}: field 'th'", problems)
        key = (name.type, name.en.casefold())
        if key in names:
            problems.append(f"{place}: field 'en' repeats the {name.type} name {name.en!r}")
        names[key] = name
    return names


def _frame(record: JsonObject, place: str, problems: list[str]) -> Frame:
    moods = _texts(record, "moods", place, problems)
    problems += [
        f"{place}: field 'moods' holds {mood!r}, not one of {', '.join(MOODS)}"
        for mood in moods
        if mood not in MOODS
    ]
    en = text_field(record, "en", place, problems)
    thai = _texts(record, "th", place, problems)
    for field, text in (("en", en), *(("th", text) for text in thai)):
        if text.count("{}") != 1:
            problems.append(f"{place}: field '{field}' must hold {{}} exactly once: {text!r}")
    for text in thai:
        _check_thai(text.replace("{}", ""), 0, f"{place}: field 'th'", problems)
    return Frame(en, thai, moods, _one_of(record, "then", (*MOODS, "same"), place, problems))


def _ending(record: JsonObject, place: str, problems: list[str]) -> Ending:
    ending = Ending(
        mood=_one_of(record, "mood", MOODS, place, problems),
        th=text_field(record, "th", place, problems, required=False),
        me=text_field(record, "me", place, problems),
    )
    _check_thai(ending.th + ending.me, 0, f"{place}: fields 'th' and 'me'", problems)
    return ending


def _intents(records: Sequence[tuple[str, JsonObject]], problems: list[str]) -> dict[str, str]:
    intents: dict[str, str] = {}
    for place, record in records:
        identity = text_field(record, "id", place, problems)
        if identity in intents:
            problems.append(f"{place}: field 'id' repeats the intent {identity!r}")
        intents[identity] = text_field(record, "th", place, problems)
    return intents


def _one_of(
    record: JsonObject, name: str, allowed: Sequence[str], place: str, problems: list[str]
) -> str:
    value = text_field(record, name, place, problems)
    if value and value not in allowed:
        problems.append(f"{place}: field '{name}' must be one of {', '.join(allowed)}, not {value}")
    return value


def _texts(record: JsonObject, name: str, place: str, problems: list[str]) -> tuple[str, ...]:
    value = record.get(name)
    if not isinstance(value, list) or not value:
        problems.append(f"{place}: field '{name}' must be a list with at least one string")
        return ()
    if not all(isinstance(text, str) and text.strip() for text in value):
        problems.append(f"{place}: field '{name}' must hold non-empty strings only")
        return ()
    return tuple(value)
