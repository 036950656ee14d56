"""The test set of an evaluation, opened from the data that its configuration names. Asks and scores nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thaitool.data.manifest import Manifest, open_manifest, require_unique_ids
from thaitool.data.scan import scan
from thaitool.records import TASKS
from thaitool.reports.items import label_names, read_keywords, references, select, tasks_asked
from thaitool.reports.scoring import TestSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thaitool.config import EvalConfig
    from thaitool.records import Rejected
    from thaitool.text.tasks import TaskSpec


def open_test_set(
    config: EvalConfig, known: Mapping[str, TaskSpec]
) -> tuple[TestSet, list[Rejected]]:
    """The items of `config.data` that are asked, and the recordings that cannot be used.

    Args:
        config: Names the data and the task.
        known: All tasks by name.

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
    others = [known[task] for task in tasks if task not in TASKS]
    spoken = [task for task in tasks if known[task].metric == "asr"]
    found = TestSet(
        items,
        references(items, spoken),
        label_names(everything),
        name,
        keywords,
        config.cluster_by,
        kinds={spec.name: spec.metric for spec in others},
        labels={
            spec.name: spec.labels or label_names(everything, spec.name)
            for spec in others
            if spec.metric == "ic"
        },
    )
    return afresh(config, found), set_aside


def afresh(config: EvalConfig, test: TestSet) -> TestSet:
    """The same items in a manifest opened anew.

    What was read of a million rows would stay in memory, 200 MB of it, as long as the map of the file does.
    """
    if config.data.suffix != ".arrow":
        return test
    return replace(test, items=Manifest(open_manifest(config.data).table, test.items.rows))
