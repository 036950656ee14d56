"""Numbers of converted fairseq models against independent oracles, to 1e-5.

torchaudio's wav2vec 2.0, loaded by a key table of its own (below); the quantizer written out by hand; and fairseq
itself, where THAITOOL_FAIRSEQ_PYTHON names a Python that has it (0.12.2).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchaudio.models import wav2vec2_model
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

from tests import fairseq_files as files
from thaitool.models.encoder import load_pretraining
from thaitool.stages import convert

if TYPE_CHECKING:
    from torch import Tensor

MODELS = {"layer-norm": files.TINY, "group-norm": files.GROUP_NORM}
TOLERANCE = 1e-5


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert float(theirs.abs().max()) > 0.1  # a comparison of zeros shows nothing
    return float((ours - theirs).abs().max())


def pretrained(path: Path, model: dict[str, Any]) -> Path:
    return files.save(path, files.entries(files.weights(model), files.sections(model)))


def torchaudio_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under torchaudio's names; written apart from our table, by the parts of a name."""
    out = {}
    for name, tensor in state.items():
        parts = name.removeprefix("w2v_encoder.w2v_model.").split(".")
        leaf = parts[-1]
        if parts[0] == "feature_extractor":
            kind = "conv" if parts[3] == "0" else "layer_norm"
            out[f"feature_extractor.conv_layers.{parts[2]}.{kind}.{leaf}"] = tensor
        elif parts[0] == "post_extract_proj":
            out[f"encoder.feature_projection.projection.{leaf}"] = tensor
        elif parts[0] == "layer_norm":
            out[f"encoder.feature_projection.layer_norm.{leaf}"] = tensor
        elif parts[:2] == ["encoder", "layer_norm"]:
            out[f"encoder.transformer.layer_norm.{leaf}"] = tensor
        elif parts[:2] == ["encoder", "pos_conv"]:
            renamed = {
                "weight_g": "parametrizations.weight.original0",
                "weight_v": "parametrizations.weight.original1",
            }
            out[f"encoder.transformer.pos_conv_embed.conv.{renamed.get(leaf, leaf)}"] = tensor
        elif parts[:2] == ["encoder", "layers"]:
            place = {
                "self_attn": f"attention.{parts[4]}", "self_attn_layer_norm": "layer_norm",
                "fc1": "feed_forward.intermediate_dense", "fc2": "feed_forward.output_dense",
                "final_layer_norm": "final_layer_norm",
            }[parts[3]]  # fmt: skip
            out[f"encoder.transformer.layers.{parts[2]}.{place}.{leaf}"] = tensor
        elif name.startswith("w2v_encoder.proj."):
            out[f"aux.{leaf}"] = tensor
    return out


def torchaudio_model(
    model: dict[str, Any], state: dict[str, Tensor], symbols: int | None = None
) -> Any:
    made = wav2vec2_model(
        extractor_mode="layer_norm" if model["extractor_mode"] == "layer_norm" else "group_norm",
        extractor_conv_layer_config=files.convolutions(model),
        extractor_conv_bias=model["conv_bias"],
        encoder_embed_dim=model["encoder_embed_dim"],
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=model["conv_pos"],
        encoder_pos_conv_groups=model["conv_pos_groups"],
        encoder_num_layers=model["encoder_layers"],
        encoder_num_heads=model["encoder_attention_heads"],
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=model["encoder_ffn_embed_dim"],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=model["layer_norm_first"],
        encoder_layer_drop=0.0,
        aux_num_out=symbols,
    )
    made.load_state_dict(torchaudio_names(state))
    return made.eval()


