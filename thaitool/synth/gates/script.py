"""Whether a sentence is written as Thai is: a share of Thai letters, nothing from other scripts. Reads no words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thaitool.synth.gates.clips import Fault

if TYPE_CHECKING:
    from thaitool.synth.translate import Rendering

REASON = "wrong_script"
_SCRIPTS = ("THAI ", "LATIN ")
#: Controls, surrogates, private and unassigned code points; what a broken encoding leaves behind.
_BROKEN = ("Cc", "Cs", "Co", "Cn")


def script_fault(rendering: Rendering, min_thai_share: float) -> Fault | None:
    """Why `text_th` is not written in Thai; None if it is.

    Letters must be Thai or Latin, names included; outside names, `min_thai_share` of them must be Thai.
    """
    for letter in rendering.text_th:
        if not _is_allowed(letter):
            name = unicodedata.name(letter, f"U+{ord(letter):04X}")
            return Fault(REASON, f"{name} in {rendering.text_th!r}")
    letters = [c for c in _outside(rendering.text_th, _surfaces(rendering)) if c.isalpha()]
    thai = sum("\u0e00" <= c <= "\u0e7f" for c in letters)
    if thai < min_thai_share * len(letters):
        share = thai / len(letters)
        return Fault(
            REASON, f"{100 * share:.0f} % of the letters of {rendering.text_th!r} are Thai"
        )
    return None


def _is_allowed(letter: str) -> bool:
    category = unicodedata.category(letter)
    if category[0] in "LM":
        # Marks have names of their scripts too; variation selectors of emoji are marks.
        name = unicodedata.name(letter, "")
        return name.startswith((*_SCRIPTS, "COMBINING ", "VARIATION SELECTOR"))
    return category not in _BROKEN and letter != "\ufffd"


def _surfaces(rendering: Rendering) -> list[str]:
    return [entity.surface for entity in rendering.entities]


def _outside(text: str, surfaces: Sequence[str]) -> str:
    for surface in surfaces:
        text = text.replace(surface, " ", 1)
    return text
