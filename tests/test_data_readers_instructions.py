"""Lists of speech LLM tools: what a row asks, answers and knows beforehand, and which rows are set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.lists import objects, split_up, write_sounds
from thaitool.data import formats
from thaitool.data.formats import read, recognise
from thaitool.data.manifest import open_manifest, write_manifest
from thaitool.data.readers import keyed
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.records import Utterance
from thaitool.text.context import Context, parse_context

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tone


@pytest.fixture
def audio(tmp_path: Path, tone: Tone) -> Path:
    """See `write_sounds`."""
    return write_sounds(tmp_path / "audio", tone)


def chat(user: Any, answer: str = "ตอบ", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "audios": ["audio/a.wav"]} | more


def test_slam(audio: Path, tmp_path: Path) -> None:
    path = objects(
        tmp_path / "t.jsonl",
        {"key": "k1", "source": "audio/a.wav", "target": "ข้อความ"},
        {"key": "k2", "source": str(audio / "b.flac"), "target": "สั้น", "prompt": "ทำให้สั้น"},
        {"source": "audio/s.wav", "target": "", "prompt": ""},
        {"key": "k4", "source": "x.ark:12", "target": "ก"},
        {"key": "k5", "source": "gone.wav", "target": "ก"},
    )
    assert recognise(path) == keyed.SLAM
    utterances, rejected = split_up(path)
    assert [(u.id, u.audio.path, u.text, u.label, u.prompt) for u in utterances] == [
        ("k1", str(audio / "a.wav"), "ข้อความ", None, None),
        ("k2", str(audio / "b.flac"), None, "สั้น", "ทำให้สั้น"),
        ("audio/s.wav", str(audio / "s.wav"), "", None, None),
    ]
    assert rejected == [(f"{path}:4", "archive"), (f"{path}:5", "missing")]


def test_multitask_lists_name_the_task(audio: Path, tmp_path: Path) -> None:
    path = objects(
        tmp_path / "multitask.jsonl",
        {"key": "k1", "task": "ASR", "path": "audio/a.wav", "target": "ข้อความ"},
        {"key": "k2", "task": "SLU_scenario", "path": "audio/a.wav", "target": "เพลง"},
    )
    assert recognise(path) == keyed.MULTITASK
    assert [(u.id, u.task, u.text, u.label) for u in split_up(path)[0]] == [
        ("k1", "asr", "ข้อความ", None),
        ("k2", "slu_scenario", None, "เพลง"),
    ]


def test_wenet_lists_whole_recordings_and_stretches(audio: Path, tmp_path: Path) -> None:
    path = objects(
        tmp_path / "data.list",
        {"key": "k1", "wav": "audio/a.wav", "txt": "ก", "speaker": "p"},
        {"wav": "audio/b.flac", "txt": "ข", "start": 0.5, "end": 1.25},
        {"wav": "audio/b.flac", "txt": "ค", "end": None},
    )
    assert recognise(path) == keyed.WENET
    manifest, rejected = scan([path])
    rows = [manifest[k] for k in range(len(manifest))]
    assert [(u.id, u.text, u.speaker, u.start_s, u.end_s, u.duration_s) for u in rows] == [
        ("k1", "ก", "p", 0.0, None, 1.0),
        ("audio/b.flac@500-1250", "ข", None, 0.5, 1.25, 0.75),
        ("audio/b.flac", "ค", None, 0.0, None, 2.0),
    ]
    assert not rejected
    assert {u.source_id for u in rows[1:]} == {"audio/b.flac"}


def test_qwen_asr_says_language_and_context(audio: Path, tmp_path: Path) -> None:
    path = objects(
        tmp_path / "q.jsonl",
        {"audio": "audio/a.wav", "text": "language Thai<asr_text>สวัสดี <asr_text>"},
        {"audio": "audio/b.flac", "text": "language None<asr_text>ครับ", "prompt": "โทรศัพท์"},
        {"audio": "audio/s.wav", "text": "no language"},
    )
    assert recognise(path) == keyed.QWEN_ASR
    utterances, _ = split_up(path)
    assert [(u.text, u.label, u.prompt) for u in utterances] == [
        ("สวัสดี <asr_text>", None, None),
        ("ครับ", None, None),
        ("no language", None, None),
    ]
    known = [parse_context(u.context) for u in utterances]
    assert known == [Context(), Context(scene="โทรศัพท์"), Context()]


def test_chats_of_one_question_about_one_recording(audio: Path, tmp_path: Path) -> None:
    said = {"from": "human", "value": "<audio>\nถาม"}
    parts = [{"type": "audio", "audio": "audio/s.wav"}, {"type": "text", "text": "เสียงอะไร"}]
    with_system = chat("ฟัง <audio> แล้วตอบ", id=7, task="QA")
    with_system["messages"].insert(0, {"role": "system", "content": "ร้านกาแฟ"})
    path = objects(
        tmp_path / "chats.jsonl",
        chat("<audio>ถอดเสียง"),
        with_system,
        {"conversations": [said, {"from": "gpt", "value": "ข"}], "audios": "audio/b.flac"},
        {"messages": chat(parts)["messages"]},
        chat("<audio>", "ค", system="บ้าน"),
    )
    assert recognise(path) == formats.MESSAGES
    utterances, rejected = split_up(path)
    assert not rejected
    assert [(u.id, u.prompt, u.label, u.task) for u in utterances] == [
        ("chats:1", "ถอดเสียง", "ตอบ", None),
        ("7", "ฟัง  แล้วตอบ", "ตอบ", "qa"),
        ("chats:3", "ถาม", "ข", None),
        ("chats:4", "เสียงอะไร", "ตอบ", None),
        ("chats:5", None, "ค", None),
    ]
    scenes = [parse_context(u.context).scene for u in utterances]
    assert scenes == ["", "ร้านกาแฟ", "", "", "บ้าน"]
    names = ("a.wav", "a.wav", "b.flac", "s.wav", "a.wav")
    assert [u.audio.path for u in utterances] == [str(audio / name) for name in names]
    assert all(u.text is None for u in utterances)


def test_chats_of_another_shape_are_set_aside_and_counted(audio: Path, tmp_path: Path) -> None:
    long = chat("<audio>ก")
    long["messages"] += chat("อีก")["messages"]
    tool = chat("<audio>ก")
    tool["messages"].insert(1, {"role": "tool", "content": "{}"})
    path = objects(
        tmp_path / "c.jsonl",
        chat("<audio>ก"),
        long,
        tool,
        chat("ก", audios=[]),
        {"messages": chat("ก")["messages"]},
        chat("<audio><audio>ก", audios=["audio/a.wav", "audio/b.flac"]),
        chat("<audio><audio>ก"),
    )
    utterances, rejected = split_up(path)
    assert [u.id for u in utterances] == ["c:1"]
    assert [reason for _, reason in rejected] == [
        "several_turns",
        "several_turns",
        "no_audio",
        "no_audio",
        "several_audios",
        "several_audios",
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"source": 1, "target": "ก"}, "source must be a path, but is '1'"),
        ({"source": "a", "target": ["ก"]}, "target must be text"),
        ({"wav": "a", "txt": "ก", "start": -1}, "start and a later end must be seconds"),
        ({"wav": "a", "txt": "ก", "start": 2, "end": 1}, "start and a later end must be seconds"),
        ({"wav": "a", "txt": "ก", "end": "1"}, "start and a later end must be seconds"),
        ({"messages": "ก"}, "messages must be a list of turns"),
        ({"messages": [{"content": "ก"}]}, "a turn must have a role"),
        ({"messages": [{"role": "user", "content": 1}]}, "content of a turn must be text"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "content of a turn must be text"),
        ({"messages": [], "audios": [1]}, "audios must be a list of paths"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = objects(tmp_path / "t.jsonl", row)
    with pytest.raises(InputError, match="1 line is not: line 1: ") as caught:
        split_up(path)
    assert said in str(caught.value)


def test_every_line_must_have_its_answer(audio: Path, tmp_path: Path) -> None:
    listed = ({"wav": "audio/a.wav", "txt": "ก"}, {"wav": "audio/b.flac", "text": "ข"})
    chats = (chat("<audio>ก"), {"audios": ["audio/a.wav"]})
    for rows, said in ((listed, "txt must be there"), (chats, "messages must be there")):
        with pytest.raises(InputError, match=f"1 line is not: line 2: {said}, but"):
            split_up(objects(tmp_path / "t.jsonl", *rows))


def test_a_list_whose_paths_lead_nowhere_says_so(tmp_path: Path) -> None:
    for row in ({"wav": "gone.wav", "txt": "ก"}, chat("<audio>ก")):
        with pytest.raises(InputError, match="none of its 1 exists"):
            split_up(objects(tmp_path / "t.jsonl", row))


def test_a_prefix_goes_before_names_that_are_paths_only(audio: Path, tmp_path: Path) -> None:
    rows = {
        "w.jsonl": {"wav": "audio/a.wav", "txt": "ก"},
        "k.jsonl": {"key": "k", "wav": "audio/a.wav", "txt": "ก"},
        "m.jsonl": chat("<audio>ก"),
        "i.jsonl": chat("<audio>ก", id="i"),
    }
    lists = [objects(tmp_path / name, row) for name, row in rows.items()]
    found = [u.id for path in lists for u in read(path, prefix="x/") if isinstance(u, Utterance)]
    assert found == ["x/audio/a.wav", "k", "x/m:1", "i"]


def test_prompts_and_contexts_survive_a_manifest(audio: Path, tmp_path: Path) -> None:
    path = objects(tmp_path / "m.jsonl", chat("<audio>ก", system="บ้าน"), chat("<audio>ข"))
    manifest, _ = scan([path])
    write_manifest(manifest, tmp_path / "m.arrow")
    again, _ = scan([tmp_path / "m.arrow"])
    assert [again[k] for k in range(2)] == [manifest[k] for k in range(2)]
    assert [again[k].prompt for k in range(2)] == ["ก", "ข"]
    assert [parse_context(again[k].context).scene for k in range(2)] == ["บ้าน", ""]
    assert open_manifest(tmp_path / "m.arrow").digest() == manifest.digest()
