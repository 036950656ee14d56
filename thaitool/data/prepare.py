"""From what a user points at to what is trained on: scan, split long recordings, cache. Trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.data.cache import build_cache
from thaitool.data.manifest import Manifest, check_share
from thaitool.data.scan import scan
from thaitool.data.split import split_long
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
    progress: Progress = silent,
) -> tuple[Manifest, list[Rejected]]:
    """The utterances of `sources`, and everything that was set aside.

    Args:
        options: What becomes of short, long and double recordings, and whether audio is cached.
        sources: Directories, sound files, shards, manifests; `Utterance.part` is the position here.
        max_rejected_share: Share of unusable recordings above which this gives up; duplicates do not count.
        split: Of sources that have splits (Thai-SUP), keep this one.
        progress: How to tell that caching goes on.

    Raises:
        InputError: a source does not exist or holds no audio.
        QuarantineError: too many recordings are unusable.
    """
    manifest, rejected = scan(
        sources,
        split=split,
        max_rejected_share=max_rejected_share,
        duplicates=options.duplicates,
        min_s=options.min_s,
        workers=options.scan_workers,
    )
    n_recordings = len(manifest)
    manifest, broken = split_long(
        manifest, how=options.split, longest_s=options.longest_s, workers=options.scan_workers
    )
    if options.cache is not None:
        manifest, undecodable = build_cache(
            manifest, options.cache, workers=options.scan_workers, progress=progress
        )
        broken += undecodable
    check_share(broken, n_recordings, max_rejected_share)
    return manifest, rejected + broken
