"""Work done ahead in other processes: results in order, and a killed process is a sentence. Knows nothing of audio."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeVar

from thaitool.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Job = TypeVar("Job")
Done = TypeVar("Done")


def ahead(
    work: Callable[[Job], Done], jobs: Iterable[Job], workers: int, *, doing: str
) -> Iterator[tuple[Job, Done]]:
    """Every job with `work(job)`, in order; jobs are read on while earlier ones are being done.

    Args:
        work: Runs in another process, so it, the jobs and the results can be pickled.
        jobs: At most two for each process are waiting at a time.
        workers: Processes; 1 or less does the work here.
        doing: What the processes do, for the message.

    Raises:
        EnvironmentProblem: a process was killed.
    """
    if workers <= 1:
        for job in jobs:
            yield job, work(job)
        return
    waiting: deque[tuple[Job, Future[Done]]] = deque()
    try:
        # Spawned, not forked: this process may have threads.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for job in jobs:
                waiting.append((job, pool.submit(work, job)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
    except BrokenProcessPool as error:
        raise EnvironmentProblem(
            f"One of the {workers} processes that {doing} was killed (out of memory?), or could not start (a script"
            " that calls this must do so below `if __name__ == '__main__':`). Run again with fewer workers."
        ) from error
