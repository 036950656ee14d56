"""Clips from the machines of a Ray cluster, through Ray Data: the function that makes a row is the same everywhere.

The machine that runs the command keeps ledger, shards and answers; the others speak. Ray repeats what a lost machine
had under way, and nothing else: calls that fail are repeated by `calls`, as without Ray. Every machine needs thaitool
with the extra `ray`, and at the same paths the models, programs and recordings that configuration and source name.
Texts are made on the machine of the command, so that language models are asked from one place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
from contextlib import AsyncExitStack, aclosing, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from thaitool.errors import ConfigError, EnvironmentProblem, ThaitoolError
from thaitool.synth.assembly import cache_file, keeps_answers, opened_booth
from thaitool.synth.cache import Cache
from thaitool.synth.engines.job import ClipJob, Made, make_clip, share_of
from thaitool.synth.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator
    from pathlib import Path

    from thaitool.config import SynthConfig
    from thaitool.synth.cache import Attempt, Question
    from thaitool.synth.voicing import Booth

#: Clips that are sent, and repeated if their machine is lost, together.
_BLOCK = 16
#: Of an actor. Half of what it uses, so that the actors of a lost machine find room on those that are left.
_CPUS = 0.5


def check_ray() -> None:
    """Raises `ConfigError` if Ray is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"engine ray needs the package ray, which cannot be imported: {error}. Install it on every machine of the"
            " cluster with `pip install 'thaitool[ray]'`, or leave engine at local."
        ) from error


async def make_on_cluster(
    jobs: Iterable[ClipJob], config: SynthConfig, run: str
) -> AsyncGenerator[tuple[ClipJob, Made]]:
    """(job, what came of it) in the order of `jobs`, from `config.workers` actors.

    The cluster is the one that the environment variable RAY_ADDRESS names, else one that runs on this machine, else one
    that starts here and ends with the clips.

    Raises:
        EnvironmentProblem: the cluster, or an endpoint, is down.
    """
    with _connected() as ray:
        source = ray.data.from_arrow_refs([ray.put(table) for table in _tables(jobs)])
        source.context.enable_progress_bars = False
        source.context.execution_options.preserve_order = True
        clips = source.map_batches(
            Speaker,
            fn_constructor_args=(share_of(config), run, _desk(ray, config, run)),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=config.workers),
            num_cpus=_CPUS,
            # Without one of its own, Ray hides the GPUs of a machine from an actor.
            num_gpus=int(config.calls.device == "cuda"),
        )
        made = iter(clips.iter_batches(batch_size=None, batch_format="pyarrow"))
        while (table := await asyncio.to_thread(_next, made)) is not None:
            for job, clip in zip(table["job"], table["made"], strict=True):
                result = pickle.loads(clip.as_py())  # noqa: S301  (from an actor of ours)
                if isinstance(result, ThaitoolError):
                    raise result
                yield pickle.loads(job.as_py()), result  # noqa: S301


class Speaker:
    """An actor: the voices of one process, which open when the first clips come."""

    def __init__(self, config: SynthConfig, run: str, desk: Any) -> None:
        import torch

        torch.set_num_threads(1)  # the actors of a machine share its cores
        self._config, self._run = config, run
        self._answers = None if desk is None else DeskAnswers(desk)
        self._loop, self._stack = asyncio.new_event_loop(), AsyncExitStack()
        self._booth: Booth | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Adds the column `made` to a block of jobs: pickled rows, rejections, or one error instead of all."""
        jobs = [pickle.loads(job.as_py()) for job in block["job"]]  # noqa: S301
        made: list[Made] | list[ThaitoolError]
        try:
            made = self._loop.run_until_complete(self._make(jobs))
        except ThaitoolError as error:
            # As a value: as an exception it would come back as a traceback of Ray's.
            made = [error] * len(jobs)
        return block.append_column("made", pa.array(map(pickle.dumps, made), pa.large_binary()))

    async def _make(self, jobs: list[ClipJob]) -> list[Made]:
        if self._booth is None:
            opening = opened_booth(self._config, self._run, self._answers)
            self._booth = await self._stack.enter_async_context(opening)
        work = partial(make_clip, config=self._config, booth=self._booth)
        async with aclosing(in_order(jobs, work, self._booth.clips_at_once)) as clips:
            return [made async for _, made in clips]


class Desk:
    """An actor on the machine of the command: the file of answers, which other machines cannot reach."""

    def __init__(self, path: Path, run: str) -> None:
        self._cache = Cache(path, run)

    def get(self, question: Question) -> bytes | None:
        """See `Cache.get`."""
        return self._cache.get(question)

    def put(self, question: Question, value: bytes, attempt: Attempt) -> None:
        """See `Cache.put`."""
        self._cache.put(question, value, attempt)

    def note(self, attempt: Attempt) -> None:
        """See `Cache.note`."""
        self._cache.note(attempt)


class DeskAnswers:
    """`Answers` at the `Desk`; each call waits for its end, a millisecond or so."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def get(self, question: Question) -> bytes | None:
        """See `Cache.get`."""
        found: bytes | None = _wait(self._desk.get.remote(question))
        return found

    def put(self, question: Question, value: bytes, attempt: Attempt) -> None:
        """See `Cache.put`."""
        _wait(self._desk.put.remote(question, value, attempt))

    def note(self, attempt: Attempt) -> None:
        """See `Cache.note`."""
        _wait(self._desk.note.remote(attempt))


def _wait(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def _tables(jobs: Iterable[ClipJob]) -> Iterator[pa.Table]:
    left = iter(jobs)
    while part := [pickle.dumps(job) for job in islice(left, _BLOCK)]:
        yield pa.table({"job": pa.array(part, pa.large_binary())})


def _desk(ray: Any, config: SynthConfig, run: str) -> Any:
    """The actor that keeps answers; None where none are kept."""
    if not keeps_answers(config):
        return None
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here)
    return desk.remote(cache_file(config).absolute(), run)


def _next(tables: Iterator[pa.Table]) -> pa.Table | None:
    import ray

    try:
        return next(tables, None)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise EnvironmentProblem(
            f"The Ray cluster gave up: {reason}. Finished rows are kept: run the same command again, with engine ray"
            " or local."
        ) from error


@contextmanager
def _connected() -> Iterator[Any]:
    """Ray, connected to a cluster; a connection that was not there before ends with the block."""
    # Nothing is reported to the makers of Ray, unless somebody has said that it may be.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray.data
    import ray.util.scheduling_strategies

    was_there = ray.is_initialized()
    if not was_there:
        # Ray takes SIGTERM for itself, which `synth` has noted to end between two rows.
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises that and many others
            raise EnvironmentProblem(
                f"Ray must start, or be reached at RAY_ADDRESS, but: {error}. Start a cluster with `ray start --head`,"
                " or leave engine at local."
            ) from error
        for number, handler in handlers.items():
            signal.signal(number, handler)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        if not was_there:
            ray.shutdown()
