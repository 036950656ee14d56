"""Turns a row into Thai renderings with exact labels, by looking it up in a memory if it is English.

It never guesses: a sentence or a name that the memory lacks is rejected with the reason. A memory holds no answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thaitool.errors import ConfigError, InputError
from thaitool.records import Entity, Rejected
from thaitool.synth.draws import draw, pick
from thaitool.synth.memory import Ending, Frame, Memory, Name, Template, load_memory
from thaitool.synth.sources import SourceRow, skeleton

_MARKER = re.compile(r"\[(\d+)\]")
# The speaker of a memory without endings, and of a mood for which it lists none.
_PLAIN_ENDING = Ending(mood="", th="", me="ฉัน")


@dataclass(frozen=True, slots=True)
class Rendering:
    """What is said in Thai, its entities in order of occurrence, and the formal written form."""

    text_th: str
    entities: tuple[Entity, ...]
    rephrase_th: str
    """"" where nobody has said it."""
    answer_th: str = ""
    """The answer to it; "" where nobody has said it."""
    starts: tuple[int, ...] = ()
    """Where in `text_th` each entity begins; () where that is not known."""
    lost: tuple[tuple[str, str, str], ...] = ()
    """(task, reason, detail) of labels that were asked for and did not come; the other tasks have theirs."""


def as_it_stands(row: SourceRow) -> Rendering:
    """A Thai row as its own rendering, names at the places that it gives them."""
    entities = tuple(Entity(span.type, span.text) for span in row.entities)
    starts = tuple(span.start for span in row.entities)
    return Rendering(row.text, entities, row.rephrase, row.output, starts)


@dataclass(frozen=True, slots=True)
class MemoryTranslator:
    """Looks sentences up in `memory`; `seed` draws frames, particles and the first rendering."""

    memory: Memory
    name: str
    seed: int = 0

    def translate(self, row: SourceRow) -> tuple[Rendering, ...] | Rejected:
        """All renderings of the sentence; the seed and the sentence decide which comes first."""
        key = skeleton(row.text, row.entities)
        found = self.memory.match(key)
        if found is None:
            return Rejected(
                row.source_id, "no_translation", f"the memory has no sentence like: {key}"
            )
        template, frame = found
        names: list[Name] = []
        for span in row.entities:
            name = self.memory.name(span.type, span.text)
            if name is None:
                detail = f"the memory has no {span.type} name '{span.text}'"
                return Rejected(row.source_id, "no_translation", detail)
            names.append(name)
        renderings = [
            self._render(row, template, frame, names, index) for index in range(len(template.th))
        ]
        first = draw(self.seed, row.source_id, row.text, "first") % len(renderings)
        return (*renderings[first:], *renderings[:first])

    def _render(
        self,
        row: SourceRow,
        template: Template,
        frame: Frame | None,
        names: Sequence[Name],
        index: int,
    ) -> Rendering:
        seeds = (self.seed, row.source_id, row.text, index)
        mood = template.mood if frame is None or frame.then == "same" else frame.then
        endings = tuple(e for e in self.memory.endings if e.mood == mood) or (_PLAIN_ENDING,)
        ending = pick(endings, *seeds, "ending")
        text, entities = project(template.th[index].replace("[me]", ending.me), names)
        if frame is not None:
            text = pick(frame.th, *seeds, "frame").replace("{}", text)
        rephrase = template.rephrase_th[index % len(template.rephrase_th)]
        rephrase_th, _ = project(rephrase.replace("[me]", ending.me), names)
        return Rendering(text + ending.th, entities, rephrase_th)


def project(text: str, names: Sequence[Name]) -> tuple[str, tuple[Entity, ...]]:
    """Puts `names` at the markers `[1]`, `[2]`, ... of `text`; returns text and entities in order.

    Raises:
        InputError: the markers and the names do not match one to one.
    """
    order = [int(marker) - 1 for marker in _MARKER.findall(text)]
    if sorted(order) != list(range(len(names))):
        raise InputError(
            f"the sentence {text!r} must hold each of the markers 1 to {len(names)} exactly once, "
            f"not {[index + 1 for index in order]}. Correct it in the translation memory."
        )
    filled = _MARKER.sub(lambda marker: names[int(marker.group(1)) - 1].th, text)
    return filled, tuple(Entity(names[index].type, names[index].th) for index in order)


def open_translator(url: str, *, seed: int = 0) -> MemoryTranslator:
    """`embedded:` for the memory that ships with the package, `memory:PATH` for your own instead.

    Raises:
        ConfigError: the URL has another form.
        InputError: the memory cannot be read or is wrong.
    """
    scheme, _, path = url.partition(":")
    if scheme == "embedded" and not path and url.endswith(":"):
        memory = load_memory()
    elif scheme == "memory" and path:
        memory = load_memory(Path(path))
    else:
        raise ConfigError(
            f"the translator must be 'embedded:' or 'memory:PATH', not '{url}'. "
            "Name one of these, with the path of a translation memory."
        )
    return MemoryTranslator(memory, f"{url}#{memory.sha256[:12]}", seed)
