"""Checkpoints as fairseq writes them, made without fairseq: the real key set, settings in each of its forms.

Holds no tests. omegaconf's classes are stood in for by empty ones of the same names, as a pickle holds only names.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    Shape = tuple[int, ...]

#: XLS-R's form and wav2vec 2.0 base's form, tiny. The convolutions differ in width, kernel and stride.
TINY: dict[str, Any] = {
    "_name": "wav2vec2", "extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True,
    "conv_feature_layers": "[(16, 10, 5)] + [(24, 3, 2)] * 2 + [(24,2,2)]", "encoder_layers": 3,
    "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "activation_fn": "gelu",
    "final_dim": 20, "latent_dim": 0, "latent_vars": 8, "latent_groups": 2, "logit_temp": 0.1, "conv_pos": 16,
    "conv_pos_groups": 4, "quantize_targets": True, "quantize_input": False, "layer_type": "transformer",
    "dropout": 0.0, "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
    "dropout_input": 0.1, "dropout_features": 0.2, "mask_prob": 0.65, "mask_length": 10, "mask_channel_prob": 0.0,
    "mask_channel_length": 10, "num_negatives": 100,
}  # fmt: skip
GROUP_NORM: dict[str, Any] = {
    **TINY, "extractor_mode": "default", "layer_norm_first": False, "conv_bias": False,
}  # fmt: skip
#: XLS-R 300M (Babu et al. 2021, table 2; fairseq's wav2vec2_large_librivox.yaml has the same architecture).
XLSR_300M: dict[str, Any] = {
    **TINY, "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16,
    "final_dim": 768, "latent_vars": 320, "conv_pos": 128, "conv_pos_groups": 16,
}  # fmt: skip
#: What fine-tuning adds around the model.
CTC: dict[str, Any] = {
    "_name": "wav2vec_ctc", "apply_mask": True, "mask_prob": 0.4, "mask_length": 6, "mask_channel_prob": 0.3,
    "mask_channel_length": 9, "dropout": 0.01, "attention_dropout": 0.02, "activation_dropout": 0.03,
    "dropout_input": 0.04, "layerdrop": 0.15, "final_dropout": 0.2, "blank_weight": 0.0, "normalize": True,
}  # fmt: skip
SYMBOLS = ["|", "ก", "า", "น", "ม", "่", "้", "e", "t"]


def convolutions(model: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(width, kernel, stride) of each, for the texts that this file uses."""
    return list(eval(model["conv_feature_layers"], {}))  # noqa: S307 - as fairseq does; the texts are above


