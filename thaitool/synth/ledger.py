"""What has become of every row of an unfinished data set: the truth from which an interrupted `synth` goes on.

A source row is pending until its texts are there; a clip (sentence and task) is pending until it is in a whole shard,
or rejected. Each step is one transaction, so a process may die between any two. Holds no audio and no answers.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from thaitool.data.shards import Provenance
from thaitool.errors import InputError
from thaitool.records import Rejected
from thaitool.synth.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TABLES = """
CREATE TABLE run (fingerprint TEXT NOT NULL);
CREATE TABLE texts (position INTEGER PRIMARY KEY, texts TEXT NOT NULL);
CREATE TABLE rejected (
    position INTEGER NOT NULL, variant INTEGER NOT NULL, number INTEGER NOT NULL,
    item TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (position, variant, number)
);
CREATE TABLE made (
    position INTEGER NOT NULL, variant INTEGER NOT NULL, number INTEGER NOT NULL, provenance TEXT NOT NULL,
    PRIMARY KEY (position, variant, number)
);
CREATE TABLE shards (
    file TEXT PRIMARY KEY, task TEXT NOT NULL, split TEXT NOT NULL, rows INTEGER NOT NULL, seconds REAL NOT NULL,
    sha256 TEXT NOT NULL
);
"""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which clip: number of the source row, of its variant, and of the task in the configuration."""

    position: int
    variant: int
    number: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A whole parquet file; `file` is relative to the data set."""

    file: str
    task: str
    split: str
    rows: int
    seconds: float
    sha256: str


class Ledger:
    """The open ledger of one unfinished data set."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Opens or makes it; `is_resumed` tells which, and `fingerprint` of which data set it is.

        Args:
            path: The file.
            fingerprint: What decides every row, as text; kept where the file is new.

        Raises:
            InputError: another process works on it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            # Two processes on one data set would write the same shards; the lock ends with the process.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            known = self._db.execute("SELECT name FROM sqlite_master WHERE name='run'").fetchone()
            self.is_resumed = known is not None
            if not self.is_resumed:
                for statement in _TABLES.split(";"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO run VALUES (?)", (fingerprint,))
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise InputError(
                f"{path.parent} is being worked on by another process ({error}); wait for it, or choose another --out."
            ) from error
        (stored,) = self._db.execute("SELECT fingerprint FROM run").fetchone()
        self.fingerprint = str(stored)

    def close(self) -> None:
        """Ends the use of the file, and with it the lock."""
        self._db.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been made yet."""
        (found,) = self._db.execute("SELECT EXISTS (SELECT 1 FROM texts)").fetchone()
        return not found

    def positions_with_texts(self) -> set[int]:
        """Source rows that are past the text stage."""
        return {position for (position,) in self._db.execute("SELECT position FROM texts")}

    def add_texts(self, position: int, texts: Texts) -> None:
        """Moves a source row past the text stage."""
        value = json.dumps(texts.to_json(), ensure_ascii=False)
        self._db.execute("INSERT INTO texts VALUES (?, ?)", (position, value))

    def texts(self, position: int) -> Texts:
        """The texts of a source row that is past the text stage."""
        query = "SELECT texts FROM texts WHERE position = ?"
        (value,) = self._db.execute(query, (position,)).fetchone()
        return Texts.from_json(json.loads(value))

    def sentences(self) -> int:
        """How many sentences there are to speak, once for each task."""
        query = "SELECT COALESCE(SUM(json_array_length(texts, '$.sentences')), 0) FROM texts"
        (count,) = self._db.execute(query).fetchone()
        return int(count)

    def settled_clips(self) -> int:
        """How many clips are in a whole shard, or rejected."""
        query = "SELECT (SELECT COUNT(*) FROM made) + (SELECT COUNT(*) FROM rejected)"
        (count,) = self._db.execute(query).fetchone()
        return int(count)

    def settled(self, position: int) -> set[Place]:
        """Clips of a source row that are in a whole shard, or rejected."""
        found: set[Place] = set()
        for table in ("made", "rejected"):
            query = f"SELECT position, variant, number FROM {table} WHERE position = ?"  # noqa: S608
            found.update(Place(*row) for row in self._db.execute(query, (position,)))
        return found

    def reject(self, place: Place, rejected: Rejected) -> None:
        """Settles a clip that cannot be made."""
        values = (*_values(place), rejected.item, rejected.reason, rejected.detail)
        self._db.execute("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?)", values)

    def add_shard(self, shard: Shard, rows: Sequence[tuple[Place, Provenance]]) -> None:
        """Settles the clips of a shard that is on disk."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)", _values(shard))
            self._db.executemany(
                "INSERT INTO made VALUES (?, ?, ?, ?)",
                [
                    (*_values(place), json.dumps(asdict(row), ensure_ascii=False))
                    for place, row in rows
                ],
            )

    def shards(self) -> tuple[Shard, ...]:
        """All whole shards, by file name."""
        rows = self._db.execute("SELECT * FROM shards ORDER BY file")
        return tuple(Shard(*row) for row in rows)

    def provenance(self) -> Iterator[Provenance]:
        """That of all made clips, in the order of the source."""
        query = "SELECT provenance FROM made ORDER BY position, variant, number"
        for (value,) in self._db.execute(query):
            yield Provenance(**json.loads(value))

    def rejections(self) -> Iterator[Rejected]:
        """All of them: those of a source row's texts, then those of its clips."""
        clips = self._db.execute(
            "SELECT position, item, reason, detail FROM rejected ORDER BY position, variant, number"
        )
        waiting: tuple[Any, ...] | None = clips.fetchone()
        for position, value in self._db.execute(
            "SELECT position, texts FROM texts ORDER BY position"
        ):
            yield from Texts.from_json(json.loads(value)).rejected
            while waiting is not None and waiting[0] == position:
                yield Rejected(*waiting[1:])
                waiting = clips.fetchone()


def _values(row: Place | Shard) -> tuple[Any, ...]:
    return tuple(asdict(row).values())
