"""A language model judges every sentence, and is judged itself by bad ones that are planted among them.

What it answers is taken as it is; a filter that lets planted rows pass stops the run, and where `max_passed` is set,
one that lets nearly all real rows pass. Planted rows are made of real ones (another intent, another name, another
sentence's translation, its letters in another order), drawn by the seed; they are asked about and never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from thaitool.errors import InputError
from thaitool.metrics.intervals import wilson
from thaitool.records import Entity, Rejected
from thaitool.synth.asking import Answer, Asker, load_prompt
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.draws import draw, pick
from thaitool.synth.markers import mark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.config.synth_gates import Gates
    from thaitool.synth.sources import SourceRow
    from thaitool.synth.translate import Rendering

REASON = "filtered"
PROMPT = "filter-1"
KINDS = ("intent", "name", "translation", "gibberish")
#: Planted rows are drawn one by one, and some cannot be made: so many times the least are aimed at.
_MARGIN = 1.5
#: Draws of another sentence before a kind of planted row is given up.
_TRIES = 8


class Verdict(Answer):
    """What the model answers."""

    meaning: bool
    natural: bool
    label: bool

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the questions that were answered with no."""
        answers = self.model_dump()
        return tuple(name for name in ("meaning", "natural", "label") if not answers[name])


@dataclass(frozen=True, slots=True)
class Item:
    """One sentence for the filter."""

    row: SourceRow
    rendering: Rendering
    planted: str = ""
    """One of `KINDS`; "" for a real one."""


@dataclass
class Tally:
    """How the filter did."""

    judged: int = 0
    """Real sentences that it gave a verdict on."""
    passed: int = 0
    planted: int = 0
    caught: int = 0

    def add(self, item: Item, rejected: Rejected | None) -> None:
        """Counts what `ask` said; a call that failed is no verdict, and catches nothing."""
        if rejected is not None and rejected.reason != REASON:
            return
        if item.planted:
            self.planted += 1
            self.caught += rejected is not None
        else:
            self.judged += 1
            self.passed += rejected is None

    def as_json(self) -> dict[str, Any]:
        """What the card says."""
        return asdict(self)


async def ask(item: Item, asker: Asker) -> Rejected | None:
    """Why a sentence is refused; None if it passes.

    Raises:
        NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
    """
    row, rendering = item.row, item.rendering
    names = "; ".join(f"{entity.type} {entity.surface}" for entity in rendering.entities)
    values = {
        "original": mark(row.text, row.entities),
        "thai": rendering.text_th,
        "intent": row.intent or "(none)",
        "names": names or "(none)",
    }
    try:
        verdict = await asker.ask("filter", load_prompt(PROMPT), values, Verdict, lambda _: None)
    except CallFailed as error:
        return Rejected(row.source_id, f"filter_{error.reason}", error.detail)
    if not verdict.faults:
        return None
    detail = f"{', '.join(verdict.faults)} of {rendering.text_th!r} for {row.text!r}"
    return Rejected(row.source_id, REASON, detail)


def plant(
    item: Item, others: Callable[[int], Item], intents: Sequence[str], seed: int
) -> Item | None:
    """A bad sentence made of `item`, of a kind that it allows; None where none does.

    Args:
        item: A real sentence.
        others: A drawn number to another sentence of the data set.
        intents: The closed list.
        seed: Decides the kind and what is exchanged.
    """
    row, rendering = item.row, item.rendering
    key = (seed, "plant", row.source_id, row.variant, rendering.text_th)
    first = draw(*key, "kind") % len(KINDS)
    for kind in (*KINDS[first:], *KINDS[:first]):
        if kind == "gibberish":
            letters = sorted(enumerate(rendering.text_th), key=lambda at: draw(*key, *at))
            mixed = "".join(letter for _, letter in letters)
            if mixed == rendering.text_th:  # a letter or two
                continue
            made = row, replace(rendering, text_th=mixed)
        elif kind == "intent":
            wrong = [name for name in intents if name != row.intent]
            if not row.intent or not wrong:
                continue
            made = replace(row, intent=pick(wrong, *key, "intent")), rendering
        else:
            drawn = (others(draw(*key, kind, number)) for number in range(_TRIES))
            # Another variant of the same row may well mean the same.
            strangers = (o.rendering for o in drawn if o.row.source_id != row.source_id)
            changed = _with_name if kind == "name" else _with_text
            found = (new for other in strangers if (new := changed(rendering, other)) is not None)
            exchanged = next(found, None)
            if exchanged is None:
                continue
            made = row, exchanged
        return Item(*made, planted=kind)
    return None


def _with_name(rendering: Rendering, other: Rendering) -> Rendering | None:
    """The sentence with a name in its label that does not stand in it."""
    if not rendering.entities:
        return None
    strange = [e for e in other.entities if e.surface not in rendering.text_th]
    if not strange:
        return None
    first, *rest = rendering.entities
    return replace(rendering, entities=(Entity(first.type, strange[0].surface), *rest), starts=())


def _with_text(rendering: Rendering, other: Rendering) -> Rendering | None:
    """The sentence with the words of another one, and with its names."""
    return None if other.text_th == rendering.text_th else other


def planted_share(gates: Gates, sentences: int) -> float:
    """Share of the sentences after which a bad one is planted: more than asked for where that would be too few.

    A small data set would otherwise never have `min_planted` of them, and its filter would never be judged.

    Args:
        gates: The limits.
        sentences: How many there are.
    """
    return min(1.0, max(gates.planted_share, _MARGIN * gates.min_planted / max(1, sentences)))


def require_trust(tally: Tally, gates: Gates, *, is_whole: bool) -> None:
    """Stops a run whose filter cannot be trusted. Before `min_planted` planted sentences nothing is said.

    Args:
        tally: So far.
        gates: The limits.
        is_whole: Whether all were judged; before that, only a filter that is surely bad is stopped (Wilson's interval).

    Raises:
        InputError: it caught too few of the planted sentences, or passed too many of the real ones.
    """
    if tally.planted < gates.min_planted:
        return
    share = tally.caught / tally.planted
    interval = wilson(tally.caught, tally.planted)
    most = share if is_whole or interval is None else interval[1]
    if most < gates.min_caught:
        raise InputError(
            f"gates.filter caught {tally.caught} of {tally.planted} bad sentences that were planted, which is"
            f" {share:.2f}, but must catch {gates.min_caught:g}. Its answers are kept and its rows are not made: use a"
            " better model, or lower gates.min_caught."
        )
    if is_whole and tally.passed > gates.max_passed * tally.judged:
        raise InputError(
            f"gates.filter let {tally.passed} of {tally.judged} sentences pass, more than {gates.max_passed:g} of them."
            " Either it hardly looks, or the sentences are better than language models write them: use another model,"
            " or set gates.max_passed=1."
        )
