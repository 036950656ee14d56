"""`make table1` trains every head on every encoder once, touches no data of the user, and refuses unequal rows."""

from __future__ import annotations

import os
import runpy
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thaitool.records import Score

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: Stands in for `thaitool` and `python`: makes what each step promises, and writes down how it was called.
STUB = """#!/bin/sh
echo "$@" >> "$LOG"
out=""; stage="$1"
while [ $# -gt 0 ]; do if [ "$1" = --out ]; then out="$2"; fi; shift; done
case "$stage" in
  synth) mkdir -p "$out"; echo {} > "$out/dataset_card.json";;
  pretrain|finetune) mkdir -p "$out"; echo {} > "$out/run.json"; sleep 0.02; echo {} > "$out/result.json";;
  eval) mkdir -p "$out"; sleep 0.02; echo {} > "$out/report.json";;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what `make table1` needs, with data of a user beside."""
    (tmp_path / "stub").write_text(STUB)
    (tmp_path / "stub").chmod(0o755)
    for name in ("Makefile", "table1.yaml", "alpaca.jsonl"):
        (tmp_path / name).write_bytes((EXAMPLES / name).read_bytes())
    (tmp_path / "tiny.yaml").write_text("synth: {}\n")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "train.tsv").write_text("mine")
    return tmp_path


def make(folder: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    time.sleep(0.02)  # a file system may keep time in steps of 10 ms
    fixed = [f"THAITOOL={folder}/stub", f"PYTHON={folder}/stub", "RECIPE=tiny.yaml"]
    return subprocess.run(
        ["make", "table1", *fixed, *variables],
        cwd=folder,
        env={**os.environ, "LOG": str(folder / "log"), "MAKEFLAGS": ""},
        check=False,
        capture_output=True,
        text=True,
    )


def steps(folder: Path) -> list[str]:
    """The calls since the last look."""
    found = (folder / "log").read_text().splitlines()
    (folder / "log").unlink()
    return found


def test_every_head_on_every_encoder_once(folder: Path) -> None:
    variables = ["DATA=corpus", "TEST=corpus/t.tsv", "ENCODERS=/runs/xlsr/ new"]
    assert make(folder, *variables).returncode == 0
    found = steps(folder)
    trained = [line for line in found if line.startswith("finetune")]
    common = "--config table1.yaml --data corpus"
    assert trained == [
        f"finetune --head ctc {common} --encoder /runs/xlsr --out out/table1/xlsr-ctc",
        f"finetune --head aed {common} --encoder /runs/xlsr --out out/table1/xlsr-aed",
        f"finetune --head ctc {common} --out out/table1/new-ctc",
        f"finetune --head aed {common} --out out/table1/new-aed",
    ]
    assert sum(line.startswith("eval") and "corpus/t.tsv" in line for line in found) == 4
    table = "table1.py " + " ".join(
        f"out/table1/{e}-{h}" for e in ("xlsr", "new") for h in ("ctc", "aed")
    )
    assert found[-1] == table
    assert len(found) == 9
    assert (folder / "corpus" / "train.tsv").read_text() == "mine"

    assert make(folder, *variables).returncode == 0
    assert steps(folder) == [table]

    time.sleep(0.02)
    (folder / "table1.yaml").touch()
    assert make(folder, *variables).returncode == 0
    assert len(steps(folder)) == 9


def test_without_data_the_rows_of_the_demo_are_made_first(folder: Path) -> None:
    assert make(folder, "HEADS=ctc").returncode == 0
    found = [line.split()[0] for line in steps(folder)]
    assert found[:2] == ["synth", "pretrain"]
    assert found.count("finetune") == 2
    assert found[-1] == "table1.py"


def test_two_encoders_of_one_name_are_refused(folder: Path) -> None:
    result = make(folder, "DATA=corpus", "ENCODERS=/a/xlsr /b/xlsr")
    assert result.returncode != 0
    assert "directories of different names" in result.stderr
    assert not (folder / "log").exists()


def test_rows_of_unequal_budget_are_no_table() -> None:
    script: dict[str, Any] = runpy.run_path(str(EXAMPLES / "table1.py"))
    cer = Score("cer", 1.0, 10.0)
    row = script["Row"]("new-ctc", cer, ("a", "b"), "thai-v1", 1000, 300, 3.0, 1.0)
    unequal = script["unequal"]
    assert unequal([row, replace(row, name="new-aed", parameters=2000, train_min=9.0)]) == []
    assert unequal([row, replace(row, updates=200)]) == [
        "the rows must have the same updates, but have 200 and 300"
    ]
    (hours,) = unequal([row, replace(row, hours=2.0)])
    assert "heard 2.00 to 3.00" in hours
    assert "normalisers" in unequal([row, replace(row, normalizer="none")])[0]
    assert "scored items" in unequal([row, replace(row, items=("a",))])[0]
