"""A fairseq wav2vec 2.0 checkpoint to a transformers directory, with a record of what it came from.

Needs neither fairseq nor omegaconf and runs nothing that the checkpoint holds. Trains nothing and changes no number
beyond its width.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import Wav2Vec2ForCTC, Wav2Vec2ForPreTraining

from thaitool import __version__
from thaitool.errors import InputError
from thaitool.files import write_json, writing_directory
from thaitool.models.encoder import feature_extractor
from thaitool.models.fairseq.archive import Archive, open_archive, tensors_in
from thaitool.models.fairseq.configuration import READ, transformers_config
from thaitool.models.fairseq.dictionary import (
    BEGIN_ID,
    BLANK_ID,
    END_ID,
    own_dictionary,
    read_dictionary,
    write_tokenizer,
)
from thaitool.models.fairseq.keys import match_names
from thaitool.models.fairseq.settings import Settings, read_settings
from thaitool.models.fairseq.unpickle import TensorRef
from thaitool.models.fairseq.weights import write_weights
from thaitool.records import Progress, silent

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS, PROVENANCE = "model.safetensors", "provenance.json"


@dataclass(frozen=True)
class Dropped:
    """An entry of the checkpoint that the result does not hold."""

    entry: str
    tensors: int
    n_bytes: int


@dataclass(frozen=True)
class Converted:
    """What was made of which file."""

    out: Path
    architecture: str
    tensors: int
    parameters: int
    updates: int | None
    """Of the training that made the checkpoint, where it says so."""
    normalize: bool
    source_dtypes: tuple[str, ...]
    source_sha256: str
    weights_sha256: str
    dropped: tuple[Dropped, ...]


def run(
    checkpoint: Path, out: Path, *, dictionary: Path | None = None, progress: Progress = silent
) -> Converted:
    """Converts one checkpoint.

    Args:
        checkpoint: A pretrained wav2vec 2.0 model or one fine-tuned with CTC, as fairseq saved it.
        out: The directory to make.
        dictionary: `dict.ltr.txt` of a CTC model that does not carry it.
        progress: Told after every tensor.

    Raises:
        InputError: the file is no such checkpoint, is damaged, asks for more than data, does not fit its own settings,
            or holds a model that transformers cannot express; or `out` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} must be a new or an empty directory, but is not. Choose another --out."
        )
    with open_archive(checkpoint) as archive:
        weights = _weights(archive)
        ctc = any(name.startswith("w2v_encoder.") for name in weights)
        symbols = _symbols(archive, weights, dictionary, ctc=ctc)
        settings = read_settings(archive.content, what=str(checkpoint), ctc=ctc)
        config = transformers_config(settings, what=str(checkpoint))
        if ctc:
            config.vocab_size = len(symbols)
            config.pad_token_id, config.bos_token_id, config.eos_token_id = (
                BLANK_ID,
                BEGIN_ID,
                END_ID,
            )
        sources = _sources(checkpoint, weights, config, ctc=ctc)
        dropped = _dropped(archive.content)
        updates = _updates(archive.content)
        for entry in dropped:
            del archive.content[entry.entry]
        with writing_directory(out) as folder:
            with progress("convert", len(sources)) as advance:
                write_weights(folder / WEIGHTS, archive, sources, advance)
            config.save_pretrained(folder)
            extractor = feature_extractor(config)
            extractor.do_normalize = settings.normalize
            extractor.save_pretrained(folder)
            if ctc:
                write_tokenizer(symbols, folder)
            result = Converted(
                out=out,
                architecture=config.architectures[0],
                tensors=len(sources),
                parameters=sum(tensor.numel for tensor in sources.values()),
                updates=updates,
                normalize=settings.normalize,
                source_dtypes=tuple(sorted({tensor.storage.dtype for tensor in sources.values()})),
                source_sha256=_sha256(checkpoint),
                weights_sha256=_sha256(folder / WEIGHTS),
                dropped=dropped,
            )
            write_json(folder / PROVENANCE, _provenance(archive, settings, result))
    return result


