"""Evaluation of tasks that people define, and with and without what is known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import tiny
from tests.lists import objects, write, write_sounds
from thaitool.config import EvalConfig
from thaitool.config.sections import CompareConfig
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.errors import ConfigError, InputError
from thaitool.models import answerer, drafter
from thaitool.records import AudioRef, Utterance
from thaitool.stages import compare, evaluate
from thaitool.text.prompts import PROMPTS
from thaitool.text.tasks import load_tasks, write_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Tone

TASKS = "mood: {metric: ic, labels: [ดี, ร้าย, เฉย], prompts: [รู้สึกอย่างไร, How is it]}\n"
NAMES = ("สมชาย", "มานี", "ปิติ", "ชูใจ")


class Echo:
    """A model that answers with the question, so that answers show what was asked."""

    normalises = True

    def too_long(self, _: float) -> None:
        return

    def answer(self, *arguments: Any) -> list[tuple[str, bool]]:
        prompts: Sequence[str] = arguments[2]
        return [(prompt, True) for prompt in prompts]


@pytest.fixture
def sounds(tmp_path: Path, tone: Tone) -> Path:
    """See `write_sounds`."""
    return write_sounds(tmp_path / "audio", tone)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model directory that answers as `Echo`."""
    monkeypatch.setattr(answerer, "load_answerer", lambda *_: Echo())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def moods(tmp_path: Path, sounds: Path) -> Path:
    """Three recordings of which one is a mood by label."""
    rows = [("k0", "ดี", "a.wav"), ("k1", "ร้าย", "b.flac"), ("k2", "ดี", "s.wav")]
    return objects(
        tmp_path / "moods.jsonl",
        *({"key": k, "task": "Mood", "path": f"audio/{p}", "target": t} for k, t, p in rows),
    )


@pytest.fixture
def named(tmp_path: Path, sounds: Path) -> Path:
    """A transcription for each of `NAMES`, and the names of each as an NER row of the same words."""
    rows: list[Utterance] = []
    for k, name in enumerate(NAMES):
        row = Utterance(f"a{k}", AudioRef(str(sounds / "a.wav")), 1.0, 16_000, source_id=str(k))
        row = replace(row, text=f"ไปหา{name}กัน", task="asr")
        label = json.dumps({"บุคคล": [name]}, ensure_ascii=False)
        rows += [row, replace(row, id=f"n{k}", task="ner", label=label)]
    write_manifest(from_utterances(rows), tmp_path / "named.arrow")
    return tmp_path / "named.arrow"


def run(data: Path, out: Path, **changes: Any) -> Any:
    """report.json of an evaluation."""
    settings = {"draws": 30, "shuffled": False} | changes
    evaluate.run(tiny.make(EvalConfig, data=data, out=out, **settings))
    return json.loads((out / "report.json").read_text("utf-8"))


def values(task: Any) -> dict[str, float | None]:
    return {score["name"]: score["value"] for score in task["scores"]}


def answers(path: Path, *told: str) -> Path:
    rows = ({"id": f"k{k}", "task": "mood", "text": text} for k, text in enumerate(told))
    return objects(path, *rows)


