"""What rows are asked and should answer, which rows can be asked, and how hotword lists are drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from thaitool.data.manifest import Manifest, from_utterances
from thaitool.errors import InputError
from thaitool.models.chat_template import AUDIO_TOKEN
from thaitool.records import AudioRef, Utterance
from thaitool.text.context import Context, context_text, with_context
from thaitool.text.normalize import compact
from thaitool.text.prompts import PROMPTS
from thaitool.text.tasks import BUILT_IN, TaskSpec
from thaitool.training.examples import askable, asked, task_rows
from thaitool.training.hotwords import (
    HotwordDraws,
    drawn_context,
    hotword_pool,
    listed_context,
)

TASKS = {**BUILT_IN, "mood": TaskSpec("mood", ("ก", "ข"), "label", "ic", ("ดี", "ร้าย"))}
NAMES = ("สมชาย", "กรุงเทพ", "ปตท", "สมศรี", "ภูเก็ต", "เชียงใหม่", "มานี", "ขอนแก่น")


def row(name: str, task: str | None = "asr", **fields: str | None) -> Utterance:
    return Utterance(name, AudioRef(f"/{name}.wav"), 1.0, 16_000, task=task, **fields)  # type: ignore[arg-type]


def named(place: int) -> list[Utterance]:
    """An NER row, and a transcription of the same words."""
    text = f"ไปหา{NAMES[place]}กัน"
    label = json.dumps({"บุคคล": [NAMES[place]]}, ensure_ascii=False)
    return [row(f"n{place}", "ner", text=text, label=label), row(f"a{place}", text=text)]


ROWS = from_utterances([u for place in range(len(NAMES)) for u in named(place)])
POOL = hotword_pool(ROWS)


def all_of(manifest: Manifest) -> list[Utterance]:
    return [manifest[k] for k in range(len(manifest))]


def test_evaluation_asks_by_the_first_prompt_with_the_rows_own_context() -> None:
    context = Context(("สมชาย",), history=("สวัสดี",))
    rows = [
        row("a", None, text="ข้อความ"),
        row("b", "ic", text="t", label="เปิดไฟ"),
        row("c", "asr", text="ไม่ใช่", label="ใช่"),
        row("d", "sr", text="พูด", label="เขียน", prompt="ทำให้สั้น"),
        row("e", "mood", label="ดี", context=context_text(context)),
    ]
    instructions, answers = asked(rows, TASKS, seed=None)
    assert instructions == [
        PROMPTS["asr"],
        PROMPTS["ic"],
        PROMPTS["asr"],
        "ทำให้สั้น",
        with_context("ก", context),
    ]
    assert answers == ["ข้อความ", "เปิดไฟ", "ใช่", "เขียน", "ดี"]
    with pytest.raises(InputError, match="but is 'emotion'"):
        asked([row("f", "emotion")], TASKS, seed=None)


def test_paraphrases_depend_on_seed_and_row_alone() -> None:
    rows = [row(f"u{k}", "ic", label="ก") for k in range(400)]
    together = asked(rows, TASKS, seed=3)[0]
    alone = [asked([r], TASKS, seed=3)[0][0] for r in reversed(rows)]
    assert together == alone[::-1]
    assert together != asked(rows, TASKS, seed=4)[0]
    counts = [together.count(prompt) for prompt in BUILT_IN["ic"].prompts]
    assert sum(counts) == 400
    assert min(counts) > 50  # 80 expected of each, deviation 8
    # Pinned, as Python's own hash of a text would be another in every process.
    assert [BUILT_IN["ic"].prompts.index(prompt) for prompt in together[:12]] == [
        3,
        3,
        1,
        0,
        4,
        3,
        2,
        4,
        1,
        3,
        3,
        3,
    ]


def test_rows_that_cannot_be_learned_from_are_set_aside_with_a_reason() -> None:
    rows = [
        row("good", text="ก"),
        row("unlabelled", "ic", text="ก"),
        row("blank", "sr", text="ก", label=" \n"),
        row("silent", text=None),
        row("asks", text="ก", prompt=f"ฟัง {AUDIO_TOKEN}"),
        row("knows", text="ก", context=context_text(Context(scene=AUDIO_TOKEN))),
        row("says", text=f"ก{AUDIO_TOKEN}"),
        row("broken", text="ก", context="{"),
        row("also good", None, text="ข", label=None, context='{"scene": "ร้าน"}'),
    ]
    manifest = from_utterances(rows)
    kept, rejected = askable(manifest, TASKS)
    assert [u.id for u in all_of(kept)] == ["good", "also good"]
    assert [(r.item, r.reason) for r in rejected] == [
        ("/unlabelled.wav", "no_answer"),
        ("/blank.wav", "no_answer"),
        ("/silent.wav", "no_answer"),
        ("/asks.wav", "placeholder"),
        ("/knows.wav", "placeholder"),
        ("/says.wav", "placeholder"),
        ("/broken.wav", "bad_context"),
    ]
    # A selection is judged by its own rows.
    part = manifest.select([u.id in {"silent", "good"} for u in rows])
    again, told = askable(part, TASKS)
    assert ([u.id for u in all_of(again)], [r.item for r in told]) == (["good"], ["/silent.wav"])
    with pytest.raises(InputError, match=r"none of 1 can be learned from; the first: /silent\.wav"):
        askable(manifest.select([u.id == "silent" for u in rows]), TASKS)
    with pytest.raises(InputError, match="but is 'mood'"):
        askable(from_utterances([row("m", "mood", label="ดี")]), BUILT_IN)


def test_rows_of_tasks_are_chosen_by_name() -> None:
    manifest = from_utterances([row("a", None), row("b", "ic"), row("c", "mood"), row("d")])
    assert [u.id for u in all_of(task_rows(manifest, ["asr", "mood"]))] == ["a", "c", "d"]


def test_a_pool_knows_what_is_said_in_rows_without_entity_labels() -> None:
    assert POOL.words == tuple(sorted(NAMES))
    for u in all_of(ROWS):
        assert POOL.of(u) == (NAMES[int(u.id[1:])],)
    listed = row("x", text="พบ มา นี", context=context_text(Context(("มานี", "สมชาย"))))
    assert POOL.of(listed) == ("มานี",)
    unknown = replace(listed, text=None)
    assert POOL.of(unknown) == ("มานี", "สมชาย")
    pool = hotword_pool(from_utterances([listed, row("y", "ner", text="t", label="no names")]))
    assert pool.words == ("มานี", "สมชาย")
    # Who cannot be asked is set aside by `askable`, and stops nothing here.
    broken = from_utterances([listed, row("z", text="ก", context="{")])
    assert hotword_pool(broken).words == ("มานี", "สมชาย")


def test_lists_have_the_drawn_size_share_and_words() -> None:
    draws = HotwordDraws(POOL, share=0.5, most=5, only_others=0.25)
    rng = np.random.default_rng(0)
    rows = all_of(ROWS)
    found = [(u, drawn_context(u, draws, rng).hotwords) for _ in range(250) for u in rows]
    lists = [(u, words) for u, words in found if words]
    assert abs(len(lists) / len(found) - 0.5) < 0.03  # 4,000 draws, deviation 0.008
    sizes = [len(words) for _, words in lists]
    assert set(sizes) == {1, 2, 3, 4, 5}
    assert abs(np.mean(sizes) - 3) < 0.15
    holding = [POOL.of(u)[0] in words for u, words in lists]
    assert abs(np.mean(holding) - 0.75) < 0.04
    for u, words in lists:
        others = set(words) - set(POOL.of(u))
        assert len(set(words)) == len(words)
        assert not any(compact(word) in compact(u.text or "") for word in others)
    # What is said stands anywhere in its list.
    places = {words.index(POOL.of(u)[0]) for u, words in lists if POOL.of(u)[0] in words}
    assert places == {0, 1, 2, 3, 4}


def test_a_list_to_measure_by_holds_all_that_is_said_and_as_many_as_asked() -> None:
    rng = np.random.default_rng(0)
    for u in all_of(ROWS):
        words = listed_context(u, POOL, 6, rng).hotwords
        assert len(words) == 6
        assert POOL.of(u)[0] in words
    few = listed_context(ROWS[0], POOL, 100, rng).hotwords
    assert set(few) == set(NAMES)  # the pool has no more


def test_training_draws_lists_and_keeps_the_other_fields() -> None:
    known = Context(("ไม่อยู่",), "ร้านค้า", ("สวัสดี",), "ไปหา")
    u = replace(ROWS[1], context=context_text(known))
    draws = HotwordDraws(POOL, share=1.0, most=3)
    drawn = asked([u], TASKS, seed=1, contexts=draws)[0][0]
    assert drawn == asked([ROWS[0], u], TASKS, seed=1, contexts=draws)[0][1]
    assert "ร้านค้า" in drawn
    assert "- สวัสดี" in drawn
    assert "ไม่อยู่" not in drawn
    assert len({asked([u], TASKS, seed=k, contexts=draws)[0][0] for k in range(20)}) > 10
    none = asked([u], TASKS, seed=1, contexts=replace(draws, share=0.0))[0][0]
    assert "คำที่อาจได้ยิน" not in none