def _weights(archive: Archive) -> dict[str, TensorRef]:
    weights = archive.content.get("model")
    if "fsdp_metadata" in archive.content:
        raise InputError(
            f"{archive.path} must be a whole checkpoint, but is one shard of several (fsdp_metadata). Join the shards"
            " with fairseq's scripts/consolidate_fsdp_shards.py first."
        )
    if not isinstance(weights, dict) or not weights:
        entries = ", ".join(sorted(map(str, archive.content))[:8]) or "nothing"
        raise InputError(
            f"{archive.path} must be a fairseq checkpoint with its weights under 'model', but holds {entries}. A"
            " transformers model needs no conversion."
        )
    odd = [str(name) for name, value in weights.items() if not isinstance(value, TensorRef)]
    if odd:
        raise InputError(
            f"{archive.path} must hold tensors under 'model', but {', '.join(odd[:8])} is none."
        )
    return weights


def _symbols(
    archive: Archive, weights: dict[str, TensorRef], dictionary: Path | None, *, ctc: bool
) -> list[str]:
    """The symbols of a CTC model; none for a pretrained one."""
    if not ctc:
        if dictionary is not None:
            raise InputError(
                f"{archive.path} is a pretrained model, which has no dictionary. Leave out --dictionary."
            )
        return []
    own = own_dictionary(archive.content)
    symbols = own if dictionary is None else read_dictionary(dictionary)
    if symbols is None:
        raise InputError(
            f"{archive.path} is fine-tuned with CTC and must come with its dictionary, but carries none; fairseq kept"
            " it beside the data. Give dict.ltr.txt with --dictionary."
        )
    head = weights.get("w2v_encoder.proj.weight")
    wanted = f"{dictionary or 'The dictionary in the file'} must fit {archive.path}"
    if head is not None and head.size[0] != len(symbols):
        raise InputError(
            f"{wanted}, which has {head.size[0]} symbols with the four special ones, but has {len(symbols)}. It belongs"
            " to another model."
        )
    if own is not None and symbols != own:
        first = next(n for n, (a, b) in enumerate(zip(symbols, own, strict=True)) if a != b)
        raise InputError(
            f"{wanted}, which carries its own dictionary, but symbol {first} is {symbols[first]!r} and not"
            f" {own[first]!r}. Leave out --dictionary."
        )
    return symbols


def _sources(
    checkpoint: Path, weights: dict[str, TensorRef], config: Any, *, ctc: bool
) -> dict[str, TensorRef]:
    """For each weight of the transformers model, the tensor that fills it."""
    model_class = Wav2Vec2ForCTC if ctc else Wav2Vec2ForPreTraining
    try:
        with torch.device("meta"):
            model = model_class(config)
    except ValueError as error:
        raise InputError(f"{checkpoint} has settings that make no model: {error}") from error
    config.architectures, config.dtype = [model_class.__name__], torch.float32
    target = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    source = {name: tensor.size for name, tensor in weights.items()}
    filled = match_names(source, target, ctc=ctc, what=str(checkpoint))
    return {place: weights[name] for place, name in filled.items()}


def _dropped(content: dict[Any, Any]) -> tuple[Dropped, ...]:
    dropped = []
    for entry, value in content.items():
        if entry != "model":
            storages = {t.storage.key: t for t in tensors_in(value)}
            n_bytes = sum(
                t.storage.numel * getattr(torch, t.storage.dtype).itemsize
                for t in storages.values()
            )
            dropped.append(Dropped(str(entry), len(storages), n_bytes))
    return tuple(dropped)


def _updates(content: dict[Any, Any]) -> int | None:
    history = content.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else {}
    updates = last.get("num_updates") if isinstance(last, dict) else None
    return updates if isinstance(updates, int) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _provenance(archive: Archive, settings: Settings, result: Converted) -> dict[str, Any]:
    facts = {k: v for k, v in asdict(result).items() if k != "out"}
    outer = settings.model if settings.ctc is None else settings.ctc
    return {
        "source": archive.path.name,
        "source_bytes": archive.path.stat().st_size,
        "source_container": archive.container,
        "source_settings": settings.source,
        "fairseq_model": outer.get("_name") or outer.get("arch"),
        "fairseq_settings": {k: settings.model[k] for k in READ if k in settings.model},
        **facts,
        "made_by": {
            "thaitool": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
