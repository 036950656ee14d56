"""Where clips are made: in this process, in others on this machine, or on the machines of a Ray cluster.

Whoever makes them, the clips come back in the order of their jobs, and are the same. Writes nothing: the stage that
gets them keeps the ledger and the shards.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.synth.assembly import LOCAL
from thaitool.synth.engines.job import ClipJob, Made, make_clip
from thaitool.synth.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from thaitool.config import SynthConfig
    from thaitool.synth.voicing import Booth


def check_engine(config: SynthConfig) -> None:
    """Looks at engine and workers before anything is opened.

    Raises:
        ConfigError: Ray is not installed, or there are more workers than the voices have use for.
    """
    if config.engine == "ray":
        from thaitool.synth.engines.cluster import check_ray

        check_ray()
        if config.workers > config.calls.in_flight:
            raise ConfigError(
                f"workers {config.workers} of the engine ray share calls.in_flight {config.calls.in_flight}, so each"
                " can make no call; set calls.in_flight to workers or more."
            )
    elif config.workers > 1 and not config.tts.startswith(LOCAL):
        raise ConfigError(
            f"workers {config.workers} needs voices that speak in this program ({', '.join(LOCAL)}), but tts is"
            f" {config.tts!r}; set calls.in_flight to how many clips it may be asked for at once."
        )


def make_clips(
    jobs: Iterable[ClipJob], config: SynthConfig, booth: Booth, run: str
) -> AsyncGenerator[tuple[ClipJob, Made]]:
    """(job, what came of it) in the order of `jobs`, which are read as they are needed.

    Args:
        jobs: What to say.
        config: Names the engine.
        booth: For the engine that speaks in this process.
        run: What the cache counts calls under.

    Raises:
        EnvironmentProblem: an endpoint is down, or a process was killed.
    """
    if config.engine == "ray":
        from thaitool.synth.engines.cluster import make_on_cluster

        return make_on_cluster(jobs, config, run)
    if config.workers > 1:
        from thaitool.synth.engines.processes import make_in_processes

        return make_in_processes(jobs, config, run)
    return in_order(jobs, partial(make_clip, config=config, booth=booth), booth.clips_at_once)
