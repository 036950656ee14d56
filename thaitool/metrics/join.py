"""Pairs predictions with references by (id, task). Never by position, and never partially."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thaitool.errors import InputError
from thaitool.records import Prediction, Reference

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Pair:
    """A reference and the one prediction made for it."""

    reference: Reference
    prediction: Prediction


def join(references: Sequence[Reference], predictions: Sequence[Prediction]) -> tuple[Pair, ...]:
    """Pairs in the order of the references.

    Raises:
        InputError: a key is missing, unknown or there twice, on either side. All kinds of trouble
            are in one message, the first five keys of each.
    """
    wanted = Counter((reference.id, reference.task) for reference in references)
    given = Counter((prediction.id, prediction.task) for prediction in predictions)
    problems = [
        _problem("references occur more than once", (k for k, n in wanted.items() if n > 1)),
        _problem("predictions occur more than once", (k for k, n in given.items() if n > 1)),
        _problem("references have no prediction", (k for k in wanted if k not in given)),
        _problem("predictions have no reference", (k for k in given if k not in wanted)),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise InputError(
            "Each reference needs exactly one prediction with the same id and task: "
            + "; ".join(found)
            + ". Score the predictions of the same test set, made in one run."
        )
    by_key = {(prediction.id, prediction.task): prediction for prediction in predictions}
    return tuple(Pair(ref, by_key[ref.id, ref.task]) for ref in references)


def same_length(**columns: Sequence[object]) -> None:
    """Check that columns describe the same items.

    Raises:
        InputError: their lengths differ.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"These lists must be equally long, one entry per item: {told}.")


def _problem(what: str, keys: Iterable[tuple[str, str]]) -> str:
    listed = [f"{item} ({task})" for item, task in keys]
    if not listed:
        return ""
    more = ", ..." if len(listed) > _SHOWN else ""
    return f"{len(listed)} {what}: {', '.join(listed[:_SHOWN])}{more}"
