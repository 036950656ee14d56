"""A task of one's own from YAML to training to its score, with lists of speech LLM tools as data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests import llms, tiny
from tests.lists import objects, write
from thaitool.config import EvalConfig, FinetuneConfig
from thaitool.errors import InputError
from thaitool.stages import evaluate, finetune
from thaitool.text.tasks import BUILT_IN, tasks_of
from thaitool.training.hotwords import drawn_context
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from pathlib import Path

MOOD = "mood: {metric: ic, labels: [ดี, ร้าย], prompts: [รู้สึกอย่างไร, How is the mood]}"
TRAINING = {
    "updates": 2,
    "batch_s": 20.0,
    "learning_rate": 1e-3,
    "eval_every": 2,
    "save_every": 2,
    "device": "cpu",
    "trackers": [],
    "max_rejected_share": 0.5,
}


def chat(path: str, asked: str, answer: str) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": "ร้านกาแฟ"},
        {"role": "user", "content": f"<audio>{asked}"},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": turns, "audios": [path]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`train` and `dev`, each a list of moods and of entities and a list of chats."""
    for number, split in enumerate(("train", "dev")):
        sounds = [str(p) for p in sorted(tiny.clips(tmp_path / split, 6, seed=number).iterdir())]
        label = json.dumps({"บุคคล": [f"สมชาย{split}"]}, ensure_ascii=False)
        rows = [
            {"key": f"{split}-a", "task": "mood", "path": sounds[0], "target": "ดี"},
            {"key": f"{split}-b", "task": "mood", "path": sounds[1], "target": "ร้าย"},
            {"key": f"{split}-c", "task": "ner", "path": sounds[2], "target": label},
        ]
        if split == "train":
            rows.append({"key": "blank", "task": "mood", "path": sounds[3], "target": " "})
        objects(tmp_path / f"{split}-tasks.jsonl", *rows)
        chats = (chat(sounds[k], f"ฟังว่าอะไร {k}", f"ตอบ {split} {k}") for k in (4, 5))
        objects(tmp_path / f"{split}-chats.jsonl", *chats)
    return tmp_path


def test_a_task_of_a_file_is_trained_kept_and_scored(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = tiny.llm_directory(data / "llm")
    start = llms.save(data / "start", *llms.speech_lm(llm), llm)
    asked: list[str] = []

    def watched(*arguments: Any) -> Any:
        context = drawn_context(*arguments)
        asked.append(arguments[0].id)
        assert context.hotwords
        return context

    monkeypatch.setattr("thaitool.training.examples.drawn_context", watched)
    config = tiny.make(
        FinetuneConfig,
        data=[data / "train-tasks.jsonl", data / "train-chats.jsonl"],
        dev_data=[data / "dev-tasks.jsonl", data / "dev-chats.jsonl"],
        model=start,
        out=data / "run",
        tasks=["asr", "ner", "mood"],
        task_file=write(data / "tasks.yaml", MOOD),
        hotword_share=1.0,
        hotwords=3,
        lora_rank=2,
        judge_items=2,
        max_new_tokens=2,
        train=TRAINING,
    )
    result = finetune.run(config)
    trained = {*("train-a", "train-b", "train-c", "train-chats:1", "train-chats:2")}
    assert set(asked) == trained  # lists are drawn for training rows alone
    ledger = (data / "run" / "quarantine.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in ledger] == ["no_answer"]
    tasks = tasks_of(resolve(result.out))
    assert list(tasks) == [*BUILT_IN, "mood"]
    assert tasks["mood"].labels == ("ดี", "ร้าย")

    settings = {"data": data / "dev-tasks.jsonl", "model": result.out, "task": "mood"}
    made = evaluate.run(
        tiny.make(
            EvalConfig,
            **settings,
            out=data / "report",
            draws=20,
            max_new_tokens=2,
            hotwords=2,
            context="both",
            device="cpu",
        )
    )
    (task,) = made.report.tasks
    assert (task.task, task.scores[0].name, task.count) == ("mood", "ic_accuracy", 2)
    assert [source.name for source in made.report.sources] == ["without context"]

    # What is asked of it otherwise than it was trained is refused.
    kept = resolve(result.out) / "tasks.json"
    kept.write_text(kept.read_text("utf-8").replace("อย่างไร", "ไหม"), "utf-8")
    with pytest.raises(InputError, match="is missing or changed"):
        evaluate.run(tiny.make(EvalConfig, **settings, out=data / "other", device="cpu"))
