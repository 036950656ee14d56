"""The loss of answers only: that of all scores, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import llms
from tests.test_models_packing import ASKED, LENGTHS, batch_of
from thaitool.models import answer_loss


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.fixture(params=llms.CONFIGS)
def made(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    return llms.speech_lm(llms.llm_directory(tmp_path / "llm", request.param, tied=False))


def whole_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """transformers' own loss, from scores of every position."""
    embeds = model.embed(batch["input_ids"], batch["input_values"], batch["input_lengths"])
    out = model.language_model(
        inputs_embeds=embeds,
        attention_mask=batch["attention_mask"],
        labels=batch["labels"],
        num_items_in_batch=torch.tensor(1),
    )
    loss: torch.Tensor = out.loss
    return loss


@pytest.mark.parametrize("at_once", [1, 3, None])
@pytest.mark.parametrize("packed", [False, True])
def test_loss_and_gradients_are_those_of_all_scores(
    made: Any, packed: bool, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = made
    batch = batch_of(processor)
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = whole_loss(model, batch)
    theirs = torch.autograd.grad(expected, trained, allow_unused=True)
    if at_once is not None:
        scores = at_once * model.config.text_config.vocab_size
        monkeypatch.setattr(answer_loss, "SCORES_AT_ONCE", scores)
    out = model(**batch, packed=packed)
    assert float(out.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(out.row_nats.sum()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert out.row_nats.shape == (len(ASKED),)
    ours = torch.autograd.grad(out.loss, trained, allow_unused=True)
    assert [g is None for g in ours] == [g is None for g in theirs]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    difference = torch.cat([(a - b).flatten() for a, b in pairs]).norm()
    assert float(difference / torch.cat([b.flatten() for _, b in pairs]).norm()) < 1e-5


def test_a_row_loss_is_that_of_the_row_alone(made: Any) -> None:
    model, processor = made
    batch = batch_of(processor)
    with torch.no_grad():
        together = model(**batch).row_nats
        for row in range(len(LENGTHS)):
            names = ("input_ids", "attention_mask", "labels", "input_values", "input_lengths")
            one = {name: batch[name][row : row + 1] for name in names}
            alone = model(**one, num_items_in_batch=1).loss
            assert float(together[row]) == pytest.approx(float(alone), rel=1e-4)


def test_memory_is_bounded_by_the_scores_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of 500 answer tokens and 4,000 words; a gradient of the table has its own size."""
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 4_000, bias=False)
    states = torch.randn(500, 8, requires_grad=True)
    targets = torch.randint(4_000, (500,))
    found = {}
    for scores in (500 * 4_000, 64 * 4_000):
        monkeypatch.setattr(answer_loss, "SCORES_AT_ONCE", scores)
        with Largest() as largest:  # type: ignore[no-untyped-call]
            nats = answer_loss.answer_nats(states, targets, head, vocabulary=4_000)
            gradient = torch.autograd.grad(nats.sum(), [states, head.weight])
        found[scores] = (largest.elements, nats.detach(), *gradient)
    whole, some = found.values()
    assert (whole[0], some[0]) == (500 * 4_000, 64 * 4_000)
    for a, b in zip(whole[1:], some[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    head = torch.nn.Linear(4, 10)
    head.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(answer_loss, "SCORES_AT_ONCE", 20)
    with torch.no_grad():
        nats = answer_loss.answer_nats(torch.randn(5, 4), torch.arange(5), head, vocabulary=10)
    assert (len(calls), nats.shape) == (3, (5,))
