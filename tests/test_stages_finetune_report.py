"""The page of a finetune run, from a run directory made by hand: which answers and which curves it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from thaitool.config import FinetuneConfig
from thaitool.data.manifest import from_utterances
from thaitool.records import AudioRef, Utterance
from thaitool.stages.finetune_report import write_finetune_report
from thaitool.training.finetune_figures import HeldTask
from thaitool.training.finetune_held_out import HeldOut
from thaitool.training.run_dir import RunDir

N = 9


@pytest.fixture
def run(tmp_path: Path) -> tuple[FinetuneConfig, RunDir, HeldOut]:
    rows = []
    for k in range(N):
        soundfile.write(tmp_path / f"{k}.flac", np.full(2_000, 0.1 * k / N + 0.01), 16_000)
        rows.append(
            Utterance(f"u{k}", AudioRef(str(tmp_path / f"{k}.flac")), 0.125, 16_000, task="asr")
        )
    out = RunDir(tmp_path / "out")
    out.path.mkdir()
    (out.path / "run.json").write_text('{"versions": {"thaitool": "1"}}')
    for update in (2, 4):
        out.append_metrics(
            {"update": update - 1, "loss": 3.0} if update == 4 else {"update": 1, "loss": 4.0}
        )
        figures = {"eval_error": 0.5, "eval_answer_nats": 2.0, "eval_asr_cer": 0.4, "loss": 2.0}
        aside = {"eval_asr_items": 9.0, "eval_asr_top_share_references": 0.1}
        out.append_metrics({"update": update, **figures, **aside})
        lines = [
            {
                "id": f"u{k}",
                "task": "asr",
                "text": f"คำตอบ{update}-{k}",
                "stopped": True,
                "reference": f"ข้อความ{k}",
                "row_error": k / 10,
            }
            for k in range(N)
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out.path / f"predictions-{update}.jsonl").write_text(text, "utf-8")
    config = FinetuneConfig.model_validate(
        {
            "data": [str(tmp_path)],
            "model": str(tmp_path),
            "out": str(out.path),
            "tasks": ["asr"],
            "train": {"updates": 5, "batch_s": 1.0, "learning_rate": 1e-3},
        }
    )
    task = HeldTask("asr", "asr", tuple(rows), ("",) * N, tuple(f"ข้อความ{k}" for k in range(N)))
    return config, out, HeldOut(from_utterances(rows), (task,))


def test_the_page_shows_the_last_answers_with_their_sound(
    run: tuple[FinetuneConfig, RunDir, HeldOut],
) -> None:
    config, out, held = run
    write_finetune_report(config, out, held, {"rows": {"asr": 9}}, ["asr: it ignores the audio"])
    page = (out.path / "report.html").read_text("utf-8")
    assert "asr: it ignores the audio" in page
    report = json.loads((out.path / "report.json").read_text("utf-8"))
    worst = [e["id"] for e in report["examples"] if e["kind"] == "worst"]
    assert worst == ["u8", "u7", "u6", "u5"]
    assert sum(e["kind"] == "random" for e in report["examples"]) == 3
    assert {e["hypothesis"][5] for e in report["examples"]} == {"4"}  # of the last evaluation
    assert page.count("data:audio/flac;base64,") == 7
    assert {*report["curves"]} == {"loss", "eval_error", "eval_answer_nats", "eval_asr_cer"}
    assert report["accounting"]["rows"] == {"asr": 9}


def test_a_run_that_failed_before_its_first_evaluation_has_a_page(
    run: tuple[FinetuneConfig, RunDir, HeldOut],
) -> None:
    config, out, held = run
    (out.path / "metrics.jsonl").unlink()
    write_finetune_report(config, out, held, {}, ["The loss of update 1 is nan"])
    assert "The loss of update 1 is nan" in (out.path / "report.html").read_text("utf-8")
    assert json.loads((out.path / "report.json").read_text("utf-8"))["examples"] == []
