"""A language model picks Thai transcripts that lend themselves to rephrasing, and writes their formal form.

So the labels of `sr` come about that no translation wrote (arXiv:2509.14804, section on Thai-SUP). What it declines has
none: nothing is copied from the transcript.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from thaitool.records import Rejected
from thaitool.synth.asking import Answer, Asker, Complaint, load_prompt
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.llm_translate import is_thai

if TYPE_CHECKING:
    from thaitool.synth.translate import Rendering


class _Rephrased(Answer):
    suitable: bool
    written: str


@dataclass(frozen=True)
class LlmRephraser:
    """Asks one language model; `is_alone` says that `sr` is the only task, so that a sentence without it is nothing."""

    asker: Asker
    is_alone: bool

    async def rephrase(self, rendering: Rendering, source_id: str) -> Rendering | Rejected:
        """`rendering` with its formal form, or without one if it does not lend itself to it or the question failed.

        Raises:
            NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
        """

        def check(answer: _Rephrased) -> Complaint | None:
            if not answer.suitable:
                return None
            if not answer.written or not is_thai(answer.written):
                return Complaint("not_thai", f'"written" is no Thai sentence: {answer.written!r}')
            if answer.written == rendering.text_th:
                return Complaint("unchanged", '"written" is the transcript itself')
            return None

        values = {"sentence": rendering.text_th}
        prompt = load_prompt("rephrase-th-1")
        try:
            answer = await self.asker.ask("rephrase", prompt, values, _Rephrased, check)
        except CallFailed as error:
            failed = ("sr", f"rephrase_{error.reason}", error.detail)
            return replace(rendering, lost=(*rendering.lost, failed))
        if answer.suitable:
            return replace(rendering, rephrase_th=answer.written)
        if self.is_alone:
            return Rejected(source_id, "not_rephrasable", repr(rendering.text_th))
        return rendering
