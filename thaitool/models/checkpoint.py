"""Speech LLMs on disk: what was trained (encoder, projector, adapter) beside the processor, and the LLM by reference.

A checkpoint names its base LLM by path and by the sha256 of its weights, so that another LLM in the same place is an
error and not a quiet change. Weights lie in `front_end.safetensors`: transformers' `from_pretrained` finds no model
there and stops, where it would otherwise start the missing LLM at random.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN, speech_template
from thaitool.models.encoder import (
    damage_is_explained,
    feature_extractor,
    length_arithmetic,
    read_model_type,
)
from thaitool.models.encoders.interface import Layer, SpeechEncoder, new_speech_encoder
from thaitool.models.hub import hub_source, locate
from thaitool.models.processor import ThaiSpeechProcessor, differences
from thaitool.models.projector import ProjectorSettings
from thaitool.models.speech_lm import (
    ThaiSpeechConfig,
    ThaiSpeechForConditionalGeneration,
    require_plain_head,
)
from thaitool.models.whole import is_whole, load_whole
from thaitool.text.tasks import TaskSpec, require_tasks, write_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

FRONT_END = "front_end.safetensors"
BASE = "base.json"
ADAPTER = "adapter"
#: Of the encoder's weights, by the names of transformers' module, of the projector's, and of a layer mix's logits.
TOWER, PROJECTOR, MIX = "audio_tower.", "multi_modal_projector.", "audio_mix"
#: What every LLM for Thai must be able to write: consonants, vowels, tone marks.
THAI = "".join(chr(c) for c in (*range(0x0E01, 0x0E3A), *range(0x0E40, 0x0E4E)))


def weights_sha256(path: Path) -> str:
    """sha256 over the weight files of a model directory and its adapter, in name order.

    Raises:
        InputError: there are none.
    """
    # XLS-R's own repository has no safetensors; transformers reads that file without executing anything in it.
    files = sorted(path.rglob("*.safetensors")) or sorted(path.glob("pytorch_model.bin"))
    if not files:
        raise InputError(f"{path} must hold weights (safetensors), but has none.")
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                sha.update(block)
    return sha.hexdigest()


def causal_lm(llm: Path, make: Any, *arguments: Any, **named: Any) -> Any:
    """What `make` of transformers gives; its complaint about a directory that holds no causal LLM as a sentence."""
    try:
        return make(*arguments, **named)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{llm} must hold a causal LLM that transformers can load, but it says:"
            f" {str(error).splitlines()[0]}"
        ) from error


def load_tokenizer(path: Path) -> Any:
    """The LLM's tokenizer, with the audio placeholder added if it is new to it.

    The placeholder's row of the token table is never looked up, so the LLM's table need not grow.

    Raises:
        InputError: it has no chat template or no end of sequence, or cannot write Thai; the message names what is
            missing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} must hold the LLM's tokenizer (tokenizer.json and tokenizer_config.json), but transformers cannot"
            f" load it: {str(error).splitlines()[0]}"
        ) from error
    lacks = [n for n in ("eos_token", "chat_template") if not getattr(tokenizer, n, None)]
    if lacks:
        raise InputError(
            f"The tokenizer of {path} must have {', '.join(lacks)}, but lacks it. Choose an LLM tuned for chat."
        )
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in tokenizer(THAI, add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"The tokenizer of {path} must be able to write Thai, but it turns some of {THAI} into"
            f" {tokenizer.unk_token}. Choose an LLM that knows Thai."
        )
    if tokenizer.convert_tokens_to_ids(AUDIO_TOKEN) in {None, unknown}:
        tokenizer.add_tokens([AddedToken(AUDIO_TOKEN, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def new_speech_lm_config(
    audio_config: Any,
    llm: Path,
    tokenizer: Any,
    *,
    projector: ProjectorSettings,
    audio_layer: Layer = "last",
) -> ThaiSpeechConfig:
    """Configuration of a speech LLM over an encoder configuration and an LLM directory.

    Raises:
        InputError: no causal LLM, or one of a kind that the loss would not be right for.
    """
    text_config = causal_lm(llm, AutoConfig.from_pretrained, llm)
    require_plain_head(text_config, llm)
    return ThaiSpeechConfig(
        # A copy: nesting a configuration makes transformers forget how its model computes attention, and a live
        # encoder would go on without masking its padding.
        audio_config=copy.deepcopy(audio_config),
        text_config=text_config,
        audio_layer=audio_layer,
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        projector=projector.form,
        projector_factor=projector.factor,
        projector_hidden_size=projector.hidden_size,
        projector_layers=projector.layers,
        projector_window=projector.window,
    )


def new_processor(config: ThaiSpeechConfig, tokenizer: Any) -> ThaiSpeechProcessor:
    """The processor that fits a configuration.

    Raises:
        InputError: the LLM's table has no row for a token that every prompt needs.
    """
    kernels, strides = length_arithmetic(config.audio_config)
    processor = ThaiSpeechProcessor(
        feature_extractor(config.audio_config),
        tokenizer,
        chat_template=speech_template(tokenizer.chat_template),
        conv_kernel=kernels,
        conv_stride=strides,
        projector_factor=config.projector_factor,
    )
    needed = tokenizer(processor.prompt("", 0), add_special_tokens=False)["input_ids"]
    highest = max([*needed, tokenizer.eos_token_id, tokenizer.pad_token_id])
    rows = config.text_config.vocab_size  # type: ignore[union-attr]
    if highest >= rows:
        raise InputError(
            f"The LLM must have a row for every token of its tokenizer's chat template, but"
            f" {tokenizer.convert_ids_to_tokens(highest)} has number {highest} and there are {rows} rows. Load the LLM"
            " with transformers, call resize_token_embeddings(len(tokenizer)), and save it again."
        )
    return processor


def save_checkpoint(
    path: Path,
    *,
    config: ThaiSpeechConfig,
    audio_tower: SpeechEncoder,
    projector: Any,
    processor: ThaiSpeechProcessor,
    llm: Path,
    llm_sha256: str,
    language_model: Any = None,
    tasks: Mapping[str, TaskSpec] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes the trained parts and the reference to the LLM; `language_model` only for its PEFT adapter.

    Without `tasks` the model has the built-in ones. `weights` are whole, by their names in the speech LLM, where those
    of the modules are shards.
    """
    config.save_pretrained(path)
    processor.save_pretrained(path)
    heard = audio_tower.state_dict() if weights is None else _part(weights, TOWER)
    tensors = {f"{TOWER}{k.removeprefix('model.')}": v for k, v in heard.items() if k != "mix"}
    if "mix" in heard:
        tensors[MIX] = heard["mix"]
    projected = projector.state_dict() if weights is None else _part(weights, PROJECTOR)
    tensors |= {f"{PROJECTOR}{k}": v for k, v in projected.items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path / FRONT_END)
    if hasattr(language_model, "peft_config"):
        adapter = None if weights is None else _part(weights, "language_model.")
        language_model.save_pretrained(path / ADAPTER, state_dict=adapter)
    source = hub_source(llm)
    base: dict[str, Any] = {
        "llm": str(llm.resolve()),
        "hub": None if source is None else {"id": source[0], "revision": source[1]},
        "sha256": llm_sha256,
        "processor": processor.identity(),
    }
    if tasks is not None:
        base["tasks"] = write_tasks(path, tasks)
    (path / BASE).write_text(json.dumps(base, indent=2, ensure_ascii=False), encoding="utf-8")


def read_base(path: Path) -> dict[str, Any]:
    """Which LLM (`llm`, `hub`, `sha256`), `processor` and `tasks` (hash or None) a checkpoint was trained with.

    Raises:
        InputError: `path` is no thaitool checkpoint.
    """
    if is_whole(path):
        raise InputError(
            f"{path} is a whole model, whose adapter is part of its LLM; name the checkpoint that it was made of."
        )
    if not (path / BASE).is_file() or not (path / FRONT_END).is_file():
        raise InputError(
            f"{path} must be a model made by `thaitool align` or `finetune` ({FRONT_END} and {BASE}), but is not."
        )
    try:
        base = json.loads((path / BASE).read_text("utf-8"))
        found = {name: base[name] for name in ("llm", "hub", "sha256", "processor")}
        return found | {"tasks": base.get("tasks")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / BASE} is damaged: {error!r}. Copy or make the checkpoint again."
        ) from error


def locate_base(path: Path, llm: Path | None = None) -> Path:
    """The directory of a checkpoint's LLM: where `llm` says, else where it lay in training, else the hub's revision.

    Raises:
        InputError: it is in none of these places.
    """
    base = read_base(path)
    if llm is not None:
        return locate(llm)
    place = type(path)(base["llm"])
    if place.exists():
        return place
    if base["hub"] is None:
        raise InputError(
            f"The base LLM of {path} was {base['llm']}, which is not there any more; say where by --llm."
        )
    return locate(type(path)(f"{base['hub']['id']}@{base['hub']['revision']}"))


def load_front_end(
    path: Path,
) -> tuple[ThaiSpeechConfig, SpeechEncoder, dict[str, Tensor], ThaiSpeechProcessor]:
    """Configuration, encoder, projector weights and processor of a checkpoint, without its LLM.

    Raises:
        InputError: weights that do not fit the configuration, or a processor that is not the one of training.
    """
    base = read_base(path)
    try:
        config = ThaiSpeechConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path / 'config.json'} must be the configuration of a speech LLM, but is not:"
            f" {str(error).splitlines()[0]} Copy or make the checkpoint again."
        ) from error
    with damage_is_explained(path / FRONT_END):
        tensors = load_file(path / FRONT_END)
    tower = new_speech_encoder(config.audio_config, layer=config.audio_layer)
    mix = {"mix": tensors[MIX]} if MIX in tensors else {}
    _fill(tower, {f"model.{k}": v for k, v in _part(tensors, TOWER).items()} | mix, path)
    processor = new_processor(config, load_tokenizer(path))
    if changed := differences(base["processor"], processor.identity()):
        listing = "".join(f"\n  - {line}" for line in changed)
        raise InputError(
            f"The processor of {path} differs from the one it was trained with, so it would hear or be asked something"
            f" else:{listing}\nRestore its files, or train again with this version."
        )
    require_tasks(path, base["tasks"])
    return config, tower, _part(tensors, PROJECTOR), processor


def load_speech_lm(
    path: Path, *, llm: Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[ThaiSpeechForConditionalGeneration, ThaiSpeechProcessor]:
    """The whole model with its LLM (and adapter, if it has one), in evaluation mode.

    Args:
        path: A checkpoint, or a whole model.
        llm: Where the base LLM lies now, directory or hub id; default is where it lay in training.
        dtype: Of the LLM's weights; encoder and projector are always float32.

    Raises:
        InputError: no checkpoint, no LLM, or another LLM (or processor) than the checkpoint was trained with.
    """
    if is_whole(path):
        if llm is not None:
            raise InputError(f"{path} is a whole model with its LLM inside; leave out llm.")
        return load_whole(path, dtype=dtype)
    base = read_base(path)
    llm_path = locate_base(path, llm)
    config, tower, projector, processor = load_front_end(path)
    read_model_type(llm_path)
    if (found := weights_sha256(llm_path)) != base["sha256"]:
        raise InputError(
            f"{path} was trained with the LLM of sha256 {base['sha256'][:12]}, but {llm_path} has {found[:12]}."
            " Pass the LLM it was trained with by --llm."
        )
    language_model = load_llm(llm_path, dtype=dtype)
    if (path / ADAPTER).is_dir():
        from peft import PeftModel

        with damage_is_explained(path / ADAPTER):
            language_model = PeftModel.from_pretrained(
                language_model, path / ADAPTER, is_trainable=True
            )
    model = ThaiSpeechForConditionalGeneration(config, tower, language_model)
    _fill(model.multi_modal_projector, projector, path)
    # Whoever generates without saying when to stop must stop where training did.
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model.eval(), processor


def load_llm(llm: Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """The causal LLM of a directory.

    Raises:
        InputError: there is none that transformers can load, or weights are missing, which would start at random.
    """
    with damage_is_explained(llm):
        make = AutoModelForCausalLM.from_pretrained
        model, report = causal_lm(llm, make, llm, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        raise InputError(
            f"{llm} must hold all weights of its LLM, but lacks {len(report['missing_keys'])}, e.g."
            f" {min(report['missing_keys'])}. Copy or download it again."
        )
    return model


def _fill(module: Any, weights: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise InputError(
            f"The weights in {path / FRONT_END} must fit the configuration beside them, but do not:"
            f" {first[0].strip()} Copy or make the checkpoint again."
        ) from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
