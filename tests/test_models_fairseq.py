"""fairseq checkpoints: what is read equals what was written, and names and settings fit exactly or are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ForPreTraining
from transformers.activations import ACT2FN

from tests import fairseq_files as files
from thaitool.errors import InputError
from thaitool.models.encoder import load_pretraining
from thaitool.models.fairseq.archive import open_archive, tensors_in
from thaitool.models.fairseq.configuration import parse_conv_layers, transformers_config
from thaitool.models.fairseq.keys import match_names, transformers_name
from thaitool.models.fairseq.settings import read_settings
from thaitool.stages import convert

FORMS = ["zip-dict", "zip-omegaconf", "zip-args", "legacy-dict", "legacy-omegaconf", "legacy-args"]
MODELS = {"layer-norm": files.TINY, "group-norm": files.GROUP_NORM}


def pretrained(path: Path, model: dict[str, Any], form: str = "zip-dict", **changes: Any) -> Path:
    checkpoint = files.entries(files.weights(model), files.sections({**model, **changes}))
    return files.save(path, checkpoint, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_tensors_that_were_written(tmp_path: Path, form: str) -> None:
    state = files.weights(files.TINY)
    path = files.save(
        tmp_path / "a.pt", files.entries(state, files.sections(files.TINY)), form=form
    )
    assert "omegaconf" not in sys.modules
    with open_archive(path) as archive:
        assert archive.container == form.split("-", maxsplit=1)[0]
        read = {name: archive.read(tensor) for name, tensor in archive.content["model"].items()}
        assert len(tensors_in(archive.content)) == 3 * len(state)
    assert "omegaconf" not in sys.modules
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_views_strides_and_types_survive(tmp_path: Path, container: str) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": whole,
        "transposed": whole.T,
        "corner": whole[1:3, 2:5],
        "every second": whole[::2, 1::2],
        "half": whole.half(),
        "bfloat16": whole.bfloat16(),
        "double": whole.double(),
        "long": whole.long(),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(whole + 1),
    }
    path = files.save(tmp_path / "a.pt", files.entries(state, {}), form=f"{container}-dict")
    with open_archive(path) as archive:
        for name, tensor in archive.content["model"].items():
            read = archive.read(tensor)
            assert read.dtype == state[name].dtype, name
            assert read.is_contiguous()
            assert torch.equal(read, state[name].detach()), name


def test_the_optimizer_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of Adam may be damaged: nobody looks at them."""
    state = files.weights(files.TINY)
    for container in ("zip", "legacy"):
        path = files.save(
            tmp_path / "a.pt",
            files.entries(state, files.sections(files.TINY)),
            form=f"{container}-dict",
        )
        raw = bytearray(path.read_bytes())
        at = raw.find(np.ones(64, dtype="<f4").tobytes())  # exp_avg
        assert at > 0
        raw[at : at + 8] = b"\xff" * 8
        path.write_bytes(raw)
        result = convert.run(path, tmp_path / container)
        assert result.dropped[-1].entry == "last_optimizer_state"
        assert result.dropped[-1].n_bytes == 2 * 4 * result.parameters


@pytest.mark.parametrize("name", MODELS)
def test_names_fit_one_to_one(name: str) -> None:
    source = files.weight_shapes(MODELS[name])
    settings = read_settings({"cfg": files.sections(MODELS[name])}, what="a", ctc=False)
    with torch.device("meta"):
        model = Wav2Vec2ForPreTraining(transformers_config(settings, what="a"))
    target = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    filled = match_names(source, target, ctc=False, what="a")
    assert set(filled) == set(target)
    assert sorted(filled.values()) == sorted(source)


