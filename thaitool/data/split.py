"""Cuts the rows of long recordings into rows of pieces, by the clock or at pauses. Writes no file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from thaitool.audio.headers import BadAudio
from thaitool.audio.silence import measure, pieces
from thaitool.data.columns import take
from thaitool.data.manifest import BLOCK_ROWS, Manifest
from thaitool.data.pool import ahead
from thaitool.data.shards import read_audio
from thaitool.errors import InputError
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Rows up to this many times the longest piece stay whole: the loader crops them, and no piece becomes a stub.
LEEWAY = 1.5
#: What is said of a whole recording, and not of a piece of it.
_OF_THE_WHOLE = ("text", "task", "label")


@dataclass(frozen=True)
class _Cuts:
    """Where one row is cut: starts and ends in seconds of its file, ends exclusive."""

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


_NOTHING = _Cuts(np.empty(0), np.empty(0))


def split_long(
    manifest: Manifest,
    *,
    how: Literal["none", "fixed", "silence"],
    longest_s: float,
    workers: int = 1,
) -> tuple[Manifest, list[Rejected]]:
    """Rows of more than 1.5 x `longest_s` become several rows with start and end, in their place.

    A piece is called `<id>@<start>-<end>` in milliseconds of its file, and has no text, task or label, because those of
    the recording are not its own. A recording that cannot be decoded to its end is rejected as a whole: nothing of it
    is used.

    Args:
        manifest: Durations must be known.
        how: "fixed" cuts equal windows that cover everything, and decodes nothing. "silence" decodes, cuts at pauses
            and leaves long pauses out (see `audio.silence.pieces`). "none" changes nothing.
        longest_s: No piece is longer.
        workers: Processes that decode; the result is the same for any number.

    Raises:
        EnvironmentProblem: a process was killed.
    """
    is_long = manifest.duration_s > LEEWAY * longest_s
    if how == "none" or not is_long.any():
        return manifest, []
    where = np.flatnonzero(is_long)
    cuts: list[_Cuts] = []
    rejected: list[Rejected] = []
    if how == "fixed":
        cuts = [_fixed(manifest[int(i)], longest_s) for i in where]
    else:
        for found in _at_pauses(manifest, where, longest_s, workers):
            if isinstance(found, Rejected):
                rejected.append(found)
            cuts.append(_NOTHING if isinstance(found, Rejected) else found)
    return _replaced(manifest, is_long, cuts), rejected


def _fixed(u: Utterance, longest_s: float) -> _Cuts:
    n = math.ceil(u.duration_s / longest_s)
    edges = u.start_s + u.duration_s * np.arange(n + 1) / n
    return _Cuts(edges[:-1], edges[1:])


def _at_pauses(
    manifest: Manifest, where: NDArray[np.int64], longest_s: float, workers: int
) -> Iterator[_Cuts | Rejected]:
    """The cuts of the rows `where`, in order, computed ahead of the caller."""
    long = (manifest[int(i)] for i in where)
    work = partial(_pauses_of, longest_s=longest_s)
    for _, found in ahead(work, long, workers, doing="look for pauses"):
        yield found


def _pauses_of(u: Utterance, longest_s: float) -> _Cuts | Rejected:
    ref = u.audio
    try:
        levels = measure(
            ref.path if ref.row is None else read_audio(ref),
            str(ref),
            start_s=u.start_s,
            end_s=u.end_s,
            offset=ref.offset,
            n_bytes=ref.n_bytes,
        )
    except BadAudio as bad:
        return Rejected(u.place, bad.reason, bad.detail)
    except InputError as error:  # the parquet file around it
        return Rejected(u.place, "unreadable", str(error))
    found = pieces(levels, longest_s)
    if not found:
        return Rejected(u.place, "silent", "no part of it is louder than digital silence")
    end_s = u.start_s + min(u.duration_s, len(levels.db) * levels.frame_s)
    starts, stops = u.start_s + np.array(found).T * levels.frame_s
    return _Cuts(starts, np.minimum(stops, end_s))


def _replaced(manifest: Manifest, is_long: NDArray[np.bool_], cuts: list[_Cuts]) -> Manifest:
    """The manifest with the pieces in the places of the long rows; other rows are not copied."""
    table, rows = manifest.table, manifest.rows
    rows = np.arange(len(manifest)) if rows is None else rows
    counts = np.array([len(c.start_s) for c in cuts])
    old = np.repeat(rows[is_long], counts)
    start_s = np.concatenate([c.start_s for c in cuts])
    end_s = np.concatenate([c.end_s for c in cuts])
    made = [
        _pieces(
            table, old[k : k + BLOCK_ROWS], start_s[k : k + BLOCK_ROWS], end_s[k : k + BLOCK_ROWS]
        )
        for k in range(0, len(old), BLOCK_ROWS)
    ]
    # How many rows each row becomes, and for every new row whether it is a piece.
    becomes = np.ones(len(rows), np.int64)
    becomes[is_long] = counts
    chosen = np.repeat(rows, becomes)
    chosen[np.repeat(is_long, becomes)] = table.num_rows + np.arange(len(old))
    return Manifest(pa.concat_tables([table, *made]), chosen)


def _pieces(
    table: pa.Table,
    rows: NDArray[np.int64],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
) -> pa.Table:
    """Copies of `rows` that stand for stretches."""
    columns = {name: take(table.column(name), rows) for name in table.column_names}
    spans = zip((1000 * start_s).round().tolist(), (1000 * end_s).round().tolist(), strict=True)
    ids = zip(columns["id"].to_pylist(), spans, strict=True)
    columns["id"] = pa.array([f"{name}@{start:.0f}-{end:.0f}" for name, (start, end) in ids])
    columns["start_s"], columns["end_s"] = pa.array(start_s), pa.array(end_s)
    columns["duration_s"] = pa.array(end_s - start_s)
    for name in _OF_THE_WHOLE:
        columns[name] = pa.nulls(len(rows), table.schema.field(name).type)
    return pa.table(columns, schema=table.schema)
