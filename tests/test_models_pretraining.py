"""The pretraining objective: equal to that of transformers; gradients, twins, splitting and padding are right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests import tiny
from tests.bench.transformers_loss import same_noise, their_loss
from thaitool.errors import InputError
from thaitool.models import pretraining
from thaitool.models.encoder import load_pretraining, output_lengths
from thaitool.models.encoders.interface import load_speech_encoder
from thaitool.models.masking import MASK_PROB, MASK_SPAN, N_NEGATIVES, Draws, draw, lay_out
from thaitool.models.pretraining import (
    DIVERSITY_WEIGHT,
    PretrainingLoss,
    loss_on_device,
    perplexities,
    pretraining_loss,
)
from thaitool.models.wav2vec2 import prepare

LENGTHS = [(16_000, 16_000), (16_000, 12_345, 4_001), (6_000,)]


def draws_of(model: Any, lengths: torch.Tensor, seed: int = 3) -> Draws:
    """What `ours` draws."""
    return draw(
        output_lengths(model.config, lengths),
        prob=MASK_PROB,
        span=MASK_SPAN,
        n_negatives=N_NEGATIVES,
        generator=torch.Generator().manual_seed(seed),
    )


def ours(
    model: Any, audio: Any, lengths: Any, *, temperature: float | None, **options: Any
) -> PretrainingLoss:
    generator = torch.Generator().manual_seed(3)
    return pretraining_loss(
        model, audio, lengths, generator=generator, temperature=temperature, **options
    )


def theirs(model: Any, audio: torch.Tensor, lengths: torch.Tensor) -> Any:
    """The transformers model on the mask and the negatives that `ours` draws."""
    return their_loss(model, audio, lengths, draws_of(model, lengths))


def gradients(model: Any) -> torch.Tensor:
    """All gradients in one vector, in the order of the names."""
    found = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters())])
    model.zero_grad()
    return found


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_evaluation_equals_transformers(lengths: tuple[int, ...], stable: bool) -> None:
    model = tiny.pretraining_model()
    model.config.do_stable_layer_norm = stable
    model = type(model)(model.config).eval()
    audio, samples = tiny.ragged_audio(*lengths)
    with torch.no_grad():
        mine = ours(model, audio, samples, temperature=None)
        reference = theirs(model, audio, samples)
    assert float(mine.total) == pytest.approx(float(reference.loss), rel=1e-6)
    assert float(mine.contrastive) == pytest.approx(float(reference.contrastive_loss), rel=1e-6)
    assert float(mine.diversity) == pytest.approx(float(reference.diversity_loss), rel=1e-6)
    perplexity = sum(perplexities(mine.code_counts))
    assert perplexity == pytest.approx(float(reference.codevector_perplexity), rel=1e-6)
    assert mine.contrastive > 1.0
    assert len(lengths) == 1 or mine.twins > 0


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_training_equals_transformers(lengths: tuple[int, ...]) -> None:
    model = tiny.pretraining_model(dropout=0.0).train()
    audio, samples = tiny.ragged_audio(*lengths)
    model.quantizer.temperature = 1.5
    with same_noise(draws_of(model, samples), 2, 16):
        mine = ours(model, audio, samples, temperature=1.5)
        torch.autograd.backward(mine.total)
        found = gradients(model)
        reference = theirs(model, audio, samples)
    reference.loss.backward()
    assert float(mine.total.detach()) == pytest.approx(float(reference.loss.detach()), rel=1e-6)
    assert float(mine.contrastive) == pytest.approx(
        float(reference.contrastive_loss.detach()), rel=1e-6
    )
    assert float(mine.diversity) == pytest.approx(
        float(reference.diversity_loss.detach()), rel=1e-6
    )
    assert distance(found, gradients(model)) < 1e-5


def test_the_extractor_of_wav2vec_base_works_too() -> None:
    config = tiny.pretraining_model().config
    config.feat_extract_norm, config.do_stable_layer_norm = "group", False
    model = type(tiny.pretraining_model())(config).eval()
    audio, samples = tiny.ragged_audio(16_000, 12_000)
    with torch.no_grad():
        mine, reference = (
            ours(model, audio, samples, temperature=None),
            theirs(model, audio, samples),
        )
    assert float(mine.total) == pytest.approx(float(reference.loss), rel=1e-6)


def test_bf16_is_close_and_its_heads_are_float32() -> None:
    model = tiny.pretraining_model(dropout=0.0)
    audio, samples = tiny.ragged_audio(16_000, 12_345)
    seen: list[torch.dtype] = []
    heads = [model.project_hid, model.project_q, model.quantizer.weight_proj]
    for head in heads:
        head.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    exact = ours(model, audio, samples, temperature=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = ours(model, audio, samples, temperature=None)
        assert model.wav2vec2.feature_projection.projection(torch.zeros(1, 32)).dtype != seen[0]
    assert seen == [torch.float32] * 6
    assert rough.total.dtype == torch.float32
    assert float(rough.contrastive) == pytest.approx(float(exact.contrastive), rel=0.1)
    assert float(rough.contrastive) != float(exact.contrastive)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"layerdrop": 0.5}])
def test_the_host_never_waits_for_the_device(options: dict[str, Any], padded: bool) -> None:
    # Tensors without data on a pretended GPU: reading a value, or mixing devices, raises.
    model = tiny.pretraining_model().train()
    prepare(model, **options)
    lengths = output_lengths(model.config, torch.tensor([16_000, 9_000 if padded else 16_000]))
    layout = lay_out(draws_of(model, torch.tensor([16_000, 16_000])), lengths, int(lengths.max()))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                fake = torch.nn.Parameter(torch.empty(parameter.shape, device="cuda"))
                module.register_parameter(name, fake)
        audio = torch.empty(2, 16_000, device="cuda")
        moved = layout.to(audio.device)
        loss = loss_on_device(model, audio, moved, [True, False], 1.0, (0.1, 1.0))
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(loss.total.detach())
    assert {v.device.type for v in vars(loss).values() if isinstance(v, torch.Tensor)} == {"cuda"}


def test_frames_of_equal_codes_are_no_negatives() -> None:
    model = tiny.pretraining_model()
    torch.nn.init.zeros_(model.quantizer.weight_proj.weight)  # every frame gets the same codes
    audio, samples = tiny.ragged_audio(16_000, 9_000)
    loss = ours(model, audio, samples, temperature=None)
    # The fingerprint of a collapsed codebook; that nothing is told apart counts as nothing right.
    assert float(loss.contrastive) == 0.0
    assert int(loss.twins) == loss.negatives == N_NEGATIVES * loss.masked
    assert int(loss.correct) == 0
    assert perplexities(loss.code_counts) == pytest.approx([1.0, 1.0])
    assert perplexities(loss.prob_sums) == pytest.approx([16.0, 16.0])
    assert float(loss.total.detach()) / loss.masked == pytest.approx(0.1 * (1 - 2 / 32))


def test_counts_are_of_the_masked_frames() -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(16_000, 9_000)
    loss = ours(model, audio, samples, temperature=None)
    assert loss.masked == int(draws_of(model, samples).mask.sum())
    assert loss.code_counts.sum(1).tolist() == [loss.masked, loss.masked]
    assert loss.prob_sums.sum(1).tolist() == pytest.approx([loss.masked, loss.masked])
    assert 0 < int(loss.correct) < loss.masked
    assert not any(
        v.requires_grad for k, v in vars(loss).items() if k != "total" and hasattr(v, "dtype")
    )


def test_perplexities() -> None:
    assert perplexities(torch.tensor([[5.0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 0, 0]])) == (
        pytest.approx([1.0, 4.0, 2.0])
    )
    assert perplexities(torch.zeros(1, 4)) == [1.0]  # nothing was counted


def test_feature_penalty() -> None:
    model = tiny.pretraining_model(dropout=0.0).train()
    audio, samples = tiny.ragged_audio(16_000, 9_000)
    with torch.no_grad():
        plain = ours(model, audio, samples, temperature=None)
        penalised = ours(model, audio, samples, temperature=None, feature_penalty=10.0)
        frames = output_lengths(model.config, samples).tolist()
        features = model.wav2vec2.feature_extractor(audio).transpose(1, 2)
    mean = torch.cat([row[:n] for row, n in zip(features, frames, strict=True)]).square().mean()
    assert float(plain.feature_square) == pytest.approx(float(mean) * plain.masked, rel=1e-5)
    assert float(penalised.total - plain.total) == pytest.approx(
        10 * float(plain.feature_square), rel=1e-4
    )


def test_a_batch_is_the_sum_of_its_parts() -> None:
    # Masks tied to utterances: each part gets its rows of the draws. Float64, so that rounding hides nothing.
    model = tiny.pretraining_model(dropout=0.0).double()
    audio, samples = tiny.ragged_audio(16_000, 12_000, 9_000, 15_000)
    audio = audio.double()
    draws = draws_of(model, samples)

    def gradient(parts: list[list[int]], weight: float) -> tuple[torch.Tensor, float]:
        masked = 0
        for rows in parts:
            counts = draws.counts[rows]
            part = Draws(
                draws.mask[rows][:, : int(output_lengths(model.config, samples[rows]).max())],
                draws.negatives[rows][:, : int(counts.max())],
            )
            loss = pretraining_loss(
                model,
                audio[rows, : int(samples[rows].max())],
                samples[rows],
                generator=torch.Generator(),
                temperature=None,
                diversity_weight=weight,
                draws=part,
            )
            torch.autograd.backward(loss.total)
            masked += loss.masked
        # Evaluation takes the best code, through which the code probabilities have no gradient.
        for parameter in model.quantizer.weight_proj.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return gradients(model) / masked, masked

    whole, masked = gradient([[0, 1, 2, 3]], 0.0)
    assert masked == int(draws.counts.sum())
    for parts in ([[0, 1], [2, 3]], [[0], [1], [2], [3]], [[3, 0, 2], [1]]):
        split, same = gradient(parts, 0.0)
        assert same == masked
        assert distance(split, whole) < 1e-10


def test_diversity_is_of_each_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in fairseq. Equal halves use the codes of the whole; of different ones each uses fewer.
    model = tiny.pretraining_model(dropout=0.0).train()
    audio, samples = tiny.ragged_audio(16_000, 16_000)
    twice = audio[[0, 0]]
    draws = draws_of(model, samples)
    same = Draws(draws.mask[[0, 0]], draws.negatives[[0, 0]])
    monkeypatch.setattr(pretraining, "gumbel_noise", torch.zeros_like)

    def diversity(x: torch.Tensor, d: Draws) -> float:
        return float(ours(model, x, samples[: len(x)], temperature=1.0, draws=d).diversity)

    def row(d: Draws, r: int) -> Draws:
        return Draws(d.mask[[r]], d.negatives[[r], : int(d.counts[r])])

    whole, parts = diversity(twice, same), 2 * diversity(twice[:1], row(same, 0))
    assert whole == pytest.approx(parts, rel=1e-5)
    whole = diversity(audio, draws)
    parts = diversity(audio[:1], row(draws, 0)) + diversity(audio[1:], row(draws, 1))
    assert parts > 1.001 * whole


def test_masked_frames_are_hidden_from_the_encoder() -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(16_000, 12_000)
    seen: list[torch.Tensor] = []
    position = model.wav2vec2.encoder.pos_conv_embed
    position.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    loss = ours(model, audio, samples, temperature=None)
    hidden = (seen[0] == model.wav2vec2.masked_spec_embed).all(-1)
    assert torch.equal(hidden, draws_of(model, samples).mask)
    assert 0.3 < loss.masked / int(output_lengths(model.config, samples).sum()) < 0.7


def test_a_loaded_encoder_is_masked_in_pretraining_and_nowhere_else(tmp_path: Any) -> None:
    path = tiny.encoder_directory(tmp_path)
    # Published configurations differ: some switch masking off, some mask features too, some have no share of frames.
    for augment, share in ((True, 0.05), (False, 0.05), (True, 0.0)):
        model = tiny.pretraining_model()
        model.config.apply_spec_augment = augment
        model.config.mask_time_prob = share
        model.config.mask_feature_prob = 0.0 if share == 0 else 0.3
        model.save_pretrained(path)
        loaded = load_pretraining(path).train()
        audio, samples = tiny.ragged_audio(16_000)
        seen: list[torch.Tensor] = []
        loaded.wav2vec2.encoder.pos_conv_embed.register_forward_pre_hook(
            lambda _, a, s=seen: s.append(a[0])
        )
        loss = ours(loaded, audio, samples, temperature=2.0)
        assert int((seen[0] == loaded.wav2vec2.masked_spec_embed).all(-1).sum()) == loss.masked
        assert torch.equal(loaded.wav2vec2.masked_spec_embed, model.wav2vec2.masked_spec_embed)
        encoder = load_speech_encoder(path)
        still, moving = encoder(audio, samples)[0], encoder.train()(audio, samples)[0]
        for dropout in (m for m in encoder.modules() if isinstance(m, torch.nn.Dropout)):
            dropout.p = 0.0
        for layer in encoder.model.encoder.layers:
            layer.attention.dropout = 0.0
        assert not torch.equal(still, moving)
        torch.testing.assert_close(encoder(audio, samples)[0], still)


def test_missing_weights_are_an_error_that_says_what_is_there(tmp_path: Any) -> None:
    tiny.pretraining_model().wav2vec2.save_pretrained(tmp_path / "encoder")
    load_speech_encoder(tmp_path / "encoder")
    with pytest.raises(InputError, match=r"the encoder is complete.* lacks 7 of the heads, e\.g\."):
        load_pretraining(tmp_path / "encoder")
    config = tiny.pretraining_model().config
    tiny.pretraining_model().save_pretrained(tmp_path / "short")
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path / "short")
    with pytest.raises(InputError, match=r"lacks 16 of the encoder, e\.g\. wav2vec2"):
        load_pretraining(tmp_path / "short")


def test_gradient_reaches_every_part() -> None:
    model = tiny.pretraining_model().train()
    audio, samples = tiny.ragged_audio(16_000, 9_000)
    torch.autograd.backward(ours(model, audio, samples, temperature=1.0).total)
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert silent == []
    names = {n.split(".")[0] for n, _ in model.named_parameters()}
    assert names == {"wav2vec2", "quantizer", "project_hid", "project_q"}


@pytest.mark.parametrize("extra", [1, 500, 7_000])
def test_padding_is_inert(extra: int) -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(12_000, 9_000)
    longer = torch.nn.functional.pad(audio, (0, extra))
    with torch.no_grad():
        a = ours(model, audio, samples, temperature=None)
        b = ours(model, longer, samples, temperature=None)
    assert b.masked == a.masked
    for name in ("total", "contrastive", "feature_square"):
        assert float(getattr(b, name)) == pytest.approx(float(getattr(a, name)), rel=1e-5)


def test_rows_too_short_for_a_frame_are_left_out_and_only_such_rows_are_an_error() -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(12_000, 100)
    with torch.no_grad():
        both = ours(model, audio, samples, temperature=None)
        alone = ours(model, audio[:1], samples[:1], temperature=None)
    assert both.masked == draws_of(model, samples).counts[0]
    assert both.masked > 0
    assert math.isfinite(float(both.total))
    assert math.isfinite(float(alone.total))
    with pytest.raises(InputError, match="the longest has 100 samples"):
        ours(model, audio[1:, :100], samples[1:], temperature=None)


def test_learning_lowers_the_loss_of_one_batch() -> None:
    model = tiny.pretraining_model().train()
    audio, samples = tiny.ragged_audio(8_000, 8_000)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        loss = ours(model, audio, samples, temperature=1.0)
        optimizer.zero_grad()
        torch.autograd.backward(loss.total)
        optimizer.step()
        losses.append(float(loss.contrastive) / loss.masked)
    assert losses[-1] < 0.8 * losses[0]


def test_weights_of_the_terms() -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(8_000, 8_000)
    loss = ours(model, audio, samples, temperature=None)
    total = float(loss.contrastive) + DIVERSITY_WEIGHT * float(loss.diversity)
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-6)


def test_an_encoder_of_audio_as_it_is_and_a_file_are_refused(tmp_path: Path) -> None:
    path = tiny.encoder_directory(tmp_path / "encoder")
    load_pretraining(path)
    config = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**config, "do_normalize": False}))
    with pytest.raises(InputError, match="do_normalize: false"):
        load_pretraining(path)
    assert not load_speech_encoder(path).normalises
    (tmp_path / "checkpoint_best.pt").write_bytes(b"PK")
    with pytest.raises(
        InputError, match=r"thaitool convert fairseq .*checkpoint_best.pt --out DIR"
    ):
        load_pretraining(tmp_path / "checkpoint_best.pt")
