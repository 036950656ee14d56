"""Assigns whole source rows to train, dev and test, intent by intent.

It knows no variants: they are made afterwards and stay with their row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from thaitool.errors import ConfigError, InputError
from thaitool.synth.draws import draw
from thaitool.synth.sources import SourceRow, skeleton


def split_rows(rows: Sequence[SourceRow], *, dev: float = 0.1, test: float = 0.2) -> dict[str, str]:
    """Source id -> "train", "dev" or "test", such that every intent has its share of test rows.

    A plain hash per row can leave an intent of twenty rows without test rows. So the rows of an
    intent are ordered by a hash of their wording and cut: the first `test` share is test, the next
    `dev` share dev (both rounded, and at least one row each from three rows on). Rows that differ
    in names or case only have one wording: they go together and count as one. The order of `rows`
    does not matter, but the set does: adding rows can move other rows of that intent.

    Rows that say their own split keep it, and the shares do not count. Recordings of one known
    speaker go together instead of those of one wording: a sentence that several read can be in two.

    Raises:
        ConfigError: the shares are negative or leave nothing for training.
        InputError: two rows have one source id, or a row is already a variant.
    """
    if dev < 0 or test < 0 or dev + test >= 1:
        raise ConfigError(
            f"the shares dev={dev} and test={test} must be at least 0 and together below 1. "
            "Choose smaller shares."
        )
    splits: dict[str, str] = {}
    groups: dict[str, list[SourceRow]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        if row.source_id in seen or row.variant != 0:
            raise InputError(
                f"the source id '{row.source_id}' must stand for one unchanged row, but came twice "
                "or as a variant. Split before augmenting, and give every row its own id."
            )
        seen.add(row.source_id)
        if row.split:
            splits[row.source_id] = row.split
            continue
        wording = skeleton(row.text, row.entities)
        groups[f"[speaker {row.speaker}]" if row.speaker else wording].append(row)
    intents: dict[str, list[str]] = defaultdict(list)
    for wording, members in groups.items():
        # One wording under two intents still is one group; the smallest name decides.
        intents[min(member.intent or "" for member in members)].append(wording)
    for wordings in intents.values():
        wordings.sort(key=lambda wording: (draw("split", wording), wording))
        tests = _share(test, len(wordings))
        devs = _share(dev, len(wordings))
        for index, wording in enumerate(wordings):
            split = "test" if index < tests else "dev" if index < tests + devs else "train"
            splits.update((member.source_id, split) for member in groups[wording])
    return splits


def _share(share: float, count: int) -> int:
    if share == 0 or count < 3:
        return 0
    return max(1, round(share * count))
