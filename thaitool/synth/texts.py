"""One row to its labelled Thai sentences: annotate, vary, translate. Speaks nothing and stores nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from thaitool.records import Entity, Rejected
from thaitool.synth.sources import SourceRow, Span
from thaitool.synth.translate import Rendering

if TYPE_CHECKING:
    from collections.abc import Mapping

Annotate = Callable[[SourceRow], Awaitable[SourceRow | Rejected]]
Augment = Callable[[SourceRow], Awaitable[tuple[tuple[SourceRow, ...], tuple[Rejected, ...]]]]
Translate = Callable[[SourceRow], Awaitable[tuple[Rendering, ...] | Rejected]]


@dataclass(frozen=True, slots=True)
class Sentence:
    """A variant of a row, and what is said for it in Thai."""

    row: SourceRow
    renderings: tuple[Rendering, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """All sentences of one source row, and one rejection for each variant that did not become one."""

    sentences: tuple[Sentence, ...]
    rejected: tuple[Rejected, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts, for the ledger."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Texts:
        """What `to_json` gave."""
        sentences = tuple(
            Sentence(_row(s["row"]), tuple(_rendering(r) for r in s["renderings"]))
            for s in value["sentences"]
        )
        return cls(sentences, tuple(Rejected(**r) for r in value["rejected"]))


async def make_texts(
    row: SourceRow, variants: int, annotate: Annotate, augment: Augment, translate: Translate
) -> Texts:
    """The sentences of `row`; the translations of its variants are asked for at once.

    A row that cannot be labelled counts as `variants` rejections, as none of them comes about.
    """
    labelled = await annotate(row)
    if isinstance(labelled, Rejected):
        return Texts((), (labelled,) * (1 if row.audio else variants))
    kept, rejected = await augment(labelled)
    sentences: list[Sentence] = []
    lost = list(rejected)
    # All of them end before an error goes on: a batch must have written down every question of the row.
    translated = await asyncio.gather(
        *(translate(variant) for variant in kept), return_exceptions=True
    )
    for variant, renderings in zip(kept, translated, strict=True):
        if isinstance(renderings, BaseException):
            raise renderings
        if isinstance(renderings, Rejected):
            lost.append(renderings)
        else:
            sentences.append(Sentence(variant, renderings))
    return Texts(tuple(sentences), tuple(lost))


def _row(value: Mapping[str, Any]) -> SourceRow:
    return SourceRow(**{**value, "entities": tuple(Span(**span) for span in value["entities"])})


def _rendering(value: Mapping[str, Any]) -> Rendering:
    entities = tuple(Entity(**entity) for entity in value["entities"])
    lost = tuple((task, reason, detail) for task, reason, detail in value["lost"])
    starts = tuple(value["starts"])
    return Rendering(**{**value, "entities": entities, "starts": starts, "lost": lost})
