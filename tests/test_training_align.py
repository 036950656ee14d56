"""The objectives of `align`: what changes no loss (padding, order, other processes), what is trained, what is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import aligning
from thaitool.data.loader import Batch, in_order
from thaitool.data.manifest import from_utterances, open_manifest
from thaitool.errors import InputError, QuarantineError
from thaitool.models.checkpoint import load_tokenizer
from thaitool.stages.align import _build, _fitting, _groups, _objective
from thaitool.training.align import MOMENTUM
from thaitool.training.alignable import alignable
from thaitool.training.task import Step

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import AlignConfig

LATE = Step(update=9, share=0.9, seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objectives")


def objective(config: AlignConfig) -> Any:
    torch.manual_seed(0)
    model = _build(config, config.encoder, config.llm)
    fit = _fitting(model, open_manifest(config.data), config, held_out=False)
    made = _objective(model, fit, config)
    _groups(model.front_end, config)
    return made.train()


def batch(config: AlignConfig, rows: int = 6) -> Batch:
    clips = [open_manifest(config.data)[i] for i in range(rows)]
    (found,) = in_order(from_utterances(clips), batch_s=100.0)
    return found


def loss_and_gradient(made: Any, given: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    trained = {n: p for n, p in made.named_parameters() if p.requires_grad}
    found = made(given, LATE)
    gradients = torch.autograd.grad(found.total / found.weight, list(trained.values()))
    return float(found.total.detach()), dict(zip(trained, gradients, strict=True))


def turned(given: Batch, order: list[int]) -> Batch:
    return replace(
        given,
        utterances=tuple(given.utterances[i] for i in order),
        audio=given.audio[order],
        audio_lengths=given.audio_lengths[order],
    )


@pytest.mark.parametrize("method", aligning.METHODS)
@pytest.mark.parametrize(("layers", "contrast"), [(None, 0.0), (1, 0.0), (None, 1.0)])
def test_padding_and_order_change_no_loss(
    method: str, layers: int | None, contrast: float, base: Path
) -> None:
    config = aligning.settings(
        base, base / "x", method=method, transcript_weight=contrast, unfreeze_layers=layers
    )
    made = objective(config)
    made.front_end.encoder.eval()  # no dropout
    given = batch(config)
    total, gradient = loss_and_gradient(made, given)
    longer = torch.nn.functional.pad(given.audio, (0, 5_000))
    others = [replace(given, audio=longer)]
    if not contrast:  # it compares a row with the rows before it, so that it alone knows an order
        others.append(turned(given, [3, 0, 5, 1, 4, 2]))
    for other in others:
        again, same = loss_and_gradient(made, other)
        assert again == pytest.approx(total, rel=1e-4)
        for name, value in gradient.items():
            torch.testing.assert_close(
                same[name], value, atol=2e-5 * (1 + float(value.abs().max())), rtol=1e-3
            )


@pytest.mark.parametrize("method", aligning.METHODS)
def test_half_precision_is_close_and_every_method_starts_alike(method: str, base: Path) -> None:
    made = objective(aligning.settings(base, base / "x", method=method))
    first = objective(aligning.settings(base, base / "x"))
    for a, b in zip(
        first.front_end.projector.parameters(), made.front_end.projector.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    given = batch(made.front_end.config)
    exact = made(given, LATE).total.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(given, LATE).total.detach()
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.03)
    assert float(rough) != float(exact)


@pytest.mark.parametrize("method", aligning.METHODS)
def test_only_what_is_asked_for_is_trained(method: str, base: Path) -> None:
    made = objective(aligning.settings(base, base / "x", method=method))
    names = {
        n.removeprefix("front_end.").split(".")[0]
        for n, p in made.named_parameters()
        if p.requires_grad
    }
    assert names == ({"projector", "ctc"} if "ctc" in method else {"projector"})
    assert not any(part.training for part in made.front_end.encoder.modules())
    if method == "asr":
        assert not any(part.training for part in made.model.language_model.modules())
        assert made.tokens.table is made.model.get_input_embeddings().weight
    part = objective(aligning.settings(base, base / "x", method=method, unfreeze_layers=1))
    trained = {n for n, p in part.front_end.encoder.named_parameters() if p.requires_grad}
    assert {n.split(".layers.")[1].split(".")[0] for n in trained} == {"1"}
    layers = list(part.front_end.encoder.stack)
    assert [layer.training for layer in layers] == [False, True]
    assert not part.front_end.encoder.model.training
    total, gradient = loss_and_gradient(part, batch(part.front_end.config))
    assert total > 0
    assert all(bool(g.any()) for n, g in gradient.items() if "k_proj.bias" not in n)


def test_the_sum_is_the_weighted_sum_of_both(base: Path) -> None:
    both, dtw, ctc = (
        objective(aligning.settings(base, base / "x", method=m, ctc_weight=0.25))
        for m in ("dtw+ctc", "dtw", "ctc")
    )
    given = batch(both.front_end.config)
    n = len(given.utterances)
    found, first = both(given, LATE), dtw(given, LATE)
    assert (found.weight, first.weight) == (n, n)
    nats, tokens = found.logs["ctc_nats"]
    assert float(found.total.detach()) == pytest.approx(
        float(first.total.detach()) + 0.25 * n * float(nats) / tokens, rel=1e-5
    )
    alone = ctc(given, LATE)
    assert alone.weight == tokens
    assert float(alone.total.detach()) == pytest.approx(float(alone.logs["ctc_nats"][0]))


def test_the_running_mean_is_one_of_all_processes(base: Path) -> None:
    """Tallies of two halves give what those of the whole give, once an update."""
    config = aligning.settings(base, base / "x")
    made = objective(config)
    p = made.front_end.projector
    given = batch(config, 6)
    halves = [turned(given, [0, 1, 2]), turned(given, [3, 4, 5])]
    tallies = [made(half, LATE).tallies for half in halves]
    made.summarise({k: sum(t[k].double() for t in tallies) for k in tallies[0]})
    raw, counts = made.front_end(given)
    every = torch.cat([row[:n] for row, n in zip(raw, counts.tolist(), strict=True)]).detach()
    torch.testing.assert_close(p.speech_mean, every.mean(0), atol=1e-5, rtol=1e-4)
    gain = float(p.gain)
    made.summarise({k: v.double() * 0 + (1 if v.ndim == 0 else 0) for k, v in tallies[0].items()})
    torch.testing.assert_close(p.speech_mean, MOMENTUM * every.mean(0), atol=1e-5, rtol=1e-4)
    assert float(p.gain) == pytest.approx(
        MOMENTUM * gain + (1 - MOMENTUM) * made.target_norm, rel=1e-5
    )
    centred = made.tokens.table - made.tokens.table.mean(0)
    assert made.target_norm == pytest.approx(float(centred.norm(dim=-1).mean()), rel=1e-5)


def test_text_that_outruns_the_decoded_audio_is_not_used(base: Path) -> None:
    config = aligning.settings(base, base / "x", method="ctc")
    made = objective(config)
    given = batch(config, 3)
    long = tuple(replace(u, text="ก" * 400) for u in given.utterances)
    found = made(replace(given, utterances=long), LATE)
    assert (found.weight, found.used) == (0.0, 0)
    assert float(found.total.detach()) == 0.0
    torch.autograd.backward(found.total)  # every trained weight has a gradient, for DDP
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)
    mixed = made(replace(given, utterances=(*long[:1], *given.utterances[1:])), LATE)
    assert mixed.used == 2


@pytest.mark.parametrize("method", aligning.METHODS)
def test_a_batch_without_a_single_frame_is_not_used(method: str, base: Path) -> None:
    """And has a gradient of zero for every trained weight, which other processes wait for."""
    config = aligning.settings(base, base / "x", method=method)
    made = objective(config)
    given = batch(config, 2)
    short = replace(given, audio=given.audio[:, :200], audio_lengths=torch.tensor([200, 150]))
    found = made(short, LATE)
    assert (found.weight, found.used) == (0.0, 0)
    torch.autograd.backward(found.total)
    assert not any(bool(p.grad.any()) for p in made.parameters() if p.requires_grad)


def rows(base: Path, *texts: str | None) -> Any:
    made = aligning.utterances(base / "clips")[: len(texts)]
    return from_utterances([replace(u, text=t) for u, t in zip(made, texts, strict=True)])


def test_rows_that_cannot_be_aligned_have_a_reason(base: Path) -> None:
    config = aligning.settings(base, base / "x")
    tokenizer = load_tokenizer(config.llm)
    known = rows(base, "เปิดไฟ", None, "", "ああ", "กกกกกก", "ขข", *["ปิดไฟ"] * 6)

    def look(frames: int, *, repeats: bool) -> Any:
        return alignable(
            known,
            tokenizer,
            vocabulary=len(tokenizer),
            max_rejected_share=1.0,
            frames=lambda samples: frames if samples > 0 else 0,
            repeats=repeats,
        )

    found = look(6, repeats=False)
    assert [r.reason for r in found.rejected] == ["no_text", "empty_text", "unknown_text"]
    assert len(found.manifest) == 9
    (one,) = tokenizer("ก", add_special_tokens=False)["input_ids"]
    assert int(found.token_counts[one]) == 6
    found = look(6, repeats=True)
    assert found.rejected[-1].reason == "too_long_for_audio"
    assert "6 tokens with 5 repeats need 11 projected frames" in found.rejected[-1].detail
    assert int(found.token_counts[one]) == 0
    with pytest.raises(QuarantineError, match=r"4 of 12 recordings are unusable \(empty_text"):
        alignable(
            known,
            tokenizer,
            vocabulary=len(tokenizer),
            max_rejected_share=0.3,
            frames=lambda _: 6,
            repeats=True,
        )


def test_a_tokenizer_of_another_language_or_model_is_refused(base: Path) -> None:
    config = aligning.settings(base, base / "x")
    tokenizer = load_tokenizer(config.llm)
    with pytest.raises(InputError, match=r"100% of their \d+ tokens are <unk>. Take an LLM whose"):
        alignable(rows(base, "あああ"), tokenizer, vocabulary=300, max_rejected_share=1.0)
    with pytest.raises(InputError, match=r"gives the id \d+, but its token table has 10 rows"):
        alignable(rows(base, "เปิดไฟ"), tokenizer, vocabulary=10, max_rejected_share=1.0)
