"""The speech LLM: length arithmetic, prompts and labels, generation in batches, and every way to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests import tiny
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.models.checkpoint import (
    load_speech_lm,
    new_speech_lm_config,
    save_checkpoint,
    weights_sha256,
)
from thaitool.models.encoder import output_lengths
from thaitool.models.encoders.interface import SpeechEncoder
from thaitool.models.generate import answer
from thaitool.models.processor import IGNORED, ThaiSpeechProcessor
from thaitool.models.projector import Projector, ProjectorSettings
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration

ANSWERS = ["เปิดไฟ", "ตั้งปลุกตอนเจ็ดโมง", "ok"]
ASKED = ["ถอดเสียง", "ผู้พูดต้องการอะไร", "?"]
LENGTHS = (16_000, 9_000, 12_345)


class Made(NamedTuple):
    """A model, its processor, and the directory of its LLM."""

    model: ThaiSpeechForConditionalGeneration
    processor: ThaiSpeechProcessor
    llm: Path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    llm = tiny.llm_directory(tmp_path / "llm")
    return Made(*tiny.speech_lm(llm), llm)


def save(made: Made, path: Path, language_model: Any = None) -> Path:
    path.mkdir()
    save_checkpoint(
        path,
        config=made.model.config,
        audio_tower=made.model.audio_tower,
        projector=made.model.multi_modal_projector,
        processor=made.processor,
        llm=made.llm,
        llm_sha256=weights_sha256(made.llm),
        language_model=language_model,
    )
    return path


def training_batch(processor: ThaiSpeechProcessor) -> dict[str, Any]:
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    tokens = processor.tokens(ASKED, lengths.tolist(), ANSWERS)
    return {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "labels": tokens.labels,
        "input_values": audio,
        "input_lengths": lengths,
    }


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    return out


def test_length_arithmetic_is_that_of_the_layers() -> None:
    encoder = tiny.pretraining_model().wav2vec2
    standard: dict[str, Any] = {
        "conv_dim": [8] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    }
    xlsr = tiny.pretraining_model(**standard).wav2vec2
    projector = Projector(4, 4, ProjectorSettings(factor=3, hidden_size=4))
    shortest = {id(encoder): 730, id(xlsr): 400}
    with torch.no_grad():
        for model in (encoder, xlsr):
            for n in (*range(400, 3001, 61), 400, 719, 720, 729, 730, 731):
                frames = output_lengths(model.config, n)
                if n < shortest[id(model)]:
                    assert frames == 0
                else:
                    assert model.feature_extractor(torch.zeros(1, n)).shape[-1] == frames > 0, n
        for frames in range(3, 40):
            made = projector(torch.zeros(1, frames, 4), torch.tensor([frames])).shape[1]
            assert made == projector.output_lengths(frames)
    assert output_lengths(xlsr.config, torch.tensor([16_000, 100])).tolist() == [49, 0]


def test_an_encoder_does_not_hear_the_padding(made: Made) -> None:
    """Also not after its configuration became part of a speech LLM's, which is the order of things in `align`."""
    encoder = tiny.pretraining_model().wav2vec2
    tokenizer = made.processor.tokenizer
    new_speech_lm_config(
        encoder.config, made.llm, tokenizer, projector=ProjectorSettings(hidden_size=8)
    )
    made.model.audio_tower = SpeechEncoder(encoder)
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    with torch.no_grad():
        together, frames = made.model.encode(audio, lengths)
        for row, n in enumerate(LENGTHS):
            alone, _ = made.model.encode(audio[row : row + 1, :n], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], together[row, : frames[row]], rtol=1e-4, atol=1e-4)


def test_placeholders_are_as_many_as_the_features(made: Made) -> None:
    samples = list(range(1_600, 20_000, 997))
    audio, lengths = tiny.ragged_audio(*samples)
    with torch.no_grad():
        features, counts = made.model.project(*made.model.encode(audio, lengths))
        flat = made.model.get_audio_features(audio, lengths).pooler_output
    assert [made.processor.audio_tokens(n) for n in samples] == counts.tolist()
    assert features.shape[1] == int(counts.max())
    rows = [row[:n] for row, n in zip(features, counts, strict=True)]
    assert torch.equal(flat, torch.cat(rows))
    ids = made.processor.tokens(["?"] * len(samples), samples).input_ids
    assert (ids == made.processor.audio_token_id).sum(1).tolist() == counts.tolist()


def test_labels_cover_the_answer_and_its_end(made: Made) -> None:
    tokens = made.processor.tokens(ASKED, LENGTHS, ANSWERS)
    assert tokens.labels is not None
    tokenizer = made.processor.tokenizer
    for ids, mask, labels, text, asked in zip(
        tokens.input_ids, tokens.attention_mask, tokens.labels, ANSWERS, ASKED, strict=True
    ):
        supervised = labels[labels != IGNORED].tolist()
        assert tokenizer.decode(supervised[:-1]) == text
        assert supervised[-1] == tokenizer.eos_token_id
        n = int(mask.sum())
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)
        assert ids[n - len(supervised) : n].tolist() == supervised
        prompt = tokenizer.decode(ids[: n - len(supervised)].tolist())
        assert prompt.replace(AUDIO_TOKEN, "") == f"<|user|>{asked}<|assistant|>"
        assert bool((labels[: n - len(supervised)] == IGNORED).all())