def test_xlsr_300m_has_its_known_size() -> None:
    source = files.weight_shapes(files.XLSR_300M)
    settings = read_settings({"cfg": files.sections(files.XLSR_300M)}, what="a", ctc=False)
    config = transformers_config(settings, what="a")
    with torch.device("meta"):
        model = Wav2Vec2ForPreTraining(config)
    target = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    assert (
        len(match_names(source, target, ctc=False, what="a")) == len(source) == len(target) == 429
    )
    assert sum(p.numel() for p in model.parameters()) == 317_390_592
    assert (config.do_stable_layer_norm, config.feat_extract_norm) == (True, "layer")
    assert (config.codevector_dim, config.proj_codevector_dim) == (768, 768)
    assert config.conv_kernel == (10, 3, 3, 3, 3, 2, 2)
    assert config.conv_stride == (5, 2, 2, 2, 2, 2, 2)


def test_what_does_not_fit_is_listed_from_both_sides() -> None:
    source = {"mask_emb": (4,), "layer_norm.weight": (3,), "oddity": (1,)}
    target = {
        "wav2vec2.masked_spec_embed": (5,),
        "wav2vec2.feature_projection.layer_norm.weight": (3,),
        "rest": (2,),
    }
    with pytest.raises(InputError) as refused:
        match_names(source, target, ctc=False, what="a.pt")
    for phrase in (
        "1 weights of the file without a place: oddity",
        "1 places of the model without a weight: rest",
        "mask_emb has (4,), wav2vec2.masked_spec_embed needs (5,)",
    ):
        assert phrase in str(refused.value)


