"""A language model says English rows in colloquial Thai; names keep their labels through numbered brackets.

Where brackets do not come through, the row is translated without them and each name must stand in the Thai sentence
exactly once, letter by letter (the idea of CODEC: Le et al., ICLR 2024). Else the row is rejected: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

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
_BRACKETS = re.compile(r"[\[\]|]")
_LEFT_OVER = re.compile(r"\[\d+\|([^\[\]|]*)\]")


class _Translation(Answer):
    spoken: str
    written: str


class _Plain(Answer):
    spoken: str
    written: str
    names: dict[str, str]


class _Answer(Answer):
    answer: str


@dataclass(frozen=True)
class LlmTranslator:
    """Asks one language model."""

    asker: Asker
    answers: bool = False
    """Whether the answers of the rows are translated too, for `qa`."""

    @property
    def name(self) -> str:
        """What provenance says about where the Thai text comes from."""
        return str(self.asker.llm.identity)

    async def translate(self, row: SourceRow) -> tuple[Rendering, ...] | Rejected:
        """One rendering of `row`, or why there is none.

        Raises:
            NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
        """
        rendering = await self._rendered(row)
        if isinstance(rendering, Rejected):
            return rendering
        if self.answers and row.output:
            rendering = await self._answered(row, rendering)
        return (rendering,)

    async def _rendered(self, row: SourceRow) -> Rendering | Rejected:
        try:
            return await self._marked(row)
        except CallFailed as error:
            if not row.entities or not error.reason.startswith(_ABOUT_MARKERS):
                return Rejected(row.source_id, f"translate_{error.reason}", error.detail)
        try:
            return await self._plain(row)
        except CallFailed as error:
            return Rejected(row.source_id, f"translate_{error.reason}", error.detail)

    async def _answered(self, row: SourceRow, rendering: Rendering) -> Rendering:
        def check(answer: _Answer) -> Complaint | None:
            if not answer.answer or not is_thai(answer.answer):
                return Complaint("not_thai", f'"answer" is not Thai: {answer.answer!r}')
            return None

        values = {"sentence": row.text, "answer": row.output, "spoken": rendering.text_th}
        prompt = load_prompt("translate-answer-1")
        try:
            said = await self.asker.ask("translate_answer", prompt, values, _Answer, check)
        except CallFailed as error:
            failed = ("qa", f"translate_answer_{error.reason}", error.detail)
            return replace(rendering, lost=(*rendering.lost, failed))
        return replace(rendering, answer_th=said.answer)

    async def _marked(self, row: SourceRow) -> Rendering:
        def check(answer: _Translation) -> Complaint | None:
            return _complaint(unmark(answer.spoken, len(row.entities)), answer.written)

        values = {"sentence": mark(row.text, row.entities)}
        prompt = load_prompt("translate-1")
        answer = await self.asker.ask("translate", prompt, values, _Translation, check)
        return _rendering(row, unmark(answer.spoken, len(row.entities)), answer.written)

    async def _plain(self, row: SourceRow) -> Rendering:
        def found(answer: _Plain) -> Marked | Broken:
            surfaces = [answer.names.get(str(n + 1), "").strip() for n in range(len(row.entities))]
            if _BRACKETS.search(answer.spoken):
                return Broken("markers_broken", f"no brackets were asked for: {answer.spoken!r}")
            return find_once(answer.spoken, surfaces)

        def check(answer: _Plain) -> Complaint | None:
            return _complaint(found(answer), answer.written)

        names = "\n".join(f"{n}: {span.text}" for n, span in enumerate(row.entities, start=1))
        values = {"sentence": row.text, "names": names}
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
    if not spoken.text or not is_thai(outside):
        return Complaint("not_thai", f'"spoken" is not a Thai sentence: {spoken.text!r}')
    if not written.strip():
        return Complaint("no_written_form", '"written" is empty')
    if _BRACKETS.search(_without_markers(written)):
        return Complaint("markers_broken", f'brackets are left over in "written": {written!r}')
    # Foreign names may stand in it, so it has no share of Thai letters to keep to.
    if not re.search("[\u0e01-\u0e2e]", written):
        return Complaint("not_thai", f'"written" is not a Thai sentence: {written!r}')
    return None


def _without_markers(text: str) -> str:
    return _LEFT_OVER.sub(r"\1", text).strip()


def is_thai(text: str) -> bool:
    """Whether `MIN_THAI_SHARE` of its letters are Thai; of none, they are."""
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
    starts = tuple(start for _, start, _ in spoken.spans)
    return Rendering(spoken.text, entities, _without_markers(written), starts=starts)
