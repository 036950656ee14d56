"""Reports side by side: two systems on the same items, training and test speech, or the paper's tables.

Makes no answers and changes no report.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.files import disk_full_is_explained
from thaitool.reports.pairing import pair_view
from thaitool.reports.paper import paper_view
from thaitool.reports.stored import load_report, load_stored
from thaitool.reports.transfer import transfer_view
from thaitool.reports.view import View, write_view

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config.sections import CompareConfig


@dataclass(frozen=True)
class CompareResult:
    """What was found, and where it was written, if anywhere."""

    view: View
    files: tuple[Path, ...]


def run(config: CompareConfig) -> CompareResult:
    """Compares `config.reports` as `config.view` says.

    Raises:
        ConfigError: the number or the names of the reports do not fit the view.
        InputError: a report cannot be read, or the items do not match.
    """
    created = time.strftime("%Y-%m-%d %H:%M:%S %z")
    if config.view == "pair":
        if len(config.reports) != 2:
            raise ConfigError(
                f"compare takes two reports, A and B, but was given {len(config.reports)}; --view transfer and"
                " --view paper take more."
            )
        a, b = (load_stored(text) for text in config.reports)
        view = pair_view(
            a,
            b,
            draws=config.draws,
            seed=config.seed,
            cluster_by=config.cluster_by,
            created=created,
        )
    elif config.view == "transfer":
        view = transfer_view(
            [load_stored(text) for text in config.reports],
            draws=config.draws,
            seed=config.seed,
            cluster_by=config.cluster_by,
            created=created,
        )
    else:
        view = paper_view([load_report(text) for text in config.reports], created=created)
    files: tuple[Path, ...] = ()
    if config.out is not None:
        with disk_full_is_explained(config.out):
            files = write_view(view, config.out)
    return CompareResult(view, files)
