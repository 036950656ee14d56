"""A checkpoint as one self-contained directory: encoder, projector, LLM with its adapter merged in, processor.

A model that was trained with drafts takes the recogniser of them along, in a directory of its own. transformers loads
the rest with `AutoModel…` and `AutoProcessor` and nothing else; it is the form that servers built on transformers read,
and thaitool itself (`models.whole`). Trains nothing, uploads nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import InputError
from thaitool.files import writing_directory
from thaitool.models.checkpoint import load_speech_lm, read_base, weights_sha256
from thaitool.models.drafter import drafter_of, save_drafter
from thaitool.models.encoder import output_lengths
from thaitool.models.recogniser import save_recogniser
from thaitool.models.whole import write_record
from thaitool.text.tasks import tasks_of, write_tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Servers reserve memory for a clip of this length, which is also the window of Whisper.
LONGEST_SERVED_S = 30
#: Where vLLM looks for the largest number of embeddings of a clip.
_BOUND = "max_source_positions"
#: Where the recogniser of drafts lies in a whole model.
DRAFTER_FOLDER = "drafter"


def export(
    path: Path,
    out: Path,
    *,
    llm: Path | None = None,
    drafter: Path | None = None,
    dtype: torch.dtype = torch.float32,
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Writes the whole model of a checkpoint of `align` or `finetune` to a new directory.

    Args:
        path: The checkpoint.
        out: The directory to make.
        llm: Where the base LLM lies now; default is where it lay in training.
        drafter: Where the recogniser of its drafts lies now; default is the same.
        dtype: Of the LLM's weights on disk. The adapter is merged in float32, and rounded once; encoder and projector
            stay float32.
        beside: Writes more files into the directory before it gets its name.

    Raises:
        InputError: as `load_speech_lm` and `drafter_of`; or `out` is taken, or `path` is a whole model already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be a new or an empty directory, but is not. Choose another.")
    base = read_base(path)
    recogniser = drafter_of(path, drafter)
    model, processor = load_speech_lm(path, llm=llm)
    model.language_model = merged(model.language_model)
    # One that shared its token table with its output layer need not any more.
    model.config.text_config.tie_word_embeddings = model.language_model.config.tie_word_embeddings
    _give_row(model, processor.audio_token_id)
    audio = model.config.audio_config
    if getattr(audio, _BOUND, None) is None:
        setattr(audio, _BOUND, output_lengths(audio, LONGEST_SERVED_S * SAMPLE_RATE_HZ))
    model.language_model.to(dtype)
    with writing_directory(out) as folder:
        model.save_pretrained(folder)
        _say_dtype(folder / "config.json", dtype)
        processor.save_pretrained(folder)
        tasks = None if base["tasks"] is None else write_tasks(folder, tasks_of(path))
        write_record(
            folder, processor=processor, checkpoint_sha256=weights_sha256(path), tasks=tasks
        )
        if recogniser is not None:
            place = folder / DRAFTER_FOLDER
            place.mkdir()
            save_recogniser(place, recogniser.model)
            save_drafter(folder, DRAFTER_FOLDER, weights_sha256(place))
        if beside is not None:
            beside(folder)


def _say_dtype(path: Path, dtype: torch.dtype) -> None:
    """Names the form of the LLM's weights, by which others load the model: transformers names that of the first."""
    config = json.loads(path.read_text("utf-8"))
    config["dtype"] = config["text_config"]["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def merged(language_model: Any) -> Any:
    """The LLM with its adapter added to its weights; an LLM without one as it is."""
    if not hasattr(language_model, "merge_and_unload"):
        return language_model
    llm = language_model.get_base_model()
    table, head = llm.get_input_embeddings(), llm.get_output_embeddings()
    own = getattr(head, "base_layer", head)
    is_shared = own.weight is getattr(table, "base_layer", table).weight
    if is_shared and not (own is head and not hasattr(table, "base_layer")):
        # An adapter of one of the two would be added to both.
        own.weight = torch.nn.Parameter(own.weight.detach().clone())
        llm.config.tie_word_embeddings = False
    return language_model.merge_and_unload()


@torch.no_grad()
def _give_row(model: Any, token_id: int) -> None:
    """Gives the audio placeholder a row in the token table: servers look it up before they replace it.

    The new rows are zero. No answer has used them, and zero is the score of a token the LLM knows nothing about.
    """
    language_model = model.language_model
    rows = len(language_model.get_input_embeddings().weight)
    if token_id < rows:
        return
    language_model.resize_token_embeddings(token_id + 1, mean_resizing=False)
    language_model.get_input_embeddings().weight[rows:] = 0.0
    language_model.get_output_embeddings().weight[rows:] = 0.0
    model.config.text_config.vocab_size = token_id + 1
