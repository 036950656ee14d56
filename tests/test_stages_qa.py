"""The fifth task, spoken instruction to answer, through training, evaluation and inference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from thaitool.config import EvalConfig, FinetuneConfig, InferConfig
from thaitool.data.shards import SCHEMA, ThaiSupRow, read_audio, read_thai_sup, write_shard
from thaitool.errors import ConfigError, InputError
from thaitool.models.checkpoint import save_checkpoint, weights_sha256
from thaitool.records import PUBLISHED_TASKS, TASKS
from thaitool.reports.per_item import read_items
from thaitool.stages import evaluate, finetune, infer
from thaitool.text.prompts import task_prompt

ANSWER = "รับทราบ จะทำให้ทันที"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qa")


@pytest.fixture(scope="module")
def sup(base: Path) -> Path:
    """Shards of the published tasks, and `QA` ones that answer the sentences of their transcripts."""
    root = tiny.thai_sup(base)
    for split in ("train", "dev", "test"):
        rows = [
            ThaiSupRow(
                "QA",
                task_prompt("qa"),
                u.id.replace("ASR", "QA"),
                u.text or "",
                f"{ANSWER} {u.text}",
                read_audio(u.audio),
                u.sample_rate_hz,
                1,
                u.duration_s,
            )
            for u in read_thai_sup(root / "ASR", split=split)
        ]
        write_shard(root / "QA" / split / f"{split}-00000.parquet", rows)
    return root


def answers(sup: Path, tasks: tuple[str, ...], path: Path) -> Path:
    """A predictions file that is right about everything."""
    said = [u for u in read_thai_sup(sup, split="test") if u.task in tasks]
    lines = (
        json.dumps({"id": u.id, "task": u.task, "text": u.label}, ensure_ascii=False) for u in said
    )
    path.write_text("\n".join(lines), "utf-8")
    return path


def scored(data: Path, out: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    result = evaluate.run(tiny.make(EvalConfig, data=data, out=out, draws=50, **changes))
    report = json.loads((result.out / "report.json").read_text("utf-8"))
    return {t["task"]: {s["name"]: s for s in t["scores"]} for t in report["tasks"]}


def test_slu_asks_for_answers_where_the_split_has_them(sup: Path, tmp_path: Path) -> None:
    all_right = answers(sup, TASKS, tmp_path / "all.jsonl")
    found = scored(sup, tmp_path / "out", predictions=all_right)
    assert list(found) == list(TASKS)
    assert found["qa"]["qa_proxy_exact"]["value"] == found["qa"]["qa_proxy_chrf"]["value"] == 1
    assert "weak" in found["qa"]["qa_proxy_chrf"]["note"]
    assert "weak" in (tmp_path / "out" / "report.html").read_text("utf-8")
    # What was asked stands beside the answer.
    items = read_items(tmp_path / "out" / "per_item.jsonl")
    asked = {u.id: u.text for u in read_thai_sup(sup / "QA", split="test")}
    assert asked
    assert {k: items.spoken[k] for k in asked} == asked

    with pytest.raises(InputError, match=r"qa"):  # answers to the published tasks are not all
        published = answers(sup, PUBLISHED_TASKS, tmp_path / "published.jsonl")
        scored(sup, tmp_path / "out-2", predictions=published)
    alone = scored(sup, tmp_path / "out-3", predictions=all_right, task="qa")
    assert alone == {"qa": found["qa"]}


def test_slu_of_a_split_without_answers_is_the_published_tasks(sup: Path, tmp_path: Path) -> None:
    (sup / "QA" / "test").rename(tmp_path / "aside")
    try:
        right = answers(sup, TASKS, tmp_path / "right.jsonl")
        assert list(scored(sup, tmp_path / "out", predictions=right)) == list(PUBLISHED_TASKS)
        with pytest.raises(InputError, match="must have test rows of task qa, but has none"):
            scored(sup, tmp_path / "out-2", predictions=right, task="qa")
    finally:
        (tmp_path / "aside").rename(sup / "QA" / "test")


def test_the_judge_of_rephrasings_is_not_asked_about_answers(sup: Path, tmp_path: Path) -> None:
    right = answers(sup, TASKS, tmp_path / "right.jsonl")
    with pytest.raises(ConfigError, match="--judge is for sr, but --task is qa"):
        scored(sup, tmp_path / "out", predictions=right, task="qa", judge="http://127.0.0.1:9/v1")


def test_a_model_is_trained_on_answers_and_asked_for_them(sup: Path, tmp_path: Path) -> None:
    llm = tiny.llm_directory(tmp_path / "llm")
    model, processor = tiny.speech_lm(llm)
    save_checkpoint(
        tmp_path / "aligned",
        config=model.config,
        audio_tower=model.audio_tower,
        projector=model.multi_modal_projector,
        processor=processor,
        llm=llm,
        llm_sha256=weights_sha256(llm),
    )
    train = {"updates": 2, "batch_s": 20.0, "learning_rate": 1e-3, "device": "cpu"}
    tuned = finetune.run(
        tiny.make(
            FinetuneConfig,
            data=sup,
            model=tmp_path / "aligned",
            out=tmp_path / "slm",
            tasks=["qa", "asr"],
            lora_rank=2,
            judge_items=2,
            max_new_tokens=2,
            train={**train, "eval_every": 2, "save_every": 2},
        )
    )
    assert tuned.training.done["updates"] == 2
    sounds = sorted(tiny.clips(tmp_path / "clips", 1).iterdir())
    asked = tiny.make(InferConfig, model=tuned.out, task="qa", audio=sounds, max_new_tokens=3)
    (answer,) = infer.run(asked)
    assert (answer.task, answer.error) == ("qa", None)


def test_shards_with_answers_have_the_published_columns(sup: Path) -> None:
    import pyarrow.parquet as pq

    file = sup / "QA" / "test" / "test-00000.parquet"
    assert pq.read_schema(file).equals(SCHEMA)
    (first, *_) = read_thai_sup(sup / "QA", split="test")
    assert (first.task, first.split) == ("qa", "test")
    assert (first.label or "").startswith(ANSWER)
