"""Recognisers on disk: what comes back is what was saved, and what does not fit is said in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, Wav2Vec2BertConfig, WhisperConfig

from tests import tiny
from thaitool.config import DecoderShape
from thaitool.errors import InputError
from thaitool.models.aed import AttentionDecoder
from thaitool.models.encoder import new_config
from thaitool.models.encoders.interface import Layer, load_speech_encoder, new_speech_encoder
from thaitool.models.recogniser import Recogniser, is_recogniser, load_recogniser, save_recogniser
from thaitool.text.units import build_vocabulary

VOCABULARY = build_vocabulary(["เปิดไฟ ปิดไฟ", "ตั้งปลุก"])
SHAPE = tiny.make(DecoderShape, layers=1, heads=2, intermediate_size=32)
CONFIGS: dict[str, Any] = {
    "wav2vec2": new_config(**tiny.SHAPE),
    "wav2vec2-bert": Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        conv_depthwise_kernel_size=7,
    ),
    "whisper": WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=40,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
}  # fmt: skip


def recogniser(
    family: str = "wav2vec2", *, aed: bool = True, layer: Layer = "last", seed: int = 0
) -> Recogniser:
    """An untrained recogniser with heads of larger weights than usual, so that outputs differ."""
    torch.manual_seed(seed)
    encoder = new_speech_encoder(CONFIGS[family], layer=layer)
    model = Recogniser(encoder, VOCABULARY, decoder=SHAPE if aed else None)
    torch.nn.init.normal_(model.ctc.weight, std=1.0)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_recogniser(tmp_path / "model", recogniser())
    return tmp_path / "model"


@pytest.mark.parametrize("aed", [False, True])
@pytest.mark.parametrize("layer", ["last", "mix", 1])
@pytest.mark.parametrize("family", CONFIGS)
def test_what_was_saved_comes_back(tmp_path: Path, family: str, layer: Layer, aed: bool) -> None:
    model = recogniser(family, aed=aed, layer=layer)
    save_recogniser(tmp_path, model)
    assert is_recogniser(tmp_path)
    loaded = load_recogniser(tmp_path)
    assert (loaded.head, loaded.encoder.layer) == ("aed" if aed else "ctc", layer)
    assert loaded.vocabulary == VOCABULARY
    audio, lengths = tiny.ragged_audio(9_000, 16_000)
    with torch.inference_mode():
        for ours, theirs in zip(loaded(audio, lengths), model(audio, lengths), strict=True):
            assert torch.equal(ours, theirs)
    wanted, found = model.state_dict(), loaded.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.do_normalize == model.encoder.normalises


@pytest.mark.parametrize("layer", ["last", "mix", 1])
def test_its_encoder_can_be_taken_alone(tmp_path: Path, layer: Layer) -> None:
    model = recogniser(layer=layer)
    save_recogniser(tmp_path, model)
    encoder = load_speech_encoder(tmp_path, layer=layer)
    audio, lengths = tiny.ragged_audio(9_000, 16_000)
    with torch.inference_mode():
        for ours, theirs in zip(
            encoder(audio, lengths), model.encoder(audio, lengths), strict=True
        ):
            assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match=f"trained with layer {layer}, but layer 2 was asked for"):
        load_speech_encoder(tmp_path, layer=2)


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    load_recogniser(saved)
    assert torch.equal(torch.rand(2), wanted)


def test_averaged_weights_can_be_saved_instead(tmp_path: Path) -> None:
    model = recogniser(aed=False)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    save_recogniser(tmp_path, model, zeros)
    assert not any(tensor.any() for tensor in load_recogniser(tmp_path).state_dict().values())
    assert model.ctc.weight.any()


def test_missing_and_left_over_weights_are_listed(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["ctc.bias"]
    save_file(tensors | {"head.weight": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(
        InputError, match=r"1 \(ctc.bias\) is missing and 1 \(head.weight\) is left over"
    ):
        load_recogniser(saved)


def test_a_head_alone_does_not_pass_for_both(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text("utf-8"))
    (saved / "config.json").write_text(json.dumps(config | {"head": "ctc"}), "utf-8")
    with pytest.raises(InputError, match=r"none is missing and 2\d \(decoder"):
        load_recogniser(saved)


def test_another_vocabulary_is_noticed(saved: Path) -> None:
    build_vocabulary(["กขค"]).save(saved / "vocabulary.json")
    with pytest.raises(
        InputError, match=r"ctc.bias must have shape \(5,\).* but has shape|but has \("
    ):
        load_recogniser(saved)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", Path.unlink, "must hold model.safetensors, but does not"),
        ("model.safetensors", _cut, "must hold readable safetensors, but is damaged"),
        ("vocabulary.json", Path.unlink, "must hold vocabulary.json, but does not"),
        ("vocabulary.json", lambda p: p.write_text("[]"), "is not a unit vocabulary"),
        ("preprocessor_config.json", Path.unlink, "must hold preprocessor_config.json, but does"),
        ("config.json", Path.unlink, "has no config.json"),
        ("config.json", lambda p: p.write_text("{"), "must be a transformers configuration"),
        ("config.json", lambda p: p.write_text('{"model_type": "bert"}'), "its model_type is 'bert'"),
        (
            "config.json",
            lambda p: p.write_text('{"model_type": "thaitool_recogniser", "head": "ctc", "encoder": 3}'),
            "is damaged: TypeError",
        ),
        (
            "config.json",
            lambda p: p.write_text(p.read_text().replace('"aed"', '"rnnt"')),
            "head must be ctc or aed, but is 'rnnt'",
        ),
        (
            "config.json",
            lambda p: p.write_text(p.read_text().replace('"heads"', '"hands"')),
            "is damaged: .*hands",
        ),
    ],
)  # fmt: skip
def test_damage_is_a_sentence(saved: Path, name: str, damage: Any, message: str) -> None:
    damage(saved / name)
    with pytest.raises(InputError, match=message):
        load_recogniser(saved)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    shape = tiny.make(DecoderShape, heads=5)
    with pytest.raises(InputError, match="must divide half the encoder's width of 32, but is 5"):
        AttentionDecoder(8, 32, shape)