def texts(file: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return {row["id"]: row["text"] for row in rows}


def test_a_task_of_a_file_is_scored_by_its_metric(moods: Path, tmp_path: Path) -> None:
    tasks = write(tmp_path / "tasks.yaml", TASKS)
    told = answers(tmp_path / "told.jsonl", "ดี", "เฉย", "ไม่รู้")
    report = run(moods, tmp_path / "out", predictions=told, task_file=tasks, task="mood")
    (task,) = report["tasks"]
    found = values(task)
    assert (task["task"], task["count"]) == ("mood", 3)
    assert found["ic_accuracy"] == pytest.approx(1 / 3)
    assert found["ic_invalid_rate"] == pytest.approx(1 / 3)  # เฉย is a label that no row has
    assert report["settings"]["scored as"] == {"mood": 'ic ["ดี", "ร้าย", "เฉย"]'}
    with pytest.raises(ConfigError, match=r"slu or one of asr, .*, but is 'mood'"):
        run(moods, tmp_path / "other", predictions=told, task="mood")
    with pytest.raises(InputError, match="test rows of task ic"):
        run(moods, tmp_path / "other", predictions=told, task="ic")


def test_reports_on_such_a_task_are_compared(moods: Path, tmp_path: Path) -> None:
    tasks = write(tmp_path / "tasks.yaml", TASKS)
    for name, told in (("a", ("ดี", "เฉย", "ไม่รู้")), ("b", ("ดี", "ร้าย", "เฉย"))):
        file = answers(tmp_path / f"{name}.jsonl", *told)
        run(moods, tmp_path / name, predictions=file, task_file=tasks, task="mood")
    reports = [str(tmp_path / name) for name in ("a", "b")]
    compared = compare.run(tiny.make(CompareConfig, reports=reports, draws=30))
    tasks_found: Any = compared.view.data["tasks"]
    (task,) = tasks_found
    found = {c["name"]: (c["a"], c["b"]) for c in task["comparisons"]}
    assert task["task"] == "mood"
    assert found["ic_accuracy"] == pytest.approx((1 / 3, 2 / 3))
    assert found["ic_invalid_rate"] == pytest.approx((1 / 3, 0.0))


def test_a_model_brings_its_tasks(moods: Path, model: Path, tmp_path: Path) -> None:
    write_tasks(model, load_tasks(write(tmp_path / "tasks.yaml", TASKS)))
    report = run(moods, tmp_path / "out", model=model, task="mood")
    assert set(texts(tmp_path / "out" / "predictions.jsonl").values()) == {"รู้สึกอย่างไร"}
    assert report["tasks"][0]["task"] == "mood"


def test_rows_with_their_own_words_are_asked_by_them(
    model: Path, sounds: Path, tmp_path: Path
) -> None:
    rows = [
        {"key": "k0", "source": "audio/a.wav", "target": "ก", "prompt": "ทำให้สั้น"},
        {"key": "k1", "source": "audio/b.flac", "target": "ข"},
    ]
    run(objects(tmp_path / "t.jsonl", *rows), tmp_path / "out", model=model, task="asr")
    asked = texts(tmp_path / "out" / "predictions.jsonl")
    assert asked == {"k0": "ทำให้สั้น", "k1": PROMPTS["asr"]}


def test_hit_rates_with_and_without_a_list_stand_side_by_side(
    named: Path, model: Path, tmp_path: Path
) -> None:
    settings = {"model": model, "task": "asr", "hotwords": 3}
    report = run(named, tmp_path / "out", context="both", **settings)
    # The model says its list: it finds all names, and says all others too.
    own = values(report["tasks"][0])
    assert (own["hotword_hit_rate"], own["hotword_false_rate"]) == (1.0, 1.0)
    (bare,) = report["sources"]
    without = values(bare["tasks"][0])
    assert bare["name"] == "without context"
    assert (without["hotword_hit_rate"], without["hotword_false_rate"]) == (0.0, 0.0)
    differences = {c["name"]: c["difference"] for c in bare["against"][0]["comparisons"]}
    assert differences["hotword_hit_rate"] == -1.0
    assert report["settings"]["context"] == "both"
    assert report["settings"]["hotwords with each item"] == 3
    asked = texts(tmp_path / "out" / "predictions.jsonl")
    assert set(texts(tmp_path / "out" / "predictions.no-context.jsonl").values()) == {
        PROMPTS["asr"]
    }
    for k, name in enumerate(NAMES):
        listed = asked[f"a{k}"].split("\n")[0].removeprefix("คำที่อาจได้ยิน: ").split(", ")
        assert name in listed
        assert len(listed) == 3
        assert set(listed) <= set(NAMES)
    # The lists do not depend on what is asked, or on whether there is a model.
    told = tmp_path / "told.jsonl"
    told.write_bytes((tmp_path / "out" / "predictions.jsonl").read_bytes())
    again = run(named, tmp_path / "again", predictions=told, task="asr", hotwords=3)
    assert values(again["tasks"][0]) == own
    # Another list is another evaluation.
    with pytest.raises(InputError, match="of another model, data set or setting"):
        run(named, tmp_path / "out", context="both", **settings | {"hotwords": 2})


def test_without_context_lists_are_not_shown_but_scored(
    named: Path, model: Path, tmp_path: Path
) -> None:
    report = run(named, tmp_path / "o", model=model, task="asr", hotwords=2, context="without")
    assert set(texts(tmp_path / "o" / "predictions.jsonl").values()) == {PROMPTS["asr"]}
    assert values(report["tasks"][0])["hotword_hit_rate"] == 0.0
    assert not report["sources"]


def test_a_list_of_a_file_goes_with_each_item(named: Path, model: Path, tmp_path: Path) -> None:
    words = write(tmp_path / "words.txt", "มานี", "ปิติ")
    report = run(named, tmp_path / "out", model=model, task="asr", hotwords_file=words)
    asked = texts(tmp_path / "out" / "predictions.jsonl")
    assert set(asked.values()) == {f"คำที่อาจได้ยิน: มานี, ปิติ\n{PROMPTS['asr']}"}
    found = {s["name"]: s for s in report["tasks"][0]["scores"]}
    assert (found["hotword_hit_rate"]["denominator"], found["hotword_hit_rate"]["value"]) == (2, 1)
    assert found["hotword_false_rate"]["denominator"] == 2 * 4 - 2


def test_other_questions_are_another_evaluation(
    moods: Path, named: Path, model: Path, tmp_path: Path
) -> None:
    """Answers that are on disk are not those to other prompts, words or contexts."""
    another = "of another model, data set or setting"
    tasks = write(tmp_path / "tasks.yaml", TASKS)
    settings = {"model": model, "task": "mood", "task_file": tasks}
    run(moods, tmp_path / "mood", **settings)
    run(moods, tmp_path / "mood", **settings)
    tasks.write_text(TASKS.replace("How is it", "What mood"), "utf-8")
    run(moods, tmp_path / "mood", **settings)  # a paraphrase that evaluation does not use
    tasks.write_text(TASKS.replace("อย่างไร", "ไหม"), "utf-8")
    with pytest.raises(InputError, match=another):
        run(moods, tmp_path / "mood", **settings)

    words = write(tmp_path / "words.txt", "มานี", "ปิติ")
    listed = {"model": model, "task": "asr", "hotwords_file": words}
    run(named, tmp_path / "asr", **listed)
    words.write_text("มานี\nชูใจ\n", "utf-8")
    with pytest.raises(InputError, match=another):
        run(named, tmp_path / "asr", **listed)

    row = {"key": "k0", "source": "audio/a.wav", "target": "ก", "task": "asr", "prompt": "พิมพ์"}
    data = objects(tmp_path / "t.jsonl", row)
    run(data, tmp_path / "own", model=model, task="asr")
    objects(tmp_path / "t.jsonl", row | {"prompt": "ถอด"})
    with pytest.raises(InputError, match=another):
        run(data, tmp_path / "own", model=model, task="asr")


def test_a_context_that_cannot_be_read_names_its_item(
    sounds: Path, model: Path, tmp_path: Path
) -> None:
    row = Utterance("u7", AudioRef(str(sounds / "a.wav")), 1.0, 16_000, text="ก", task="asr")
    label = json.dumps({"บุคคล": ["มานี"]}, ensure_ascii=False)
    rows = [replace(row, context="{"), replace(row, id="n", task="ner", label=label)]
    write_manifest(from_utterances(rows), tmp_path / "bad.arrow")
    for number, more in enumerate(({}, {"hotwords": 1})):
        with pytest.raises(InputError, match="Item u7: A context must be a JSON object"):
            run(tmp_path / "bad.arrow", tmp_path / f"{number}", model=model, task="asr", **more)


class Drafts:
    """Drafts how long a clip is, and how loud."""

    longest_s = 1.5

    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> list[str]:
        return [f"{len(clip)} {np.abs(clip).max():.1f}" for clip in clips]


def test_a_model_trained_with_drafts_gets_them_of_what_it_hears(
    model: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path | None] = []

    def drafter_of(_: Path, place: Path | None, __: object) -> Drafts:
        places.append(place)
        return Drafts()

    monkeypatch.setattr(drafter, "drafter_of", drafter_of)
    rows = [
        {"key": "k0", "source": "audio/a.wav", "target": "ก"},
        {"key": "k1", "source": "audio/s.wav", "target": "ข"},
        {"key": "k2", "source": "audio/b.flac", "target": "ค"},
    ]
    data = objects(tmp_path / "t.jsonl", *rows)
    settings = {"model": model, "task": "asr", "context": "both", "max_rejected_share": 0.5}
    run(data, tmp_path / "out", shuffled=True, drafter=tmp_path, **settings)
    # At their own level, though the model takes normalised audio; one is longer than can be drafted.
    told = texts(tmp_path / "out" / "predictions.jsonl")
    assert told == {
        "k0": f"ร่างถอดเสียง: 16000 0.4\n{PROMPTS['asr']}",
        "k1": f"ร่างถอดเสียง: 8000 0.4\n{PROMPTS['asr']}",
        "k2": None,
    }
    other = texts(tmp_path / "out" / "predictions.shuffled.jsonl")
    assert other == {"k0": told["k1"], "k1": told["k0"]}
    bare = texts(tmp_path / "out" / "predictions.no-context.jsonl")
    assert set(bare.values()) == {PROMPTS["asr"]}
    assert places == [tmp_path]


def test_lists_need_names_and_one_source(moods: Path, tmp_path: Path) -> None:
    told = answers(tmp_path / "told.jsonl", "ดี", "ดี", "ดี")
    tasks = write(tmp_path / "tasks.yaml", TASKS)
    settings = {"predictions": told, "task_file": tasks, "task": "mood", "hotwords": 2}
    with pytest.raises(InputError, match=r"moods\.jsonl has none: it needs rows of task ner"):
        run(moods, tmp_path / "out", **settings)
    with pytest.raises(ValueError, match="two lists for one place"):
        run(moods, tmp_path / "out", hotwords_file=told, **settings)
