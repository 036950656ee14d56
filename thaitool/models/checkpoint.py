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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from thaitool.errors import InputError
from thaitool.models.encoder import (
    damage_is_explained,
    feature_extractor,
    length_arithmetic,
    read_model_type,
)
from thaitool.models.encoders.interface import Layer, SpeechEncoder, new_speech_encoder
from thaitool.models.hub import locate
from thaitool.models.processor import AUDIO_TOKEN, ThaiSpeechProcessor
from thaitool.models.speech_lm import ThaiSpeechConfig, ThaiSpeechForConditionalGeneration

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FRONT_END = "front_end.safetensors"
BASE = "base.json"
ADAPTER = "adapter"
#: Of the encoder's weights, by the names of transformers' module, and of the logits of a layer mix.
TOWER, MIX = "audio_tower.", "audio_mix"


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


def load_embedding_table(llm: Path) -> Tensor:
    """The LLM's token table, shape (V, D), read from its shard alone; the LLM itself is never loaded.

    Raises:
        InputError: no transformers LLM, no safetensors, or no token table in them.
    """
    read_model_type(llm)
    for file in sorted(llm.glob("*.safetensors")):
        with damage_is_explained(file), safe_open(file, framework="pt") as shard:
            names = [n for n in shard.keys() if n.endswith("embed_tokens.weight")]  # noqa: SIM118
            if names:
                table: Tensor = shard.get_tensor(names[0]).float()
                return table
    raise InputError(
        f"{llm} must hold an LLM as safetensors with a token table (…embed_tokens.weight), but none was found."
    )


def load_tokenizer(path: Path) -> Any:
    """The LLM's tokenizer, which must know the audio placeholder, a chat template, padding and end of sequence.

    Raises:
        InputError: one of these is missing; the message names it.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} must hold the LLM's tokenizer (tokenizer.json and tokenizer_config.json), but transformers cannot"
            f" load it: {str(error).splitlines()[0]}"
        ) from error
    lacks = [n for n in ("eos_token", "chat_template") if not getattr(tokenizer, n, None)]
    if tokenizer.convert_tokens_to_ids(AUDIO_TOKEN) in {None, tokenizer.unk_token_id}:
        lacks.append(f"the token {AUDIO_TOKEN}")
    if lacks:
        raise InputError(f"The tokenizer of {path} must have {', '.join(lacks)}, but lacks it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def new_speech_lm_config(
    audio_config: Any,
    llm: Path,
    tokenizer: Any,
    *,
    projector_factor: int,
    projector_hidden_size: int,
    audio_layer: Layer = "last",
) -> ThaiSpeechConfig:
    """Configuration of a speech LLM over an encoder configuration and an LLM directory."""
    return ThaiSpeechConfig(
        # A copy: nesting a configuration makes transformers forget how its model computes attention, and a live
        # encoder would go on without masking its padding.
        audio_config=copy.deepcopy(audio_config),
        text_config=AutoConfig.from_pretrained(llm),
        audio_layer=audio_layer,
        audio_token_id=tokenizer.convert_tokens_to_ids(AUDIO_TOKEN),
        projector_factor=projector_factor,
        projector_hidden_size=projector_hidden_size,
    )


def new_processor(config: ThaiSpeechConfig, tokenizer: Any) -> ThaiSpeechProcessor:
    """The processor that fits a configuration."""
    kernels, strides = length_arithmetic(config.audio_config)
    return ThaiSpeechProcessor(
        feature_extractor(config.audio_config),
        tokenizer,
        chat_template=tokenizer.chat_template,
        conv_kernel=kernels,
        conv_stride=strides,
        projector_factor=config.projector_factor,
    )


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
) -> None:
    """Writes the trained parts and the reference to the LLM; `language_model` only for its PEFT adapter."""
    config.save_pretrained(path)
    processor.save_pretrained(path)
    tensors = {f"{TOWER}{k}": v for k, v in audio_tower.model.state_dict().items()}
    if audio_tower.mix is not None:
        tensors[MIX] = audio_tower.mix
    tensors |= {f"multi_modal_projector.{k}": v for k, v in projector.state_dict().items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path / FRONT_END)
    if hasattr(language_model, "peft_config"):
        language_model.save_pretrained(path / ADAPTER)
    base = {
        "llm": str(llm.resolve()),
        "sha256": llm_sha256,
        "template_sha256": processor.template_sha256(),
    }
    (path / BASE).write_text(json.dumps(base, indent=2), encoding="utf-8")


def read_base(path: Path) -> dict[str, str]:
    """Which LLM a checkpoint was trained with.

    Raises:
        InputError: `path` is no thaitool checkpoint.
    """
    if not (path / BASE).is_file() or not (path / FRONT_END).is_file():
        raise InputError(
            f"{path} must be a model made by `thaitool align` or `finetune` ({FRONT_END} and {BASE}), but is not."
        )
    try:
        base = json.loads((path / BASE).read_text("utf-8"))
        return {name: str(base[name]) for name in ("llm", "sha256", "template_sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / BASE} is damaged: {error!r}. Copy or make the checkpoint again."
        ) from error


def load_front_end(
    path: Path,
) -> tuple[ThaiSpeechConfig, SpeechEncoder, dict[str, Tensor], ThaiSpeechProcessor]:
    """Configuration, encoder, projector weights and processor of a checkpoint, without its LLM."""
    read_base(path)
    config = ThaiSpeechConfig.from_pretrained(path)
    with damage_is_explained(path / FRONT_END):
        tensors = load_file(path / FRONT_END)
    tower = new_speech_encoder(config.audio_config, layer=config.audio_layer)
    tower.model.load_state_dict(_part(tensors, TOWER))
    if tower.mix is not None:
        tower.mix.data.copy_(tensors[MIX])
    processor = new_processor(config, load_tokenizer(path))
    return config, tower, _part(tensors, "multi_modal_projector."), processor


def load_speech_lm(
    path: Path, *, llm: Path | None = None
) -> tuple[ThaiSpeechForConditionalGeneration, ThaiSpeechProcessor]:
    """The whole model with its LLM (and adapter, if it has one), in evaluation mode.

    Args:
        path: A checkpoint.
        llm: Where the base LLM lies now; default is where it lay in training.

    Raises:
        InputError: no checkpoint, no LLM, or another LLM (or chat template) than the checkpoint was trained with.
    """
    base = read_base(path)
    config, tower, projector, processor = load_front_end(path)
    if llm is None and not type(path)(base["llm"]).exists():
        raise InputError(
            f"The base LLM of {path} was {base['llm']}, which is not there any more; say where by --llm."
        )
    llm_path = locate(llm or type(path)(base["llm"]))
    read_model_type(llm_path)
    if (found := weights_sha256(llm_path)) != base["sha256"]:
        raise InputError(
            f"{path} was trained with the LLM of sha256 {base['sha256'][:12]}, but {llm_path} has {found[:12]}."
            " Pass the LLM it was trained with by --llm."
        )
    if processor.template_sha256() != base["template_sha256"]:
        raise InputError(f"The chat template of {path} differs from the one it was trained with.")
    with damage_is_explained(llm_path):
        language_model = AutoModelForCausalLM.from_pretrained(llm_path, dtype=torch.float32)
    if (path / ADAPTER).is_dir():
        from peft import PeftModel

        language_model = PeftModel.from_pretrained(
            language_model, path / ADAPTER, is_trainable=True
        )
    model = ThaiSpeechForConditionalGeneration(config, tower, language_model)
    model.multi_modal_projector.load_state_dict(projector)
    return model.eval(), processor


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
