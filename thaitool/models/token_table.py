"""The token table of an LLM, read from its shard alone, so that aligning needs none of its layers. Trains nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from thaitool.errors import InputError
from thaitool.models.checkpoint import causal_lm
from thaitool.models.encoder import damage_is_explained, read_model_type

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def load_embedding_table(llm: Path) -> Tensor:
    """The LLM's token table as its layers see it, shape (V, D), read from its shard alone; the LLM is never loaded.

    Raises:
        InputError: no transformers LLM, no safetensors, or no token table in them.
    """
    read_model_type(llm)
    name, scale = _token_table(llm)
    leaf = name.rpartition(".")[0].rpartition(".")[2] + ".weight"
    for file in _shards(llm, leaf):
        with damage_is_explained(file), safe_open(file, framework="pt") as shard:
            held = list(shard.keys())
            # A base model saved on its own has the names without their first part.
            found = [n for n in held if n == name] or [n for n in held if n.endswith(leaf)]
            if found:
                table: Tensor = shard.get_tensor(found[0]).float()
                return table if scale == 1 else table.mul_(scale)
    raise InputError(
        f"{llm} must hold an LLM as safetensors with a token table ({name}), but none was found. If its weights are in"
        " another form, load it with transformers and save it again with save_pretrained."
    )


def _token_table(llm: Path) -> tuple[str, float]:
    """Name of the token table's weight, and the factor by which some models (Gemma) scale what they look up."""
    with torch.device("meta"):
        config = causal_lm(llm, AutoConfig.from_pretrained, llm)
        model = causal_lm(llm, AutoModelForCausalLM.from_config, config)
    table = model.get_input_embeddings()
    name = next(n for n, module in model.named_modules() if module is table)
    return f"{name}.weight", float(getattr(table, "scalar_embed_scale", 1.0))


def _shards(llm: Path, leaf: str) -> list[Path]:
    """The files that may hold a weight of that last name: of a sharded model, those its index names."""
    index = llm / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(llm.glob("*.safetensors"))
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted({file for name, file in places.items() if name.endswith(leaf)})
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{index} is damaged: {error!r}. Copy or download the LLM again."
        ) from error
    if missing := [n for n in names if not (llm / n).is_file()]:
        raise InputError(
            f"{llm} must hold all shards that its index names, but lacks {missing[0]}. Copy or download it again."
        )
    return [llm / name for name in names]
