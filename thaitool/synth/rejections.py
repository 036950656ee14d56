"""All rejected rows of a data set: their file, and whether there are too many. Decides about no single row."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from thaitool.errors import QuarantineError
from thaitool.records import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> dict[str, tuple[int, Rejected]]:
    """One line each; returns how many have each reason, and the first of them."""
    found: dict[str, tuple[int, Rejected]] = {}
    with path.open("w", encoding="utf-8") as file:
        for one in rejected:
            count, first = found.get(one.reason, (0, one))
            found[one.reason] = (count + 1, first)
            file.write(json.dumps(asdict(one), ensure_ascii=False) + "\n")
    return found


def check_rejected(
    rejected: Mapping[str, tuple[int, Rejected]], *, made: int, limit: float, source: Path
) -> None:
    """Holds the rejected against the made.

    Args:
        rejected: What `write_rejected` returned.
        made: Rows of the data set.
        limit: Share of rejected rows that is allowed.
        source: For the message.

    Raises:
        QuarantineError: nothing was made, or too much was rejected; with the reasons, as the list in full is written
            only with a data set.
    """
    lost = sum(n for n, _ in rejected.values())
    share = lost / max(1, made + lost)
    if made and share <= limit:
        return
    reasons = "\n".join(
        f"  - {n} {reason}, e.g. {first.item}: {first.detail}"
        for reason, (n, first) in sorted(rejected.items(), key=lambda kind: -kind[1][0])
    )
    raise QuarantineError(
        f"{lost} of {made + lost} rows of {source} were rejected, and {made} could be made;"
        f" the allowed share is {limit:g}:\n{reasons}\n"
        "Add what is missing (a translation memory: --translator memory:FILE), or raise max_rejected_share."
    )
