"""A trained speech LLM to one self-contained directory in transformers' form, for servers and for handing on.

Merges the adapter into the LLM. Trains nothing and uploads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.models.checkpoint import weights_sha256
from thaitool.models.export import export
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Exported:
    """What was made of which checkpoint."""

    checkpoint: Path
    out: Path
    n_bytes: int
    weights_sha256: str


def run(model: Path, out: Path, *, llm: Path | None = None) -> Exported:
    """Writes the whole model of a run or checkpoint of `align` or `finetune`.

    Args:
        model: The run or checkpoint.
        out: The directory to make.
        llm: Where the base LLM lies now, if not where it was.

    Raises:
        InputError: no such model, no LLM or another one; or `out` is taken.
    """
    checkpoint = resolve(model)
    export(checkpoint, out, llm=llm)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Exported(checkpoint, out, size, weights_sha256(out))
