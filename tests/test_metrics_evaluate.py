"""The local `evaluate` metrics load by path, offline, and say what the plain functions say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import thaitool
from thaitool.metrics.transcripts import cer

_OFFLINE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import evaluate
root = sys.argv[1]
cer = evaluate.load(root + "/thai_cer")
intents = evaluate.load(root + "/intent_accuracy/intent_accuracy.py")
print(json.dumps([
    cer.compute(predictions=["ข้าว", "กินข่าว"], references=["ขาว", "กินข้าว"], seed=3),
    intents.compute(predictions=["ก", "ข", "x"], references=["ก", "ก", "ข"], closed_set=["ก", "ข"]),
]))
"""


def test_evaluate_modules_load_by_path_without_network(tmp_path: Path) -> None:
    package = Path(thaitool.__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "HF_HOME": str(tmp_path),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(package / "metrics")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    transcripts, intents = json.loads(done.stdout.splitlines()[-1])
    assert (transcripts["thai_cer"], transcripts["edits"], transcripts["characters"]) == (
        0.2,
        2,
        10,
    )
    assert transcripts["normalizer"] == "thai-v1"
    direct = cer(["ขาว", "กินข้าว"], ["ข้าว", "กินข่าว"], seed=3)
    assert (transcripts["low"], transcripts["high"]) == (direct.low, direct.high)
    assert intents["intent_accuracy"] == pytest.approx(1 / 3)
    assert intents["invalid_rate"] == pytest.approx(1 / 3)
    assert intents["chance"] == 0.5
