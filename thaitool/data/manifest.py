"""The utterances a stage works on: scanned from directories or Thai-SUP shards, kept as a memory-mapped Arrow file.

Reads headers, not samples. What cannot be used is returned as `Rejected` rows, never dropped without a line.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from thaitool.audio.decode import EXTENSIONS, MIN_DURATION_S, BadAudio, probe
from thaitool.data.shards import is_thai_sup, read_thai_sup
from thaitool.errors import InputError, QuarantineError
from thaitool.files import disk_full_is_explained
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("row", pa.int64()),
        ("duration_s", pa.float64()),
        ("sample_rate_hz", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("trainable", pa.bool_()),
    ]
)
#: What decides the order and content of training; the digest covers these, not where the files happen to lie.
_DIGEST_COLUMNS = ("id", "duration_s", "start_s", "end_s", "text", "task", "label")


@dataclass(frozen=True)
class Manifest:
    """Utterances as Arrow columns; row k becomes an `Utterance` only when asked for."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Utterance:
        row = self.table.slice(index, 1).to_pylist()[0]
        return Utterance(audio=AudioRef(row.pop("path"), row.pop("row")), **row)

    @property
    def duration_s(self) -> NDArray[np.float64]:
        """Durations, shape (len(self),)."""
        column: NDArray[np.float64] = self.table.column("duration_s").to_numpy()
        return column

    @property
    def hours(self) -> float:
        """Total duration."""
        return float(self.duration_s.sum()) / 3600

    def digest(self) -> str:
        """sha256 over everything that decides what is trained on and in what order."""
        sha = hashlib.sha256()
        for name in _DIGEST_COLUMNS:
            sha.update(json.dumps(self.table.column(name).to_pylist(), ensure_ascii=False).encode())
        return sha.hexdigest()

    def select(self, keep: Sequence[bool] | NDArray[np.bool_]) -> Manifest:
        """The rows for which `keep` is true."""
        return Manifest(self.table.filter(pa.array(keep)))


def from_utterances(utterances: Iterable[Utterance]) -> Manifest:
    """A manifest in memory.

    Raises:
        InputError: an id occurs twice (ids join predictions to references).
    """
    rows = []
    seen: set[str] = set()
    for u in utterances:
        if u.id in seen:
            raise InputError(
                f"Utterance ids must be unique, but {u.id!r} occurs twice; is the same data named twice?"
            )
        seen.add(u.id)
        row = {n: getattr(u, n) for n in _SCHEMA.names if n not in {"path", "row"}}
        rows.append({**row, "path": u.audio.path, "row": u.audio.row})
    return Manifest(pa.Table.from_pylist(rows, schema=_SCHEMA))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes an Arrow IPC file through a temporary name."""
    temporary = path.with_suffix(".tmp")
    with disk_full_is_explained(path):
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_table(manifest.table)
        temporary.replace(path)


def open_manifest(path: Path) -> Manifest:
    """Opens a manifest by memory map: millions of rows cost no Python objects.

    Raises:
        InputError: it is missing, damaged, or another kind of Arrow file.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} must be a thaitool manifest (Arrow), but is not: {error}."
        ) from error
    if not table.schema.equals(_SCHEMA):
        raise InputError(
            f"{path} must be a thaitool manifest with the columns {', '.join(_SCHEMA.names)}, but has"
            f" {', '.join(table.schema.names)}. Scan the audio again to write a new one."
        )
    return Manifest(table)


def scan(
    sources: Sequence[Path], *, split: str | None = None, max_rejected_share: float = 0.1
) -> tuple[Manifest, list[Rejected]]:
    """Finds the utterances of directories, sound files, Thai-SUP shards and manifests.

    Args:
        sources: Any mix; directories of sound files are walked in sorted order.
        split: For Thai-SUP sources, keep this split only.
        max_rejected_share: Share of unusable files above which the scan gives up.

    Raises:
        InputError: a source does not exist or holds no audio.
        QuarantineError: more than `max_rejected_share` of the files are unusable.
    """
    utterances: list[Utterance] = []
    rejected: list[Rejected] = []
    for source in sources:
        if not source.exists():
            raise InputError(
                f"{source} must be a directory, sound file or manifest, but does not exist."
            )
    # Ids are paths below the folder that all sources share, so that a/01.wav and b/01.wav stay two recordings.
    root = Path(os.path.commonpath([_folder(s) for s in sources])) if sources else Path()
    for source in sources:
        if source.suffix == ".arrow":
            opened = open_manifest(source)
            rows = (opened[i] for i in range(len(opened)))
            utterances.extend(u for u in rows if split is None or u.split in {None, split})
        elif is_thai_sup(source):
            for u in read_thai_sup(source, split=split):
                if u.duration_s >= MIN_DURATION_S:
                    utterances.append(u)
                else:
                    detail = f"its row says {u.duration_s} s, under {MIN_DURATION_S} s"
                    rejected.append(Rejected(str(u.audio), "too_short", detail))
        else:
            found, bad = _scan_files(source, root)
            utterances.extend(found)
            rejected.extend(bad)
    check_share(rejected, len(utterances) + len(rejected), max_rejected_share)
    return from_utterances(utterances), rejected


