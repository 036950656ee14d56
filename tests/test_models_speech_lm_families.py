"""Every encoder family, several LLM shapes and all projectors in one model: a batch is what its clips are alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import llms, tiny
from tests.encoders import FAMILIES
from thaitool.models.checkpoint import load_speech_lm
from thaitool.models.generate import answer
from thaitool.models.projector import ProjectorSettings
from thaitool.models.token_table import load_embedding_table

if TYPE_CHECKING:
    from pathlib import Path

ASKED = ["ถอดเสียง", "ผู้พูดต้องการอะไร", "?"]
ANSWERS = ["เปิดไฟ", "ตั้งปลุกตอนเจ็ดโมง", "ok"]
LENGTHS = (16_000, 9_000, 12_345)
QFORMER = ProjectorSettings("qformer", 2, 32, 1, window=8)
#: Encoder, LLM, whether its two tables are one, projector; every family once with a Llama, the rest with one encoder.
MODELS = [(encoder, "llama", True, None) for encoder in FAMILIES] + [
    ("wav2vec2", "llama", False, ProjectorSettings("stack", 3, 24, 1)),
    ("wav2vec2", "qwen2", True, None),
    ("wav2vec2", "qwen3", False, QFORMER),
    ("whisper/clip", "qwen3", True, QFORMER),
]


@pytest.fixture(params=MODELS, ids=lambda m: f"{m[0]}-{m[1]}-{m[3].form if m[3] else 'conv'}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    encoder, family, tied, projector = request.param
    llm = llms.llm_directory(tmp_path / "llm", family, tied=tied)
    return *llms.speech_lm(llm, encoder, projector), llm


def heard() -> tuple[torch.Tensor, torch.Tensor]:
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    return 0.1 * audio, lengths


def test_a_batch_is_what_its_clips_are_alone(made: Any) -> None:
    """Left-padded text and right-padded audio: the same logits, the same answers, with and without the cache."""
    model, processor, _ = made
    audio, lengths = heard()
    tokens = processor.tokens(ASKED, LENGTHS)
    with torch.no_grad():
        together = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            input_values=audio,
            input_lengths=lengths,
        ).logits
    answers = answer(model, processor, audio, lengths, ASKED, max_new_tokens=8)
    assert len({text for text, _ in answers}) == len(ASKED)
    for i, n in enumerate(LENGTHS):
        one = processor.tokens(ASKED[i : i + 1], LENGTHS[i : i + 1])
        inputs = {"input_values": audio[i : i + 1, :n], "input_lengths": lengths[i : i + 1]}
        with torch.no_grad():
            alone = model(
                input_ids=one.input_ids, attention_mask=one.attention_mask, **inputs
            ).logits[0]
        torch.testing.assert_close(together[i, -len(alone) :], alone, rtol=1e-4, atol=1e-3)
        asked = {"input_ids": one.input_ids, "attention_mask": one.attention_mask, **inputs}
        said = [
            model.generate(**asked, max_new_tokens=8, do_sample=False, use_cache=cache)
            for cache in (True, False)
        ]
        assert torch.equal(*said)
        one_clip = inputs["input_values"], inputs["input_lengths"]
        found = answer(model, processor, *one_clip, ASKED[i : i + 1], max_new_tokens=8)
        assert found == [answers[i]]


def test_a_checkpoint_is_the_same_model(made: Any, tmp_path: Path) -> None:
    model, processor, llm = made
    path = llms.save(tmp_path / "checkpoint", model, processor, llm)
    again, other = load_speech_lm(path)
    audio, lengths = heard()
    tokens = other.tokens(ASKED, LENGTHS, ANSWERS)
    batch = {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "input_values": audio,
        "input_lengths": lengths,
    }
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        loss = model(**batch, labels=tokens.labels).loss
        scores = model(**batch).logits[:, :-1].flatten(0, 1)
    assert tokens.labels is not None
    expected = torch.nn.functional.cross_entropy(scores, tokens.labels[:, 1:].flatten())
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    table = load_embedding_table(llm)
    assert torch.equal(table, model.get_input_embeddings().weight.detach())
