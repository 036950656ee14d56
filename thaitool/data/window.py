"""Sets aside recordings that are longer than an encoder can hear at once. Cuts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.data.manifest import check_share
from thaitool.records import Rejected

if TYPE_CHECKING:
    from thaitool.data.manifest import Manifest


def within_window(
    manifest: Manifest, longest: int | None, *, max_rejected_share: float
) -> tuple[Manifest, list[Rejected]]:
    """The recordings of at most `longest` samples at 16 kHz (None: all), and those set aside as `too_long`.

    Raises:
        QuarantineError: more than `max_rejected_share` are too long.
    """
    if longest is None:
        return manifest, []
    longest_s = longest / SAMPLE_RATE_HZ
    fits = manifest.duration_s <= longest_s
    rejected = []
    for row in (~fits).nonzero()[0]:
        utterance = manifest[int(row)]
        detail = f"{utterance.duration_s:.2f} s, the encoder hears at most {longest_s:g} s at once"
        rejected.append(Rejected(utterance.place, "too_long", detail))
    check_share(rejected, len(manifest), max_rejected_share)
    return (manifest.select(fits) if rejected else manifest), rejected
