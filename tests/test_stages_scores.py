"""`eval` of answers in a file that are known to be right or wrong: what they are worth, and what does not match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from thaitool.config import EvalConfig
from thaitool.data.shards import read_thai_sup
from thaitool.errors import InputError
from thaitool.records import Utterance
from thaitool.stages import evaluate


@pytest.fixture(scope="module")
def sup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.thai_sup(tmp_path_factory.mktemp("scores"))


def rows(sup: Path, split: str) -> list[Utterance]:
    return read_thai_sup(sup, split=split)


def scored(sup: Path, out: Path, told: Callable[[Utterance], str], **changes: Any) -> Any:
    """Report of predictions that a function makes of the test rows, as score name to value, by task."""
    file = out.with_suffix(".jsonl")
    lines = [{"id": u.id, "task": u.task, "text": told(u)} for u in rows(sup, "test")]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    evaluate.run(tiny.make(EvalConfig, data=sup, predictions=file, out=out, draws=50, **changes))
    report = json.loads((out / "report.json").read_text("utf-8"))
    return {t["task"]: {s["name"]: s for s in t["scores"]} for t in report["tasks"]}


def heads(scores: Any) -> dict[str, tuple[str, float]]:
    return {task: (next(iter(s)), next(iter(s.values()))["value"]) for task, s in scores.items()}


def test_right_answers_score_full_marks(sup: Path, tmp_path: Path) -> None:
    found = heads(scored(sup, tmp_path / "right", lambda u: u.label or ""))
    # CER, accuracy, F1 and chrF: the first of each task is 0 or 1 where nothing is wrong.
    values = {task: value for task, (_, value) in found.items()}
    assert values == {"asr": 0.0, "ic": 1.0, "ner": 1.0, "sr": 1.0}


def test_wrong_answers_score_what_they_are_worth(sup: Path, tmp_path: Path) -> None:
    intents = sorted(u.label or "" for u in rows(sup, "test") if u.task == "ic")
    empty = json.dumps({"บุคคล": [], "สถานที่": [], "องค์กร": [], "อื่นๆ": []}, ensure_ascii=False)
    wrong = {"asr": "", "ic": intents[0], "ner": empty, "sr": ""}
    found = heads(scored(sup, tmp_path / "wrong", lambda u: wrong[u.task or ""]))
    values = {task: value for task, (_, value) in found.items()}
    assert len(set(intents)) == len(intents) == 4
    assert values == {"asr": 1.0, "ic": 0.25, "ner": 0.0, "sr": 0.0}


def test_two_letters_too_many_in_each_line(sup: Path, tmp_path: Path) -> None:
    asr = scored(sup, tmp_path / "long", lambda u: f"{u.label}กก", task="asr")["asr"]
    cer = next(iter(asr.values()))
    letters = sum(
        len((u.label or "").replace(" ", "")) for u in rows(sup, "test") if u.task == "asr"
    )
    assert cer["numerator"] == 2 * 4
    assert cer["denominator"] == pytest.approx(letters, rel=0.1)  # less what normalising folds
    assert cer["low"] <= cer["value"] <= cer["high"]


def test_a_report_directory_belongs_to_one_evaluation(sup: Path, tmp_path: Path) -> None:
    first = scored(sup, tmp_path / "report", lambda u: u.label or "")
    before = (tmp_path / "report" / "report.html").read_bytes()
    with pytest.raises(InputError, match="report of another model, data set or setting"):
        scored(sup, tmp_path / "report", lambda _: "")
    assert (tmp_path / "report" / "report.html").read_bytes() == before
    assert scored(sup, tmp_path / "report", lambda u: u.label or "") == first
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="must be new, but holds other files"):
        scored(sup, mine, lambda u: u.label or "")


@pytest.mark.parametrize(
    ("line", "phrases"),
    [
        ('{"id": "a", "task": "ic"}', ["predictions.jsonl:2", "'text'"]),
        (
            '{"id": "a", "task": "ic", "text": "x", "audio_s": null}',
            ["predictions.jsonl:2", "'audio_s'"],
        ),
        ("{", ["predictions.jsonl:2", "JSON"]),
    ],
)
def test_a_bad_line_of_predictions_is_named(tmp_path: Path, line: str, phrases: list[str]) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"id": "b", "task": "ic", "text": "one\u2028line"}\n' + line + "\n", "utf-8")
    with pytest.raises(InputError) as caught:
        evaluate.read_predictions(file)
    assert all(phrase in str(caught.value) for phrase in phrases)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: lines[1:], "have no prediction"),
        (lambda lines: [*lines, lines[0]], "occur more than once"),
        (lambda lines: [*lines, '{"id": "X-1", "task": "ic", "text": "?"}'], "have no reference"),
        (lambda lines: [*lines, '{"id": "X-1", "task": "ic"}'], r"\.jsonl:17 .*'text'"),
        (lambda lines: [*lines, "{"], r"\.jsonl:17 must be a JSON object"),
    ],
)
def test_predictions_that_do_not_match_are_an_error(
    sup: Path, tmp_path: Path, edit: Callable[[list[str]], list[str]], message: str
) -> None:
    lines = [json.dumps({"id": u.id, "task": u.task, "text": u.label}) for u in rows(sup, "test")]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(edit(lines)) + "\n", "utf-8")
    with pytest.raises(InputError, match=message):
        evaluate.run(
            tiny.make(EvalConfig, data=sup, predictions=file, out=tmp_path / "out", draws=50)
        )
    assert not (tmp_path / "out" / "report.json").exists()


def test_eval_needs_one_source_of_answers(sup: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="either a model or a predictions file"):
        evaluate.run(tiny.make(EvalConfig, data=sup, out=tmp_path / "out"))
    with pytest.raises(InputError, match="rows of task ner, but has none"):
        evaluate.run(
            tiny.make(
                EvalConfig,
                data=sup / "IC",
                task="ner",
                predictions=tmp_path / "p",
                out=tmp_path / "o",
            )
        )


def test_shuffled_audio_never_is_the_sentence_itself(sup: Path) -> None:
    test = rows(sup, "test")
    heard = evaluate.shuffle_audio(test, seed=0)
    assert evaluate.shuffle_audio(test, seed=0) == heard
    assert [u.task for u in heard] == [u.task for u in test]
    assert all(a.source_id != b.source_id for a, b in zip(test, heard, strict=True))
    alone = [u for u in test if u.source_id == test[0].source_id]
    with pytest.raises(InputError, match="cannot be shuffled"):
        evaluate.shuffle_audio(alone, seed=0)
