"""The pretraining objective: equal to that of transformers; masks, negatives, gradients and padding are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from thaitool.errors import InputError
from thaitool.models.encoder import (
    length_mask,
    load_encoder,
    load_pretraining,
    output_lengths,
)
from thaitool.models.pretraining import (
    DIVERSITY_WEIGHT,
    MASK_PROB,
    MASK_SPAN,
    N_NEGATIVES,
    PretrainingLoss,
    pretraining_loss,
    sample_mask,
    sample_negatives,
)

LENGTHS = [(16_000, 16_000), (16_000, 12_345, 4_001), (6_000,)]


def ours(model: Any, audio: Any, lengths: Any, *, temperature: float | None) -> PretrainingLoss:
    generator = torch.Generator().manual_seed(3)
    return pretraining_loss(model, audio, lengths, generator=generator, temperature=temperature)


def theirs(model: Any, audio: torch.Tensor, lengths: torch.Tensor) -> Any:
    """The transformers model on the mask and the negatives that `ours` draws."""
    generator = torch.Generator().manual_seed(3)
    frames = output_lengths(model.config, lengths)
    mask = sample_mask(frames, prob=MASK_PROB, span=MASK_SPAN, generator=generator)
    negatives = sample_negatives(mask, generator=generator)
    B, I = mask.shape  # noqa: E741
    index = torch.zeros(B, I, N_NEGATIVES, dtype=torch.long)
    for row in range(B):
        position = mask[row].nonzero().flatten()
        index[row, position] = position[negatives[row, : len(position)]] + row * I
    return model(
        audio,
        attention_mask=length_mask(lengths, audio.shape[1]).long(),
        mask_time_indices=mask,
        sampled_negative_indices=index,
    )


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_contrast_and_perplexity_equal_transformers(lengths: tuple[int, ...]) -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(*lengths)
    with torch.no_grad():
        mine, reference = (
            ours(model, audio, samples, temperature=None),
            theirs(model, audio, samples),
        )
    assert mine.contrastive == pytest.approx(float(reference.contrastive_loss), rel=1e-5)
    assert mine.code_perplexity == pytest.approx(float(reference.codevector_perplexity), rel=1e-5)
    assert mine.contrastive > 1.0


def test_diversity_in_training_equals_transformers() -> None:
    model = tiny.pretraining_model()
    for name in ("hidden_dropout", "attention_dropout"):
        setattr(model.config, name, 0.0)
    model.train()
    audio, samples = tiny.ragged_audio(16_000, 9_000)
    mine, reference = ours(model, audio, samples, temperature=2.0), theirs(model, audio, samples)
    diversity = (float(mine.total.detach()) - mine.contrastive) / DIVERSITY_WEIGHT
    # The rate of the mean soft code distribution; transformers' Gumbel noise does not enter it.
    assert diversity == pytest.approx(float(reference.diversity_loss.detach()), rel=1e-3)


def test_masked_frames_are_hidden_from_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.pretraining_model()
    audio, samples = tiny.ragged_audio(16_000, 12_000)
    seen: list[torch.Tensor] = []
    model.wav2vec2.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    loss = ours(model, audio, samples, temperature=None)
    hidden = (seen[0] == model.wav2vec2.masked_spec_embed).all(-1)
    frames = output_lengths(model.config, samples)
    mask = sample_mask(
        frames, prob=MASK_PROB, span=MASK_SPAN, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(hidden, mask)
    assert 0.3 < loss.masked / int(frames.sum()) < 0.7


def test_a_loaded_encoder_is_masked_in_pretraining_and_nowhere_else(tmp_path: Any) -> None:
    path = tiny.encoder_directory(tmp_path)
    # Published configurations differ: some switch masking off, some mask features too.
    for augment in (True, False):
        model = tiny.pretraining_model()
        model.config.apply_spec_augment = augment
        model.config.mask_feature_prob = 0.3
        model.save_pretrained(path)
        loaded = load_pretraining(path).train()
        audio, samples = tiny.ragged_audio(16_000)
        seen: list[torch.Tensor] = []
        loaded.wav2vec2.encoder.register_forward_pre_hook(lambda _, a, s=seen: s.append(a[0]))
        loss = ours(loaded, audio, samples, temperature=2.0)
        assert int((seen[0] == loaded.wav2vec2.masked_spec_embed).all(-1).sum()) == loss.masked
        encoder = load_encoder(path)
        still, moving = encoder(audio)[0], encoder.train()(audio)[0]
        for dropout in (m for m in encoder.modules() if isinstance(m, torch.nn.Dropout)):
            dropout.p = 0.0
        for layer in encoder.encoder.layers:
            layer.attention.dropout = 0.0
        assert not torch.equal(still, moving)
        torch.testing.assert_close(encoder(audio)[0], still)


def test_missing_weights_are_an_error(tmp_path: Any) -> None:
    tiny.pretraining_model().wav2vec2.save_pretrained(tmp_path)
    load_encoder(tmp_path)
    with pytest.raises(
        InputError, match=r"full pretraining weights .* lacks \d+, e\.g\. project_hid"
    ):
        load_pretraining(tmp_path)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 70), min_size=1, max_size=5),
    span=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
def test_masks_and_negatives(lengths: list[int], span: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.tensor(lengths)
    mask = sample_mask(frames, prob=MASK_PROB, span=span, generator=generator)
    assert mask.shape == (len(lengths), max(lengths))
    assert not (mask & ~length_mask(frames, max(lengths))).any()
    counts = mask.sum(1)
    assert bool((counts >= 2).all())
    negatives = sample_negatives(mask, generator=generator)
    assert negatives.shape == (len(lengths), int(counts.max()), N_NEGATIVES)
    for row, count in zip(negatives, counts.tolist(), strict=True):
        valid = row[:count]
        assert int(valid.min()) >= 0
        assert int(valid.max()) < count
        assert not (valid == torch.arange(count)[:, None]).any()
        if count <= 5:
            everyone = {tuple(sorted({*v.tolist(), own})) for own, v in enumerate(valid)}
            assert everyone == {tuple(range(count))}


def test_a_long_row_is_masked_by_half_and_another_seed_differs() -> None:
    frames = torch.tensor([3000])
    masks = [
        sample_mask(frames, prob=0.65, span=10, generator=torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert 0.42 < masks[0].float().mean() < 0.56  # 1 - exp(-0.65) = 0.48
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


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
    assert b.contrastive == pytest.approx(a.contrastive, rel=1e-5)
    assert float(b.total) == pytest.approx(float(a.total), rel=1e-5)


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
        losses.append(loss.contrastive / loss.masked)
    assert losses[-1] < 0.8 * losses[0]
