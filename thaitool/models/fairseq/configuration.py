"""A transformers configuration from the settings of a fairseq checkpoint.

The settings decide, never the shapes: layer_norm_first, heads and strides leave no trace in any shape, and a wrong one
gives a model that loads and is wrong. What transformers cannot express is an error; no value is guessed. Names and
meaning: fairseq/models/wav2vec/wav2vec2.py and wav2vec2_asr.py.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from transformers import Wav2Vec2Config

from thaitool.errors import InputError

if TYPE_CHECKING:
    from thaitool.models.fairseq.settings import Settings

#: fairseq's values of settings that old files lack; those that no shape shows must be in the file.
_DEFAULTS: dict[str, Any] = {
    "activation_fn": "gelu", "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0, "dropout_input": 0.0, "dropout_features": 0.0, "final_dim": 0, "conv_bias": False,
    "logit_temp": 0.1, "latent_vars": 320, "latent_groups": 2, "latent_dim": 0, "mask_length": 10, "mask_prob": 0.65,
    "mask_channel_length": 10, "mask_channel_prob": 0.0, "num_negatives": 100, "conv_pos": 128, "conv_pos_groups": 16,
    "layerdrop": 0.0, "final_dropout": 0.0, "apply_mask": False,
}  # fmt: skip
_DECISIVE = (
    "extractor_mode", "layer_norm_first", "conv_feature_layers", "encoder_layers", "encoder_embed_dim",
    "encoder_ffn_embed_dim", "encoder_attention_heads",
)  # fmt: skip
#: Settings for which transformers has one choice, and that choice. A file without them was made before they were.
_ONLY: dict[str, Any] = {
    "layer_type": "transformer", "quantize_input": False, "target_glu": False, "quantizer_depth": 1,
    "pos_conv_depth": 1, "conv_pos_batch_norm": False, "crop_seq_to_multiple": 1,
}  # fmt: skip
#: All that is read of a model's section; the rest (paths, machines) is nobody's business.
READ = (*_DECISIVE, *_DEFAULTS, *_ONLY, "quantize_targets")
#: fairseq's gelu_accurate and gelu_fast are the tanh approximation, which transformers calls gelu_new.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "relu": "relu",
}
_NORMS = {"default": "group", "layer_norm": "layer"}
#: Larger than any published model; a file must not make us build a model of its own size of choice.
_MAX_SIZE, _MAX_LAYERS = 1 << 16, 256


def parse_conv_layers(text: Any) -> list[tuple[int, int, int]]:
    """`[(512, 10, 5)] + [(512, 3, 2)] * 4` as a list of (width, kernel, stride); nothing is evaluated.

    Raises:
        ValueError: it is anything but lists of three whole numbers, sums, and products with a whole number.
    """
    if isinstance(text, list):
        return _layers(text)
    if not isinstance(text, str) or len(text) > 2_000:
        raise ValueError("it must be a short text")
    try:
        return _layers(_list(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("it is no list of layers") from error


def _list(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.List):
        return [[_integer(n) for n in entry.elts] if isinstance(entry, ast.Tuple | ast.List) else entry
                for entry in node.elts]  # fmt: skip
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _list(node.left) + _list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        layers, times = (node.left, node.right)
        if isinstance(layers, ast.Constant):
            layers, times = times, layers
        count, repeated = _integer(times), _list(layers)
        if count * len(repeated) > _MAX_LAYERS:
            raise ValueError(f"it describes more than {_MAX_LAYERS} layers")
        return repeated * count
    raise ValueError(f"it contains a {type(node).__name__}")


def _integer(node: ast.expr) -> int:
    if not isinstance(node, ast.Constant) or type(node.value) is not int:
        raise ValueError(f"it contains a {type(node).__name__} where a whole number should be")
    return node.value


def _layers(entries: list[Any]) -> list[tuple[int, int, int]]:
    good = [
        e
        for e in entries
        if isinstance(e, list | tuple) and len(e) == 3 and all(type(n) is int for n in e)
    ]
    if len(good) != len(entries) or not 0 < len(entries) <= _MAX_LAYERS:
        raise ValueError("every layer must be (width, kernel, stride)")
    if not all(0 < n <= _MAX_SIZE for e in good for n in e):
        raise ValueError(f"every number must lie in 1..{_MAX_SIZE}")
    return [(w, k, s) for w, k, s in good]


class _Reader:
    """Takes settings with their types and collects all that is wrong, as people mend them together."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.wrong: list[str] = []

    def value(self, name: str) -> Any:
        found = self.settings.get(name)
        return _DEFAULTS.get(name) if found is None else found

    def size(self, name: str, least: int = 1) -> int:
        found = self.value(name)
        if type(found) is not int or not least <= found <= _MAX_SIZE:
            self.wrong.append(
                f"{name} must be a whole number in {least}..{_MAX_SIZE}, but is {found!r}"
            )
            return 1
        return found

    def number(self, name: str) -> float:
        found = self.value(name)
        if type(found) not in {int, float}:
            self.wrong.append(f"{name} must be a number, but is {found!r}")
            return 0.0
        return float(found)

    def flag(self, name: str) -> bool:
        found = self.value(name)
        if type(found) is not bool:
            self.wrong.append(f"{name} must be true or false, but is {found!r}")
        return bool(found)

    def choice(self, name: str, choices: dict[str, str]) -> str:
        found = self.value(name)
        if found not in choices:
            self.wrong.append(f"{name} must be one of {', '.join(choices)}, but is {found!r}")
            return next(iter(choices.values()))
        return choices[found]