@pytest.mark.parametrize("name", MODELS)
def test_the_encoder_equals_torchaudios(tmp_path: Path, name: str) -> None:
    model = MODELS[name]
    convert.run(pretrained(tmp_path / "a.pt", model), tmp_path / "out")
    ours = load_pretraining(tmp_path / "out").wav2vec2.eval()
    ours.config.apply_spec_augment = False
    theirs = torchaudio_model(model, files.weights(model))
    audio = torch.randn(2, 2_000, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        got, expected = ours(audio).last_hidden_state, theirs(audio)[0]
        assert difference(got, expected) <= TOLERANCE
        # In the other order of norms, the same weights give something else: the setting matters and shows here.
        wrong = torchaudio_model(
            {**model, "layer_norm_first": not model["layer_norm_first"]}, files.weights(model)
        )
        assert difference(got, wrong(audio)[0]) > 0.1


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_ctc_model_equals_torchaudios(tmp_path: Path, name: str, half: bool) -> None:
    model = MODELS[name]
    state = files.ctc_weights(model)
    if half:
        state = {n: t.half() for n, t in state.items()}
    path = files.save(
        tmp_path / "a.pt", files.entries(state, files.ctc_sections(model)), form="zip-omegaconf"
    )
    result = convert.run(
        path, tmp_path / "out", dictionary=files.dictionary(tmp_path / "dict.ltr.txt")
    )
    assert result.source_dtypes == (("float16",) if half else ("float32",))
    ours = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out").eval()
    assert ours.dtype == torch.float32
    theirs = torchaudio_model(
        model, {n: t.float() for n, t in state.items()}, len(files.SYMBOLS) + 4
    )
    audio = torch.randn(2, 2_000, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert difference(ours(audio).logits, theirs(audio)[0]) <= TOLERANCE
    config = ours.config
    assert (config.mask_time_prob, config.mask_feature_prob, config.layerdrop) == (0.4, 0.3, 0.15)
    assert (config.final_dropout, config.hidden_dropout, config.pad_token_id) == (0.2, 0.01, 0)


def test_the_heads_of_pretraining_equal_the_definition(tmp_path: Path) -> None:
    """Quantizer and projections, computed here from fairseq's own tensors (Baevski et al. 2020, section 2)."""
    convert.run(pretrained(tmp_path / "a.pt", files.TINY), tmp_path / "out")
    model = load_pretraining(tmp_path / "out").eval()
    state = files.weights(files.TINY)
    audio = torch.randn(1, 2_000, generator=torch.Generator().manual_seed(5))
    encoder = torchaudio_model(files.TINY, state)
    with torch.no_grad():
        out = model(audio, mask_time_indices=torch.zeros(1, 49, dtype=torch.bool))
        features = encoder.feature_extractor(audio, None)[0]
        normed = torch.nn.functional.layer_norm(
            features, (24,), state["layer_norm.weight"], state["layer_norm.bias"]
        )
        logits = (
            normed @ state["quantizer.weight_proj.weight"].T + state["quantizer.weight_proj.bias"]
        )
        best = logits.view(-1, 2, 8).argmax(-1)
        codebook = state["quantizer.vars"].view(2, 8, 10)
        codes = torch.cat([codebook[0, best[:, 0]], codebook[1, best[:, 1]]], dim=-1)
        targets = codes @ state["project_q.weight"].T + state["project_q.bias"]
        context = encoder(audio)[0][0] @ state["final_proj.weight"].T + state["final_proj.bias"]
    assert len({tuple(pair) for pair in best.tolist()}) > 5
    assert difference(out.projected_quantized_states[0], targets) <= TOLERANCE
    assert difference(out.projected_states[0], context) <= TOLERANCE


def test_text_of_a_ctc_model_is_what_fairseq_reads(tmp_path: Path) -> None:
    """fairseq's blank is number 0; numbers from 4 on are the file's lines."""
    path = files.save(
        tmp_path / "a.pt",
        files.entries(files.ctc_weights(files.TINY), files.ctc_sections(files.TINY)),
    )
    convert.run(path, tmp_path / "out", dictionary=files.dictionary(tmp_path / "dict.ltr.txt"))
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == len(files.SYMBOLS) + 4
    first = {symbol: number + 4 for number, symbol in enumerate(files.SYMBOLS)}
    frames = [
        0,
        first["น"],
        first["น"],
        first["้"],
        0,
        first["า"],
        first["|"],
        0,
        first["ก"],
        0,
        first["ก"],
    ]
    assert tokenizer.decode(frames) == "น้า กก"


@pytest.fixture(scope="module")
def fairseq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = os.environ.get("THAITOOL_FAIRSEQ_PYTHON")
    if not python:
        pytest.skip("THAITOOL_FAIRSEQ_PYTHON names no Python with fairseq 0.12.2")
    folder = tmp_path_factory.mktemp("fairseq")
    script = Path(__file__).with_name("fairseq_oracle.py")
    done = subprocess.run([python, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


FAIRSEQ_FORMS = ["container", "dictconfig", "dictconfig-legacy", "args-legacy"]
FAIRSEQ_MODELS = ["layer-norm", "group-norm", "mixture"]


@pytest.mark.parametrize("form", FAIRSEQ_FORMS)
@pytest.mark.parametrize("name", FAIRSEQ_MODELS)
def test_a_pretrained_model_equals_fairseqs(
    fairseq_folder: Path, tmp_path: Path, name: str, form: str
) -> None:
    convert.run(fairseq_folder / f"{name}.{form}.pt", tmp_path / "out")
    model = load_pretraining(tmp_path / "out").eval()
    theirs = {k: torch.from_numpy(v) for k, v in np.load(fairseq_folder / f"{name}.npz").items()}
    audio, mask = theirs["audio"], theirs["mask"]
    inside = ~theirs["padding"]
    attention = torch.ones(audio.shape, dtype=torch.long)
    attention[1, 1_400:] = 0
    with torch.no_grad():
        out = model(audio[:1], mask_time_indices=mask)
        model.config.apply_spec_augment = False
        alone = model.wav2vec2(audio[:1], output_hidden_states=True)
        padded = model.wav2vec2(audio, attention_mask=attention)
    context, targets = out.projected_states[mask], out.projected_quantized_states[mask]
    cosine = torch.cosine_similarity(context, targets, dim=-1)
    for got, expected in (
        (alone.last_hidden_state, theirs["alone"]),
        (alone.extract_features, theirs["features"]),
        (torch.stack(alone.hidden_states[1:3]), theirs["layers"][:2]),
        (padded.last_hidden_state[inside], theirs["padded"][inside]),
        (context, theirs["predictions"]),
        (targets, theirs["targets"]),
        (cosine / model.config.contrastive_logits_temperature, theirs["positive_scores"]),
    ):
        assert difference(got, expected) <= TOLERANCE
    assert model.config.diversity_loss_weight == (0.25 if form != "args-legacy" else 0.1)


@pytest.mark.parametrize("form", FAIRSEQ_FORMS)
@pytest.mark.parametrize("name", FAIRSEQ_MODELS)
def test_a_ctc_model_equals_fairseqs(
    fairseq_folder: Path, tmp_path: Path, name: str, form: str
) -> None:
    checkpoint, letters = fairseq_folder / f"{name}-ctc.{form}.pt", fairseq_folder / "dict.ltr.txt"
    convert.run(checkpoint, tmp_path / "out", dictionary=letters)
    model = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out").eval()
    theirs = np.load(fairseq_folder / f"{name}-ctc.npz")
    with torch.no_grad():
        logits = model(torch.from_numpy(theirs["audio"])).logits
    assert difference(logits, torch.from_numpy(theirs["logits"])) <= TOLERANCE
