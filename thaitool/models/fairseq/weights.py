"""Copies a checkpoint's weights into a safetensors file, one tensor in memory at a time.

float32 whatever the source was: every float16 and bfloat16 number is a float32 number, and training goes on in float32,
where a half-precision file would make transformers load half-precision weights and small updates vanish. Decides no
names. Format: the safetensors documentation (8 bytes of length, a JSON header, the numbers).
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from thaitool.models.fairseq.archive import Archive
    from thaitool.models.fairseq.unpickle import TensorRef
    from thaitool.records import Advance

_HALF_OR_FULL = {"float32", "float16", "bfloat16"}


def write_weights(
    path: Path, archive: Archive, sources: Mapping[str, TensorRef], advance: Advance
) -> None:
    """Writes `path` and checks its header with the safetensors library.

    Args:
        archive: The open checkpoint.
        sources: For each name to write, the tensor of the checkpoint.
        advance: Told after every tensor.

    Raises:
        InputError: a tensor is not of floating point, or holds NaN or infinity, or the checkpoint is damaged.
    """
    other = [name for name, t in sources.items() if t.storage.dtype not in _HALF_OR_FULL]
    if other:
        raise InputError(
            f"{archive.path} must hold its weights in float32, float16 or bfloat16, but {other[0]} is"
            f" {sources[other[0]].storage.dtype}."
        )
    with path.open("wb") as out:
        header = _header({name: tensor.size for name, tensor in sources.items()})
        out.write(struct.pack("<Q", len(header)) + header)
        for name, tensor in sources.items():
            numbers = archive.read(tensor).to(torch.float32)
            if not bool(torch.isfinite(numbers).all()):
                bad = int((~torch.isfinite(numbers)).sum())
                raise InputError(
                    f"{archive.path} must hold finite weights, but {bad} of {numbers.numel()} numbers of {name} are NaN"
                    " or infinite: this training had diverged. Take an earlier checkpoint."
                )
            out.write(numbers.numpy().data)
            advance()
    with safe_open(path, framework="pt") as written:
        shapes = {name: tuple(written.get_slice(name).get_shape()) for name in written.keys()}  # noqa: SIM118
    if shapes != {name: tensor.size for name, tensor in sources.items()}:
        raise RuntimeError(f"safetensors reads other shapes from {path} than were written")


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    # The numbers begin at a multiple of 8, so that a memory map of them is aligned.
    return text + b" " * (-len(text) % 8)
