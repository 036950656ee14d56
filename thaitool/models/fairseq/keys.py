"""The names of wav2vec 2.0's weights in fairseq and in transformers, one to one.

Reads no file. Every name of the source must have its place and every place must be filled with the right shape;
anything else is an error that lists both sides, as a weight left at random shows nowhere. The table was made from the
two model definitions (fairseq/models/wav2vec/wav2vec2.py, transformers' modeling_wav2vec2.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Shape = tuple[int, ...]

_WB = r"(weight|bias)"
_ENCODER = {
    r"mask_emb": "masked_spec_embed",
    rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_WB}": r"feature_extractor.conv_layers.\1.conv.\2",
    # extractor_mode=layer_norm: a norm in every layer; default: one group norm, in the first.
    rf"feature_extractor\.conv_layers\.(\d+)\.2\.1\.{_WB}": r"feature_extractor.conv_layers.\1.layer_norm.\2",
    rf"feature_extractor\.conv_layers\.0\.2\.{_WB}": r"feature_extractor.conv_layers.0.layer_norm.\1",
    rf"layer_norm\.{_WB}": r"feature_projection.layer_norm.\1",
    rf"post_extract_proj\.{_WB}": r"feature_projection.projection.\1",
    r"encoder\.pos_conv\.0\.bias": "encoder.pos_conv_embed.conv.bias",
    # torch's two ways to name a norm and a direction: weight_norm before and since parametrizations.
    r"encoder\.pos_conv\.0\.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    r"encoder\.pos_conv\.0\.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
    r"encoder\.pos_conv\.0\.parametrizations\.weight\.original([01])": (
        r"encoder.pos_conv_embed.conv.parametrizations.weight.original\1"
    ),
    rf"encoder\.layer_norm\.{_WB}": r"encoder.layer_norm.\1",
    rf"encoder\.layers\.(\d+)\.self_attn\.([kvq]|out)_proj\.{_WB}": r"encoder.layers.\1.attention.\2_proj.\3",
    rf"encoder\.layers\.(\d+)\.self_attn_layer_norm\.{_WB}": r"encoder.layers.\1.layer_norm.\2",
    rf"encoder\.layers\.(\d+)\.fc1\.{_WB}": r"encoder.layers.\1.feed_forward.intermediate_dense.\2",
    rf"encoder\.layers\.(\d+)\.fc2\.{_WB}": r"encoder.layers.\1.feed_forward.output_dense.\2",
    rf"encoder\.layers\.(\d+)\.final_layer_norm\.{_WB}": r"encoder.layers.\1.final_layer_norm.\2",
}
_HEADS = {
    r"quantizer\.vars": "quantizer.codevectors",
    rf"quantizer\.weight_proj\.{_WB}": r"quantizer.weight_proj.\1",
    rf"project_q\.{_WB}": r"project_q.\1",
    rf"final_proj\.{_WB}": r"project_hid.\1",
}
_PRETRAINING = _HEADS | {name: f"wav2vec2.{place}" for name, place in _ENCODER.items()}
_CTC = {rf"w2v_encoder\.proj\.{_WB}": r"lm_head.\1"} | {
    rf"w2v_encoder\.w2v_model\.{name}": f"wav2vec2.{place}" for name, place in _ENCODER.items()
}


def transformers_name(name: str, *, ctc: bool) -> str | None:
    """Where a weight of fairseq lies in `Wav2Vec2ForPreTraining` (or `Wav2Vec2ForCTC`); None if nowhere."""
    for pattern, place in (_CTC if ctc else _PRETRAINING).items():
        if match := re.fullmatch(pattern, name, flags=re.ASCII):
            return match.expand(place)
    return None


def match_names(
    source: Mapping[str, Shape], target: Mapping[str, Shape], *, ctc: bool, what: str
) -> dict[str, str]:
    """For each weight of transformers, the weight of fairseq that fills it.

    Args:
        source: fairseq's names and shapes.
        target: transformers' names and shapes, from a model of the same settings.
        ctc: Whether the model is fine-tuned with CTC rather than pretrained.
        what: The file's name, for messages.

    Raises:
        InputError: a weight has no place, a place has no weight, two weights share one, or a shape differs; all are
            listed.
    """
    places = {name: transformers_name(name, ctc=ctc) for name in source}
    filled: dict[str, str] = {}
    nowhere, twice, shapes = [], [], []
    for name, place in places.items():
        if place is None or place not in target:
            nowhere.append(name)
        elif place in filled:
            twice.append(f"{filled[place]} and {name}")
        else:
            filled[place] = name
            if source[name] != target[place]:
                shapes.append(f"{name} has {source[name]}, {place} needs {target[place]}")
    empty = [place for place in target if place not in filled]
    findings = {
        "weights of the file without a place": nowhere,
        "places of the model without a weight": empty,
        "weights that share a place": twice,
        "weights of another shape": shapes,
    }
    if any(findings.values()):
        parts = [f"{len(n)} {label}: {_listed(n)}" for label, n in findings.items() if n]
        raise InputError(
            f"{what} does not fit the model that its own settings describe; {'; '.join(parts)}. Nothing was written."
        )
    return filled


def _listed(names: list[str], at_most: int = 12) -> str:
    rest = len(names) - at_most
    return ", ".join(sorted(names)[:at_most]) + (f" and {rest} more" if rest > 0 else "")
