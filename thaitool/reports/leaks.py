"""The test items that given training data has already, as a table and a note of a report. Comparing is `metrics`'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.data.scan import scan
from thaitool.metrics.leakage import Line, find_leaks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from thaitool.data.manifest import Manifest
    from thaitool.reports.report import Table

_ROWS = 1 << 16
#: Leaks named in the note.
SHOWN = 5


def leakage(items: Manifest, trained_on: Sequence[Path]) -> tuple[Table, tuple[str, ...]]:
    """How many items are in the training data, by kind, and a note if any is.

    A directory of Thai-SUP counts with its split `train` only; other data counts whole.
    """
    train, _ = scan(list(trained_on), split="train")
    found = find_leaks(dict.fromkeys(_lines(items)), _lines(train))
    table = {
        "training items compared": found.n_train,
        **{score.name: int(score.numerator) for score in found.scores},
    }
    if not found.leaks:
        return table, ()
    named = "; ".join(
        f"{leak.test_id} is {leak.train_id} ({leak.kind} {leak.likeness:.2f})"
        for leak in found.leaks[:SHOWN]
    )
    more = f" and {len(found.leaks) - SHOWN} more" if len(found.leaks) > SHOWN else ""
    note = f"Leakage: {len(found.leaks)} test items are in the training data: {named}{more}."
    return table, (note,)


def _lines(manifest: Manifest) -> Iterator[Line]:
    ids, texts = manifest.column("id"), manifest.column("text")
    for start in range(0, len(manifest), _ROWS):
        block = (column.slice(start, _ROWS).to_pylist() for column in (ids, texts))
        for item, text in zip(*block, strict=True):
            yield Line(item, text or "")
