"""Clips from several processes and from a Ray cluster: the same bytes, and nothing lost when one of them is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import tiny
from tests.test_synth_resume import start, wait_for
from thaitool.config import SynthConfig
from thaitool.errors import ConfigError, EnvironmentProblem, InputError
from thaitool.records import Advance
from thaitool.stages import synth
from thaitool.synth.assembly import opened_booth
from thaitool.synth.engines import make_clips
from thaitool.synth.sources import SourceRow
from thaitool.synth.texts import Texts, make_texts


class Enough(Exception):
    """Ends a run after its texts."""


def settings(folder: Path, out: str, **changes: Any) -> dict[str, Any]:
    source = folder / "source.jsonl"
    if not source.exists():
        tiny.alpaca_excerpt(source, intents=2)
    return {"source": source, "out": folder / out, "variants": 2, "shard_rows": 7, **changes}


def config(folder: Path, out: str, **changes: Any) -> SynthConfig:
    return SynthConfig.model_validate(settings(folder, out, **changes))


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def local_files(folder: Path) -> dict[str, bytes]:
    synth.make(config(folder, "local"))
    return files(folder / "local")


def clip_jobs(folder: Path, out: str) -> tuple[SynthConfig, list[Any]]:
    """A configuration whose texts are made, and its jobs."""
    made: list[Any] = []
    given = config(folder, out, tasks=["asr"])

    def seen(jobs: Any, *_: Any) -> Any:
        made.extend(jobs)
        raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(synth, "make_clips", seen)
        synth.make(given)
    return given, made


def speaking_processes(parent: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


def test_two_processes_make_the_bytes_of_one_and_go_on_with_its_work(tmp_path: Path) -> None:
    whole = local_files(tmp_path)
    synth.make(config(tmp_path, "two", workers=2))
    assert files(tmp_path / "two") == whole
    assert not speaking_processes(os.getpid())


def test_a_killed_process_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    whole = local_files(tmp_path)
    given = config(tmp_path, "killed", workers=2)
    left = 5

    @contextmanager
    def kill_one(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal left
            speaking = speaking_processes(os.getpid()) if left else []
            left -= bool(speaking)
            if speaking and left == 0:
                speaking[0].kill()

        yield advance

    with pytest.raises(
        EnvironmentProblem, match="One of the processes that speak ended with exit code -9"
    ):
        synth.make(given, kill_one)
    assert not speaking_processes(os.getpid())
    assert not given.out.exists()
    synth.make(given.model_copy(update={"workers": 1}))  # what was begun with two, one may end
    assert files(given.out) == whole


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_program(tmp_path: Path, number: int) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "longer.jsonl", intents=8)
    values = settings(tmp_path, "x", workers=2, source=source, shard_rows=1)
    process = start(values, tmp_path)
    wait_for(lambda: len(list((tmp_path / ".x.work").rglob("*.parquet"))) > 1, process)
    speaking = speaking_processes(process.pid)
    assert len(speaking) == 2
    # As a terminal does it, Ctrl-C reaches the whole group.
    for one in [process.pid, *(p.pid for p in speaking if number == signal.SIGINT)]:
        os.kill(one, number)
    _, err = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(speaking, timeout=60)
    assert not alive
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert f"Stopped by signal {int(number)} during synth" in err
        assert "Traceback" not in err


def test_an_error_in_a_process_is_the_error_of_the_program(tmp_path: Path) -> None:
    given, jobs = clip_jobs(tmp_path, "x")
    broken = given.model_copy(update={"tts": "espeak:", "voices": ["nobody"], "workers": 2})

    async def first() -> None:
        async with (
            opened_booth(given, "run") as booth,
            aclosing(make_clips(jobs, broken, booth, "run")) as clips,
        ):
            await anext(clips)

    with pytest.raises(ConfigError, match="'nobody' was asked for"):
        asyncio.run(first())


def test_voices_elsewhere_need_no_processes_and_ray_needs_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"tts": "command:say", "voices": ["a", "b"], "workers": 2}
    with pytest.raises(ConfigError, match=r"workers 2 needs voices .* set calls.in_flight"):
        synth.make(config(tmp_path, "x", **elsewhere))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine ray needs the package ray.*thaitool\[ray\]"):
        synth.make(config(tmp_path, "x", engine="ray"))
    assert not (tmp_path / ".x.work").exists()


def test_unfinished_work_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    given, _ = clip_jobs(tmp_path, "x")
    ledger = tmp_path / ".x.work" / "ledger.sqlite"
    before = ledger.read_bytes()
    other = given.model_copy(update={"speed": 1.1, "variants": 1, "workers": 2})
    with pytest.raises(InputError) as refused:
        synth.make(other)
    lines = str(refused.value).splitlines()
    assert lines[1:3] == ["  - speed: 1.0 before, 1.1 now", "  - variants: 2 before, 1 now"]
    assert lines[3].endswith("throw that work away: --restart.")
    assert len(lines) == 4
    assert ledger.read_bytes() == before
    done = synth.make(other.model_copy(update={"restart": True, "workers": 1}))
    assert done.resumed_rows == 0
    assert synth.make(other).result == done.result  # neither decides what is made


def test_work_of_another_version_is_refused_too(tmp_path: Path) -> None:
    given, _ = clip_jobs(tmp_path, "x")
    with closing(sqlite3.connect(tmp_path / ".x.work" / "ledger.sqlite")) as db, db:
        db.execute("UPDATE run SET fingerprint = 'e3b0c442'")
    with pytest.raises(InputError, match="cannot be told, as another version of thaitool wrote it"):
        synth.make(given)


def test_texts_that_fail_late_keep_those_that_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(tmp_path, "x", tasks=["asr"])
    asked: list[str] = []
    is_down = True

    async def failing(row: SourceRow, *functions: Any) -> Texts:
        asked.append(row.source_id)
        if is_down and len(asked) == 6:
            raise EnvironmentProblem("the server is down")
        return await make_texts(row, *functions)

    monkeypatch.setattr(synth, "make_texts", failing)
    with pytest.raises(EnvironmentProblem, match="the server is down"):
        synth.make(given)
    assert len(set(asked)) == 6  # all rows of the source
    is_down = False
    synth.make(given)
    assert asked[6:] == [asked[5]]


@pytest.mark.slow
def test_ray_makes_the_same_bytes_though_a_node_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    whole = local_files(tmp_path)
    program = [sys.executable, "-m", "tests.ray_cluster", str(tmp_path)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        program, cwd=tiny.ROOT, env=env, capture_output=True, text=True, timeout=550, check=False
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "killed a node on which clips were made" in ran.stdout
    assert files(tmp_path / "ray") == whole
