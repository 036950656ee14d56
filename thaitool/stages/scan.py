"""Recordings to a manifest: once for many runs, with a ledger of what was set aside. Trains nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thaitool.data.manifest import append_quarantine, write_manifest
from thaitool.data.prepare import prepare
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.records import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from thaitool.config import ScanConfig
    from thaitool.records import Rejected

SUMMARY = "summary.json"


@dataclass(frozen=True)
class ScanResult:
    """What was found; also written as `summary.json`."""

    manifest: Path
    digest: str
    utterances: int
    hours: float
    hours_of: dict[str, float]
    """By entry of `data`."""
    sample_rates_hz: dict[str, int]
    """Utterances by rate of the file."""
    duration_s: dict[str, float]
    """Quantiles."""
    rejected: dict[str, int]
    """Recordings set aside, by reason."""


def run(config: ScanConfig, progress: Progress = silent) -> ScanResult:
    """Writes `manifest.arrow`, `quarantine.jsonl` and `summary.json` into `config.out`.

    Raises:
        InputError: a source has nothing that is usable, or `config.out` holds other files.
        QuarantineError: more than `max_rejected_share` of the recordings are unusable.
    """
    out = config.out
    mine = {"manifest.arrow", "quarantine.jsonl", SUMMARY}
    if out.exists() and not (out.is_dir() and {p.name for p in out.iterdir()} <= mine):
        raise InputError(f"{out} must be new or the directory of a scan, but holds other files.")
    is_new = not out.exists()
    with disk_full_is_explained(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        manifest, rejected = prepare(
            config,
            config.data,
            max_rejected_share=config.max_rejected_share,
            into=out,
            progress=progress,
        )
    except InputError as error:
        if error.rejected:  # just now the list is needed
            _write_ledger(out, error.rejected)
        elif is_new:
            out.rmdir()
        raise
    _write_ledger(out, rejected)
    write_manifest(manifest, out / "manifest.arrow")
    duration_s, part = manifest.duration_s, manifest.part
    rates, counts = np.unique(
        manifest.column("sample_rate_hz").to_numpy(zero_copy_only=False), return_counts=True
    )
    names = ("min", "p05", "p50", "p95", "max")
    quantiles = np.quantile(duration_s, (0, 0.05, 0.5, 0.95, 1))
    result = ScanResult(
        manifest=out / "manifest.arrow",
        digest=manifest.digest(),
        utterances=len(manifest),
        hours=manifest.hours,
        hours_of={
            str(path): round(float(duration_s[part == k].sum()) / 3600, 4)
            for k, path in enumerate(config.data)
        },
        sample_rates_hz={str(r): int(n) for r, n in zip(rates, counts, strict=True)},
        duration_s={n: round(float(q), 3) for n, q in zip(names, quantiles, strict=True)},
        rejected=dict(Counter(r.reason for r in rejected).most_common()),
    )
    write_json(out / SUMMARY, {k: v for k, v in vars(result).items() if k != "manifest"})
    return result


def _write_ledger(out: Path, rejected: Sequence[Rejected]) -> None:
    ledger = out / "quarantine.jsonl"
    # A scan always looks anew; lines of an earlier one would speak of files that may be gone.
    ledger.unlink(missing_ok=True)
    append_quarantine(ledger, rejected)
