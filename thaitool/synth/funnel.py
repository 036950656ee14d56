"""How many rows each step of `synth` was given and left, for the card. What was lost, and why, is in rejected.jsonl."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thaitool.synth.ledger import Ledger
    from thaitool.synth.sources import Source


def funnel(source: Source, ledger: Ledger, *, variants: int, tasks: int) -> dict[str, int]:
    """Rows by step, in the order of the steps; each source row is to become `variants` sentences."""
    sentences = ledger.sentences()
    return {
        "rows of the source": len(source.rows) + len(source.rejected),
        "rows that can be used": len(source.rows),
        "variants asked for": len(source.rows) * variants,
        "Thai sentences": sentences,
        "clips asked for, one for each task": sentences * tasks,
        "rows with speech": sum(shard.rows for shard in ledger.shards()),
    }
