"""A language model says English rows in colloquial Thai; names keep their labels through numbered brackets.

Where brackets do not come through, the row is translated without them and each name must stand in the Thai sentence
exactly once, letter by letter (the idea of CODEC: Le et al., ICLR 2024). Else the row is rejected: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thaitool.records import Entity, Rejected
from thaitool.synth.asking import Answer, Asker, Complaint, load_prompt
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.markers import Broken, Marked, find_once, mark, unmark
from thaitool.synth.sources import SourceRow
from thaitool.synth.translate import Rendering

#: Of the letters outside names, the share that must be Thai.
MIN_THAI_SHARE = 0.8
#: An error of the connection would meet the second question too; these are about what was said.
_ABOUT_MARKERS = ("markers_", "not_thai")
_LEFT_OVER = re.compile(r"\[\d+\|([^\[\]|]*)\]")


class _Translation(Answer):
    spoken: str
    written: str


class _Plain(Answer):
    spoken: str
    written: str
    names: dict[str, str]


@dataclass(frozen=True)
class LlmTranslator:
    """Asks one language model."""

    asker: Asker

    @property
    def name(self) -> str:
        """What provenance says about where the Thai text comes from."""
        return str(self.asker.llm.identity)

    async def translate(self, row: SourceRow) -> tuple[Rendering, ...] | Rejected:
        """One rendering of `row`, or why there is none.

        Raises:
            NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
        """
        try:
            return (await self._marked(row),)
        except CallFailed as error:
            if not row.entities or not error.reason.startswith(_ABOUT_MARKERS):
                return Rejected(row.source_id, f"translate_{error.reason}", error.detail)
        try:
            return (await self._plain(row),)
        except CallFailed as error:
            return Rejected(row.source_id, f"translate_{error.reason}", error.detail)

    async def _marked(self, row: SourceRow) -> Rendering:
        def check(answer: _Translation) -> Complaint | None:
            return _complaint(unmark(answer.spoken, len(row.entities)), answer.written)

        values = {"sentence": mark(row.text_en, row.entities)}
        prompt = load_prompt("translate-1")
        answer = await self.asker.ask("translate", prompt, values, _Translation, check)
        return _rendering(row, unmark(answer.spoken, len(row.entities)), answer.written)

    async def _plain(self, row: SourceRow) -> Rendering:
        def found(answer: _Plain) -> Marked | Broken:
            surfaces = [answer.names.get(str(n + 1), "").strip() for n in range(len(row.entities))]
            return find_once(answer.spoken, surfaces)

        def check(answer: _Plain) -> Complaint | None:
            return _complaint(found(answer), answer.written)

        names = "\n".join(f"{n}: {span.text}" for n, span in enumerate(row.entities, start=1))
        values = {"sentence": row.text_en, "names": names}
        prompt = load_prompt("translate-plain-1")
        answer = await self.asker.ask("translate_plain", prompt, values, _Plain, check)
        return _rendering(row, found(answer), answer.written)


def _complaint(spoken: Marked | Broken, written: str) -> Complaint | None:
    if isinstance(spoken, Broken):
        return Complaint(spoken.reason, spoken.sentence)
    outside, position = "", 0
    for _, start, end in spoken.spans:
        outside += spoken.text[position:start]
        position = end
    outside += spoken.text[position:]
    if not spoken.text or not _is_thai(outside):
        return Complaint("not_thai", f'"spoken" is not a Thai sentence: {spoken.text!r}')
    if not written.strip():
        return Complaint("no_written_form", '"written" is empty')
    return None


def _is_thai(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return sum("\u0e00" <= c <= "\u0e7f" for c in letters) >= MIN_THAI_SHARE * len(letters)


def _rendering(row: SourceRow, spoken: Marked | Broken, written: str) -> Rendering:
    if isinstance(spoken, Broken):
        # The answer passed this very check before it was stored.
        raise CallFailed(spoken.reason, spoken.sentence, again=False)
    entities = tuple(
        Entity(row.entities[number].type, spoken.text[start:end])
        for number, start, end in spoken.spans
    )
    return Rendering(spoken.text, entities, _LEFT_OVER.sub(r"\1", written).strip())
