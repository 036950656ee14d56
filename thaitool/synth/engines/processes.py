"""Clips from several processes on this machine, each with voices of its own. A killed process is a sentence.

Nothing of a killed process is lost: what it had not handed over is no row yet, and the same command makes it again.
Each process has a pipe of its own. The standard pools share one, and wait forever for the rest of a result when a
process is killed while it writes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections import deque
from contextlib import aclosing, asynccontextmanager, suppress
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from thaitool.errors import EnvironmentProblem, ThaitoolError
from thaitool.synth.assembly import opened_booth
from thaitool.synth.engines.job import ClipJob, Made, make_clip, share_of
from thaitool.synth.parallel import in_order

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable
    from multiprocessing.connection import Connection

    from thaitool.config import SynthConfig

#: Jobs for each process that are on their way, so that none waits while a shard is written.
_AHEAD = 8


async def make_in_processes(
    jobs: Iterable[ClipJob], config: SynthConfig, run: str
) -> AsyncGenerator[tuple[ClipJob, Made]]:
    """(job, what came of it) in the order of `jobs`, from `config.workers` processes.

    Raises:
        EnvironmentProblem: a process was killed.
    """
    async with _started(share_of(config), run) as processes:

        async def work(job: ClipJob) -> Made:
            return await min(processes, key=lambda process: len(process.waiting)).make(job)

        async with aclosing(in_order(jobs, work, _AHEAD * config.workers)) as clips:
            async for pair in clips:
                yield pair


class _Process:
    """One process as its parent sees it; answers come in the order of the questions."""

    def __init__(self, config: SynthConfig, run: str) -> None:
        context = get_context("spawn")  # not forked: this process has threads
        self._loop = asyncio.get_running_loop()
        self._pipe, theirs = context.Pipe()
        self.waiting: deque[asyncio.Future[Made]] = deque()
        self._is_dead = False
        self._process = context.Process(target=_speak, args=(theirs, config, run), daemon=True)
        # Ctrl-C reaches the whole group, and would leave half of a clip and a traceback. A process inherits which
        # signals are held back; here it is for a moment only.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()  # or its death would not end the pipe
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    async def make(self, job: ClipJob) -> Made:
        if self._is_dead:
            raise self._loss()
        answer: asyncio.Future[Made] = self._loop.create_future()
        self.waiting.append(answer)
        # Of a dead process the reader finds out, after what it had still said.
        with suppress(OSError):
            self._pipe.send(job)
        return await answer

    def _read(self) -> None:
        try:
            while True:
                self._loop.call_soon_threadsafe(self._settle, self._pipe.recv())
        except (EOFError, OSError):
            self._process.join()
            self._loop.call_soon_threadsafe(self._give_up)

    def _settle(self, made: Made | ThaitoolError) -> None:
        answer = self.waiting.popleft()
        if answer.cancelled():
            return
        if isinstance(made, ThaitoolError):
            answer.set_exception(made)
        else:
            answer.set_result(made)

    def _give_up(self) -> None:
        self._is_dead = True
        for answer in self.waiting:
            if not answer.done():
                answer.set_exception(self._loss())

    def _loss(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"One of the processes that speak ended with exit code {self._process.exitcode} (-9: killed, perhaps for"
            " want of memory; 1: see above, or the script that calls this does so outside of"
            " `if __name__ == '__main__':`). Finished rows are kept: run the same command again, with fewer workers if"
            " memory is short."
        )

    async def end(self) -> None:
        """Ends the process, whatever it does."""
        self._process.terminate()
        await asyncio.to_thread(self._reader.join)
        self._pipe.close()


@asynccontextmanager
async def _started(config: SynthConfig, run: str) -> AsyncIterator[list[_Process]]:
    processes: list[_Process] = []
    try:
        # One by one: if the last cannot start, the others still end.
        processes.extend(_Process(config, run) for _ in range(config.workers))
        yield processes
    finally:
        for process in processes:
            await process.end()


def _speak(pipe: Connection[Any, ClipJob], config: SynthConfig, run: str) -> None:
    """The whole life of a process: answers jobs until its parent closes the pipe, or dies."""
    import torch

    torch.set_num_threads(1)  # the processes share the cores
    asyncio.run(_answer(pipe, config, run))


async def _answer(pipe: Connection[Any, ClipJob], config: SynthConfig, run: str) -> None:
    job = _exchange(pipe)
    try:
        async with opened_booth(config, run) as booth:
            while True:
                job = _exchange(pipe, await make_clip(job, config, booth))
    except ThaitoolError as error:
        while True:  # until the parent, which raises it, ends this process
            _exchange(pipe, error)


def _exchange(pipe: Connection[Any, ClipJob], *answers: Made | ThaitoolError) -> ClipJob:
    """Sends what there is, and waits for the next job; ends the process if nobody is at the other end."""
    try:
        for answer in answers:
            pipe.send(answer)
        return pipe.recv()
    except (EOFError, OSError):
        sys.exit(0)
