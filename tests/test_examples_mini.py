"""The Thai set of examples/thai-sup-mini: how it is counted, its intents, and all of it on a few rows of our own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from thaitool.audio.decode import encode_flac
from thaitool.data.shards import ThaiSupRow, write_shard
from thaitool.synth.memory import load_intents

MINI = tiny.ROOT / "examples" / "thai-sup-mini"
TABLE = tiny.REAL / "text" / "multilingual_task_dialog" / "train-th.tsv"


def write_rows(root: Path, task: str, split: str, seconds: list[tuple[float, float]]) -> None:
    """A shard of tones: (true length, what the row says) in seconds."""
    rows = []
    for n, (true_s, said_s) in enumerate(seconds):
        samples = 0.1 * np.sin(np.arange(round(16_000 * true_s), dtype=np.float32))
        flac = encode_flac(samples.astype(np.float32))
        rows.append(ThaiSupRow(task, "?", f"{task}-{n}", "ก", "ก", flac, 16_000, 1, said_s))
    write_shard(root / task / split / f"{split}-00000.parquet", rows)


def hours(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MINI / "hours.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_hours_are_counted_from_the_audio_and_must_agree(tmp_path: Path) -> None:
    write_rows(tmp_path / "set", "IC", "train", [(1.0, 1.0), (0.5, 0.5)])
    write_rows(tmp_path / "set", "NER", "test", [(2.0, 2.0)])
    (tmp_path / "set" / "provenance").mkdir()
    done = hours(str(tmp_path / "set"), "--out", str(tmp_path / "hours.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "hours.json").read_text())
    assert found["rows"] == 3
    assert found["hours"] == pytest.approx(3.5 / 3600, abs=1e-4)
    assert {k: v["decoded_s"] for k, v in found["parts"].items()} == {
        "IC/train": 1.5,
        "NER/test": 2.0,
    }
    write_rows(tmp_path / "set", "NER", "test", [(2.0, 4.0)])
    done = hours(str(tmp_path / "set"))
    assert done.returncode == 1
    assert "The hours of NER/test differ" in done.stderr


def test_every_intent_has_a_thai_name_of_its_own() -> None:
    intents = load_intents(MINI / "intents.jsonl")
    assert len(set(intents.values())) == len(intents) == 10
    assert all("\u0e00" <= letter <= "\u0e7f" for name in intents.values() for letter in name)


@pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE} is not at hand (real data)")
def test_the_intents_are_those_of_the_table() -> None:
    lines = TABLE.read_text("utf-8").splitlines()
    intents = load_intents(MINI / "intents.jsonl")
    assert {line.split("\t")[0] for line in lines} == set(intents)


@pytest.mark.slow
def test_the_set_is_made_reported_and_counted(tmp_path: Path) -> None:
    said = ["ปลุกฉันตอนเจ็ดโมงเช้า", "ตั้งปลุกพรุ่งนี้ตีห้า", "ช่วยปลุกตอนเที่ยง", "ปลุกหกโมงเย็น", "ปลุกฉันวันศุกร์"]
    asked = ["วันนี้ฝนจะตกไหม", "พรุ่งนี้อากาศเป็นอย่างไร", "ที่ภูเก็ตแดดออกไหม", "เย็นนี้หนาวไหม", "ลมแรงไหมวันนี้"]
    rows = [f"alarm/set_alarm\t\t{text}" for text in said] + [
        f"weather/find\t\t{text}" for text in asked
    ]
    (tmp_path / "ic.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    names = [
        ("มาลี", "PERSON"),
        ("เชียงใหม่", "LOCATION"),
        ("สมชาย", "PERSON"),
        ("ขอนแก่น", "LOCATION"),
    ]
    blocks = [f"วันนี้\tO\n{name}\tB-{kind}\nมา\tO\nแล้ว\tO\n" for name, kind in names]
    (tmp_path / "ner.conll").write_text("\n".join([*blocks, "ก\tO\n" * 50]), "utf-8")
    program = tmp_path / "thaitool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m thaitool "$@"\n')
    program.chmod(0o755)
    subprocess.run(
        [
            "make", "-C", str(MINI), f"THAITOOL={program}", f"PYTHON={sys.executable}",
            f"IC={tmp_path / 'ic.tsv'}", f"NER={tmp_path / 'ner.conll'}", f"OUT={tmp_path / 'out'}",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads((tmp_path / "out" / "hours.json").read_text())
    assert {name.split("/")[0] for name in found["parts"]} == {"IC", "NER"}
    assert found["rows"] == 14  # the long sentence is left out
    for task in ("ic", "ner"):
        assert (tmp_path / "out" / task / "report" / "report.html").is_file()
        card = json.loads((tmp_path / "out" / task / "dataset_card.json").read_text("utf-8"))
        speakers = [set(card[f"{split}_voices"]) for split in ("train", "dev", "test")]
        assert len(set.union(*speakers)) == sum(map(len, speakers)) == 14
