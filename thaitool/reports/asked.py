"""The test set of an evaluation, opened from the data that its configuration names. Asks and scores nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thaitool.data.manifest import Manifest, open_manifest, require_unique_ids
from thaitool.data.scan import scan
from thaitool.reports.items import intent_names, read_keywords, references, select, tasks_asked
from thaitool.reports.scoring import TestSet

if TYPE_CHECKING:
    from thaitool.config import EvalConfig
    from thaitool.records import Rejected


def open_test_set(config: EvalConfig) -> tuple[TestSet, list[Rejected]]:
    """The items of `config.data` that are asked, and the recordings that cannot be used.

    Raises:
        InputError: the data lacks a task, an id is there twice, or an item has nothing to be scored against.
    """
    # A manifest of ours stays on disk; anything else is listed in memory.
    everything, set_aside = (
        (open_manifest(config.data), []) if config.data.suffix == ".arrow" else scan([config.data])
    )
    require_unique_ids(everything)
    tasks = tasks_asked(everything, config.task, config.split)
    items = select(everything, tasks, split=config.split, limit=config.limit, where=config.data)
    name = f"split {config.split} of {config.data}"
    keywords = read_keywords(config.keywords) if config.keywords else ()
    found = TestSet(
        items, references(items), intent_names(everything), name, keywords, config.cluster_by
    )
    return afresh(config, found), set_aside


def afresh(config: EvalConfig, test: TestSet) -> TestSet:
    """The same items in a manifest opened anew.

    What was read of a million rows would stay in memory, 200 MB of it, as long as the map of the file does.
    """
    if config.data.suffix != ".arrow":
        return test
    return replace(test, items=Manifest(open_manifest(config.data).table, test.items.rows))
