"""`synth` on a Ray cluster of two nodes on this machine, one of which is killed half-way. Run by test_synth_engines."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.test_synth_engines import config
from thaitool.records import Advance
from thaitool.stages import synth

STORE_BYTES = 200_000_000
#: Clips after which the node is killed.
KILL_AFTER = 16


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray._private.state import available_resources_per_node
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    doomed = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    handed_over = 0

    @contextmanager
    def kill_half_way(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal handed_over
            handed_over += description == "synth: speech"
            if handed_over == KILL_AFTER:
                free = available_resources_per_node()[doomed.node_id]
                assert free["CPU"] == 0.5, free  # one of the two actors has the other half
                cluster.remove_node(doomed, allow_graceful=False)
                handed_over += 1
                print("killed a node on which clips were made, of", total)  # noqa: T201

        yield advance

    synth.make(config(Path(sys.argv[1]), "ray", engine="ray", workers=2), kill_half_way)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
