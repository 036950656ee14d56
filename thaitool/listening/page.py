"""The page of one rater: a single HTML file with all its clips inside, which needs no network and names nothing.

It says neither what a clip is nor where it comes from; `key.py` knows. Reads no ratings.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2

from thaitool.reports.html import environment

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class PageClip:
    """What a rater hears and sees."""

    name: str
    text: str
    """Empty where they write down what they hear."""
    flac: bytes


def page_html(pack: str, rater: str, clips: Sequence[PageClip]) -> str:
    """The page of a rater, clips in this order."""
    content = {
        "pack": pack,
        "rater": rater,
        "clips": [
            {
                "name": clip.name,
                "text": clip.text,
                "flac": base64.b64encode(clip.flac).decode("ascii"),
            }
            for clip in clips
        ],
    }
    # In a script element nothing is escaped; "<" is what could end it.
    plain = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = files("thaitool.listening").joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    own = environment().overlay(loader=jinja2.PackageLoader("thaitool.listening", ""))
    return own.get_template("page.html.j2").render(
        rater=rater,
        count=len(clips),
        content=plain,
        script=script,
        script_sha256=digest,
    )