def test_two_weights_for_one_place_are_an_error() -> None:
    old, new = "encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.parametrizations.weight.original0"
    place = transformers_name(old, ctc=False)
    assert place is not None
    assert place == transformers_name(new, ctc=False)
    with pytest.raises(InputError, match="share a place"):
        match_names({old: (1,), new: (1,)}, {place: (1,)}, ctc=False, what="a")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
         [(512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2), (512, 2, 2)]),
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2",
         [(512, 10, 5), *[(512, 3, 2)] * 4, (512, 2, 2), (512, 2, 2)]),
        ("2 * ([(1,2,3)] + [(4,5,6),])", [(1, 2, 3), (4, 5, 6)] * 2),
        (" [(7, 8, 9)]\n", [(7, 8, 9)]),
        ([[1, 2, 3], (4, 5, 6)], [(1, 2, 3), (4, 5, 6)]),
    ],
)  # fmt: skip
def test_convolutions_are_parsed(text: Any, layers: list[tuple[int, int, int]]) -> None:
    assert parse_conv_layers(text) == layers
    if isinstance(text, str):
        assert eval(text.strip(), {}) == layers  # noqa: S307 - what fairseq does with it


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "[(1,2,3)] * 10**9", "[(1,2,3)] * 100000", "[(1,2)]", "[]", "", "5",
        "[(1,2,3)] - [(1,2,3)]", "[(1,2,-3)]", "[(1,2,0)]", "[(1,2,3.0)]", "[(True,2,3)]", "[(x, 1, 2)]", "[(1,2,3)",
        "[x for x in ()]", "(lambda: [(1,2,3)])()", "[(1,2,3)] * -1", "[" * 1000, "-" * 1900 + "1", None, 3,
        "[(1,2,3)]; import os", "[(99999999,1,1)]", "[(1,2,3)]\0", "[*[(1,2,3)]]", [1, 2, 3],
    ],
)  # fmt: skip
def test_other_texts_are_no_convolutions(text: Any) -> None:
    with pytest.raises(ValueError, match=r"it |every "):
        parse_conv_layers(text)


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"layer_norm_first": None}, "layer_norm_first must be given, as no shape shows it"),
    ({"encoder_attention_heads": None}, "encoder_attention_heads must be given"),
    ({"layer_type": "conformer"}, "layer_type must be 'transformer', all that transformers has, but is 'conformer'"),
    ({"quantize_targets": False}, "quantize_targets must be True"),
    ({"quantize_input": True, "target_glu": True}, "target_glu must be False"),
    ({"pos_conv_depth": 5}, "pos_conv_depth must be 1"),
    ({"activation_fn": "swish"}, "activation_fn must be one of gelu, gelu_accurate, gelu_fast, relu, but is 'swish'"),
    ({"encoder_layers": 10**9}, "encoder_layers must be a whole number"),
    ({"encoder_layers": 300}, "encoder_layers must be at most 256"),
    ({"encoder_embed_dim": 24}, "must differ from the width of the last convolution (24)"),
    ({"encoder_embed_dim": "32"}, "encoder_embed_dim must be a whole number in 1..65536, but is '32'"),
    ({"dropout": "much"}, "dropout must be a number, but is 'much'"),
    ({"conv_bias": 1}, "conv_bias must be true or false, but is 1"),
    ({"conv_feature_layers": "exit()"}, "conv_feature_layers cannot be read"),
    ({"encoder_attention_heads": 5}, "settings that make no model"),
    ({"conv_bias": False}, "4 weights of the file without a place: feature_extractor.conv_layers.0.0.bias"),
    ({"extractor_mode": "default"}, "weights of the file without a place: feature_extractor.conv_layers.1.2.1.bias"),
    ({"encoder_layers": 4}, "16 places of the model without a weight: wav2vec2.encoder.layers.3."),
    ({"encoder_layers": 2}, "16 weights of the file without a place: encoder.layers.2."),
    ({"final_dim": 24}, "final_proj.bias has (20,), project_hid.bias needs (24,)"),
    ({"_name": "hubert"}, "must hold a wav2vec2 or wav2vec_ctc model with its weights, but says 'hubert'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "phrase"), CHANGES)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], phrase: str
) -> None:
    path = pretrained(tmp_path / "a.pt", files.TINY, **changes)
    with pytest.raises(InputError) as refused:
        convert.run(path, tmp_path / "out")
    assert phrase in str(refused.value)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_all_wrong_settings_are_listed_at_once(tmp_path: Path) -> None:
    path = pretrained(
        tmp_path / "a.pt", files.TINY, layer_type="conformer", dropout="x", conv_pos=-1
    )
    with pytest.raises(InputError) as refused:
        convert.run(path, tmp_path / "out")
    assert all(name in str(refused.value) for name in ("layer_type", "dropout", "conv_pos"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", [True, False])
def test_settings_reach_the_result(tmp_path: Path, form: str, normalize: bool) -> None:
    model = {**files.TINY, "activation_fn": "gelu_fast", "logit_temp": 0.3, "num_negatives": 50}
    cfg = files.sections(model, normalize=normalize)
    path = files.save(tmp_path / "a.pt", files.entries(files.weights(model), cfg), form=form)
    result = convert.run(path, tmp_path / "out")
    assert (result.normalize, result.updates) == (normalize, 1234)
    if not normalize:
        # `pretrain` feeds normalised audio, so that it must not continue from such a model.
        with pytest.raises(InputError, match="do_normalize: false"):
            load_pretraining(tmp_path / "out")
    converted = Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "out")
    config = converted.config
    found = (
        config.hidden_act, config.contrastive_logits_temperature, config.num_negatives, config.diversity_loss_weight,
        config.mask_time_prob, config.layerdrop, config.feat_proj_dropout, config.feat_quantizer_dropout,
    )  # fmt: skip
    assert found == ("gelu_new", 0.3, 50, 0.25, 0.65, 0.05, 0.1, 0.2)
    assert converted.dtype == torch.float32


@pytest.mark.parametrize("name", ["gelu_accurate", "gelu_fast"])
def test_the_approximate_gelu_stays_one(name: str) -> None:
    """fairseq/modules/gelu.py: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    settings = read_settings(
        {"cfg": files.sections({**files.TINY, "activation_fn": name})}, what="a", ctc=False
    )
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    formula = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    assert torch.allclose(
        ACT2FN[transformers_config(settings, what="a").hidden_act](x), formula, atol=1e-12
    )
    assert not torch.allclose(torch.nn.functional.gelu(x), formula, atol=1e-5)


def test_a_reference_between_settings_is_followed() -> None:
    cfg = files.sections({**files.TINY, "logit_temp": "${common.temperature}"})
    cfg["common"]["temperature"] = 0.7
    settings = read_settings({"cfg": cfg}, what="a", ctc=False)
    assert transformers_config(settings, what="a").contrastive_logits_temperature == 0.7
