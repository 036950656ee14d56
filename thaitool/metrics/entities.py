"""Named entities: reading labels and answers, and counting matches as multisets of (type, surface).

It needs no token alignment: Thai has no word boundaries to align to. The paper that published the
task does not define its NER columns, so two definitions are printed under their own names:
`ner_acc_*` (share of gold entities found, false ones free) and `ner_utterance_exact` (nothing
missing, nothing false), and F1 between them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thaitool.errors import InputError
from thaitool.metrics.intervals import DRAWS, ratio_score
from thaitool.metrics.join import same_length
from thaitool.metrics.transcripts import each_alone
from thaitool.records import ENTITY_KEYS_TH, ENTITY_TYPES, Entity, Score
from thaitool.text.normalize import compact

_ALIASES = {
    **{name: name for name in ENTITY_TYPES},
    **{thai: name for name, thai in ENTITY_KEYS_TH.items()},
    "PERSON": "PER",
    "LOCATION": "LOC",
    "ORGANIZATION": "ORG",
    "OTHER": "OTH",
}
# "TYPE: text": a tag in capitals or a Thai key, so that a sentence with a colon is no entity.
_LINE = re.compile(
    rf"\s*([A-Z][A-Z_]*|{'|'.join(ENTITY_KEYS_TH.values())})\s*:\s*(.*\S)\s*", re.DOTALL
)
_SURFACE_KEYS = ("text", "surface")


def parse_entities(label: str) -> tuple[Entity, ...]:
    """Entities of a label or of a model's answer, in order of occurrence.

    Accepted: the published JSON object {"บุคคล": [..], "สถานที่": [..], "องค์กร": [..], "อื่นๆ": [..]}
    (or PER, LOC, ORG, OTH as keys; a key may be absent or repeated), a JSON list of
    {"type": .., "text": ..} objects, of [type, text] pairs or of "TYPE: text" strings, and plain
    lines "TYPE: text". Types other than PER, LOC and ORG (MISC, DATE, ...) become OTH.
    No entities is `{}`, `[]` or empty lists; an empty text is not an answer.

    Raises:
        InputError: the text is in none of these forms, or a surface is empty.
    """
    stripped = label.strip()
    if stripped[:1] in {"{", "["}:
        try:
            # Pairs, not a dict: a looping model repeats keys, and a dict would keep the last only.
            value = json.loads(stripped, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError) as problem:
            raise _unreadable(label, f"broken JSON ({problem})") from problem
        found = (
            _from_object(label, value) if isinstance(value, _Pairs) else _from_list(label, value)
        )
    else:
        found = [_from_line(label, line) for line in stripped.splitlines() if line.strip()]
        if not found:
            raise _unreadable(label, "nothing there; no entities is written {}")
    return tuple(found)


class _Pairs(list[tuple[str, object]]):
    """A JSON object with its keys as written, doubled ones too."""


def _from_object(label: str, pairs: _Pairs) -> list[Entity]:
    found: list[Entity] = []
    for key, surfaces in pairs:
        if isinstance(surfaces, _Pairs) or not isinstance(surfaces, list):
            raise _unreadable(label, f"the value of {key!r} is not a list")
        found += [_entity(label, key, surface) for surface in surfaces]
    return found


def _from_list(label: str, items: Sequence[object]) -> list[Entity]:
    found: list[Entity] = []
    for item in items:
        if isinstance(item, str):
            found.append(_from_line(label, item))
        elif isinstance(item, _Pairs):
            fields = dict(item)
            surface = next((fields[key] for key in _SURFACE_KEYS if key in fields), None)
            found.append(_entity(label, fields.get("type"), surface))
        elif isinstance(item, list) and len(item) == 2:
            found.append(_entity(label, item[0], item[1]))
        else:
            raise _unreadable(label, f"{item!r} is no entity")
    return found


def _from_line(label: str, line: str) -> Entity:
    match = _LINE.fullmatch(line)
    if match is None:
        raise _unreadable(label, f"{line!r} is not of the form TYPE: text")
    return _entity(label, match[1], match[2])


def _entity(label: str, kind: object, surface: object) -> Entity:
    if not isinstance(kind, str) or not kind.strip():
        raise _unreadable(label, f"an entity's type is {kind!r}, not a name")
    if not isinstance(surface, str) or not compact(surface):
        raise _unreadable(label, f"a surface is {surface!r}, not a text with letters or digits")
    return Entity(_ALIASES.get(kind.strip(), _ALIASES.get(kind.strip().upper(), "OTH")), surface)


def _unreadable(label: str, why: str) -> InputError:
    shown = label if len(label) <= 120 else label[:120] + "..."
    return InputError(
        f"Entities cannot be read from {shown!r}: {why}. Write a JSON object from type to a list "
        'of surfaces, or lines "TYPE: text".'
    )


@dataclass(frozen=True, slots=True)
class EntityCounts:
    """Counts of one utterance per type, in the order of `ENTITY_TYPES`."""

    matched: tuple[int, ...]
    gold: tuple[int, ...]
    predicted: tuple[int, ...]
    invalid: bool

    @property
    def errors(self) -> int:
        """Entities missed and entities invented."""
        return sum(self.gold) + sum(self.predicted) - 2 * sum(self.matched)

    @property
    def exact(self) -> bool:
        """Readable, nothing missed, nothing invented."""
        return not self.invalid and self.errors == 0


def count_entities(reference: str, prediction: str) -> EntityCounts:
    """Match two labels one to one by type and `compact` surface. An unreadable prediction has no
    entities and is marked invalid.

    Raises:
        InputError: the reference is unreadable.
    """
    gold = _multiset(parse_entities(reference))
    try:
        told = _multiset(parse_entities(prediction))
        invalid = False
    except InputError:
        told, invalid = Counter(), True
    return EntityCounts(_per_type(gold & told), _per_type(gold), _per_type(told), invalid)


def _multiset(entities: Sequence[Entity]) -> Counter[tuple[str, str]]:
    return Counter((entity.type, compact(entity.surface)) for entity in entities)


def _per_type(entities: Counter[tuple[str, str]]) -> tuple[int, ...]:
    return tuple(sum(n for (t, _), n in entities.items() if t == kind) for kind in ENTITY_TYPES)


def ner_scores(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`ner_acc_all` and per type, `ner_f1_micro`, `ner_utterance_exact`, `ner_invalid_rate`.

    `ner_acc_<type>` = matched / gold entities; `ner_acc_all` sums both over the types (a micro
    mean). The note of each gives the number predicted.

    Raises:
        InputError: the lists differ in length, or a reference is unreadable.
    """
    same_length(references=references, predictions=predictions)
    pairs = zip(references, predictions, strict=True)
    counts = [count_entities(reference, prediction) for reference, prediction in pairs]
    return scores_of_counts(counts, clusters or each_alone(len(counts)), draws=draws, seed=seed)


