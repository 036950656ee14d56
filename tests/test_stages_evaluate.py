"""Answering and scoring apart: no answer is lost, a failure is no empty answer, files are scored without a model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests import tiny
from thaitool.config import EvalConfig
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.data.shards import read_thai_sup
from thaitool.errors import ConfigError, EnvironmentProblem, InputError, QuarantineError
from thaitool.metrics.chrf import chrf
from thaitool.models import answerer
from thaitool.records import PUBLISHED_TASKS, AudioRef, Utterance
from thaitool.reports.json_form import read_report
from thaitool.stages import evaluate
from thaitool.text.normalize import compact


@pytest.fixture(scope="module")
def sup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.thai_sup(tmp_path_factory.mktemp("evaluate"))


def rows(sup: Path, split: str = "test") -> list[Utterance]:
    return read_thai_sup(sup, split=split)


def write_answers(path: Path, answers: list[dict[str, Any]]) -> Path:
    lines = (json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    path.write_text("".join(lines), "utf-8")
    return path


def right(utterances: list[Utterance]) -> list[dict[str, Any]]:
    return [{"id": u.id, "task": u.task, "text": u.label} for u in utterances]


def run(data: Path, out: Path, **changes: Any) -> Any:
    """report.json of an evaluation."""
    evaluate.run(tiny.make(EvalConfig, data=data, out=out, **{"draws": 50, **changes}))
    return json.loads((out / "report.json").read_text("utf-8"))


class FakeModel:
    """Answers every question with the question, and counts what it is asked."""

    def __init__(self, die_at_batch: int = 0) -> None:
        self.batches: list[int] = []
        self.die_at_batch = die_at_batch
        self.loaded = 0
        self.normalises = True

    def too_long(self, _: float) -> None:
        return

    def answer(self, *args: Any, **_: Any) -> list[tuple[str, bool]]:
        instructions = args[2]
        if len(self.batches) + 1 == self.die_at_batch:
            raise RuntimeError("the machine dies")
        self.batches.append(len(instructions))
        return [(text, True) for text in instructions]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeModel], FakeModel]:
    def put(fake: FakeModel) -> FakeModel:
        def load(*_: Any) -> FakeModel:
            fake.loaded += 1
            return fake

        monkeypatch.setattr(answerer, "load_answerer", load)
        return fake

    return put


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_run_that_dies_half_way_goes_on(
    sup: Path, model: Path, tmp_path: Path, use: Callable[[FakeModel], FakeModel]
) -> None:
    settings = {"model": model, "batch_s": 12.0}
    whole = use(FakeModel())
    run(sup, tmp_path / "whole", **settings)
    assert sum(whole.batches) == 2 * 16  # with shuffled audio
    assert len(whole.batches) > 6

    first = use(FakeModel(die_at_batch=3))
    with pytest.raises(RuntimeError, match="dies"):
        run(sup, tmp_path / "out", **settings)
    file = tmp_path / "out" / "predictions.jsonl"
    assert len(lines_of(file)) == sum(first.batches) > 0
    with file.open("ab") as target:
        target.write(b'{"id": "half of a li')  # as a power cut leaves it
    second = use(FakeModel())
    report = run(sup, tmp_path / "out", **settings)
    assert (
        first.batches + second.batches == whole.batches
    )  # each question once, in the same batches
    for name in ("predictions.jsonl", "predictions.shuffled.jsonl"):
        texts = [
            [(line["id"], line["text"]) for line in lines_of(tmp_path / out / name)]
            for out in ("whole", "out")
        ]
        assert texts[0] == texts[1]
    assert report["tasks"][0]["count"] == 4


def test_a_run_that_dies_while_scoring_asks_nothing_again(
    sup: Path,
    model: Path,
    tmp_path: Path,
    use: Callable[[FakeModel], FakeModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(FakeModel())

    def die(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(evaluate, "score_answers", die)
        run(sup, tmp_path / "out", model=model)
    assert not (tmp_path / "out" / "report.json").exists()
    again = use(FakeModel())
    run(sup, tmp_path / "out", model=model)
    assert (again.batches, again.loaded) == ([], 0)
    # Other draws and slices score the same answers again.
    report = run(sup, tmp_path / "out", model=model, draws=20, slices=["source_id"])
    assert (again.batches, again.loaded) == ([], 0)
    assert {part["field"] for part in report["slices"]} == {"source_id"}


def test_audio_that_cannot_be_decoded_is_a_failure(
    sup: Path, model: Path, tmp_path: Path, use: Callable[[FakeModel], FakeModel]
) -> None:
    utterances = rows(sup)
    gone = replace(utterances[0], audio=AudioRef(str(tmp_path / "gone.wav")))
    write_manifest(from_utterances([gone, *utterances[1:]]), tmp_path / "m.arrow")
    use(FakeModel())
    report = run(tmp_path / "m.arrow", tmp_path / "out", model=model)
    assert [f["id"] for f in report["failures"]] == [gone.id]
    (task,) = [t for t in report["tasks"] if t["task"] == gone.task]
    assert task["count"] == 3
    assert any("1 of 16 items have no answer" in note for note in report["notes"])
    assert report["accounting"]["unusable recordings"] == 1
    assert "gone.wav" in (tmp_path / "out" / "quarantine.jsonl").read_text("utf-8")
    again = use(FakeModel())
    run(tmp_path / "m.arrow", tmp_path / "out", model=model)  # a failure is not tried again
    assert again.batches == []


def test_failures_in_a_file_count_and_too_many_end_the_run(sup: Path, tmp_path: Path) -> None:
    answers = right(rows(sup))
    answers[0] |= {"text": None, "error": "time-out"}
    file = write_answers(tmp_path / "p.jsonl", answers)
    report = run(sup, tmp_path / "out", predictions=file)
    values = {t["task"]: t["scores"][0]["value"] for t in report["tasks"]}
    assert values == {"asr": 0.0, "ic": 1.0, "ner": 1.0, "sr": 1.0}  # never as an empty answer
    assert report["failures"] == [
        {"id": answers[0]["id"], "task": answers[0]["task"], "reason": "time-out"}
    ]
    for answer in answers[:3]:
        answer["text"] = None
    with pytest.raises(QuarantineError, match="3 of 16"):
        run(sup, tmp_path / "o2", predictions=write_answers(tmp_path / "q.jsonl", answers))
    for answer in answers:
        answer["text"] = None
    with pytest.raises(InputError, match="None of the 16 items asked has an answer"):
        run(
            sup,
            tmp_path / "o3",
            predictions=write_answers(tmp_path / "r.jsonl", answers),
            max_rejected_share=1.0,
        )


def test_an_item_cannot_both_fail_and_be_answered(sup: Path, tmp_path: Path) -> None:
    answers = right(rows(sup))
    file = write_answers(tmp_path / "p.jsonl", [*answers, {**answers[3], "text": None}])
    with pytest.raises(InputError, match="1 items have both"):
        run(sup, tmp_path / "out", predictions=file)


def test_slices_add_up_to_the_whole(sup: Path, tmp_path: Path) -> None:
    answers = right(rows(sup))
    for answer in answers[::3]:
        answer["text"] = "ผิดหมดเลย" if answer["task"] != "ner" else "{}"
    file = write_answers(tmp_path / "p.jsonl", answers)
    report = run(sup, tmp_path / "out", predictions=file, slices=["speaker", "length", "label"])
    whole = {t["task"]: {s["name"]: s for s in t["scores"]} for t in report["tasks"]}
    for field in ("speaker", "length", "label"):
        parts = [p for p in report["slices"] if p["field"] == field]
        assert len(parts) > 1
        for task in PUBLISHED_TASKS:
            mine = [t for p in parts for t in p["tasks"] if t["task"] == task]
            assert sum(t["count"] for t in mine) == 4
            name = mine[0]["scores"][0]["name"]
            for sums in ("numerator", "denominator"):
                total = sum(t["scores"][0][sums] for t in mine)
                assert total == pytest.approx(whole[task][name][sums])
    with pytest.raises(ConfigError, match="A slice must be by one of"):
        run(sup, tmp_path / "o2", predictions=file, slices=["age"])


def test_other_sources_stand_in_the_same_table(sup: Path, tmp_path: Path) -> None:
    utterances = rows(sup)
    file = write_answers(tmp_path / "p.jsonl", right(utterances))
    words = [u for u in utterances if u.task == "asr"]
    teacher: list[dict[str, Any]] = [
        {"id": u.id, "task": "asr", "text": f"{u.label}ก"} for u in reversed(words)
    ]
    teacher[0]["text"] = None
    also = write_answers(tmp_path / "teacher.jsonl", teacher)
    report = run(sup, tmp_path / "out", predictions=file, also=[f"ครู={also}"])
    (source,) = report["sources"]
    assert (source["name"], source["failed"]) == ("ครู", 1)
    assert [t["task"] for t in source["tasks"]] == ["asr"]  # only what it answered
    assert source["tasks"][0]["scores"][0]["numerator"] == 3
    (difference,) = source["against"]  # on the three items that both answered
    headline = difference["comparisons"][0]
    assert (headline["name"], headline["a"], headline["items"]) == ("cer", 0, 3)
    assert headline["difference"] == source["tasks"][0]["scores"][0]["value"]
    assert "ครู" in (tmp_path / "out" / "report.html").read_text("utf-8")
    del teacher[1]
    write_answers(also, teacher)
    with pytest.raises(InputError, match="1 references have no prediction"):
        run(sup, tmp_path / "out", predictions=file, also=[f"ครู={also}"])
    with pytest.raises(ConfigError, match="--also must be NAME=PATH"):
        run(sup, tmp_path / "out", predictions=file, also=["ครู"])


def test_predictions_of_another_split_are_told_as_such(sup: Path, tmp_path: Path) -> None:
    file = write_answers(tmp_path / "p.jsonl", right(rows(sup, "train")))
    with pytest.raises(InputError, match=r"None of the \d+ predictions is about split test"):
        run(sup, tmp_path / "out", predictions=file)
    wrong_task = [{**a, "task": "asr"} for a in right(rows(sup)) if a["task"] == "ic"]
    with pytest.raises(InputError, match="Their ids are right, but their tasks are asr"):
        run(
            sup,
            tmp_path / "o2",
            predictions=write_answers(tmp_path / "q.jsonl", wrong_task),
            task="ic",
        )
    empty = write_answers(tmp_path / "empty.jsonl", [])
    with pytest.raises(InputError, match="None of the 0 predictions"):
        run(sup, tmp_path / "o3", predictions=empty)


def test_transcripts_of_any_manifest_are_scored_without_its_audio(tmp_path: Path) -> None:
    """A manifest without tasks, labels and splits, ids with spaces, no sound anywhere; torch is not loaded."""
    utterances = [
        Utterance(
            f"ไฟล์ {k}.wav", AudioRef("/nowhere/a b.wav"), 2.0 + k, 16_000, text=f"ประโยคที่ {k}"
        )
        for k in range(8)
    ]
    write_manifest(from_utterances(utterances), tmp_path / "m.arrow")
    answers = [{"id": u.id, "task": "asr", "text": f"{u.text}ก"} for u in utterances]
    file = write_answers(tmp_path / "p.jsonl", answers)
    program = (
        "import sys; from thaitool.cli.main import main; sys.argv[1:] = "
        f"['eval', '--task', 'asr', '--data', {str(tmp_path / 'm.arrow')!r}, '--predictions', {str(file)!r},"
        f" '--out', {str(tmp_path / 'out')!r}, '--slice', 'length', '--set', 'draws=50']\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tiny.ROOT
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr
    assert "asr: cer by length" in done.stdout
    report = read_report(tmp_path / "out" / "report.json")
    score = report.tasks[0].scores[0]
    assert (score.numerator, report.tasks[0].count) == (8, 8)
    assert "<audio" not in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_leaks_from_the_training_data_are_named(sup: Path, tmp_path: Path) -> None:
    utterances = rows(sup)
    file = write_answers(tmp_path / "p.jsonl", right(utterances))
    copied = replace(utterances[5], id="another id", split="train")
    write_manifest(from_utterances([copied]), tmp_path / "train.arrow")
    report = run(sup, tmp_path / "out", predictions=file, trained_on=[tmp_path / "train.arrow"])
    assert report["accounting"]["training items compared"] == 1
    assert report["accounting"]["leaked"] >= 1
    assert any(utterances[5].id in note and "another id" in note for note in report["notes"])
    clean = run(sup, tmp_path / "o2", predictions=file)
    assert "leaked" not in clean["accounting"]


def marked(prompt: str) -> str:
    """What a judge of some sense says: 5 for the same text, less for less likeness, 1 for none."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    right, told = lines["Reference rewriting"], lines.get("Answer to grade", "")
    likeness = chrf(right, told)
    score = 5 if compact(right) == compact(told) else 4 if likeness > 0.3 else 1
    return json.dumps({"meaning": score, "fluency": 5, "written": 5, "score": score})


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Any]]]:
    """A judge of some sense that can be told to say something else, and embeddings that count letters."""
    state: dict[str, Any] = {"says": marked, "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state["asked"] += 1
            if self.path.endswith("/embeddings"):
                vectors = state["embeds"](asked["input"])
                body: Any = {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]}
            else:
                text = state["says"](asked["messages"][0]["content"])
                body = {"model": "judge-1", "choices": [{"message": {"content": text}}]}
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1", state
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_judge_grades_and_its_silence_is_no_zero(
    sup: Path, tmp_path: Path, server: tuple[str, dict[str, Any]]
) -> None:
    url, state = server
    file = write_answers(tmp_path / "p.jsonl", right(rows(sup)))
    asked = {"predictions": file, "judge": url, "judge_model": "judge-1"}
    state["says"] = lambda _: "I cannot say."
    with pytest.raises(EnvironmentProblem, match=r"graded 0\.0% of the rephrasings"):
        run(sup, tmp_path / "out", **asked)
    sr = read_report(tmp_path / "out" / "report.json").tasks[3]
    scores = {score.name: score for score in sr.scores}
    assert scores["sr_score"].value is None
    assert scores["sr_judge_coverage"].value == 0
    assert state["asked"] == 36  # its gate, and nothing behind it
    state["says"] = marked
    report = run(sup, tmp_path / "out", **asked)
    graded = {s["name"]: s["value"] for s in report["tasks"][3]["scores"]}
    assert graded["sr_score"] == 5
    (gate,) = report["instruments"]
    assert gate["score"] == "sr_score"
    assert [row["value"] for row in gate["gate"]][::2] == [5, 1, 5]  # identical, unrelated, digits
    parts = [task for part in report["slices"] for task in part["tasks"] if task["task"] == "sr"]
    assert all(any(s["name"] == "sr_score" for s in task["scores"]) for task in parts)
    assert len(parts) > 1
    before = state["asked"]
    assert run(sup, tmp_path / "out", **asked)["tasks"] == report["tasks"]
    assert state["asked"] == before  # votes are kept
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert ">5.00<" in page
    assert "500.00 %" not in page
    assert "Gate of sr_score" in page
    run(sup, tmp_path / "out", **{**asked, "judge_model": "judge-2"})
    assert state["asked"] > before  # but not those of another judge


