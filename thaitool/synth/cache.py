"""Answers of language models and voices in one sqlite file, so that nothing is asked or paid for twice.

It stores what it is given under a key; whether an answer is good enough to be stored is decided elsewhere.

Only successes are stored. Every call that was sent leaves a line in `attempts`, failed ones included, because they
cost money too. Several processes may read and write one file: the journal is write-ahead, and a process that is killed
at any moment leaves either the whole answer or none. What was committed survives the process; after a power failure the
last few answers may be missing.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from thaitool.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

#: Another layout of the file gets another number; sqlite keeps it as `user_version`.
LAYOUT = 1
#: How long a writer waits for another process.
BUSY_S = 60

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, stage TEXT NOT NULL, value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS attempts (
    number INTEGER PRIMARY KEY, run TEXT NOT NULL, stage TEXT NOT NULL, outcome TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, usd REAL NOT NULL, seconds REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_of_run ON attempts (run);
"""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that an answer depends on; two questions that differ anywhere have two answers."""

    stage: str
    """annotate, augment, translate, tts, ..."""
    backend: str
    model: str
    revision: str
    prompt: str
    """SHA-256 of the wording."""
    schema: str
    """SHA-256 of the JSON schema of the answer; "" for audio."""
    parameters: str
    """Temperature, voice, speed and the like, as canonical JSON."""
    input: str
    sample: int
    """Counts repetitions of one question on purpose."""

    @property
    def key(self) -> bytes:
        """SHA-256 of the canonical JSON of all fields, 32 bytes."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).digest()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that was sent, and what came of it: `ok`, or a reason such as `http_429`."""

    stage: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Spending:
    """All calls of one run, over every time it was started."""

    calls: int
    failed: int
    usd: float
    prompt_tokens: int
    completion_tokens: int


class Answers(Protocol):
    """What those who ask need of a cache, which may be in another process."""

    def get(self, question: Question) -> bytes | None:
        """The stored answer; None if there is none."""

    def put(self, question: Question, value: bytes, attempt: Attempt) -> None:
        """Stores an answer and counts the call that brought it."""

    def note(self, attempt: Attempt) -> None:
        """Counts a call that was sent."""


class Cache:
    """One open cache file; `run` is what its attempts are counted under."""

    def __init__(self, path: Path, run: str) -> None:
        """Opens or makes the file.

        Raises:
            InputError: the file is no cache, or one of another version.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._run = run
        # The event loop and the threads of local backends share it; sqlite serialises them.
        self._db = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _use_wal(self._db)
            # FULL would wait for the disk at every answer; NORMAL loses nothing when a process dies.
            self._db.execute("PRAGMA synchronous=NORMAL")
            (layout,) = self._db.execute("PRAGMA user_version").fetchone()
            if layout not in {0, LAYOUT}:
                raise InputError(
                    f"{path} is a cache of layout {layout}, but this version reads {LAYOUT}; name another file."
                )
            self._db.executescript(f"{_TABLES}PRAGMA user_version={LAYOUT};")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(
                f"{path} must be a cache of thaitool or absent, but: {error}. Name another file."
            ) from error

    def close(self) -> None:
        """Ends the use of the file."""
        self._db.close()

    def get(self, question: Question) -> bytes | None:
        """The stored answer; None if there is none."""
        found = self._db.execute(
            "SELECT value FROM answers WHERE key = ?", (question.key,)
        ).fetchone()
        return None if found is None else zlib.decompress(found[0])

    def put(self, question: Question, value: bytes, attempt: Attempt) -> None:
        """Stores an answer and counts the call that brought it, both or neither; an answer that is there stays."""
        row = (question.key, question.stage, zlib.compress(value, 1))
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO answers (key, stage, value) VALUES (?, ?, ?)", row
            )
            self.note(attempt)

    def note(self, attempt: Attempt) -> None:
        """Counts a call that was sent."""
        values = (self._run, *asdict(attempt).values())
        self._db.execute(
            "INSERT INTO attempts (run, stage, outcome, prompt_tokens, completion_tokens, usd, seconds)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def spending(self) -> Spending:
        """What the calls of this run came to."""
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(outcome <> 'ok'), 0), COALESCE(SUM(usd), 0.0),"
            " COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0)"
            " FROM attempts WHERE run = ?",
            (self._run,),
        ).fetchone()
        return Spending(*row)

    def outcomes(self) -> dict[str, int]:
        """How often each outcome came in this run."""
        rows = self._db.execute(
            "SELECT outcome, COUNT(*) FROM attempts WHERE run = ? GROUP BY outcome ORDER BY outcome",
            (self._run,),
        )
        return dict(rows.fetchall())


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, Thai as it is."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def sha256_of(text: str) -> str:
    """SHA-256 of a text in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _use_wal(db: sqlite3.Connection) -> None:
    """Turns on write-ahead logging. Here sqlite does not wait for a lock, which two that make the file both want."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # The low byte: the others say which lock it was.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
