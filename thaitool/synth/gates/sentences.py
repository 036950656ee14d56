"""The gates between the text pass and the speech pass: script, leakage, duplicates, filter. Speaks nothing.

They see the whole data set in the order of its source, so that the first of several equal sentences is the one that is
kept. What they decide depends on the texts and the configuration alone: a run that goes on decides the same again, and
asks the filter only what it has not answered. A sentence that is refused later, by its clip, has made others
superfluous all the same. A row with an original recording is never a duplicate: each recording of a sentence is
another one. It makes later sentences of the same words superfluous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thaitool.records import Rejected
from thaitool.synth.backends.protocol import NotYetAnswered
from thaitool.synth.draws import draw
from thaitool.synth.gates.clips import Fault
from thaitool.synth.gates.duplicates import Kept
from thaitool.synth.gates.filter import Item, Tally, ask, plant, planted_share, require_trust
from thaitool.synth.gates.leaks import leak_fault
from thaitool.synth.gates.script import script_fault
from thaitool.synth.ledger import Ledger, Place
from thaitool.synth.parallel import in_order
from thaitool.synth.sources import data_id_of

if TYPE_CHECKING:
    from thaitool.config.synth_gates import Gates
    from thaitool.metrics.leakage import TestItems
    from thaitool.synth.asking import Asker
    from thaitool.synth.texts import Sentence
    from thaitool.synth.translate import Rendering


@dataclass(frozen=True, slots=True)
class Said:
    """One wording of a sentence, and the tasks that it is spoken for, as bits."""

    position: int
    sentence: Sentence
    rendering: Rendering
    tasks: int


@dataclass
class SentenceGates:
    """The texts of one unfinished data set, and what judges them."""

    limits: Gates
    ledger: Ledger
    rows: int
    """Source rows, all with texts."""
    tasks: Sequence[str]
    """Those of the configuration, in its order."""
    known: TestItems
    asker: Asker | None
    intents: Sequence[str]
    seed: int
    width: int
    """How many questions to the filter are under way."""
    tick: Callable[[], None]
    """Called once for each source row; may raise to stop."""
    tally: Tally = field(default_factory=Tally)

    async def run(self) -> int:
        """Enters every rejection in the ledger. Returns how many sentences wait for a batch of the filter.

        Raises:
            InputError: the filter cannot be trusted.
            ConfigError, EnvironmentProblem: see `Asker.ask`.
        """
        if self.asker is None:
            for _ in self._survivors():
                pass
            return 0
        asker, waiting = self.asker, 0

        async def work(found: tuple[Said, Item]) -> Rejected | NotYetAnswered | None:
            try:
                return await ask(found[1], asker)
            except NotYetAnswered as later:
                return later

        async with aclosing(in_order(self._items(), work, self.width)) as answers:
            async for (said, item), rejected in answers:
                if isinstance(rejected, NotYetAnswered):
                    waiting += 1
                    continue
                self.tally.add(item, rejected)
                if item.planted:
                    require_trust(self.tally, self.limits, is_whole=False)
                elif rejected is not None:
                    self._reject(said, said.tasks, Fault(rejected.reason, rejected.detail))
        if not waiting:
            require_trust(self.tally, self.limits, is_whole=True)
        return waiting

    def _items(self) -> Iterator[tuple[Said, Item]]:
        """What the filter is asked, planted sentences after those that they are made of."""
        share = planted_share(self.limits, self.ledger.sentences())
        for said in self._survivors():
            item = Item(said.sentence.row, said.rendering)
            yield said, item
            row = said.sentence.row
            drawn = draw(self.seed, "planted", row.source_id, row.variant, said.rendering.text_th)
            if drawn % 10**6 < share * 10**6:
                bad = plant(item, self._other, self.intents, self.seed)
                if bad is not None:
                    yield said, bad

    def _other(self, drawn: int) -> Item:
        """Some sentence of the data set; rows without any are passed over."""
        for step in range(self.rows):
            sentences = self.ledger.texts((drawn + step) % self.rows).sentences
            if sentences:
                sentence = sentences[drawn % len(sentences)]
                return Item(sentence.row, sentence.renderings[0])
        raise AssertionError("the sentence that asks is one of them")

    def _survivors(self) -> Iterator[Said]:
        """Sentences that pass all gates but the filter, in order; the others are rejected on the way."""
        kept = Kept(near=self.limits.duplicates == "near")
        if self.limits.duplicates == "near":
            for said in self._all():
                kept.count(said.rendering.text_th)
        for said in self._all(tick=self.tick):
            fault = self._fault(said)
            if fault is not None:
                self._reject(said, said.tasks, fault)
                continue
            left = self._without_twins(said, kept)
            if left:
                yield Said(said.position, said.sentence, said.rendering, left)

    def _fault(self, said: Said) -> Fault | None:
        fault = script_fault(said.rendering, self.limits.min_thai_share)
        if fault is None and self.known.lines:
            fault = leak_fault(self.known, said.sentence.row.source_id, said.rendering.text_th)
        return fault

    def _without_twins(self, said: Said, kept: Kept) -> int:
        """The tasks in which a sentence has no earlier twin; in those it is kept."""
        if self.limits.duplicates == "keep":
            return said.tasks
        intent, rendering = said.sentence.row.intent, said.rendering
        is_recorded = bool(said.sentence.row.audio)
        twin = None if is_recorded else kept.twins_of(rendering, intent, said.tasks)
        if twin is not None:
            reason = "duplicate_text" if twin.likeness == 1 else "duplicate_near"
            detail = f"{rendering.text_th!r} is ({twin.likeness:.2f}) {twin.text!r} of source row {twin.position + 1}"
            self._reject(said, twin.tasks, Fault(reason, detail))
        left = said.tasks & ~(0 if twin is None else twin.tasks)
        if left:
            kept.keep(rendering, intent, left, said.position)
        return left

    def _all(self, tick: Callable[[], None] | None = None) -> Iterator[Said]:
        for position in range(self.rows):
            for sentence in self.ledger.texts(position).sentences:
                count = len(sentence.renderings)
                for first, rendering in enumerate(sentence.renderings[: len(self.tasks)]):
                    # As `engines.job.make_clip` deals wordings out to tasks.
                    tasks = sum(1 << number for number in range(first, len(self.tasks), count))
                    yield Said(position, sentence, rendering, tasks)
            if tick is not None:
                tick()

    def _reject(self, said: Said, tasks: int, fault: Fault) -> None:
        row = said.sentence.row
        settled = self.ledger.settled(said.position)
        for number, task in enumerate(self.tasks):
            place = Place(said.position, row.variant, number)
            if tasks >> number & 1 and place not in settled:
                rejected = Rejected(data_id_of(task, row), fault.reason, fault.detail)
                self.ledger.reject(place, rejected)