def check_share(rejected: Sequence[Rejected], total: int, limit: float) -> None:
    """Raises `QuarantineError` when more than `limit` of `total` items were set aside."""
    if total and len(rejected) / total > limit:
        kinds = sorted({r.reason for r in rejected})
        raise QuarantineError(
            f"{len(rejected)} of {total} recordings are unusable ({', '.join(kinds)}), more than the allowed share of"
            f" {limit:g}; the first is {rejected[0].item}: {rejected[0].detail}. Repair or remove them, or raise"
            " max_rejected_share."
        )


def _folder(source: Path) -> Path:
    return (source if source.is_dir() else source.parent).resolve()


def _scan_files(source: Path, root: Path) -> tuple[list[Utterance], list[Rejected]]:
    folder = _folder(source)
    files, rejected = _sound_files(folder) if source.is_dir() else ([folder / source.name], [])
    if not files and not rejected:
        raise InputError(
            f"{source} must hold audio ({', '.join(sorted(EXTENSIONS))}) or Thai-SUP shards, but none was found."
        )
    utterances = []
    for file in files:
        try:
            header = probe(file)
        except BadAudio as bad:
            rejected.append(Rejected(str(file), bad.reason, bad.detail))
            continue
        except OSError as error:
            rejected.append(Rejected(str(file), "unreadable", error.strerror or str(error)))
            continue
        real = str(file.resolve())
        if _not_utf8(str(file)) or _not_utf8(real):
            # Arrow, and most tools that read our JSON, take UTF-8 only.
            rejected.append(Rejected(str(file), "bad_name", "its path is not UTF-8; rename it"))
            continue
        utterances.append(
            Utterance(
                id=file.relative_to(root).as_posix(),
                audio=AudioRef(real),
                duration_s=header.duration_s,
                sample_rate_hz=header.sample_rate_hz,
                source=str(folder),
                source_id=file.relative_to(root).as_posix(),
            )
        )
    return utterances, rejected


def _sound_files(root: Path) -> tuple[list[Path], list[Rejected]]:
    """Sound files in sorted order, and the directories that could not be listed."""
    rejected: list[Rejected] = []

    def note(error: OSError) -> None:
        rejected.append(Rejected(str(error.filename), "unreadable", error.strerror or str(error)))

    # os.walk does not follow symbolic links to directories, so a link loop cannot trap the scan.
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root, onerror=note)
        for name in names
        if Path(name).suffix.lower() in EXTENSIONS
    ]
    return sorted(found), rejected


def _not_utf8(path: str) -> bool:
    # Python keeps bytes of a file name that are not UTF-8 as lone surrogates.
    return any("\ud800" <= character <= "\udfff" for character in path)


def append_quarantine(path: Path, rejected: Iterable[Rejected]) -> None:
    """Appends lines to `quarantine.jsonl`, one JSON object each; no item is listed twice."""
    known: set[str] = set()
    if path.exists():
        # Not splitlines(): a file name may hold a character that it takes for the end of a line.
        lines = path.read_text("utf-8").split("\n")
        known = {json.loads(line)["item"] for line in lines if line}
    fresh = []
    for r in rejected:
        if r.item not in known:
            known.add(r.item)
            fresh.append(r)
    if not fresh:
        return
    # Backslashreplace writes a lone surrogate (a file name that is not UTF-8) as its JSON escape.
    with (
        disk_full_is_explained(path),
        path.open("a", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for r in fresh:
            row = {"item": r.item, "reason": r.reason, "detail": r.detail}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def require_trainable(manifest: Manifest, *, allowed: bool) -> None:
    """Raises `InputError` if rows are marked unfit for training and that was not allowed by name."""
    marked = sum(not t for t in manifest.table.column("trainable").to_pylist())
    if marked and not allowed:
        raise InputError(
            f"{marked} of {len(manifest)} rows are marked trainable: false (embedded voices: fit to test with, not"
            " to train a model for people). Use other voices, or pass --set allow_untrainable=true."
        )
