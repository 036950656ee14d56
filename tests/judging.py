"""Answers of a stand-in server that is also asked to judge: as a filter that knows better, and as one that never does.

Apart from the tests, as the server's process imports nothing that is slow.
"""

from __future__ import annotations

import re
from typing import Any

from tests import stand_in


def judging(content: str, *, repaired: bool, markers: float) -> dict[str, Any]:
    """As `stand_in.answer`, and a filter that knows what the stand-in itself would have said."""
    if '"natural"' not in content:
        return stand_in.answer(content, repaired=repaired, markers=markers)
    original, thai, intent, names = (
        re.search(rf"^{name}: (.*)$", content, re.MULTILINE)[1]  # type: ignore[index]
        for name in ("Original", "Thai", "Intent", "Names in the Thai sentence")
    )
    said = stand_in.answer(f"Sentence: {original}", repaired=False, markers=0.0)["spoken"]
    right = stand_in.MARKED.sub(lambda name: name[2], said) == thai
    listed = [name.partition(" ")[2] for name in names.split("; ")]
    named = names == "(none)" or all(name in thai for name in listed)
    wanted = "call" if "Ann" in original else "switch"
    return {"meaning": right, "natural": right, "label": named and intent == wanted}


def lenient(content: str, *, repaired: bool, markers: float) -> dict[str, Any]:
    """A filter that says yes to everything."""
    if '"natural"' in content:
        return {"meaning": True, "natural": True, "label": True}
    return stand_in.answer(content, repaired=repaired, markers=markers)
