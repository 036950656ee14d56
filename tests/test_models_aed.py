"""The attention decoder against torch's own, and its loss against the sum written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from thaitool.config import DecoderShape
from thaitool.models.aed import AttentionDecoder, attention_loss, teacher_forcing

WIDTH, UNITS = 16, 7


def decoder(seed: int = 0, **changes: float) -> AttentionDecoder:
    torch.manual_seed(seed)
    shape = {"layers": 2, "heads": 4, "intermediate_size": 24, **changes}
    return AttentionDecoder(UNITS, WIDTH, tiny.make(DecoderShape, **shape)).eval()


def torchs(ours: AttentionDecoder) -> nn.TransformerDecoder:
    """torch's pre-norm decoder with the same weights."""
    layer = nn.TransformerDecoderLayer(
        WIDTH, 4, 24, activation="gelu", batch_first=True, norm_first=True
    )
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(WIDTH)).eval()
    weights: dict[str, Any] = {"norm.weight": ours.norm.weight, "norm.bias": ours.norm.bias}
    for number, own in enumerate(ours._layers()):
        pairs: dict[str, Any] = {
            "norm1": own.norm_own,
            "norm2": own.norm_frames,
            "norm3": own.norm_mlp,
            "linear1": own.mlp[0],
            "linear2": own.mlp[3],
        }
        for name, attention in (("self_attn", own.own), ("multihead_attn", own.frames)):
            for part in ("weight", "bias"):
                both = [getattr(attention.query, part), getattr(attention.key_value, part)]
                weights[f"layers.{number}.{name}.in_proj_{part}"] = torch.cat(both)
            pairs[f"{name}.out_proj"] = attention.out
        for name, module in pairs.items():
            weights[f"layers.{number}.{name}.weight"] = module.weight
            weights[f"layers.{number}.{name}.bias"] = module.bias
    theirs.load_state_dict(weights)
    return theirs


@torch.inference_mode()
def test_it_computes_what_torchs_decoder_computes() -> None:
    ours = decoder()
    nn.init.normal_(ours.frame_norm.weight)
    frames, lengths = torch.randn(3, 9, WIDTH), torch.tensor([9, 4, 1])
    ids = torch.randint(0, UNITS, (3, 5))
    place = torch.arange(5.0)[:, None] / 10_000 ** (torch.arange(0, WIDTH, 2) / WIDTH)
    positions = torch.stack([place.sin(), place.cos()], -1).flatten(1)
    hidden = torchs(ours)(
        ours.embedding(ids) * WIDTH**0.5 + positions,
        ours.frame_norm(frames),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(5),
        memory_key_padding_mask=torch.arange(9)[None] >= lengths[:, None],
    )
    wanted = hidden @ ours.embedding.weight.T
    scores, _ = ours(ids, ours.start(frames, lengths))
    torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [[1] * 6, [2, 3, 1], [5, 1]])
def test_in_steps_it_says_the_same_as_at_once(cuts: list[int]) -> None:
    model = decoder()
    frames, lengths = torch.randn(2, 8, WIDTH), torch.tensor([8, 5])
    ids = torch.randint(0, UNITS, (2, 6))
    wanted, _ = model(ids, model.start(frames, lengths))
    cache, parts = model.start(frames, lengths), []
    for part in torch.split(ids, cuts, 1):
        scores, cache = model(part, cache)
        parts.append(scores)
    torch.testing.assert_close(torch.cat(parts, 1), wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_hypotheses_can_change_places() -> None:
    model = decoder()
    cache = model.start(torch.randn(2, 8, WIDTH), torch.tensor([8, 5]))
    _, cache = model(torch.tensor([[0, 3], [0, 5]]), cache)
    next_ids = torch.tensor([[1], [2]])
    wanted, _ = model(next_ids, cache)
    swapped, _ = model(next_ids[[1, 0, 1]], cache.select(torch.tensor([1, 0, 1])))
    torch.testing.assert_close(swapped, wanted[[1, 0, 1]])


def test_teacher_forcing_reads_the_start_and_says_the_end() -> None:
    read, say = teacher_forcing([[3, 4, 3], [], [5]])
    assert read.tolist() == [[0, 3, 4, 3], [0, 0, 0, 0], [0, 5, 0, 0]]
    assert say.tolist() == [[3, 4, 3, 0], [0, -100, -100, -100], [5, 0, -100, -100]]


@torch.inference_mode()
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_a_sum_over_units_and_ends(smoothing: float) -> None:
    model = decoder()
    frames, lengths = torch.randn(2, 8, WIDTH), torch.tensor([8, 5])
    targets = [[3, 4, 3], [5]]
    loss, weight, right = attention_loss(model, frames, lengths, targets, smoothing=smoothing)
    wanted, hits = 0.0, 0
    for row, ids in enumerate(targets):
        for n, unit in enumerate([*ids, 0]):
            given = torch.tensor([[0, *ids[:n]]])
            alone = model.start(frames[row : row + 1, : int(lengths[row])], lengths[row : row + 1])
            log_probs = model(given, alone)[0][0, -1].log_softmax(-1)
            wanted -= float((1 - smoothing) * log_probs[unit] + smoothing * log_probs.mean())
            hits += int(log_probs.argmax() == unit)
    assert weight == 6
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert int(right) == hits


def test_padding_gets_no_gradient_and_every_weight_does() -> None:
    model = decoder()
    frames = torch.randn(2, 8, WIDTH, requires_grad=True)
    loss, _, _ = attention_loss(model, frames, torch.tensor([8, 5]), [[3, 4], [5]])
    loss.backward()  # type: ignore[no-untyped-call]
    assert frames.grad is not None
    assert not frames.grad[1, 5:].any()
    assert frames.grad[1, :5].any(dim=-1).all()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_it_learns_to_copy() -> None:
    """Frames that name a unit and a place each, and their units: all said right after a few steps, ends included."""
    model = decoder(dropout=0.0).train()
    codes, places = torch.randn(UNITS, WIDTH), torch.randn(6, WIDTH)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, UNITS, (n,), generator=generator).tolist() for n in (3, 5, 4, 6) * 4]
    frames = torch.zeros(16, 6, WIDTH)
    for row, ids in zip(frames, rows, strict=True):
        row[: len(ids)] = codes[torch.tensor(ids)] + places[: len(ids)]
    lengths = torch.tensor([len(ids) for ids in rows])
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    share_right = 0.0
    for _ in range(200):
        loss, weight, right = attention_loss(model, frames, lengths, rows, smoothing=0.0)
        optimizer.zero_grad()
        (loss / weight).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        share_right = int(right) / weight
    assert share_right == 1
