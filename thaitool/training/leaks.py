"""Whether training rows give held-out ones away, looked at before training; a hit stops, unless allowed by name.

Compares recordings, sources, speakers and texts; knows no model. What counts and why:

- `audio` (the same samples), `recording` (the same id, or the same id of a public corpus), `source` (another part or
  variant of the same recording or sentence): the held-out row was trained on, and no figure about it means anything.
- `speaker`: figures are of speakers that were heard before. Right for a device of one household, wrong for all else.
- `text`: what is said in a held-out row was learned with another voice: answers may be known by heart. Commands repeat
  by nature, so that this is often allowed, but only knowingly.
- `near` (nearly the same text) is told, and does not stop: "at seven" and "at eight" differ in a word that matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.data.samples import same_samples
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.files import write_json
from thaitool.metrics.leakage import Line, TestItems, recording_ids
from thaitool.training.run_dir import RUN

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import FinetuneConfig
    from thaitool.data.manifest import Manifest
    from thaitool.training.run_dir import RunDir

#: The surest first.
KINDS = ("audio", "recording", "source", "speaker", "text", "near")
#: Kinds that are told and do not stop a run.
TOLD = frozenset({"near"})
#: How a message says what a held-out row and a training row have in common.
_SAID = {
    "audio": "have the samples of a training row",
    "recording": "are the recording of a training row, by its id",
    "source": "come from the source of a training row",
    "speaker": "are spoken by a speaker of training rows",
    "text": "have the transcript of a training row",
    "near": "have nearly the transcript of a training row",
}
SHOWN = 3
_BLOCK_ROWS = 1 << 16
#: Rows of one id are one recording if their lengths are, too: some data counts anew in each split.
_SAME_LENGTH_S = 0.05


@dataclass(frozen=True)
class Hit:
    """Held-out rows of one split that training rows give away in one way."""

    kind: str
    split: str
    rows: int
    of: int
    examples: tuple[str, ...]
    """Up to `SHOWN`: held-out row, training row, and what they share."""

    def __str__(self) -> str:
        shown = "; ".join(self.examples)
        return (
            f"{self.kind}: {self.rows} of {self.of} {self.split} rows {_SAID[self.kind]} ({shown})"
        )


@dataclass(frozen=True)
class Leakage:
    """What was compared, and what was found."""

    hits: tuple[Hit, ...]
    compared: dict[str, Any] = field(default_factory=dict)
    """Digests of the sets, and how many rows could be compared in each way."""
    allowed: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What people should know of a run that goes on: each hit, and what was not compared."""
        said = [
            f"{hit}; {'allowed' if hit.kind in self.allowed else 'this does not stop a run'}"
            for hit in self.hits
        ]
        for split, counts in self.compared.items():
            audio = counts["audio"] if split != "digests" else {"candidates": 0, "hashed": 0}
            if audio["hashed"] < audio["candidates"]:
                said.append(
                    f"audio: of {audio['candidates']} training and {split} rows of equal lengths {audio['hashed']} were"
                    " compared"
                )
        return said


def check_leaks(config: FinetuneConfig, train_set: Manifest, dev_set: Manifest) -> Leakage:
    """Compares what is trained on with the dev rows, and with the rows of `config.data` that are marked test.

    A run that goes on with the same rows takes what its `run.json` says.

    Raises:
        InputError: training rows give held-out rows away in a way that is not in `config.allow_leakage`.
    """
    everything, _ = scan(config.data, max_rejected_share=1.0)
    is_test = pc.fill_null(pc.equal(everything.column("split"), "test"), False)
    held = {"dev": dev_set, "test": everything.select(is_test.to_numpy())}
    digests = {name: m.digest() for name, m in {"train": train_set, **held}.items()}
    found = _recorded(config.out / RUN, digests)
    if found is None:
        hits: list[Hit] = []
        counts: dict[str, Any] = {}
        for split, manifest in held.items():
            if len(manifest):
                found_here, counts[split] = find_hits(
                    train_set, manifest, split, cache=config.feature_cache
                )
                hits += found_here
        found = Leakage(tuple(hits), {"digests": digests, **counts})
    leakage = Leakage(found.hits, found.compared, tuple(config.allow_leakage))
    stopping = [h for h in found.hits if h.kind not in {*TOLD, *config.allow_leakage}]
    if stopping:
        kinds = [kind for kind in KINDS if any(h.kind == kind for h in stopping)]
        names = ",".join([*config.allow_leakage, *kinds])
        listing = "".join(f"\n  - {hit}" for hit in stopping)
        raise InputError(
            f"Training rows give held-out rows away, so that held-out figures would be too good:{listing}\nSplit the"
            " data again, by source and speaker, or take these rows out of training. If it is meant to be so (fixed"
            f" commands, one speaker), pass --set allow_leakage=[{names}]; the run then says so."
        )
    return leakage


