"""From what a user points at to what is trained on: scan, split long recordings, cache. Trains nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from thaitool.data.cache import build_cache
from thaitool.data.manifest import Manifest, check_share, unusable
from thaitool.data.scan import scan
from thaitool.data.split import split_long
from thaitool.errors import InputError
from thaitool.records import Progress, Rejected, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.config import Recordings


def prepare(
    options: Recordings,
    sources: Sequence[Path],
    *,
    max_rejected_share: float,
    split: str | None = None,
    into: Path | None = None,
    progress: Progress = silent,
) -> tuple[Manifest, list[Rejected]]:
    """The utterances of `sources`, and everything that was set aside.

    Args:
        options: What becomes of short, long and double recordings, and whether audio is cached.
        sources: Directories, sound files, shards, manifests; `Utterance.part` is the position here.
        max_rejected_share: Share of unusable recordings above which this gives up, of all steps together; duplicates
            do not count.
        split: Of sources that have splits (Thai-SUP), keep this one.
        into: A directory whose disk takes the rows of the scan instead of memory.
        progress: How to tell that caching goes on.

    Raises:
        InputError: a source does not exist, holds no audio, or has nothing left (all duplicates).
        QuarantineError: too many recordings are unusable. Both bring all that was set aside until then.
    """
    manifest, rejected = scan(
        sources,
        split=split,
        max_rejected_share=max_rejected_share,
        duplicates=options.duplicates,
        min_s=options.min_s,
        workers=options.scan_workers,
        into=into,
    )
    before = len(manifest)
    manifest, broken = split_long(
        manifest, how=options.split, longest_s=options.longest_s, workers=options.scan_workers
    )
    rejected = _all_set_aside(rejected, broken, before, max_rejected_share)
    if options.cache is not None:
        before = len(manifest)
        manifest, undecodable = build_cache(
            manifest, options.cache, workers=options.scan_workers, progress=progress
        )
        rejected = _all_set_aside(rejected, undecodable, before, max_rejected_share)
    present = set(np.unique(manifest.part).tolist())
    for part, source in enumerate(sources):
        if part not in present:
            raise InputError(
                f"Nothing of {source} is left to use ({_reasons(rejected)}); leave it out, or, if it repeats another"
                " source, set duplicates: keep.",
                rejected,
            )
    return manifest, rejected


def _all_set_aside(
    earlier: list[Rejected], now: list[Rejected], n_items: int, limit: float
) -> list[Rejected]:
    """The ledger after a step that met `n_items`; what is unusable counts whichever step found it."""
    everything = [*earlier, *now]
    check_share(everything, n_items + len(unusable(earlier)), limit)
    return everything


def _reasons(rejected: Sequence[Rejected]) -> str:
    counted = Counter(r.reason for r in rejected).most_common()
    return ", ".join(f"{n} {reason}" for reason, n in counted) or "it has no rows of this split"
