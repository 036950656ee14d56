"""Makes variants of an English row: other names of the same kind, other polite words around it.

This is the embedded stand-in for a large language model; it writes no new sentences.
"""

from __future__ import annotations

import re
from dataclasses import replace

from thaitool.errors import ConfigError
from thaitool.synth.draws import draw, pick
from thaitool.synth.memory import MOODS, Frame, Memory, Name
from thaitool.synth.sources import SourceRow, Span, skeleton

#: Draws per variant before a row counts as exhausted.
ATTEMPTS = 20


def augment(row: SourceRow, variants: int, seed: int, memory: Memory) -> tuple[SourceRow, ...]:
    """`row` itself and up to `variants - 1` different variants of it, numbered 1, 2, ...

    A pure function of (seed, source id, sentence, variant). Fewer rows come back when names and
    frames do not give enough different sentences; none is ever repeated. A Thai row has no variants: the words of the
    memory are English, and a recording says what it says.

    Raises:
        ConfigError: `variants` is not positive.
    """
    if variants < 1:
        raise ConfigError(f"variants must be at least 1, not {variants}. Give a positive number.")
    if row.language == "th":
        return (row,)
    found = memory.match(skeleton(row.text, row.entities))
    # A sentence that came with its own frame gets no second one ("please could you ...").
    framed = found is not None and found[1] is not None
    moods = MOODS if found is None else (found[0].mood,)
    frames = [f for f in memory.frames if not framed and set(moods) <= set(f.moods)]
    frames.sort(key=lambda frame: draw(seed, row.source_id, frame.en))
    forms: list[Frame | None] = [None, *frames]
    kept = [row]
    texts = {row.text}
    for number in range(1, variants):
        for attempt in range(ATTEMPTS):
            drawn = (seed, row.source_id, number, attempt)
            swapped = _swap(row, memory, drawn)
            # With names to swap, every second variant keeps the plain sentence.
            plain = bool(row.entities) and draw(*drawn, "plain") % 2 == 0
            form = None if plain else forms[(number + attempt) % len(forms)]
            candidate = replace(_in_frame(swapped, form), variant=len(kept))
            if candidate.text not in texts:
                texts.add(candidate.text)
                kept.append(candidate)
                break
    return tuple(kept)


def _swap(row: SourceRow, memory: Memory, drawn: tuple[int | str, ...]) -> SourceRow:
    """`row` with every known name replaced by one of its kind that is not yet in the sentence."""
    new_names: list[str] = []
    for index, span in enumerate(row.entities):
        name = memory.name(span.type, span.text)
        new_names.append(span.text if name is None else "")
        if name is not None:
            used = {n.casefold() for n in new_names}
            # The names still to be swapped may come back; those already chosen may not.
            free: list[Name] = [n for n in memory.alike(name) if n.en.casefold() not in used]
            new_names[-1] = pick(free, *drawn, index).en if free else span.text
    text, spans = "", []
    position = 0
    for span, new in zip(row.entities, new_names, strict=True):
        text += row.text[position : span.start]
        spans.append(Span(len(text), len(text) + len(new), span.type, new))
        text += new
        position = span.end
    table = {span.text: new for span, new in zip(row.entities, new_names, strict=True)}
    return replace(
        row,
        text=text + row.text[position:],
        entities=tuple(spans),
        rephrase=_replace_names(row.rephrase, table),
        output=_replace_names(row.output, table),
    )


def _replace_names(text: str, table: dict[str, str]) -> str:
    # All at once and longest first: a swap of A and B, or of a name inside another, must not chain.
    if not table:
        return text
    names = "|".join(re.escape(name) for name in sorted(table, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{names})(?!\w)", lambda match: table[match.group()], text)


def _in_frame(row: SourceRow, frame: Frame | None) -> SourceRow:
    """`row` inside the English words of `frame`, with spans moved along."""
    if frame is None:
        return row
    before, after = frame.en.split("{}")
    text = row.text
    if before:
        text = _lower_start(row) + text[1:]
        before = before[0].upper() + before[1:]
    if after.startswith("?"):
        text = text.rstrip(".!?")
    elif after:
        after = after[:1] + after[1:2].upper() + after[2:]
    moved = tuple(
        Span(span.start + len(before), span.end + len(before), span.type, span.text)
        for span in row.entities
    )
    return replace(row, text=before + text + after, entities=moved)


def _lower_start(row: SourceRow) -> str:
    first_word = re.split(r"[\s,]", row.text, maxsplit=1)[0]
    is_name = bool(row.entities) and row.entities[0].start == 0
    keeps = is_name or first_word == "I" or first_word.startswith("I'")
    return row.text[0] if keeps else row.text[0].lower()
