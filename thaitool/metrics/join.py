"""Pairs predictions with references by (id, task). Never by position, and never partially."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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
    """Pairs in the order of the references. Raises: as `matched`."""
    found = matched(references, predictions)
    return tuple(Pair(r, p) for r, p in zip(references, found, strict=True))


def matched(references: Sequence[Reference], predictions: Sequence[Prediction]) -> list[Prediction]:
    """The prediction for each reference.

    Raises:
        InputError: a key is missing, unknown or there twice, on either side. All kinds of trouble
            are in one message, the first five keys of each.
    """
    by_task: dict[str, dict[str, Prediction | None]] = {}
    for prediction in predictions:
        by_id = by_task.setdefault(prediction.task, {})
        if prediction.id in by_id:
            raise _not_one_to_one(references, predictions)
        by_id[prediction.id] = prediction
    ordered: list[Prediction] = []
    for reference in references:
        by_id = by_task.get(reference.task, {})
        found = by_id.get(reference.id)
        if found is None:
            raise _not_one_to_one(references, predictions)
        by_id[reference.id] = None  # taken: a second reference with this id finds nothing
        ordered.append(found)
    if len(ordered) < len(predictions):
        raise _not_one_to_one(references, predictions)
    return ordered


def _not_one_to_one(
    references: Sequence[Reference], predictions: Sequence[Prediction]
) -> InputError:
    """Counts and examples of every kind of trouble."""
    wanted = Counter((reference.id, reference.task) for reference in references)
    given = Counter((prediction.id, prediction.task) for prediction in predictions)
    problems = [
        _problem("references occur more than once", (k for k, n in wanted.items() if n > 1)),
        _problem("predictions occur more than once", (k for k, n in given.items() if n > 1)),
        _problem("references have no prediction", (k for k in wanted if k not in given)),
        _problem("predictions have no reference", (k for k in given if k not in wanted)),
    ]
    return InputError(
        "Each reference needs exactly one prediction with the same id and task: "
        + "; ".join(problem for problem in problems if problem)
        + ". Score the predictions of the same test set, made in one run."
        + _hint(wanted.keys(), given.keys())
    )


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


def _hint(wanted: Collection[tuple[str, str]], given: Collection[tuple[str, str]]) -> str:
    """What would join if ids were not compared exactly: they are, since two may differ by a space."""
    bare = {(_bare(item), task) for item, task in wanted if (item, task) not in given}
    close = [
        item for item, task in given if (item, task) not in wanted and (_bare(item), task) in bare
    ]
    if not close:
        return ""
    return (
        f" {len(close)} of the unknown ids, such as {close[0]!r}, differ from a reference's in white "
        "space, a byte order mark or Unicode form only; write ids the same way on both sides."
    )


def _bare(item: str) -> str:
    return "".join(unicodedata.normalize("NFC", item.replace("\ufeff", "")).split())