def scores_of_counts(
    counts: Sequence[EntityCounts], clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> tuple[Score, ...]:
    """As `ner_scores`, from counts already taken."""

    def score(name: str, top: Sequence[float], bottom: Sequence[float], note: str = "") -> Score:
        return ratio_score(name, top, bottom, clusters, draws=draws, seed=seed, note=note)

    matched = [sum(c.matched) for c in counts]
    gold = [sum(c.gold) for c in counts]
    predicted = [sum(c.predicted) for c in counts]
    ones = [1.0] * len(counts)
    scores = [score("ner_acc_all", matched, gold, f"{sum(predicted)} predicted")]
    for i, kind in enumerate(ENTITY_TYPES):
        told = sum(c.predicted[i] for c in counts)
        scores.append(
            score(
                f"ner_acc_{kind.lower()}",
                [c.matched[i] for c in counts],
                [c.gold[i] for c in counts],
                f"{told} predicted",
            )
        )
    doubled = [2 * m for m in matched]
    both = [g + p for g, p in zip(gold, predicted, strict=True)]
    scores.append(score("ner_f1_micro", doubled, both, "2 matched / (gold + predicted)"))
    scores.append(score("ner_utterance_exact", [c.exact for c in counts], ones))
    scores.append(score("ner_invalid_rate", [c.invalid for c in counts], ones))
    return tuple(scores)