def _linear(name: str, out: int, into: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def weight_shapes(model: dict[str, Any]) -> dict[str, Shape]:
    """Names and shapes of a pretraining model's state, in fairseq's order."""
    width, inner = model["encoder_embed_dim"], model["encoder_ffn_embed_dim"]
    final = model["final_dim"] or width
    groups, codes = model["latent_groups"], model["latent_vars"]
    vq = model["latent_dim"] or final
    shapes: dict[str, Shape] = {"mask_emb": (width,)}
    into = 1
    for number, (out, kernel, _) in enumerate(convolutions(model)):
        layer = f"feature_extractor.conv_layers.{number}"
        shapes[f"{layer}.0.weight"] = (out, into, kernel)
        if model["conv_bias"]:
            shapes[f"{layer}.0.bias"] = (out,)
        if model["extractor_mode"] == "layer_norm":
            shapes |= _norm(f"{layer}.2.1", out)
        elif number == 0:
            shapes |= _norm(f"{layer}.2", out)
        into = out
    shapes |= _linear("post_extract_proj", width, into)
    shapes |= {"quantizer.vars": (1, groups * codes, vq // groups)}
    shapes |= _linear("quantizer.weight_proj", groups * codes, into) | _linear(
        "project_q", final, vq
    )
    kernel = model["conv_pos"]
    shapes |= {
        "encoder.pos_conv.0.bias": (width,),
        "encoder.pos_conv.0.weight_g": (1, 1, kernel),
        "encoder.pos_conv.0.weight_v": (width, width // model["conv_pos_groups"], kernel),
    }
    for number in range(model["encoder_layers"]):
        layer = f"encoder.layers.{number}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{part}", width, width)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", width)
        shapes |= _linear(f"{layer}.fc1", inner, width) | _linear(f"{layer}.fc2", width, inner)
        shapes |= _norm(f"{layer}.final_layer_norm", width)
    shapes |= _norm("encoder.layer_norm", width) | _norm("layer_norm", into)
    return shapes | _linear("final_proj", final, width)


def weights(model: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights, none of which has a value that another one could stand in for."""
    generator = torch.Generator().manual_seed(seed)
    state = {n: 0.2 * torch.randn(s, generator=generator) for n, s in weight_shapes(model).items()}
    scales = ("weight_g", ".2.weight", ".2.1.weight")
    return {n: t + 1 if "norm" in n or n.endswith(scales) else t for n, t in state.items()}


def ctc_weights(model: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """The same encoder without the heads of pretraining, with a projection to `SYMBOLS` and the four special ones."""
    heads = ("quantizer.", "project_q.", "final_proj.")
    kept = {n: t for n, t in weights(model, seed).items() if not n.startswith(heads)}
    generator = torch.Generator().manual_seed(seed + 1)
    count, width = len(SYMBOLS) + 4, model["encoder_embed_dim"]
    proj = {
        n: torch.randn(s, generator=generator) for n, s in _linear("proj", count, width).items()
    }
    return {f"w2v_encoder.w2v_model.{n}": t for n, t in kept.items()} | {
        f"w2v_encoder.{n}": t for n, t in proj.items()
    }


def dictionary(path: Path) -> Path:
    """`dict.ltr.txt` of `SYMBOLS`."""
    path.write_text("".join(f"{symbol} {9 - n}\n" for n, symbol in enumerate(SYMBOLS)), "utf-8")
    return path


def sections(model: dict[str, Any], *, normalize: bool = True) -> dict[str, Any]:
    """cfg as a plain dictionary of sections."""
    return {
        "_name": None,
        "common": {"_name": None, "fp16": True, "seed": 1},
        "task": {"_name": "audio_pretraining", "data": "none", "normalize": normalize},
        "model": model,
        "criterion": {"_name": "wav2vec", "infonce": True, "loss_weights": [0.25, 0.0]},
    }


def ctc_sections(model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """cfg of a fine-tuned model, which carries that of the pretrained one."""
    cfg = sections({**CTC, **changes, "w2v_args": sections(model)})
    return {**cfg, "task": {**cfg["task"], "_name": "audio_finetuning"}}


def namespace(cfg: dict[str, Any]) -> argparse.Namespace:
    """args as argparse kept them before fairseq had sections."""
    model = dict(cfg["model"])
    arch = model.pop("_name")
    if "w2v_args" in model:
        model["w2v_args"] = namespace(model["w2v_args"])
    task = {k: v for k, v in cfg["task"].items() if k != "_name"}
    return argparse.Namespace(**{**task, **model, "arch": arch, "loss_weights": [0.25, 0.0]})


def entries(state: dict[str, Any], cfg: Any = None, args: Any = None) -> dict[str, Any]:
    """A whole checkpoint around weights and settings, with the state of Adam after one step."""
    moments = {
        number: {
            "step": 1,
            "exp_avg": torch.ones_like(t, dtype=torch.float32),
            "exp_avg_sq": torch.ones_like(t),
        }
        for number, t in enumerate(state.values())
        if isinstance(t, torch.Tensor)
    }
    return {
        "args": args,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "Wav2vecCriterion", "num_updates": 1234}],
        "task_state": {},
        "extra_state": {"previous_training_time": 1.0},
        "last_optimizer_state": {"state": moments, "param_groups": [{"lr": 1e-4}]},
    }


def save(
    path: Path,
    checkpoint: dict[str, Any],
    *,
    form: str = "zip-dict",
    symbols: list[str] | None = None,
) -> Path:
    """Writes a checkpoint; `form` is container and settings: (zip|legacy)-(dict|omegaconf|args).

    `symbols` puts a dictionary into it, as fairseq 1.0 does for CTC models.
    """
    container, kind = form.split("-")
    cfg = checkpoint["cfg"]
    content = dict(checkpoint)
    with _strangers() as (make, wrap):
        if symbols is not None:
            every = ["<s>", "<pad>", "</s>", "<unk>", *symbols]
            content["task_state"] = {
                "target_dictionary": make("Dictionary", symbols=every, bos_index=0)
            }
        if kind == "omegaconf":
            content["cfg"] = wrap(cfg)
        elif kind == "args":
            content |= {"cfg": None, "args": namespace(cfg)}
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    return path


@contextmanager
def _strangers() -> Iterator[Any]:
    """Makes objects that pickle as those of omegaconf and fairseq do, and wraps dictionaries into omegaconf's."""
    classes: dict[str, type] = {}
    before = dict(sys.modules)
    for module, name in (
        ("omegaconf", ""),
        ("omegaconf.base", "ContainerMetadata"),
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.nodes", "AnyNode"),
        ("fairseq", ""),
        ("fairseq.data", ""),
        ("fairseq.data.dictionary", "Dictionary"),
    ):
        made = ModuleType(module)
        sys.modules[module] = made
        if name:
            classes[name] = type(name, (), {"__module__": module})
            setattr(made, name, classes[name])

    def make(name: str, **state: Any) -> Any:
        record = classes[name]()
        record.__dict__ |= state
        return record

    def wrap(value: Any, parent: Any = None) -> Any:
        metadata = make("ContainerMetadata", ref_type=Any, key_type=str, element_type=dict)
        if not isinstance(value, dict | list):
            return make("AnyNode", _val=value, _parent=parent, _metadata=metadata)
        name = "DictConfig" if isinstance(value, dict) else "ListConfig"
        record = make(name, _parent=parent, _metadata=metadata)
        record._content = (
            {k: wrap(v, record) for k, v in value.items()}
            if isinstance(value, dict)
            else [wrap(v, record) for v in value]
        )
        return record

    try:
        yield make, wrap
    finally:
        packages = {"omegaconf", "fairseq"}
        for module in [m for m in sys.modules if m.partition(".")[0] in packages]:
            del sys.modules[module]
        sys.modules.update({m: v for m, v in before.items() if m.partition(".")[0] in packages})
