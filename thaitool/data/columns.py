"""Arrow columns of millions of rows: picking rows, a digest, values that occur twice. Knows nothing of audio.

No pass makes more Python objects than those of one block of rows.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_BLOCK_ROWS = 1 << 16


def take(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """The values at `rows`, in that order. (Arrow's own take joins all strings first, and ends at 2 GiB.)"""
    starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])
    parts: list[pa.Array] = []
    for first in range(0, len(rows), _BLOCK_ROWS):
        wanted = rows[first : first + _BLOCK_ROWS]
        if (np.diff(wanted) >= 0).all():
            parts += _take_ascending(column, starts, wanted)
            continue
        order = np.argsort(wanted, kind="stable")
        found = pa.concat_arrays(_take_ascending(column, starts, wanted[order]))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        parts.append(found.take(pa.array(back)))
    return pa.chunked_array(parts, type=column.type)


def _take_ascending(
    column: pa.ChunkedArray, starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> list[pa.Array]:
    found = []
    begin = 0
    while begin < len(rows):
        number = int(np.searchsorted(starts, rows[begin], side="right")) - 1
        end = begin + int(np.searchsorted(rows[begin:], starts[number + 1]))
        found.append(column.chunk(number).take(pa.array(rows[begin:end] - starts[number])))
        begin = end
    return found


def blocks(table: pa.Table, rows: NDArray[np.int64] | None, size: int) -> Iterator[pa.Table]:
    """The rows, `size` at a time, each block in one piece."""
    total = table.num_rows if rows is None else len(rows)
    for first in range(0, total, size):
        if rows is None:
            block = table.slice(first, size)
        else:
            wanted = rows[first : first + size]
            columns = [take(column, wanted) for column in table.columns]
            block = pa.Table.from_arrays(columns, schema=table.schema)
        yield block.combine_chunks()


def digest(table: pa.Table, rows: NDArray[np.int64] | None = None) -> str:
    """sha256 over names and values in order; how the rows are cut into chunks plays no part.

    Every column is three streams (which values are null; lengths of strings; the values), so that no value can pass
    for part of its neighbour.
    """
    hashers = {name: [hashlib.sha256() for _ in range(3)] for name in table.column_names}
    for block in blocks(table, rows, _BLOCK_ROWS):
        for name, column in zip(block.column_names, block.columns, strict=True):
            for array in column.chunks:
                for hasher, piece in zip(hashers[name], _streams(array), strict=True):
                    hasher.update(piece)
    whole = hashlib.sha256(str(table.num_rows if rows is None else len(rows)).encode())
    for name, streams in hashers.items():
        whole.update(f"\n{name} {table.schema.field(name).type}".encode())
        for hasher in streams:
            whole.update(hasher.digest())
    return whole.hexdigest()


def _streams(array: pa.Array) -> tuple[bytes, bytes, bytes]:
    """Nulls, lengths and values as little-endian bytes. What lies under a null, or outside a slice, is not seen."""
    nulls = array.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_string(array.type):
        filled = array.fill_null("") if array.null_count else array
        _, offsets_buffer, data = filled.buffers()
        if not len(filled) or offsets_buffer is None:
            return nulls, b"", b""
        offsets = np.frombuffer(offsets_buffer, np.int32)[filled.offset :][: len(filled) + 1]
        lengths = np.diff(offsets).astype("<i4").tobytes()
        values = b"" if data is None else memoryview(data)[offsets[0] : offsets[-1]]
        return nulls, lengths, bytes(values)
    filled = array.fill_null(0) if array.null_count else array
    values = filled.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = values + 0.0  # -0.0 is 0.0
    return nulls, b"", values.astype(values.dtype.newbyteorder("<")).tobytes()


def hashes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Python's hash of every value, shape (N,): equal values have equal hashes, within this process."""
    found = np.empty(len(column), np.int64)
    position = 0
    for chunk in column.chunks:
        for first in range(0, len(chunk), _BLOCK_ROWS):
            values = chunk.slice(first, _BLOCK_ROWS).to_pylist()
            found[position : position + len(values)] = [hash(v) for v in values]
            position += len(values)
    return found


def occurring_twice(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of all values that occur more than once, ordered by value, then by index."""
    ordered = np.sort(keys)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(again, keys), len(again) - 1)
    candidates = np.flatnonzero(again[place] == keys)
    return candidates[np.argsort(keys[candidates], kind="stable")]


def find_twice(column: pa.ChunkedArray) -> list[tuple[int, int]]:
    """(first row, later row) for every value that an earlier row has, by later row. Exact: hashes only preselect."""
    candidates = np.sort(occurring_twice(hashes(column)))
    first: dict[object, int] = {}
    found = []
    for begin in range(0, len(candidates), _BLOCK_ROWS):
        rows = candidates[begin : begin + _BLOCK_ROWS]
        for row, value in zip(rows.tolist(), take(column, rows).to_pylist(), strict=True):
            earlier = first.setdefault(value, row)
            if earlier != row:
                found.append((earlier, row))
    return found


def differing(old: pa.ChunkedArray, new: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where two columns of one length differ; null equals null."""
    equal = pc.fill_null(pc.equal(old, new), False)
    both_null = pc.and_(pc.is_null(old), pc.is_null(new))
    result: NDArray[np.bool_] = ~pc.or_(equal, both_null).to_numpy()
    return result
