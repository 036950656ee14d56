"""Tasks from YAML and from a model directory; contexts and their one wording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lists import write
from thaitool.errors import ConfigError, InputError
from thaitool.records import TASKS
from thaitool.text.context import (
    Context,
    context_of,
    context_text,
    parse_context,
    with_context,
)
from thaitool.text.prompts import PROMPTS
from thaitool.text.tasks import (
    BUILT_IN,
    TASKS_FILE,
    TaskSpec,
    instruction,
    load_tasks,
    require_tasks,
    task_of,
    tasks_of,
    write_tasks,
)

if TYPE_CHECKING:
    from pathlib import Path

MOOD = """\
mood:
  metric: ic
  labels: [โกรธ, เฉย ๆ, ดีใจ]
  prompts:
    - ผู้พูดรู้สึกอย่างไร ตอบคำเดียว
    - How does the speaker feel? Answer with one word.
keywords:
  metric: qa
  answer: json
  prompts: คำสำคัญในเสียงนี้คืออะไร ตอบเป็น JSON
asr:
  prompts: [ถอดเสียงให้หน่อย]
"""


def test_built_in_tasks_are_asked_as_before_and_in_two_languages() -> None:
    assert list(BUILT_IN) == list(TASKS)
    everything = [prompt for spec in BUILT_IN.values() for prompt in spec.prompts]
    assert len(set(everything)) == len(everything)
    for name, spec in BUILT_IN.items():
        assert instruction(spec, draw=None) == PROMPTS[name]
        assert {instruction(spec, draw=k) for k in range(100)} == set(spec.prompts)
        in_latin = [prompt.isascii() for prompt in spec.prompts]
        assert sorted(in_latin) == [False] * 3 + [True] * 2


def test_tasks_of_a_file_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    found = load_tasks(write(tmp_path / "tasks.yaml", MOOD))
    assert list(found) == [*TASKS, "mood", "keywords"]
    mood = found["mood"]
    assert (mood.answer, mood.metric, mood.labels) == ("label", "ic", ("โกรธ", "เฉย ๆ", "ดีใจ"))
    assert instruction(mood, draw=None) == "ผู้พูดรู้สึกอย่างไร ตอบคำเดียว"
    assert instruction(mood, draw=7) == "How does the speaker feel? Answer with one word."
    assert found["keywords"].prompts == ("คำสำคัญในเสียงนี้คืออะไร ตอบเป็น JSON",)
    assert found["asr"].prompts == (*BUILT_IN["asr"].prompts, "ถอดเสียงให้หน่อย")
    assert found["ner"] == BUILT_IN["ner"]
    # A model that is trained further keeps its own tasks.
    more = load_tasks(write(tmp_path / "more.yaml", "x: {metric: sr, prompts: [ก]}"), found)
    assert (more["mood"], more["asr"], more["x"].answer) == (mood, found["asr"], "text")


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.yaml",
        "Mood: {metric: ic, prompts: [ก]}",
        "slu: {metric: asr, prompts: [ก]}",
        "ic: {metric: ner, prompts: [ก]}",
        "a: {metric: bleu, prompts: []}",
        "b: {metric: ner, answer: text, prompts: [ก, ก], wieght: 2}",
        "c: {metric: asr, labels: [x, y], prompts: [1]}",
        "d: just text",
        "e: {metric: ic, metric: qa, prompts: [ก]}",
        "e: {metric: ic, labels: [one], prompts: [ก]}",
    )
    with pytest.raises(ConfigError) as caught:
        load_tasks(path)
    message = str(caught.value)
    for line, said in (
        (1, "small letters"),
        (2, "other than slu"),
        (3, "'metric' belongs to a built-in task"),
        (4, "metric must be the task that it is scored like"),
        (4, "prompts must be 1 at least"),
        (5, "'wieght' is unknown"),
        (5, "'ก' is there twice"),
        (5, "answer must be json with metric ner, but is 'text'"),
        (6, "labels are for metric ic"),
        (6, "prompts must be texts that are not blank"),
        (7, "must be a mapping"),
        (8, "has 'metric' twice"),
        (9, "labels must be 2 at least"),
        (9, "task 'e' is there twice"),
    ):
        assert any(f":{line}:" in found and said in found for found in message.split("\n")), said


@pytest.mark.parametrize("text", ["", "- a", "a: [", "just text"])
def test_what_is_no_file_of_tasks_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"t\.yaml must"):
        load_tasks(write(tmp_path / "t.yaml", text))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tasks(tmp_path / "none.yaml")


def test_a_model_directory_keeps_its_tasks_and_notices_changes(tmp_path: Path) -> None:
    assert tasks_of(tmp_path) == BUILT_IN
    require_tasks(tmp_path, None)
    tasks = load_tasks(write(tmp_path / "tasks.yaml", MOOD))
    sha256 = write_tasks(tmp_path, tasks)
    assert tasks_of(tmp_path) == tasks
    require_tasks(tmp_path, sha256)
    kept = tmp_path / TASKS_FILE
    rows = json.loads(kept.read_text("utf-8"))
    rows[-1]["prompts"] = ["อื่น"]
    kept.write_text(json.dumps(rows), "utf-8")
    with pytest.raises(InputError, match="is missing or changed"):
        require_tasks(tmp_path, sha256)
    for damaged in ("{", "[1]", '[{"name": "x"}]', json.dumps([rows[0] | {"prompts": []}])):
        kept.write_text(damaged, "utf-8")
        with pytest.raises(InputError, match="is damaged"):
            tasks_of(tmp_path)
    kept.unlink()
    with pytest.raises(InputError, match="is missing or changed"):
        require_tasks(tmp_path, sha256)


def test_an_unknown_task_names_the_known_ones() -> None:
    tasks = {**BUILT_IN, "mood": TaskSpec("mood", ("ก",), "label", "ic")}
    assert task_of("mood", tasks).metric == "ic"
    with pytest.raises(InputError, match="asr, ic, ner, sr, qa, mood, but is 'moods'"):
        task_of("moods", tasks)


def test_a_context_stands_before_the_instruction_one_field_a_line() -> None:
    context = Context(("สมชาย", " กรุง\nเทพ "), "ธนาคาร\r\nสาขาสยาม", ("สวัสดี", "ครับ"), "สม ชาย")
    assert with_context("ถาม", context).split("\n") == [
        "สถานการณ์: ธนาคาร สาขาสยาม",
        "คำที่อาจได้ยิน: สมชาย, กรุง เทพ",
        "บทสนทนาก่อนหน้า:",
        "- สวัสดี",
        "- ครับ",
        "ร่างถอดเสียง: สม ชาย",
        "ถาม",
    ]
    for empty in (None, Context(), Context(("",), " ", ("\n",))):
        assert with_context("ถาม", empty) == "ถาม"


TEXT = st.text(max_size=8)
WORDS = st.lists(TEXT, max_size=3).map(tuple)


@given(WORDS, TEXT, WORDS, TEXT)
def test_a_context_survives_its_text_and_no_field_can_begin_another(
    hotwords: tuple[str, ...], scene: str, history: tuple[str, ...], draft: str
) -> None:
    context = Context(hotwords, scene, history, draft)
    text = context_text(context)
    assert (text is None) == (not context)
    assert parse_context(text) == context
    lines = with_context("ถาม", context).splitlines()
    turns = sum(bool(turn.split()) for turn in history)
    fields = (scene.split(), draft.split(), [w for w in hotwords if w.split()])
    assert len(lines) == 1 + sum(map(bool, fields)) + (turns + 1 if turns else 0)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"hotword": []}', '{"hotwords": "ก"}', '{"scene": 1}', '{"history": [1]}']
)
def test_what_is_no_context_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"context must be|of a context"):
        parse_context(text)
    assert context_of({"hotwords": ["ก"]}) == Context(("ก",))