def test_prompts_for_generation_end_at_the_right_edge(made: Made) -> None:
    tokens = made.processor.tokens(ASKED, LENGTHS)
    last = made.processor.tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert tokens.labels is None
    assert tokens.input_ids[:, -1].tolist() == [last] * 3
    assert bool((tokens.attention_mask.diff(dim=1) >= 0).all())


def test_placeholder_in_an_instruction_is_refused(made: Made) -> None:
    with pytest.raises(InputError, match=r"must not contain <\|audio\|>.*'ฟัง<\|audio\|>'"):
        made.processor.prompt(f"ฟัง{AUDIO_TOKEN}", 3)


def test_wrong_number_of_placeholders_raises(made: Made) -> None:
    batch = training_batch(made.processor)
    batch["input_ids"][1, 1] = made.processor.tokenizer.unk_token_id
    with pytest.raises(InputError, match="as many audio placeholders as it has embeddings"):
        made.model(**batch)
    with pytest.raises(InputError, match="audio placeholders, but no audio came with it"):
        made.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    # The same total in other rows is a shift, too.
    batch = training_batch(made.processor)
    batch["input_lengths"] = batch["input_lengths"][[1, 0, 2]]
    with pytest.raises(InputError, match="the audio"):
        made.model(**batch)


def test_a_batch_answers_as_each_clip_alone(made: Made) -> None:
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    together = answer(made.model, made.processor, audio, lengths, ASKED, max_new_tokens=12)
    alone = [
        answer(
            made.model,
            made.processor,
            audio[i : i + 1, :n],
            lengths[i : i + 1],
            [ASKED[i]],
            max_new_tokens=12,
        )[0]
        for i, n in enumerate(LENGTHS)
    ]
    assert together == alone
    assert len({text for text, _ in together}) == 3


def test_generation_equals_argmax_of_the_whole_sequence(made: Made) -> None:
    """The cache, the left padding and the single entry of the audio do not change what is most likely next."""
    clips = [
        row[:n].numpy() for row, n in zip(tiny.ragged_audio(*LENGTHS)[0], LENGTHS, strict=True)
    ]
    batch = dict(made.processor([made.processor.prompt(a, 1) for a in ASKED], audio=clips))
    width = batch["input_ids"].shape[1]
    out = made.model.generate(
        **batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, eos_token_id=[]
    )
    full = batch | {"input_ids": out, "attention_mask": torch.ones_like(out)}
    full["attention_mask"][:, :width] = batch["attention_mask"]
    again = logits(made.model, full)[:, width - 1 : -1].argmax(-1)
    assert torch.equal(again, out[:, width:])


def test_beams_and_the_last_logits(made: Made) -> None:
    """What generation does to its inputs, rows repeated and only the last scores kept, changes no score."""
    clips = [
        row[:n].numpy() for row, n in zip(tiny.ragged_audio(*LENGTHS)[0], LENGTHS, strict=True)
    ]
    batch = dict(made.processor([made.processor.prompt(a, 1) for a in ASKED], audio=clips))
    with torch.no_grad():
        last = made.model(**batch, logits_to_keep=1).logits
    torch.testing.assert_close(last, logits(made.model, batch)[:, -1:])
    options = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "length_penalty": 0.0}
    together = made.model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for i, (clip, asked) in enumerate(zip(clips, ASKED, strict=True)):
        one = dict(made.processor(made.processor.prompt(asked, 1), audio=[clip]))
        alone = made.model.generate(**one, **options)[:, one["input_ids"].shape[1] :]
        n = alone.shape[1]
        assert torch.equal(together[i, :n], alone[0])


