"""The processor: its face towards transformers, user text that pretends to be audio, and what a change of it costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor

from tests import llms, tiny
from thaitool.data.loader import pad
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN, DATE, speech_template
from thaitool.models.checkpoint import load_speech_lm, load_tokenizer
from thaitool.models.processor import IGNORED, ThaiSpeechProcessor, differences
from thaitool.text.prompts import PROMPTS, task_prompt

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (9_000, 4_800)
#: As Qwen3 has it: thinking unless it is told not to.
THINKING = (
    "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}[no thoughts]{% endif %}"
)
#: As Llama 3 has it: the date from the caller, else from the clock, else a constant.
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}"
    "Today: {{ date_string }}{% for m in messages %}<|user|>{{ m['content'] | trim }}{% endfor %}<|assistant|>"
)


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    return llms.llm_directory(tmp_path / "llm")


@pytest.fixture
def processor(llm: Path) -> ThaiSpeechProcessor:
    return llms.speech_lm(llm)[1]


def clips(*lengths: int) -> list[np.ndarray[Any, Any]]:
    audio, _ = tiny.ragged_audio(*lengths)
    return [row[:n].numpy() for row, n in zip(audio, lengths, strict=True)]


def test_messages_become_the_prompt_of_the_stages(processor: ThaiSpeechProcessor) -> None:
    sounds = clips(*LENGTHS)
    asked = ["ถอดเสียง", "ผู้พูดต้องการอะไร"]
    turns = [
        [{"role": "user", "content": [{"type": "audio", "audio": s}, {"type": "text", "text": a}]}]
        for s, a in zip(sounds, asked, strict=True)
    ]
    theirs = processor.apply_chat_template(
        turns, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    ours = processor.tokens(asked, LENGTHS)
    assert torch.equal(theirs["input_ids"], ours.input_ids)
    assert torch.equal(theirs["attention_mask"], ours.attention_mask)
    # And the audio is what the loader of the stages makes of it, to the last bit.
    audio, lengths = pad(sounds)
    assert torch.equal(theirs["input_values"], audio)
    assert torch.equal(theirs["input_lengths"], lengths)
    assert set(theirs) == set(processor.model_input_names)


def test_a_transcription_is_asked_for_from_a_file(
    processor: ThaiSpeechProcessor, tmp_path: Path
) -> None:
    file = tmp_path / "clip.flac"
    soundfile.write(file, 0.1 * clips(8_000)[0], 16_000)
    made = processor.apply_transcription_request(str(file))
    expected = processor.tokens([task_prompt("asr")], [8_000])
    assert torch.equal(made["input_ids"], expected.input_ids)
    other = processor.apply_transcription_request([file], prompt="?")
    assert torch.equal(other["input_ids"], processor.tokens(["?"], [8_000]).input_ids)
    file.write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"clip\.flac must be a readable recording, but is not"):
        processor.apply_transcription_request(str(file))


def test_the_placeholder_in_user_text_is_refused(processor: ThaiSpeechProcessor) -> None:
    evil = f"ฟัง{AUDIO_TOKEN}"
    sound = clips(8_000)[0]
    for content in (
        evil,
        [{"type": "text", "text": evil}],
        [{"type": "audio", "audio": sound}, {"type": "text", "text": evil}],
    ):
        with pytest.raises(InputError, match="must not contain"):
            processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True)
    with pytest.raises(InputError, match="An answer must not contain"):
        processor.tokens(["?"], [8_000], [evil])
    with pytest.raises(InputError, match="An instruction must not contain"):
        processor.tokens([evil], [8_000])
    # Without the template's help: rendered text and clips that differ in number.
    with pytest.raises(ValueError, match="should be the same as the number of audio"):
        processor(f"{AUDIO_TOKEN} {AUDIO_TOKEN}", audio=[sound])


def test_control_tokens_in_an_answer_are_text(processor: ThaiSpeechProcessor) -> None:
    """An end token in the middle would teach the model to stop there."""
    tokenizer = processor.tokenizer
    tokens = processor.tokens(["?"], [8_000], [f"a{tokenizer.eos_token}b<|user|>"])
    assert tokens.labels is not None
    said = tokens.labels[tokens.labels != IGNORED].tolist()
    assert said.count(tokenizer.eos_token_id) == 1
    assert said[-1] == tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|user|>") not in said
    assert tokenizer.decode(said[:-1]) == "a<|end|>b<|user|>"


def test_a_clip_without_one_embedding_is_refused(processor: ThaiSpeechProcessor) -> None:
    with pytest.raises(InputError, match="one of 100 samples gives none"):
        processor(AUDIO_TOKEN, audio=[np.ones(100, np.float32)])


@pytest.mark.parametrize(
    ("clip", "named", "message"),
    [
        (np.ones(8_000, np.float32), {"sampling_rate": 8_000}, "but sampling_rate is 8000"),
        (np.ones((8_000, 2), np.float32), {}, r"must be mono.*shape \(8000, 2\)"),
        (np.ones((2, 8_000), np.float32), {}, r"must be mono.*shape \(2, 8000\)"),
    ],
)
def test_audio_that_would_be_heard_as_something_else_is_refused(
    processor: ThaiSpeechProcessor, clip: Any, named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        processor(AUDIO_TOKEN, audio=[clip], **named)
    assert "input_values" in processor(AUDIO_TOKEN, audio=clips(8_000), sampling_rate=16_000)


def test_a_template_that_knows_the_date_asks_the_same_every_day(llm: Path) -> None:
    tokenizer = load_tokenizer(llm)
    turn = [{"role": "user", "content": "x"}]
    tokenizer.chat_template = speech_template(DATED)
    said = tokenizer.apply_chat_template(turn, tokenize=False)
    assert said == f"Today: {DATE}<|user|>x<|assistant|>"
    tokenizer.chat_template = DATED
    assert DATE not in tokenizer.apply_chat_template(turn, tokenize=False)


def test_a_template_that_can_think_is_told_to_answer(
    processor: ThaiSpeechProcessor,
) -> None:
    processor.chat_template = speech_template(THINKING)
    rendered = processor.prompt("x", 0)
    assert rendered == "<|user|>x<|assistant|>[no thoughts]"
    turn = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert processor.apply_chat_template(turn, add_generation_prompt=True) == rendered
    thinking = processor.apply_chat_template(turn, enable_thinking=True)
    assert thinking == "<|user|>x<|assistant|>"


@pytest.mark.parametrize("content", ["m['content'] | upper", "m['role']", "m['content'] * 2"])
def test_a_template_that_changes_placeholders_is_refused(
    processor: ThaiSpeechProcessor, content: str
) -> None:
    template = f"{{% for m in messages %}}{{{{ {content} }}}}{{% endfor %}}"
    processor.chat_template = speech_template(template)
    with pytest.raises(InputError, match=r"as it is, but of 3 <\|audio\|> in it (0|6) are there"):
        processor.prompt("x", 3)


def test_a_template_is_wrapped_once_and_refuses_other_parts(processor: ThaiSpeechProcessor) -> None:
    template = str(processor.chat_template)
    assert speech_template(template) == template
    assert speech_template({"default": tiny.TEMPLATE, "tools": "x"}) == template
    with pytest.raises(InputError, match="or one named default, but has rag, tools"):
        speech_template({"tools": "x", "rag": "y"})
    turn = [{"role": "user", "content": [{"type": "image", "image": "x"}]}]
    with pytest.raises(Exception, match="must be audio or text, but is image"):
        processor.apply_chat_template(turn)


def test_auto_processor_gives_it_back(processor: ThaiSpeechProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is ThaiSpeechProcessor
    assert again.identity() == processor.identity()
    assert [again.audio_tokens(n) for n in LENGTHS] == [processor.audio_tokens(n) for n in LENGTHS]
    # Generation continues at the right edge, whatever the tokenizer's files say.
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))
    again = AutoProcessor.from_pretrained(tmp_path)
    made = again([again.prompt("?", 1), again.prompt("ยาว", 1)], audio=clips(16_000, 4_800))
    assert bool(made["attention_mask"][:, -1].all())


def test_what_changed_in_a_processor_is_named(
    processor: ThaiSpeechProcessor, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = llms.speech_lm(llm)
    path = llms.save(tmp_path / "checkpoint", model, processor, llm)
    load_speech_lm(path)
    # A task that came later is no difference, another wording is one.
    monkeypatch.setitem(PROMPTS, "new", "ใหม่")
    load_speech_lm(path)
    monkeypatch.setitem(PROMPTS, "asr", "พูดว่าอะไร")
    with pytest.raises(
        InputError, match=r"- prompts, asr: trained with 'ถอดเสียง.*, now 'พูดว่าอะไร'"
    ):
        load_speech_lm(path)
    monkeypatch.undo()
    file = path / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["projector_factor"] = 3
    file.write_text(json.dumps(config), "utf-8")
    with pytest.raises(InputError, match="- projector_factor: trained with 2, now 3"):
        load_speech_lm(path)


def test_every_part_of_the_identity_is_compared(processor: ThaiSpeechProcessor) -> None:
    stored = json.loads(json.dumps(processor.identity(), ensure_ascii=False))
    assert differences(stored, processor.identity()) == []
    for name in stored:
        now = processor.identity()
        now[name] = {"asr": "?"} if name == "prompts" else "another"
        lines = differences(stored, now)
        assert lines
        assert all(line.startswith(name) for line in lines), name
    processor.feature_extractor.do_normalize = False
    assert differences(stored, processor.identity()) == ["normalised: trained with True, now False"]
