"""Transcribed recordings, in any form that `thaitool.data` lists: rows that keep their recording.

Reads headers, no samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.data.scan import scan
from thaitool.records import SPLITS, Rejected
from thaitool.synth.recordings import reference
from thaitool.synth.sources import SourceRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thaitool.synth.readers.reading import Found, Given


def read_speech(path: Path, given: Given, found: Found) -> Iterator[tuple[str, SourceRow]]:
    """(id, row) for each recording with a transcript; the others are set aside.

    Splits that are not train, dev or test (Common Voice has others) are left to us.

    Raises:
        InputError: `path` is no list of recordings, or a malformed one.
        QuarantineError: a tenth of the recordings cannot be used.
    """
    manifest, rejected = scan([path])
    found.rejected += rejected
    for index in range(len(manifest)):
        utterance = manifest[index]
        text = (utterance.text or "").strip()
        if not text:
            found.rejected.append(
                Rejected(utterance.id, "no_text", f"{utterance.place} has no transcript")
            )
            continue
        yield (
            utterance.id,
            SourceRow(
                source_id=utterance.id,
                corpus="",  # `source` is where it was listed, which says nothing elsewhere
                licence=utterance.licence or "",
                text=text,
                intent=None,
                entities=(),
                language=given.language,
                audio=reference(utterance),
                speaker=utterance.speaker or "",
                split=utterance.split if utterance.split in SPLITS else "",
                has_names=False,
            ),
        )