def transformers_config(settings: Settings, *, what: str) -> Wav2Vec2Config:
    """The configuration of the same model in transformers; `vocab_size` of a CTC model is left to the caller.

    Raises:
        InputError: settings are missing or wrong, or transformers cannot express them; all of them are listed.
    """
    read = _Reader(settings.model)
    lacks = [n for n in _DECISIVE if settings.model.get(n) is None]
    read.wrong += [f"{n} must be given, as no shape shows it, but is not" for n in lacks]
    only = _ONLY if settings.ctc is not None else {**_ONLY, "quantize_targets": True}
    for name, accepted in only.items():
        # A file without such a setting was written before fairseq had the choice.
        found = settings.model.get(name, accepted)
        if found is not None and found != accepted:
            read.wrong.append(
                f"{name} must be {accepted!r}, all that transformers has, but is {found!r}"
            )
    if settings.ctc is not None and settings.ctc.get("blank_weight"):
        read.wrong.append(f"blank_weight must be 0, but is {settings.ctc['blank_weight']!r}")
    arguments = {} if lacks else {**_shape(read), **_training(read, settings)}
    if read.wrong:
        raise InputError(f"{what} cannot be converted: {'; '.join(read.wrong)}.")
    try:
        return Wav2Vec2Config(**arguments)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} has settings that transformers refuses: {error}") from error


def _shape(read: _Reader) -> dict[str, Any]:
    """What the model computes."""
    try:
        layers = parse_conv_layers(read.value("conv_feature_layers"))
    except ValueError as error:
        read.wrong.append(f"conv_feature_layers cannot be read: {error}")
        layers = [(1, 1, 1)]
    width, depth = read.size("encoder_embed_dim"), read.size("encoder_layers")
    if layers[-1][0] == width:
        read.wrong.append(
            f"encoder_embed_dim must differ from the width of the last convolution ({width}), as fairseq then has no"
            " projection between them and transformers always has one"
        )
    if depth > _MAX_LAYERS:
        read.wrong.append(f"encoder_layers must be at most {_MAX_LAYERS}, but is {depth}")
    final = read.size("final_dim", 0) or width
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": read.size("encoder_attention_heads"),
        "intermediate_size": read.size("encoder_ffn_embed_dim"),
        "hidden_act": read.choice("activation_fn", _ACTIVATIONS),
        "do_stable_layer_norm": read.flag("layer_norm_first"),
        "feat_extract_norm": read.choice("extractor_mode", _NORMS),
        "conv_dim": tuple(layer[0] for layer in layers),
        "conv_kernel": tuple(layer[1] for layer in layers),
        "conv_stride": tuple(layer[2] for layer in layers),
        "conv_bias": read.flag("conv_bias"),
        "num_conv_pos_embeddings": read.size("conv_pos"),
        "num_conv_pos_embedding_groups": read.size("conv_pos_groups"),
        "num_codevectors_per_group": read.size("latent_vars"),
        "num_codevector_groups": read.size("latent_groups"),
        "codevector_dim": read.size("latent_dim", 0) or final,
        "proj_codevector_dim": final,
        "contrastive_logits_temperature": read.number("logit_temp"),
    }


def _training(read: _Reader, settings: Settings) -> dict[str, Any]:
    """How it was trained: masks and dropouts, which for a fine-tuned model are those of fine-tuning."""
    tuned = read if settings.ctc is None else _Reader(settings.ctc)
    masked = tuned.number("mask_prob") > 0 or tuned.number("mask_channel_prob") > 0
    arguments = {
        "hidden_dropout": tuned.number("dropout"),
        "attention_dropout": tuned.number("attention_dropout"),
        "activation_dropout": tuned.number("activation_dropout"),
        "feat_proj_dropout": tuned.number("dropout_input"),
        "feat_quantizer_dropout": read.number("dropout_features"),
        "layerdrop": tuned.number("encoder_layerdrop" if settings.ctc is None else "layerdrop"),
        # transformers has a mask vector only where a probability is above 0, and fairseq always has one.
        "apply_spec_augment": masked and (settings.ctc is None or tuned.flag("apply_mask")),
        "mask_time_prob": tuned.number("mask_prob") if masked else float(_DEFAULTS["mask_prob"]),
        "mask_time_length": tuned.size("mask_length"),
        "mask_feature_prob": tuned.number("mask_channel_prob"),
        "mask_feature_length": tuned.size("mask_channel_length"),
        "num_negatives": read.size("num_negatives", 0),
        "diversity_loss_weight": settings.diversity_weight,
    }
    if settings.ctc is not None:
        arguments["final_dropout"] = tuned.number("final_dropout")
        read.wrong += tuned.wrong
    return arguments
