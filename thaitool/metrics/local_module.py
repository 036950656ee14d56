"""What the local `evaluate` modules share: their features, and scores as the dicts they return.

The modules themselves are the folders beside this file; none of them counts anything.
"""

from __future__ import annotations

from collections.abc import Iterable

import datasets
import evaluate

from thaitool.records import Score

Value = float | str | None


def text_info(description: str, inputs: str) -> evaluate.MetricInfo:
    """The description of a metric that compares one text with one text."""
    text = datasets.Value("string")
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=inputs,
        features=datasets.Features({"predictions": text, "references": text}),
    )


def as_dict(scores: Iterable[Score]) -> dict[str, Value]:
    """For each score its value under its name, and its interval, sums and note under
    `<name>_low`, `_high`, `_numerator`, `_denominator` and `_note`."""
    found: dict[str, Value] = {}
    for score in scores:
        found[score.name] = score.value
        found[f"{score.name}_low"], found[f"{score.name}_high"] = score.low, score.high
        found[f"{score.name}_numerator"] = score.numerator
        found[f"{score.name}_denominator"] = score.denominator
        found[f"{score.name}_note"] = score.note
    return found
