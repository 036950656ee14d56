"""CTC over token embeddings: the reduced and chunked scores against the whole softmax, in loss and gradient."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional

from thaitool.models import align_ctc
from thaitool.models.align_ctc import TokenCTC

TOKENS = [3, 5, 8, 11, 12, 19]
TARGETS = [[5, 5, 19], [3, 8, 11, 12], [12]]
COUNTS = torch.tensor([9, 7, 5])


def module(score: Any = "cosine", temperature: float = 0.3, tokens: Any = TOKENS) -> TokenCTC:
    torch.manual_seed(0)
    table = torch.randn(20, 6)
    return TokenCTC(table, tokens, mean=table.mean(0), score=score, temperature=temperature)


def frames(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(seed))


def whole(ctc: TokenCTC, x: torch.Tensor, score: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: scores of blank and all classes, log softmax, torch's loss."""
    torch.manual_seed(0)
    table = torch.randn(20, 6)
    classes = torch.cat([ctc.blank[None], table[TOKENS] - table.mean(0)])
    if score == "cosine":
        x, classes = functional.normalize(x, dim=-1), functional.normalize(classes, dim=-1)
    logits = x @ classes.T / ctc.temperature
    flat = torch.tensor([TOKENS.index(t) + 1 for row in TARGETS for t in row])
    sizes = torch.tensor([len(row) for row in TARGETS])
    log_p = logits.log_softmax(-1).transpose(0, 1)
    return functional.ctc_loss(log_p, flat, COUNTS, sizes, reduction="sum"), logits


@pytest.mark.parametrize(
    ("score", "chunk"), list(itertools.product(("cosine", "dot"), (24, 24 * 5, 2**20)))
)
def test_loss_and_gradients_are_those_of_the_whole_softmax(
    score: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align_ctc, "CHUNK_BYTES", chunk)
    ctc = module(score)
    x = frames().requires_grad_()
    found = ctc(x, COUNTS, TARGETS)
    ours = torch.autograd.grad(found.nats, [x, ctc.blank])
    wanted, logits = whole(ctc, x, score)
    theirs = torch.autograd.grad(wanted, [x, ctc.blank])
    torch.testing.assert_close(found.nats, wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    valid = torch.arange(9) < COUNTS[:, None]
    assert int(found.blanks) == int((logits.argmax(-1) == 0)[valid].sum())


def test_padding_and_order_of_rows_change_nothing() -> None:
    ctc = module()
    x = frames()
    wanted = ctc(x, COUNTS, TARGETS)
    spoiled = x.clone()
    spoiled[1, 7:] = float("nan")
    spoiled[2, 5:] = float("inf")
    spoiled.requires_grad_()
    found = ctc(spoiled, COUNTS, TARGETS)
    assert torch.equal(found.nats, wanted.nats)
    (gradient,) = torch.autograd.grad(found.nats, spoiled)
    assert gradient.isfinite().all()
    assert not gradient[1, 7:].any()
    order = [2, 0, 1]
    turned = ctc(x[order], COUNTS[order], [TARGETS[i] for i in order])
    torch.testing.assert_close(turned.nats, wanted.nats)
    alone = sum(
        ctc(x[i : i + 1, :n], COUNTS[i : i + 1], [TARGETS[i]]).nats for i, n in enumerate(COUNTS)
    )
    torch.testing.assert_close(alone, wanted.nats)


def test_a_row_that_says_every_class_leaves_none_over() -> None:
    ctc = module(tokens=[5, 19])
    x = frames()[:1].requires_grad_()
    found = ctc(x, COUNTS[:1], TARGETS[:1])
    (gradient,) = torch.autograd.grad(found.nats, x)
    assert found.nats.isfinite()
    assert gradient.isfinite().all()


def test_greedy_decoding_merges_and_drops_blanks() -> None:
    ctc = module(temperature=0.05)
    place = {token: number for number, token in enumerate(TOKENS)}
    vectors = {-1: ctc.blank.detach()} | {t: ctc.classes[p] for t, p in place.items()}
    said = [5, 5, -1, 5, 19, -1]
    x = torch.stack([vectors[t] for t in said])[None]
    x = torch.cat([x, torch.full((1, 2, 6), float("nan"))], 1)
    assert ctc.decode(x, torch.tensor([6])) == ([[5, 5, 19]], 2)
    assert ctc.decode(x, torch.tensor([0])) == ([[]], 0)


def test_only_the_blank_is_trained() -> None:
    ctc = module()
    assert [n for n, p in ctc.named_parameters() if p.requires_grad] == ["blank"]
    with pytest.raises(KeyError):
        ctc(frames()[:1], COUNTS[:1], [[4]])


def test_it_learns_to_say_the_tokens() -> None:
    ctc = module(temperature=0.1)
    x = frames().requires_grad_()
    optimizer = torch.optim.Adam([x, ctc.blank], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        torch.autograd.backward(ctc(x, COUNTS, TARGETS).nats)
        optimizer.step()
    assert ctc.decode(x, COUNTS)[0] == TARGETS