def test_stopped_says_whether_the_answer_ended_by_itself(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos = made.processor.tokenizer.eos_token_id
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    said = [[100, 101, eos, 102], [100, 101, 102, 103], [eos, 1, 1, 1]]
    given = [iter(row) for row in said]
    order: list[int] = []

    def forward(_: Any, some: list[tuple[Any, torch.Tensor]], *, packed: bool) -> torch.Tensor:
        """Scores of the next token of each row, whose memory says which it is."""
        order.extend(id(memory) for memory, _ in some if id(memory) not in order)
        scores = torch.zeros(len(some), 200)
        for place, (memory, _) in enumerate(some):
            scores[place, next(given[order.index(id(memory))])] = 1
        return scores

    monkeypatch.setattr("thaitool.models.rows.forward", forward)
    monkeypatch.setattr("thaitool.models.rows.can_pack", lambda _: True)
    found = answer(made.model, made.processor, audio, lengths, ASKED, max_new_tokens=4)
    assert [stopped for _, stopped in found] == [True, False, True]
    assert found[2][0] == ""
    assert found[1][0].startswith(found[0][0])


def test_loss_is_the_mean_over_supervised_tokens(made: Made) -> None:
    batch = training_batch(made.processor)
    scores = logits(made.model, batch)[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(scores, batch["labels"][:, 1:].flatten())
    with torch.no_grad():
        assert float(made.model(**batch).loss) == pytest.approx(float(expected), rel=1e-5)
        n = int((batch["labels"][:, 1:] != IGNORED).sum())
        summed = made.model(**batch, num_items_in_batch=1).loss
    assert float(summed) == pytest.approx(n * float(expected), rel=1e-5)


def test_loss_depends_on_the_audio_and_not_on_its_padding(made: Made) -> None:
    batch = training_batch(made.processor)
    with torch.no_grad():
        loss = float(made.model(**batch).loss)
        other = batch | {"input_values": tiny.ragged_audio(*LENGTHS, seed=1)[0]}
        longer = torch.nn.functional.pad(batch["input_values"], (0, 3_000))
        assert abs(float(made.model(**other).loss) - loss) > 1e-3
        padded = float(made.model(**(batch | {"input_values": longer})).loss)
    assert padded == pytest.approx(loss, rel=1e-5)
    torch.autograd.backward(made.model(**batch).loss)
    for part in (made.model.audio_tower, made.model.multi_modal_projector):
        assert any(p.grad is not None and bool(p.grad.abs().sum()) for p in part.parameters())


def test_nothing_supervised_is_an_error(made: Made) -> None:
    batch = training_batch(made.processor)
    batch["labels"][:] = IGNORED
    with pytest.raises(InputError, match="at least one token"):
        made.model(**batch)


def test_checkpoint_round_trip(made: Made, tmp_path: Path) -> None:
    made.model.multi_modal_projector.speech_mean.normal_()
    made.model.multi_modal_projector.gain.fill_(1.7)
    path = save(made, tmp_path / "checkpoint")
    again, processor = load_speech_lm(path)
    batch = training_batch(made.processor)
    assert torch.equal(logits(again, batch), logits(made.model, batch))
    mine, other = made.processor.tokens(ASKED, LENGTHS), processor.tokens(ASKED, LENGTHS)
    assert torch.equal(mine.input_ids, other.input_ids)


def test_checkpoint_refuses_another_llm(made: Made, tmp_path: Path) -> None:
    path = save(made, tmp_path / "checkpoint")
    moved = made.llm.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="which is not there any more; say where by --llm"):
        load_speech_lm(path)
    again, _ = load_speech_lm(path, llm=moved)
    batch = training_batch(made.processor)
    assert torch.equal(logits(again, batch), logits(made.model, batch))
    tiny.llm_directory(made.llm, seed=1)
    with pytest.raises(InputError, match=r"trained with the LLM of sha256 \w{12}, .* has \w{12}"):
        load_speech_lm(path)


def test_checkpoint_refuses_another_chat_template(made: Made, tmp_path: Path) -> None:
    path = save(made, tmp_path / "checkpoint")
    for file in (*path.glob("*.jinja"), path / "tokenizer_config.json"):
        text = file.read_text("utf-8").replace("<|user|>", "<|user|> ")
        file.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"processor of .*\n  - chat_template: trained with"):
        load_speech_lm(path)


@pytest.mark.parametrize("missing", ["base.json", "front_end.safetensors"])
def test_a_directory_that_is_no_model_is_named(made: Made, tmp_path: Path, missing: str) -> None:
    path = save(made, tmp_path / "checkpoint")
    (path / missing).unlink()
    with pytest.raises(InputError, match="must be a model made by `thaitool align` or `finetune`"):
        load_speech_lm(path)


def test_adapter_sits_on_the_llm_only_and_comes_back(made: Made, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    batch = training_batch(made.processor)
    plain = logits(made.model, batch)
    lora = LoraConfig(r=4, target_modules=r".*(q|k|v|o|gate|up|down)_proj$", task_type="CAUSAL_LM")
    made.model.language_model = get_peft_model(made.model.language_model, lora)
    adapted = [n for n, _ in made.model.named_parameters() if "lora_" in n]
    assert adapted
    assert all(n.startswith("language_model.") for n in adapted)
    torch.manual_seed(0)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = logits(made.model, batch)
    assert not torch.allclose(expected, plain)
    # Training computes the loss through another path than generation; the adapter must act in both.
    scores = expected[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(scores, batch["labels"][:, 1:].flatten())
    with torch.no_grad():
        assert float(made.model(**batch).loss) == pytest.approx(float(loss), rel=1e-5)
    path = save(made, tmp_path / "checkpoint", made.model.language_model)
    again, _ = load_speech_lm(path)
    assert torch.equal(logits(again, batch), expected)
