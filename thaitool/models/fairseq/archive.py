"""The two containers of `torch.save`: a zip archive, and the older file of pickles with the numbers behind them.

Reads the structure at once and a tensor's numbers only when asked, so that what is dropped is never read. Knows nothing
of fairseq; writes nothing.
"""

from __future__ import annotations

import struct
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

import torch

from thaitool.errors import InputError
from thaitool.models.fairseq.unpickle import StorageRef, TensorRef, unpickle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

#: First value of an older file, and its version (torch/serialization.py).
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
#: The structure of XLS-R with its optimizer takes 0.3 MB.
_MAX_STRUCTURE_BYTES = 1 << 28


@dataclass(frozen=True)
class Archive:
    """An open checkpoint: its structure, and access to its numbers."""

    path: Path
    container: str
    """zip or legacy."""
    content: dict[Any, Any]
    _bytes_of: Callable[[StorageRef], bytearray]

    def read(self, tensor: TensorRef) -> Tensor:
        """The tensor, on the CPU, contiguous; its storage is read from the file now.

        Raises:
            InputError: the numbers are cut off, or their checksum is wrong.
        """
        dtype: torch.dtype = getattr(torch, tensor.storage.dtype)
        if not tensor.numel:
            return torch.empty(tensor.size, dtype=dtype)
        flat = torch.frombuffer(self._bytes_of(tensor.storage), dtype=dtype)
        return flat.as_strided(tensor.size, tensor.stride, tensor.offset).contiguous()


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens a file of `torch.save`; valid inside the block.

    Raises:
        InputError: no such file, another kind of file, a damaged one, or one that asks for more than data.
    """
    if not path.is_file():
        raise InputError(f"{path} must be a fairseq checkpoint (a .pt file), but is no file.")
    with path.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
        stream.seek(0)
        if is_zip:
            with _damage_is_explained(path):
                archive = zipfile.ZipFile(stream)
            with archive:
                yield _zip(path, archive)
        else:
            yield _legacy(path, stream)


def _mapping(path: Path, content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        raise InputError(
            f"{path} must hold a fairseq checkpoint (a dictionary), but holds a {type(content).__name__}."
        )
    return content


def _size(storage: StorageRef) -> int:
    dtype: torch.dtype = getattr(torch, storage.dtype)
    return storage.numel * dtype.itemsize


def _zip(path: Path, archive: zipfile.ZipFile) -> Archive:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(
            f"{path} must be a checkpoint written by torch.save (a zip archive with one data.pkl), but has"
            f" {len(pickles)}."
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise InputError(
            f"{path} must be a fairseq checkpoint, but is a TorchScript program, which holds code and no training"
            " state. Take the .pt file that training wrote."
        )
    # torch stores without compression; a small file must not unpack into a large one.
    packed = [n for n, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise InputError(
            f"{path} must be stored uncompressed, as torch does, but {packed[0]} is not."
        )
    byte_order = f"{folder}byteorder"
    if byte_order in members and archive.read(byte_order) != b"little":
        raise InputError(
            f"{path} must hold little-endian numbers, but was written by another kind of machine."
        )

    # Of storages that several tensors share, the last one is kept.
    @lru_cache(maxsize=1)
    def bytes_of(storage: StorageRef) -> bytearray:
        name, expected = f"{folder}data/{storage.key}", _size(storage)
        if name not in members or members[name].file_size != expected:
            found = members[name].file_size if name in members else "none"
            raise InputError(
                f"{path} must hold {expected} bytes in {name}, but has {found}; it is damaged."
            )
        numbers = bytearray(expected)
        with _damage_is_explained(path), archive.open(name) as member:
            _fill(numbers, member)
        return numbers

    with _damage_is_explained(path), archive.open(pickles[0]) as member:
        _check_structure(path, members[pickles[0]].file_size)
        content = unpickle(member, str(path))
    return Archive(path, "zip", _mapping(path, content), bytes_of)


def _legacy(path: Path, stream: IO[bytes]) -> Archive:
    if unpickle(stream, str(path)) != _MAGIC or unpickle(stream, str(path)) != _PROTOCOL:
        raise InputError(
            f"{path} must be a checkpoint written by torch.save, but its first bytes are those of something else."
        )
    unpickle(
        stream, str(path)
    )  # byte order and integer sizes of the writer: little and 4 or 8 everywhere
    content = _mapping(path, unpickle(stream, str(path)))
    keys = unpickle(stream, str(path))
    _check_structure(path, stream.tell())
    # Behind the pickles: for each key, a count of numbers and the numbers.
    storages = {tensor.storage.key: tensor.storage for tensor in tensors_in(content)}
    start = stream.tell()
    offsets: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        if (storage := storages.get(str(key))) is None:
            # Only a storage that no tensor uses; its number type, and so its size, is unknown.
            break
        offsets[storage.key] = start + 8
        start += 8 + _size(storage)

    # Of storages that several tensors share, the last one is kept.
    @lru_cache(maxsize=1)
    def bytes_of(storage: StorageRef) -> bytearray:
        if storage.key not in offsets:
            raise InputError(
                f"{path} must hold the numbers of storage {storage.key}, but does not."
            )
        stream.seek(offsets[storage.key] - 8)
        head = stream.read(8)
        if len(head) < 8 or struct.unpack("<q", head)[0] != storage.numel:
            raise InputError(
                f"{path} must hold {storage.numel} numbers at byte {offsets[storage.key]}, but is damaged or cut off"
                " there. Copy it again."
            )
        numbers = bytearray(_size(storage))
        with _damage_is_explained(path):
            _fill(numbers, stream)
        return numbers

    return Archive(path, "legacy", content, bytes_of)


def _check_structure(path: Path, n_bytes: int) -> None:
    if n_bytes > _MAX_STRUCTURE_BYTES:
        raise InputError(
            f"{path} must describe its tensors in at most {_MAX_STRUCTURE_BYTES} bytes, but takes {n_bytes}; this is no"
            " fairseq checkpoint."
        )


def _fill(numbers: bytearray, stream: IO[bytes]) -> None:
    view, done = memoryview(numbers), 0
    while done < len(numbers):
        block = stream.read(min(1 << 22, len(numbers) - done))
        if not block:
            raise EOFError(f"{len(numbers) - done} bytes are missing")
        view[done : done + len(block)] = block
        done += len(block)


@contextmanager
def _damage_is_explained(path: Path) -> Iterator[None]:
    try:
        yield
    # zipfile raises RuntimeError for members that need a password or an unknown method.
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path} is damaged or cut off: {error}. Copy or download it again."
        ) from error


def tensors_in(value: Any) -> list[TensorRef]:
    """All tensors inside a structure, each once, also where it contains itself."""
    found: list[TensorRef] = []
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, TensorRef):
            found.append(item)
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif hasattr(item, "entries"):
            waiting += [item.arguments, item.state, item.entries, item.items]
    return found
