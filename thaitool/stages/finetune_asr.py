"""Recordings with transcripts to a recogniser: an encoder, given or new, with a CTC head or CTC and attention.

Knows no LLM (that is `stages.finetune`). The best checkpoint is the one with the lowest character error rate on
held-out recordings.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import Wav2Vec2BertConfig, WhisperConfig

from thaitool.config import RecogniseConfig, SpeechEncoderShape
from thaitool.data.manifest import Manifest, by_reason, open_manifest, require_trainable
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.errors import InputError, QuarantineError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.models.checkpoint import weights_sha256
from thaitool.models.encoder import new_config
from thaitool.models.encoders.interface import (
    SpeechEncoder,
    load_speech_encoder,
    new_speech_encoder,
    set_trained,
)
from thaitool.models.recogniser import VOCABULARY, Recogniser, save_recogniser
from thaitool.records import Progress, Rejected, silent
from thaitool.text.units import load_vocabulary
from thaitool.training.asr import Objective, blank_watch, evaluate
from thaitool.training.loop import Task, TrainingResult, train
from thaitool.training.pretraining import held_out
from thaitool.training.ranks import make_accelerator, on_main_first
from thaitool.training.run_dir import MANIFEST, RunDir, begin, resolve
from thaitool.training.transcripts import Usable, training_vocabulary, usable

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator
    from numpy.typing import NDArray

    from thaitool.text.units import Vocabulary

#: Called once before training with what the transcripts hold, as rows of (name, text).
Announce = Callable[[Sequence[tuple[str, str]]], None]
#: What became of the transcripts, and the rows that are trained on although some of their units are unknown.
ACCOUNT, UNKNOWN = "transcripts.json", "unknown_units.jsonl"
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class RecogniseResult:
    """What `finetune --head` did."""

    out: Path
    training: TrainingResult
    parameters: int
    trained_parameters: int
    account: dict[str, Any]
    """Rows of the training and held-out data by what became of them."""
    verdict: str
    """The result in words."""


def run(
    config: RecogniseConfig, progress: Progress = silent, announce: Announce = lambda _: None
) -> RecogniseResult:
    """Trains, or resumes, or returns at once if `config.out` holds the finished run.

    Raises:
        InputError: data or encoder is not what it must be, or `out` holds another run.
        QuarantineError: too many recordings or transcripts are unusable.
        Interrupted, TrainingFailed: see `thaitool.training.loop.train`.
    """
    init = None if config.encoder is None else resolve(config.encoder)
    accelerator = make_accelerator(config.train)
    torch.manual_seed(config.train.seed)
    encoder = _encoder(config, init)
    on_main_first(accelerator, lambda: _claim(config, init, encoder))
    out = RunDir(config.out)
    account = json.loads((out.path / ACCOUNT).read_text("utf-8"))
    announce(_told(account))
    model = _model(config, encoder, load_vocabulary(out.path / VOCABULARY))
    groups = _groups(config, model)
    train_set, dev_set = _split(open_manifest(out.path / MANIFEST))
    training = _train(config, accelerator, out, (train_set, dev_set), model, groups, progress)
    return RecogniseResult(
        config.out,
        training,
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=sum(p.numel() for g in groups for p in g["params"]),
        account=account,
        verdict=verdict(training.metrics),
    )


def _train(
    config: RecogniseConfig,
    accelerator: Accelerator,
    out: RunDir,
    sets: tuple[Manifest, Manifest],
    model: Recogniser,
    groups: list[dict[str, Any]],
    progress: Progress,
) -> TrainingResult:
    train_set, dev_set = sets
    objective = Objective(model, config, out.quarantine)
    batch_s = config.train.batch_s
    return train(
        Task(
            objective,
            groups,
            evaluate=lambda: evaluate(objective, dev_set, batch_s, out.quarantine),
            save=lambda path: save_recogniser(path, model),
            better=("cer", -1),
            watch=blank_watch(config),
            normalised=model.encoder.normalises,
        ),
        manifest=train_set,
        plan=make_plan(train_set.duration_s, batch_s=batch_s, seed=config.train.seed),
        config=config.train,
        run=out,
        accelerator=accelerator,
        progress=progress,
        description="finetune",
    )


def _claim(config: RecogniseConfig, init: Path | None, encoder: SpeechEncoder) -> None:
    """Reads and sorts the data, claims the run directory, and leaves there what every process starts from."""
    whole, rejected = _read(config)
    train_set, dev_set = _split(whole)
    require_trainable(train_set, allowed=config.allow_untrainable)
    vocabulary = training_vocabulary(
        train_set, kind=config.units, min_frequency=config.min_unit_frequency
    )
    found = _usable(config, encoder, vocabulary, train_set, held_out=False)
    found_dev = _usable(config, encoder, vocabulary, dev_set, held_out=True)
    train_set = _some_left(train_set.select(found.keep), "training", found.rejected)
    dev_set = _some_left(dev_set.select(found_dev.keep), "held-out", found_dev.rejected)
    without_use = [*found.rejected, *found_dev.rejected]
    _require_few(without_use, len(found.keep) + len(found_dev.keep), config)
    rejected += without_use
    out = begin(
        config,
        "recognise",
        manifest=_both(train_set, dev_set),
        inputs={
            "encoder": weights_sha256(init) if init else None,
            "held_out": dev_set.digest(),
            "vocabulary": hashlib.sha256("\n".join(vocabulary.units).encode()).hexdigest(),
        },
        paths=("out", "data", "dev_data", "encoder"),
        rejected=rejected,
    )
    vocabulary.save(out.path / VOCABULARY)
    account = {
        "training": found.account(len(found.keep)),
        "held_out": found_dev.account(len(found_dev.keep)),
        "vocabulary": {
            "units": len(vocabulary.units),
            "kind": vocabulary.kind,
            "normalizer": vocabulary.normalizer,
            "rarer_units": vocabulary.dropped_units,
        },
        "of_other_splits": len(whole) - len(found.keep) - len(found_dev.keep),
    }
    write_json(out.path / ACCOUNT, account)
    lines = [
        {"item": row.item, "unknown": list(row.units), "units": row.of}
        for row in (*found.unknown, *found_dev.unknown)
    ]
    with disk_full_is_explained(out.path / UNKNOWN):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out.path / UNKNOWN).write_text(text, "utf-8")


def _read(config: RecogniseConfig) -> tuple[Manifest, list[Rejected]]:
    """All rows, of which the column `split` says what is trained on (train) and what is held out (dev)."""
    manifest, rejected = scan(
        [*config.data, *config.dev_data], max_rejected_share=config.train.max_rejected_share
    )
    of = {name: _is(manifest, name) for name in _SPLITS}
    is_named = manifest.part >= len(config.data)
    if config.dev_data:
        # A source that was named for it is held out as a whole, unless it says itself which of its rows are.
        is_dev = is_named & of["dev"] if (is_named & of["dev"]).any() else is_named
    elif of["dev"].any():
        is_dev = of["dev"]
    else:
        is_dev = np.zeros(len(manifest), bool)
        is_dev[~of["test"]] = held_out(
            manifest.select(~of["test"]), share=config.dev_share, limit_s=3600 * config.dev_hours
        )
    is_train = ~(is_named | is_dev | of["dev"] | of["test"])
    return _marked(manifest, np.where(is_train, 0, np.where(is_dev, 1, 2))), rejected


def _is(manifest: Manifest, split: str) -> NDArray[np.bool_]:
    """Which rows are of a split."""
    equal = pc.fill_null(pc.equal(manifest.column("split"), split), False)
    found: NDArray[np.bool_] = equal.to_numpy()
    return found


def _marked(manifest: Manifest, codes: NDArray[np.int64]) -> Manifest:
    """The manifest with `split` replaced by `_SPLITS[code]`; other columns are not copied."""
    column = np.full(manifest.table.num_rows, 2)
    column[slice(None) if manifest.rows is None else manifest.rows] = codes
    names = pa.DictionaryArray.from_arrays(column.astype(np.int8), list(_SPLITS))
    place = manifest.table.schema.get_field_index("split")
    field = manifest.table.schema.field(place)
    return Manifest(manifest.table.set_column(place, field, names.cast(field.type)), manifest.rows)


def _split(manifest: Manifest) -> tuple[Manifest, Manifest]:
    """What is trained on, and what is held out."""
    return manifest.select(_is(manifest, "train")), manifest.select(_is(manifest, "dev"))


def _both(train_set: Manifest, dev_set: Manifest) -> Manifest:
    """Rows of one table that are in either."""
    table = train_set.table
    rows = [np.arange(table.num_rows) if m.rows is None else m.rows for m in (train_set, dev_set)]
    return Manifest(table, np.sort(np.concatenate(rows)))


def _usable(
    config: RecogniseConfig,
    encoder: SpeechEncoder,
    vocabulary: Vocabulary,
    manifest: Manifest,
    *,
    held_out: bool,
) -> Usable:
    return usable(
        manifest,
        vocabulary,
        longest_s=config.longest_s,
        speeds=config.speeds,
        frames=encoder.output_lengths,
        held_out=held_out,
    )


def _some_left(manifest: Manifest, what: str, rejected: Sequence[Rejected]) -> Manifest:
    if len(manifest):
        return manifest
    counted = Counter(r.reason for r in rejected).most_common()
    reasons = ", ".join(f"{n} {reason}" for reason, n in counted) or "there are none"
    first = f"; the first is {rejected[0].item}: {rejected[0].detail}" if rejected else ""
    raise InputError(f"No {what} rows can be used ({reasons}){first}.")


def _require_few(rejected: Sequence[Rejected], rows: int, config: RecogniseConfig) -> None:
    """Raises `QuarantineError` when more transcripts than allowed cannot be used, with an example of each reason."""
    limit = config.train.max_rejected_share
    if len(rejected) <= limit * rows:
        return
    raise QuarantineError(
        f"{len(rejected)} of {rows} rows cannot be used, more than the allowed share of {limit:g}:\n"
        f"{by_reason(rejected)}\nCorrect the list or the options, or raise"
        " train.max_rejected_share; the run's quarantine.jsonl then names each.",
        rejected,
    )


def _told(account: dict[str, Any]) -> list[tuple[str, str]]:
    """The account for people: one line for each set of rows, and what is unknown."""
    lines = []
    for name in ("training", "held_out"):
        counts = {k: v for k, v in account[name].items() if isinstance(v, int) and v}
        kinds = ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in counts.items() if k != "rows")
        lines.append((name.replace("_", " "), f"{account[name]['rows']} rows: {kinds}"))
    units = account["vocabulary"]
    told = f"{units['units']} units ({units['kind']}, {units['normalizer']})"
    if units["rarer_units"]:
        told += f"; {units['rarer_units']} rarer ones are <unk>"
    lines.append(("vocabulary", told))
    if account["of_other_splits"]:
        lines.append(("not used", f"{account['of_other_splits']} rows of other splits"))
    return lines


def _encoder(config: RecogniseConfig, init: Path | None) -> SpeechEncoder:
    if init is not None:
        return load_speech_encoder(init, layer=config.layer)
    return new_speech_encoder(_new_encoder(config.encoder_shape), layer=config.layer)


def _new_encoder(shape: SpeechEncoderShape) -> Any:
    """The transformers configuration of a new encoder."""
    if shape.family == "wav2vec2":
        return new_config(
            hidden_size=shape.hidden_size,
            layers=shape.layers,
            heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            conv_dim=shape.conv_dim,
            conv_kernel=shape.conv_kernel,
            conv_stride=shape.conv_stride,
            codevectors_per_group=8,  # of the quantizer, which a recogniser does not have
            codevector_dim=8,
            dropout=shape.dropout,
        )
    if shape.family == "whisper":
        return WhisperConfig(
            num_mel_bins=shape.mel_bins,
            d_model=shape.hidden_size,
            encoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            encoder_ffn_dim=shape.intermediate_size,
            dropout=shape.dropout,
            attention_dropout=shape.dropout,
            decoder_layers=1,  # of the decoder, which a recogniser does not have
            pad_to_window=False,  # a new one has nothing to lose by hearing clips as they are
        )
    return Wav2Vec2BertConfig(
        feature_projection_input_dim=2 * shape.mel_bins,  # pairs of frames
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        conv_depthwise_kernel_size=shape.depthwise_kernel,
        hidden_dropout=shape.dropout,
        attention_dropout=shape.dropout,
        conformer_conv_dropout=shape.dropout,
        feat_proj_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
    )


def _model(config: RecogniseConfig, encoder: SpeechEncoder, vocabulary: Vocabulary) -> Recogniser:
    # Again: an encoder that was loaded has drawn other numbers than a new one.
    torch.manual_seed(config.train.seed)
    decoder = config.decoder if config.head == "aed" else None
    return Recogniser(encoder, vocabulary, decoder=decoder)


def _groups(config: RecogniseConfig, model: Recogniser) -> list[dict[str, Any]]:
    """Optimizer groups; what is in none of them is frozen."""
    rate = config.train.learning_rate
    trained = set_trained(
        model.encoder,
        transformer=True,
        convolutions=config.train_convolutions or config.encoder is None,
        masks=config.mask_prob > 0,
    )
    head = list(model.ctc.parameters())
    if model.decoder is not None:
        head += list(model.decoder.parameters())
    return [
        {"name": "head", "params": head, "lr": rate},
        {
            "name": "encoder",
            "params": trained,
            "lr": config.encoder_learning_rate or rate,
            "from_update": config.freeze_updates,
        },
    ]


def verdict(metrics: dict[str, float]) -> str:
    """The held-out result in words."""
    if metrics["emitted_share"] == 0:
        return (
            "emits nothing: all frames of the held-out recordings are blank; it needs more updates, or the transcripts"
            " do not belong to the audio"
        )
    return f"character error rate {metrics['cer']:.1%} on {metrics['cer_characters']:,.0f} held-out characters"