def find_hits(
    train: Manifest, held: Manifest, split: str, *, cache: Path | None = None
) -> tuple[list[Hit], dict[str, Any]]:
    """Hits of every kind, the surest first, and how many rows could be compared in each way.

    Args:
        train: What is trained on.
        held: Rows of one split.
        split: Its name, for messages.
        cache: Directory in which hashes of samples are kept; None keeps none.
    """
    pairs: dict[str, dict[int, str]] = {kind: {} for kind in KINDS}
    same = same_samples(held, train, cache=cache)
    for row, other in same.pairs:
        pairs["audio"][row] = f"{held[row].id} is {train[other].id}"
    pairs["recording"] |= _same_recordings(train, held) | _same_ids(train, held)
    for kind, name in (("source", "source_id"), ("speaker", "speaker")):
        pairs[kind] |= _same_values(train, held, name)
    _compare_texts(train, held, pairs)
    counts = {
        "rows": len(held),
        "with_source": len(held) - held.column("source_id").null_count,
        "with_speaker": len(held) - held.column("speaker").null_count,
        "with_text": len(held) - held.column("text").null_count,
        "audio": {k: v for k, v in asdict(same).items() if k != "pairs"},
    }
    hits = [
        Hit(kind, split, len(rows), len(held), tuple(rows[k] for k in sorted(rows)[:SHOWN]))
        for kind, rows in pairs.items()
        if rows
    ]
    return hits, counts


def record_leaks(out: RunDir, leakage: Leakage) -> None:
    """Puts what was found into `run.json`, beside the fingerprint; for the first process, after the run is claimed."""
    file = out.path / RUN
    run = json.loads(file.read_text("utf-8"))
    write_json(file, {**run, "leakage": asdict(leakage)})


def _recorded(file: Path, digests: dict[str, str]) -> Leakage | None:
    """What an earlier start of the run found, if it was about the same rows."""
    if not file.is_file():
        return None
    kept = json.loads(file.read_text("utf-8")).get("leakage")
    if kept is None or kept["compared"].get("digests") != digests:
        return None
    hits = tuple(Hit(**{**hit, "examples": tuple(hit["examples"])}) for hit in kept["hits"])
    return Leakage(hits, kept["compared"])


def _same_ids(train: Manifest, held: Manifest) -> dict[int, str]:
    """Held-out rows that have the id and the length of a training row."""
    place = pc.index_in(held.column("id"), value_set=_values(train, "id"))
    found = {}
    for row in np.flatnonzero(pc.is_valid(place).to_numpy()).tolist():
        other = train[int(place[row].as_py())]
        if abs(other.duration_s - float(held.duration_s[row])) <= _SAME_LENGTH_S:
            found[row] = f"{other.id} is in both"
    return found


def _same_values(train: Manifest, held: Manifest, name: str) -> dict[int, str]:
    """Held-out rows whose value in a column a training row has; rows without one are not compared."""
    column = held.column(name)
    is_known = pc.and_(
        pc.is_in(column, value_set=_values(train, name)), pc.greater(pc.utf8_length(column), 0)
    )
    found = {}
    for row in np.flatnonzero(pc.fill_null(is_known, False).to_numpy()).tolist():
        found[row] = f"{held[row].id}: {column[row].as_py()}"
    return found


def _values(manifest: Manifest, name: str) -> pa.Array:
    column = manifest.column(name)
    return column.combine_chunks() if name == "id" else column.unique()


def _same_recordings(train: Manifest, held: Manifest) -> dict[int, str]:
    """Held-out rows with an id of a public corpus that a training row has, too."""
    rows: dict[str, list[tuple[int, str]]] = {}
    for row, (name, _) in enumerate(_lines(held)):
        for key in recording_ids(name):
            rows.setdefault(key, []).append((row, name))
    found: dict[int, str] = {}
    for train_id, _ in _lines(train) if rows else ():
        for key in recording_ids(train_id):
            for row, name in rows.get(key, ()):
                found.setdefault(row, f"{name} is {train_id}")
    return found


def _compare_texts(train: Manifest, held: Manifest, pairs: dict[str, dict[int, str]]) -> None:
    """Adds texts and near texts. Of equal ones each set's first is compared: a million commands may be fifty texts."""
    rows: dict[str, list[tuple[int, str]]] = {}
    for row, (name, text) in enumerate(_lines(held)):
        rows.setdefault(text, []).append((row, name))
    texts = list(rows)
    items = TestItems(Line(str(k), text) for k, text in enumerate(texts))
    seen: set[int] = set()
    for train_id, text in _lines(train):
        digest = hash(text)
        if digest in seen:
            continue
        seen.add(digest)
        for k, leak in items.leaks_of(Line("", text)):
            what = repr(texts[k]) if leak.kind == "text" else f"({leak.likeness:.2f})"
            for row, name in rows[texts[k]]:
                pairs[leak.kind].setdefault(row, f"{name} is {train_id} {what}")
    for row in pairs["text"].keys() & pairs["near"].keys():
        del pairs["near"][row]


def _lines(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Id and transcript of every row."""
    ids, texts = manifest.column("id"), manifest.column("text")
    for start in range(0, len(manifest), _BLOCK_ROWS):
        block = (column.slice(start, _BLOCK_ROWS).to_pylist() for column in (ids, texts))
        for name, text in zip(*block, strict=True):
            yield name, text or ""
