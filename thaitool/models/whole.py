"""A whole speech LLM in one directory, as `thaitool convert merge` writes it, with what it must be asked with.

Read by infer, eval and serve like a checkpoint. Cannot be trained on: its adapter is part of the LLM.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor

from thaitool.errors import InputError
from thaitool.files import write_json
from thaitool.models.encoder import damage_is_explained
from thaitool.models.processor import ThaiSpeechProcessor, differences
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration
from thaitool.text.tasks import require_tasks

if TYPE_CHECKING:
    from pathlib import Path

RECORD = "thaitool.json"
_FORMAT = "thaitool-whole-model-1"


def is_whole(path: Path) -> bool:
    """Whether a directory holds a whole model of ours."""
    return (path / RECORD).is_file()


def write_record(
    path: Path, *, processor: ThaiSpeechProcessor, checkpoint_sha256: str, tasks: str | None
) -> None:
    """Keeps what a whole model is made of and asked with.

    Args:
        path: Its directory.
        processor: Its processor.
        checkpoint_sha256: Of the weights of the checkpoint.
        tasks: Hash of its `tasks.json`; None if it has none.
    """
    record = {
        "format": _FORMAT,
        "checkpoint_sha256": checkpoint_sha256,
        "processor": processor.identity(),
        "tasks": tasks,
    }
    write_json(path / RECORD, record)


def load_whole(
    path: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[ThaiSpeechForConditionalGeneration, ThaiSpeechProcessor]:
    """The model and its processor, in evaluation mode.

    Args:
        path: The directory.
        dtype: Of the LLM's weights in memory; encoder and projector are always float32.

    Raises:
        InputError: it is damaged, lacks weights, or its processor is not the one it was written with.
    """
    record = _record(path)
    with damage_is_explained(path):
        model, report = _loaded(path, dtype)
    if report["missing_keys"]:
        raise InputError(
            f"{path} must hold all weights of its model, but lacks {len(report['missing_keys'])}, e.g."
            f" {min(report['missing_keys'])}. Copy it or make it again."
        )
    processor = AutoProcessor.from_pretrained(path)
    if changed := differences(record["processor"], processor.identity()):
        listing = "".join(f"\n  - {line}" for line in changed)
        raise InputError(
            f"The processor of {path} differs from the one it was written with, so it would hear or be asked something"
            f" else:{listing}\nRestore its files, or make it again by `thaitool convert merge`."
        )
    require_tasks(path, record["tasks"])
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor


def _loaded(path: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    make = ThaiSpeechForConditionalGeneration.from_pretrained
    try:
        model, report = make(path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} must hold a whole speech LLM, but transformers cannot load it: {str(error).splitlines()[0]} Copy"
            " it or make it again."
        ) from error
    return model, report


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text("utf-8"))
        if record["format"] != _FORMAT:
            raise InputError(
                f"{path / RECORD} must be of the form {_FORMAT}, but is {record['format']!r}; it was written by"
                " another version. Make it again by `thaitool convert merge`."
            )
        return {name: record[name] for name in ("processor", "tasks", "checkpoint_sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / RECORD} is damaged: {error!r}. Copy or make it again."
        ) from error
