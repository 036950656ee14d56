"""Named entities: matches counted as multisets of (type, surface), and the scores made of them.

It needs no token alignment: Thai has no word boundaries to align to. The paper that published the
task does not define its NER columns, so several definitions are printed under their own names:
`ner_acc_*` (share of gold entities found, false ones free) and `ner_utterance_exact` (nothing
missing, nothing false), and three F1 between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from thaitool.errors import InputError
from thaitool.metrics.entity_labels import parse_entities as parse_entities  # noqa: PLC0414
from thaitool.metrics.intervals import DRAWS, Cluster
from thaitool.metrics.join import same_length
from thaitool.metrics.sums import ItemSums, item_sums, scores_of
from thaitool.metrics.transcripts import each_alone
from thaitool.records import ENTITY_TYPES, Entity, Score
from thaitool.text.normalize import compact

#: With fewer gold entities of the mixed type OTH, its accuracy is withheld: it would be read as a
#: figure about a class, and is one about a handful of unlike things.
LEAST_OTHER = 30


@dataclass(frozen=True, slots=True)
class EntityCounts:
    """Counts of one utterance per type, in the order of `ENTITY_TYPES`."""

    matched: tuple[int, ...]
    gold: tuple[int, ...]
    predicted: tuple[int, ...]
    invalid: bool
    same_type: int = 0
    """Entities matched by type alone, whatever the surface."""
    distance: float = 0.0
    """Sum over those of the character distance of the two surfaces, 0 (equal) to 1 each."""

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
    golds, tolds = _per_type(gold), _per_type(told)
    return EntityCounts(
        _per_type(gold & told), golds, tolds, invalid,
        same_type=sum(map(min, golds, tolds)),
        distance=sum(_distance(gold, told, kind) for kind in ENTITY_TYPES),
    )  # fmt: skip


def _multiset(entities: Sequence[Entity]) -> Counter[tuple[str, str]]:
    return Counter((entity.type, compact(entity.surface)) for entity in entities)


def _per_type(entities: Counter[tuple[str, str]]) -> tuple[int, ...]:
    return tuple(sum(n for (t, _), n in entities.items() if t == kind) for kind in ENTITY_TYPES)


def _distance(gold: Counter[tuple[str, str]], told: Counter[tuple[str, str]], kind: str) -> float:
    """Edits over the longer surface, summed over pairs of one type, the closest pair first."""
    golds = sorted(surface for t, surface in gold.elements() if t == kind)
    tolds = sorted(surface for t, surface in told.elements() if t == kind)
    pairs = sorted(
        (Levenshtein.normalized_distance(g, p), i, j)
        for i, g in enumerate(golds)
        for j, p in enumerate(tolds)
    )
    used: tuple[set[int], set[int]] = (set(), set())
    total = 0.0
    for distance, i, j in pairs:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            total += distance
    return total


def ner_scores(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    clusters: Sequence[Cluster] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """`ner_acc_all` and per type, `ner_f1_micro`, `ner_utterance_exact`, `ner_invalid_rate`,
    `ner_label_f1`, `ner_char_f1`.

    `ner_acc_<type>` = matched / gold entities; `ner_acc_all` sums both over the types (a micro
    mean). The note of each gives the number predicted. `ner_label_f1` matches by type alone;
    `ner_char_f1` matches by type, and a pair whose surfaces differ by the share d of the longer
    one's characters adds d to the false and d to the missed.

    Sources: label-F1, S. Shon et al., SLUE, ICASSP 2022; distance F1 by characters, E. Bastianelli
    et al., SLURP, EMNLP 2020 (there pairs are made in order of the answer, here closest first).

    Raises:
        InputError: the lists differ in length, or a reference is unreadable.
    """
    same_length(references=references, predictions=predictions)
    pairs = zip(references, predictions, strict=True)
    counts = [count_entities(reference, prediction) for reference, prediction in pairs]
    return scores_of_counts(counts, clusters or each_alone(len(counts)), draws=draws, seed=seed)


def scores_of_counts(
    counts: Sequence[EntityCounts],
    clusters: Sequence[Cluster],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Score, ...]:
    """As `ner_scores`, from counts already taken."""
    return scores_of(entity_sums(counts), clusters, draws=draws, seed=seed)


def entity_sums(counts: Sequence[EntityCounts]) -> tuple[ItemSums, ...]:
    """`ner_scores`, item by item."""
    matched = [sum(c.matched) for c in counts]
    gold = [sum(c.gold) for c in counts]
    predicted = [sum(c.predicted) for c in counts]
    ones = [1.0] * len(counts)
    columns = [item_sums("ner_acc_all", matched, gold, note=f"{sum(predicted)} predicted")]
    for i, kind in enumerate(ENTITY_TYPES):
        told = sum(c.predicted[i] for c in counts)
        columns.append(
            item_sums(
                f"ner_acc_{kind.lower()}",
                [c.matched[i] for c in counts],
                [c.gold[i] for c in counts],
                note=f"{told} predicted",
                least=LEAST_OTHER if kind == "OTH" else 0,
            )
        )
    both = [g + p for g, p in zip(gold, predicted, strict=True)]
    same_type = [2 * c.same_type for c in counts]
    blurred = [n + 2 * c.distance for n, c in zip(both, counts, strict=True)]
    note = "2 matched / (gold + predicted)"
    columns += [
        item_sums("ner_f1_micro", [2 * m for m in matched], both, note=note),
        item_sums("ner_utterance_exact", [c.exact for c in counts], ones),
        item_sums("ner_invalid_rate", [c.invalid for c in counts], ones, higher_is_better=False),
        item_sums("ner_label_f1", same_type, both, note="matched by type alone"),
        item_sums("ner_char_f1", same_type, blurred, note="surfaces by character distance"),
    ]
    return tuple(columns)
