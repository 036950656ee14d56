"""Encoders of all families as one module: against transformers' own passes, and padding that changes nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertForCTC,
    Wav2Vec2ForCTC,
    WavLMForCTC,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests import encoders, tiny
from tests.encoders import FAMILIES
from thaitool.errors import InputError
from thaitool.models.encoders.interface import (
    SpeechEncoder,
    load_speech_encoder,
    new_speech_encoder,
    set_trained,
)
from thaitool.models.encoders.mel import kaldi_log_mel, whisper_log_mel

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (16_000, 9_001, 11_111, 3_200)
#: Those whose forward pass transformers has, too; without padding Whisper has none.
PUBLISHED = tuple(f for f in FAMILIES if f != "whisper/clip")


def own_level(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    audio, counts = tiny.ragged_audio(*lengths, seed=seed)
    return 0.1 * audio, counts


def theirs(encoder: SpeechEncoder, samples: np.ndarray[Any, Any], **options: Any) -> Any:
    """transformers' output for one clip, from its own features."""
    model, config = encoder.model, encoder.config
    if encoder.family == "wav2vec2-bert":
        bins = config.feature_projection_input_dim // 2
        extract = SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins)
        found = extract(samples, sampling_rate=16_000, return_tensors="pt")
        return model(found["input_features"], attention_mask=found["attention_mask"], **options)
    if encoder.family == "whisper":
        extract = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=3)
        found = extract(samples, sampling_rate=16_000, return_tensors="pt")
        return model(found["input_features"], **options)
    mask = torch.ones(1, len(samples), dtype=torch.long)
    return model(torch.from_numpy(samples)[None], attention_mask=mask, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_valid_frame(family: str) -> None:
    encoder = encoders.encoder(family)
    audio, lengths = own_level(*LENGTHS, 100)
    longer = torch.nn.functional.pad(audio, (0, 4_321))
    with torch.no_grad():
        together, counts = encoder(longer, lengths)
        assert together.shape[1] == encoder.output_lengths(longer.shape[1])
        assert bool(together.isfinite().all())
        for row, n in enumerate(lengths[:4].tolist()):
            alone, (count,) = encoder(audio[row : row + 1, :n], lengths[row : row + 1])
            assert alone.shape == (1, count, 32)
            torch.testing.assert_close(together[row, :count], alone[0], rtol=0, atol=1e-5)
            assert not together[row, count:].any()
    assert counts.tolist() == encoder.output_lengths(lengths).tolist()


@pytest.mark.parametrize("family", PUBLISHED)
def test_frames_are_those_of_transformers(family: str) -> None:
    encoder = encoders.encoder(family)
    audio, lengths = own_level(*LENGTHS)
    with torch.no_grad():
        frames, counts = encoder(audio, lengths)
        for row, (n, count) in enumerate(zip(LENGTHS, counts.tolist(), strict=True)):
            told = theirs(encoder, audio[row, :n].numpy()).last_hidden_state[0, :count]
            torch.testing.assert_close(frames[row, :count], told, rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", PUBLISHED)
def test_inner_layers_and_their_mix(family: str) -> None:
    whole = encoders.encoder(family)
    audio, lengths = own_level(16_000)
    count = whole.output_lengths(16_000)
    with torch.no_grad():
        told = theirs(whole, audio[0].numpy(), output_hidden_states=True).hidden_states
    assert len(told) == 4
    # The last entry has passed the final norm in some families; the one before it never has.
    expected = [torch.nn.functional.layer_norm(h[0, :count], (32,)) for h in told]
    second = encoders.encoder(family, layer=2)
    second.model.load_state_dict(whole.model.state_dict(), strict=False)
    assert second.layers == 2
    mixed = encoders.encoder(family, layer="mix")
    mixed.model.load_state_dict(whole.model.state_dict(), strict=False)
    assert mixed.mix is not None
    # All weight on the first three; what the fourth would be is tested by `last`.
    mixed.mix.data = torch.tensor([0.3, 1.2, -0.5, -60.0])
    shares = mixed.mix.softmax(0)
    with torch.no_grad():
        torch.testing.assert_close(second(audio, lengths)[0][0], expected[2], rtol=0, atol=2e-4)
        mean = sum(s * e for s, e in zip(shares[:3], expected, strict=False))
        torch.testing.assert_close(mixed(audio, lengths)[0][0], mean, rtol=0, atol=2e-4)


def test_whisper_without_padding_is_an_encoder_with_a_shorter_window() -> None:
    ours = encoders.encoder("whisper/clip")
    k = 37
    audio, lengths = own_level(320 * k)
    config = encoders.config("whisper")
    config.max_source_positions = k
    shorter = WhisperEncoder(config).eval()
    weights = ours.model.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:k]
    shorter.load_state_dict(weights)
    silence = np.zeros(400, np.float32)
    extract = WhisperFeatureExtractor(feature_size=20, chunk_length=3)
    mel = extract._torch_extract_fbank_features(np.concatenate([audio[0].numpy(), silence]))
    with torch.no_grad():
        told = shorter(torch.from_numpy(mel)[None, :, : 2 * k]).last_hidden_state
        torch.testing.assert_close(ours(audio, lengths)[0], told, rtol=0, atol=2e-5)


def test_counts_are_those_of_the_published_front_ends() -> None:
    wave = encoders.encoder("wav2vec2")
    bert, whisper = encoders.encoder("wav2vec2-bert"), encoders.encoder("whisper")
    fbank = SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16)
    log_mel = WhisperFeatureExtractor(feature_size=20, chunk_length=3)
    some = [*range(720, 48_001, 3_001), 720, 721, 1_039, 1_040, 1_041, 47_999, 48_000]
    for n in some:
        x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
        convolved = wave.model.feature_extractor(torch.from_numpy(x)[None]).shape[-1]
        assert wave.output_lengths(n) == convolved
        pairs = fbank(x, sampling_rate=16_000, return_tensors="np")["attention_mask"].sum()
        assert bert.output_lengths(n) == pairs
        begun = log_mel(x, sampling_rate=16_000, return_attention_mask=True)["attention_mask"]
        centred = whisper.model._get_feat_extract_output_lengths(int(np.sum(begun)))
        assert whisper.output_lengths(n) == centred
    for encoder in (wave, bert, whisper):
        assert encoder.output_lengths(0) == 0
        some_lengths = torch.tensor([0, 1, *some])
        counted = [encoder.output_lengths(int(n)) for n in some_lengths]
        assert encoder.output_lengths(some_lengths).tolist() == counted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_too_short_for_a_frame_has_none(family: str) -> None:
    encoder = encoders.encoder(family)
    n = 0 if "whisper" in family else 100
    frames, counts = encoder(torch.zeros(2, n), torch.tensor([n, n]))
    assert frames.shape == (2, 0, 32)
    assert counts.tolist() == [0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_hide_the_audio(family: str) -> None:
    encoder = encoders.encoder(family)
    (first, lengths), (second, _) = own_level(16_000, 9_000), own_level(16_000, 9_000, seed=1)
    size = encoder.output_lengths(16_000)
    all_frames = {"time_mask": torch.ones(2, size, dtype=torch.bool)}
    all_channels = {"channel_mask": torch.ones(2, 32, dtype=torch.bool)}
    one = torch.zeros(2, size, dtype=torch.bool)
    one[1, 5] = True
    with torch.no_grad():
        plain, _ = encoder(first, lengths)
        for masks in (all_frames, all_channels):
            a, b = (encoder(x, lengths, **masks)[0] for x in (first, second))
            # Padding to a window is heard, and is the same silence behind both.
            tolerance = 2e-3 if family == "whisper" else 1e-6
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
            assert (a - plain).abs().max() > 0.1
        masked, _ = encoder(first, lengths, time_mask=one)
        torch.testing.assert_close(masked[0], plain[0], rtol=0, atol=1e-5)
        assert (masked[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "layer"),
    [*((f, "last") for f in FAMILIES)]
    + [(f, layer) for f in ("wav2vec2", "wav2vec2-bert", "whisper") for layer in ("mix", 2)],
)
def test_every_trained_weight_gets_a_gradient(family: str, layer: Any) -> None:
    encoder = encoders.encoder(family, layer=layer).train()
    audio, lengths = own_level(*LENGTHS)
    mask = torch.zeros(4, encoder.output_lengths(16_000), dtype=torch.bool)
    mask[:, 3:6] = True
    frozen = set_trained(encoder, transformer=False)
    assert [p.shape for p in frozen] == ([(4,)] if layer == "mix" else [])
    for choice in ({"masks": True}, {"convolutions": True, "masks": True}):
        trained = set_trained(encoder, transformer=True, **choice)
        frames, _ = encoder(audio, lengths, time_mask=mask)
        (frames * torch.linspace(-1, 1, 32)).square().sum().backward()
        ids = {id(p) for p in trained}
        for name, p in encoder.named_parameters():
            assert (p.grad is not None) == (id(p) in ids), name
            p.grad = None
    trainable = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert "model.embed_positions.weight" not in trainable
    assert "wav2vec2" not in family or all(p.requires_grad for p in encoder.parameters())


def test_masked_frames_embedding_rests_without_masks() -> None:
    encoder = encoders.encoder("wav2vec2").train()
    set_trained(encoder, transformer=True)
    assert not encoder.model.masked_spec_embed.requires_grad
    assert not any(p.requires_grad for p in encoder.parts()["convolutions"].parameters())


def test_layers_are_skipped_by_the_seeded_draw_and_stay_in_the_graph() -> None:
    encoder = encoders.encoder("wav2vec2")
    set_trained(encoder, transformer=True)
    encoder.config.layerdrop = 0.5
    encoder.train()
    audio, lengths = own_level(9_000)
    skipped = set()
    for seed in range(6):
        torch.manual_seed(seed)
        frames, _ = encoder(audio, lengths)
        frames.square().sum().backward()
        layers = encoder.model.encoder.layers
        grads = [[p.grad for p in layer.parameters()] for layer in layers]
        assert all(g is not None for layer in grads for g in layer)
        skipped.add(tuple(all(not g.any() for g in layer if g is not None) for layer in grads))
        encoder.zero_grad()
    assert len(skipped) > 2
    encoder.eval()
    a, b = (encoder(audio, lengths)[0] for _ in range(2))
    assert torch.equal(a, b)


def test_features_are_those_of_the_published_extractors() -> None:
    audio, lengths = own_level(*LENGTHS)
    fbank, counts = kaldi_log_mel(audio, lengths, bins=80)
    extract = SeamlessM4TFeatureExtractor()
    for row, n in enumerate(LENGTHS):
        found = extract(audio[row, :n].numpy(), sampling_rate=16_000, return_tensors="pt")
        pairs = int(found["attention_mask"].sum())
        told = found["input_features"][0, :pairs].reshape(-1, 80)
        assert int(counts[row]) - 2 * pairs in {0, 1}
        torch.testing.assert_close(fbank[row, : 2 * pairs], told, rtol=0, atol=5e-4)
    window = torch.nn.functional.pad(audio, (0, 480_000 - audio.shape[1]))
    for bins in (80, 128):
        found = WhisperFeatureExtractor(feature_size=bins)(
            [a[:n].numpy() for a, n in zip(audio, LENGTHS, strict=True)],
            sampling_rate=16_000,
            return_tensors="pt",
        )
        told = found["input_features"].transpose(1, 2)
        torch.testing.assert_close(whisper_log_mel(window, bins=bins), told, rtol=0, atol=1e-5)


def test_augmentation_sees_the_log_mel() -> None:
    audio, lengths = own_level(16_000, 9_000)
    for family, bins in (("wav2vec2-bert", 16), ("whisper", 20), ("whisper/clip", 20)):
        encoder = encoders.encoder(family)
        seen: list[tuple[torch.Size, list[int]]] = []

        def silenced(mel: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
            seen.append((mel.shape, counts.tolist()))  # noqa: B023 (called in this round)
            return torch.zeros_like(mel)

        with torch.no_grad():
            a = encoder(audio, lengths, augment=silenced)[0]
            b = encoder(2 * audio.flip(1), lengths, augment=silenced)[0]
        assert torch.equal(a, b)
        assert seen[0][0][2] == bins
        assert seen[0][1] == ([98, 54] if "bert" in family else [100, 57])
    with pytest.raises(InputError, match="hears samples and has no log-mel"):
        encoders.encoder("hubert")(audio, lengths, augment=lambda mel, _: mel)


@pytest.mark.parametrize(
    ("family", "whole"),
    [
        ("wav2vec2", Wav2Vec2ForCTC),
        ("wavlm", WavLMForCTC),
        ("wav2vec2-bert", Wav2Vec2BertForCTC),
        ("whisper", WhisperForConditionalGeneration),
    ],
)
def test_loading_from_models_with_heads(family: str, whole: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = encoders.config(family)
    config.vocab_size = 60
    model = whole(config).eval()
    model.half().save_pretrained(tmp_path / "model")  # as large Whisper models are published
    encoder = load_speech_encoder(tmp_path / "model").eval()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    stored = load_file(tmp_path / "model" / "model.safetensors")
    prefix = "model.encoder." if family == "whisper" else f"{whole.base_model_prefix}."
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(stored[prefix + name].float(), value), name
    again = new_speech_encoder(encoder.config).eval()
    again.load_state_dict(encoder.state_dict())
    audio, lengths = own_level(*LENGTHS)
    with torch.no_grad():
        assert torch.equal(encoder(audio, lengths)[0], again(audio, lengths)[0])

    lacking = next(n for n in stored if n.startswith(prefix) and "layers.1." in n)
    del stored[lacking]
    save_file(stored, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1, e\.g\. .*layers\.1\."):
        load_speech_encoder(tmp_path / "model")


def test_level_of_the_audio(tmp_path: Path) -> None:
    wanted = {f: encoders.encoder(f).normalises for f in FAMILIES}
    assert {f for f, yes in wanted.items() if not yes} == {
        *("wav2vec2-bert", "whisper", "whisper/clip")
    }
    encoders.encoder("wavlm").model.save_pretrained(tmp_path)
    preprocessor = tmp_path / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"do_normalize": True}))
    assert load_speech_encoder(tmp_path).normalises
    preprocessor.write_text(json.dumps({"do_normalize": False}))
    found = load_speech_encoder(tmp_path)
    assert not found.normalises
    # And the configuration carries it to wherever the encoder goes.
    found.model.save_pretrained(tmp_path / "again")
    assert not load_speech_encoder(tmp_path / "again").normalises
    quiet, loud = own_level(16_000)[0], 0.3 * own_level(16_000)[0]
    encoder = encoders.encoder("wav2vec2-bert")
    with torch.no_grad():
        a, b = (encoder(x, torch.tensor([16_000]))[0] for x in (quiet, loud))
    torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_what_cannot_be_an_encoder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers 1 to 3, so layer must be one of them"):
        new_speech_encoder(encoders.config("whisper"), layer=4)
    adapted = encoders.config("wav2vec2")
    adapted.add_adapter = True
    with pytest.raises(InputError, match="add_adapter"):
        new_speech_encoder(adapted)
    llm = tiny.llm_directory(tmp_path / "llm")
    with pytest.raises(InputError, match=r"speech encoder .* its model_type is 'llama'"):
        load_speech_encoder(llm)
    encoder = encoders.encoder("whisper")
    assert encoder.longest_samples == 48_000
    with pytest.raises(InputError, match=r"at most 3 s at once, but .* has 3\.01 s"):
        encoder(torch.zeros(1, 48_160), torch.tensor([48_160]))
