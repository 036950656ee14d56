"""A language model labels rows and writes variants of them, names carried along in numbered brackets.

It answers within closed bounds: an intent from a list, names that stand in the sentence, brackets one to one. What does
not keep to them is rejected with a reason; `augment` is what works without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from thaitool.records import ENTITY_TYPES, Rejected
from thaitool.synth.asking import Answer, Asker, Complaint, load_prompt
from thaitool.synth.backends.protocol import CallFailed
from thaitool.synth.markers import Broken, mark, unmark
from thaitool.synth.sources import Language, SourceRow, Span, find_span, normal_english

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Variants of one call; more would be repetitions, and an answer that is cut off is lost as a whole.
VARIANTS_PER_CALL = 10


class _Name(Answer):
    type: str
    text: str


class _Labels(Answer):
    intent: str | None
    entities: list[_Name]


class _Variants(Answer):
    variants: list[str]


async def annotate(row: SourceRow, asker: Asker, intents: Sequence[str]) -> SourceRow | Rejected:
    """`row` with an intent from `intents` (or none) and its names, where `is_bare` says that it needs them.

    An intent that it has is kept, and so is that it has no names, where somebody has looked.

    Raises:
        NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
    """
    if not is_bare(row):
        return row

    def check(labels: _Labels) -> Complaint | None:
        if labels.intent is not None and labels.intent not in intents:
            return Complaint(
                "intent_unknown", f"the intent {labels.intent!r} is not one of the list"
            )
        for name in labels.entities:
            if name.type not in ENTITY_TYPES:
                return Complaint(
                    "type_unknown",
                    f"the type {name.type!r} is not one of {', '.join(ENTITY_TYPES)}",
                )
        spans = _spans(row.text, labels)
        if len(spans) < len(labels.entities):
            return Complaint(
                "span_not_found",
                "a name of the answer does not stand in the sentence, letter by letter",
            )
        return None

    values = {"sentence": row.text, "intents": "\n".join(f"- {name}" for name in intents)}
    try:
        prompt = load_prompt("annotate-th-1" if row.language == "th" else "annotate-1")
        labels = await asker.ask("annotate", prompt, values, _Labels, check)
    except CallFailed as error:
        return Rejected(row.source_id, f"annotate_{error.reason}", error.detail)
    spans = row.entities if row.has_names else _spans(row.text, labels)
    return replace(row, intent=row.intent or labels.intent, entities=spans, has_names=True)


def is_bare(row: SourceRow) -> bool:
    """Whether a row has neither intent nor names, or nobody has looked for its names."""
    return not row.entities and (row.intent is None or not row.has_names)


def _spans(text: str, labels: _Labels) -> tuple[Span, ...]:
    spans: list[Span] = []
    for name in labels.entities:
        span = find_span(text, name.type, name.text, spans)
        if span is not None:
            spans.append(span)
    return tuple(sorted(spans, key=lambda span: span.start))


async def augment(
    row: SourceRow, variants: int, asker: Asker
) -> tuple[tuple[SourceRow, ...], tuple[Rejected, ...]]:
    """`row` and its variants, numbered from 1, and a rejection for each of the `variants - 1` that is missing.

    Raises:
        NotYetAnswered, ConfigError, EnvironmentProblem: see `Asker.ask`.
    """
    kept = [row]
    rejected: list[Rejected] = []
    if row.audio:  # it says what it says
        return (row,), ()
    for call, first in enumerate(range(1, variants, VARIANTS_PER_CALL)):
        count = min(VARIANTS_PER_CALL, variants - first)
        taken = tuple(kept)

        def check(
            answer: _Variants, taken: tuple[SourceRow, ...] = taken, count: int = count
        ) -> Complaint | None:
            good, bad = _sorted_out(row, answer.variants, taken, count)
            if 2 * len(good) >= count:
                return None
            reason, detail = (bad[0].reason, bad[0].detail) if bad else ("too_few", "it is short")
            # The stage is named with the call, and again where it fails for good.
            reason = reason.removeprefix("augment_")
            return Complaint(reason, f"only {len(good)} of {count} variants are usable: {detail}")

        values = {
            "sentence": mark(row.text, row.entities),
            "intent": row.intent or "(none)",
            "count": str(count),
        }
        prompt = load_prompt("augment-th-1" if row.language == "th" else "augment-1")
        try:
            answer = await asker.ask("augment", prompt, values, _Variants, check, sample=call)
        except CallFailed as error:
            reason = f"augment_{error.reason}"
            rejected += [Rejected(row.source_id, reason, error.detail)] * count
            continue
        good, bad = _sorted_out(row, answer.variants, taken, count)
        kept += good
        rejected += bad
        missing = count - len(good) - len(bad)
        detail = f"{len(answer.variants)} variants came, {count} were asked for"
        rejected += [Rejected(row.source_id, "augment_too_few", detail)] * missing
    return tuple(kept), tuple(rejected)


def _sorted_out(
    row: SourceRow, texts: Sequence[str], taken: Sequence[SourceRow], count: int
) -> tuple[list[SourceRow], list[Rejected]]:
    """The first `count` variants: rows from the usable ones, reasons for the others."""
    good: list[SourceRow] = []
    bad: list[Rejected] = []
    known = {normal_english(other.text) for other in taken}
    for text in texts[:count]:
        marked = unmark(text, len(row.entities))
        if isinstance(marked, Broken):
            bad.append(Rejected(row.source_id, f"augment_{marked.reason}", marked.sentence))
            continue
        key = normal_english(marked.text)
        if not _is_in(row.language, marked.text):
            reason = "augment_not_thai" if row.language == "th" else "augment_not_english"
            bad.append(Rejected(row.source_id, reason, repr(marked.text)))
        elif key in known:
            bad.append(Rejected(row.source_id, "augment_repeated", repr(marked.text)))
        else:
            known.add(key)
            spans = tuple(
                Span(start, end, row.entities[number].type, marked.text[start:end])
                for number, start, end in marked.spans
            )
            number = len(taken) + len(good)
            # What the formal form and the answer of the new wording are, nobody has said.
            good.append(
                replace(
                    row,
                    text=marked.text,
                    entities=spans,
                    variant=number,
                    rephrase="",
                    output="",
                )
            )
    return good, bad


def _is_in(language: Language, text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    own = sum("\u0e00" <= c <= "\u0e7f" if language == "th" else c.isascii() for c in letters)
    # Foreign names may stand in it.
    return bool(letters) and own >= 0.7 * len(letters)


def closed_list(rows: Sequence[SourceRow], intents: Mapping[str, str]) -> tuple[str, ...]:
    """The intents that a model may choose from: those with a Thai name, and those that rows already have."""
    return tuple(sorted({*intents, *(row.intent for row in rows if row.intent)}))