def test_a_judge_that_likes_everything_is_not_used(
    sup: Path, tmp_path: Path, server: tuple[str, dict[str, Any]]
) -> None:
    url, state = server
    state["says"] = lambda _: json.dumps(
        dict.fromkeys(("meaning", "fluency", "written", "score"), 5)
    )
    file = write_answers(tmp_path / "p.jsonl", right(rows(sup)))
    with pytest.raises(EnvironmentProblem, match=r"failed its gate .*unrelated: 5"):
        run(sup, tmp_path / "out", predictions=file, judge=url, judge_model="j", task="sr")
    report = read_report(tmp_path / "out" / "report.json")
    assert next(s for s in report.tasks[0].scores if s.name == "sr_score").value is None
    assert not report.instruments[0].passed
    assert any("failed its gate and was not asked" in note for note in report.notes)
    assert state["asked"] == 36


def test_an_embedder_is_used_after_its_gate(
    sup: Path, tmp_path: Path, server: tuple[str, dict[str, Any]]
) -> None:
    url, state = server
    digits = str.maketrans("๐๑๒๓๔๕๖๗๘๙", "0123456789")

    def embed(texts: list[str]) -> list[list[float]]:
        codes = [[ord(letter) for letter in text.translate(digits)] for text in texts]
        places = [[(31 * a + b) % 64 for a, b in pairwise(found)] for found in codes]
        return [[1e-3 + found.count(k) for k in range(64)] for found in places]

    state["embeds"] = embed
    answers = right(rows(sup))
    next(a for a in answers if a["task"] == "sr")["text"] = ""
    file = write_answers(tmp_path / "p.jsonl", answers)
    asked = {"predictions": file, "embedder": url, "embedder_model": "pairs"}
    report = run(sup, tmp_path / "out", **asked)
    likeness = {
        t["task"]: s["value"]
        for t in report["tasks"]
        for s in t["scores"]
        if s["name"] == "embedding_similarity"
    }
    assert likeness == {"asr": pytest.approx(1), "sr": pytest.approx(0.75)}  # an empty answer: 0
    assert [i["score"] for i in report["instruments"]] == ["embedding_similarity"]
    items = lines_of(tmp_path / "out" / "per_item.jsonl")
    assert [i["marks"]["embedding_similarity"] for i in items if i["task"] == "sr"].count(0) == 1
    state["embeds"] = lambda texts: [[1.0, 2.0] for _ in texts]
    before = state["asked"]
    with pytest.raises(InputError, match=r"pairs of a server.*must tell Thai answers apart"):
        run(sup, tmp_path / "o2", **asked)
    assert state["asked"] - before < 10  # the gate's texts and nothing else
    assert not (tmp_path / "o2").exists()


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("asr", {"judge": "http://127.0.0.1:1/v1"}, "--judge is for sr, but --task is asr"),
        ("ic", {"embedder": "somewhere"}, "--embedder is for asr and sr"),
        ("sr", {"keywords": Path("words")}, "--keywords is for asr"),
        ("sr", {"judge": "localhost:8000"}, "must be an http or https URL"),
        ("sr", {"judge": "http://h/v1", "judge_key_variable": "NO_SUCH_KEY"}, "must hold the key"),
        ("asr", {"embedder": "no/such/place"}, "must be the URL of a server"),
    ],
)
def test_what_is_used_after_the_answers_is_checked_before(
    sup: Path, tmp_path: Path, task: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(sup, tmp_path / "out", predictions=tmp_path / "none", task=task, **settings)
    assert not (tmp_path / "out").exists()
