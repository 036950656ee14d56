"""The cache of answers: exact keys, several writers, and processes that are killed while they write."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from thaitool.errors import EnvironmentProblem, InputError
from thaitool.files import disk_full_is_explained
from thaitool.synth.cache import Attempt, Cache, Question, Spending

ROOT = Path(__file__).resolve().parents[1]
QUESTION = Question("translate", "openai:u", "m", "r", "p", "s", "{}", "Call Ann.", 0)
OK = Attempt("translate", "ok")
#: Writes answers until it is killed; says after which one it is.
WRITER = """
import sys
from pathlib import Path
from thaitool.synth.cache import Attempt, Cache, Question
cache = Cache(Path(sys.argv[1]), sys.argv[2])
for n in range(int(sys.argv[3])):
    question = Question("t", "b", sys.argv[2], "", "", "", "", str(n), 0)
    cache.put(question, f"{sys.argv[2]} {n}".encode() * 50, Attempt("t", "ok"))
    print(n, flush=True)
"""


def writer(path: Path, run: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), run, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_an_answer_comes_back_for_its_question_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite", "run")
    assert cache.get(QUESTION) is None
    cache.put(QUESTION, "ได้".encode(), OK)
    cache.put(QUESTION, b"later", OK)
    assert Cache(tmp_path / "c.sqlite", "other").get(QUESTION) == "ได้".encode()
    values = asdict(QUESTION)
    others = [Question(**{**values, name: 1 if name == "sample" else "else"}) for name in values]
    assert len({other.key for other in others} | {QUESTION.key}) == len(values) + 1
    assert [cache.get(other) for other in others] == [None] * len(others)


def test_calls_are_counted_by_run_with_what_they_cost(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite", "one")
    cache.put(QUESTION, b"x", Attempt("translate", "ok", 100, 20, 0.5, 1.0))
    cache.note(Attempt("translate", "http_429"))
    cache.note(Attempt("translate", "blank", 7, 3, 0.25))
    assert cache.spending() == Spending(3, 2, 0.75, 107, 23)
    assert cache.outcomes() == {"blank": 1, "http_429": 1, "ok": 1}
    assert Cache(tmp_path / "c.sqlite", "two").spending() == Spending(0, 0, 0.0, 0, 0)


def test_many_make_one_file_at_the_same_time(tmp_path: Path) -> None:
    """The change to write-ahead logging is the one lock that sqlite does not wait for."""
    for attempt in range(20):
        path, together = tmp_path / f"{attempt}.sqlite", threading.Barrier(8)

        def open_it(path: Path = path, together: threading.Barrier = together) -> None:
            together.wait()
            Cache(path, "run").close()

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(open_it) for _ in range(8)]:
                future.result()
        assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    writers = [writer(path, name, 200) for name in ("a", "b")]
    assert [w.wait(120) for w in writers] == [0, 0]
    cache = Cache(path, "a")
    for name in ("a", "b"):
        for n in (0, 199):
            question = Question("t", "b", name, "", "", "", "", str(n), 0)
            assert cache.get(question) == f"{name} {n}".encode() * 50
    assert cache.spending().calls == 200


def test_what_was_stored_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    process = writer(path, "k", 10**6)
    assert process.stdout is not None
    for _ in range(20):
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    rest = process.stdout.read().split()
    last = max([last, *(int(n) for n in rest)])
    cache = Cache(path, "k")
    for n in range(last + 1):
        question = Question("t", "b", "k", "", "", "", "", str(n), 0)
        assert cache.get(question) == f"k {n}".encode() * 50
    # The answer and the count of its call are one transaction.
    with sqlite3.connect(path) as db:
        (answers,) = db.execute("SELECT COUNT(*) FROM answers").fetchone()
    assert answers == cache.spending().calls >= last + 1


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite", "run")
    cache.put(QUESTION, b"before", OK)
    cache._db.execute("PRAGMA max_page_count=8")  # as if the disk ended there
    noise = os.urandom(1 << 18)
    with (
        pytest.raises(EnvironmentProblem, match="the disk is full"),
        disk_full_is_explained(tmp_path),
    ):
        cache.put(replace(QUESTION, sample=1), noise, OK)
    assert cache.get(QUESTION) == b"before"
    assert cache.spending().calls == 1


def test_files_that_are_no_cache_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("three years of work " * 50)
    with pytest.raises(InputError, match="must be a cache of thaitool or absent"):
        Cache(text, "run")
    assert text.read_text().startswith("three years")
    with sqlite3.connect(tmp_path / "new.sqlite") as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="layout 99"):
        Cache(tmp_path / "new.sqlite", "run")
