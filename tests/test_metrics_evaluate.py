"""The local `evaluate` metrics load by path, offline, and say what the plain functions say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import thaitool
from thaitool.metrics.chrf import corpus_chrf
from thaitool.metrics.entities import ner_scores
from thaitool.metrics.keywords import keyword_scores
from thaitool.metrics.rephrase import sr_proxies
from thaitool.metrics.tones import tone_error
from thaitool.metrics.transcripts import cer, cer_spoken
from thaitool.metrics.words import wer
from thaitool.records import Score

METRICS = Path(thaitool.__file__).parent / "metrics"
GOLD, TOLD = ["ขาว", "กินข้าว 3 จาน"], ["ข้าว", "กินข่าวสามจาน"]
NER_GOLD, NER_TOLD = ['{"PER": ["มะลิ", "กล้า"]}', "{}"], ['{"บุคคล": ["มะลิ"]}', "{}"]

_OFFLINE = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import evaluate
calls = json.loads(sys.argv[2])
letters = "กขาว"
def embed(texts):
    return [[1 + text.count(letter) for letter in letters] for text in texts]
found = {}
for place, arguments in calls.items():
    if "embedding" in place:
        arguments["embed"] = embed
    metric = evaluate.load(sys.argv[1] + "/" + place)
    found[place] = metric.compute(**arguments)
print(json.dumps(found))
"""


def _texts(**extra: Any) -> dict[str, Any]:
    return {"predictions": TOLD, "references": GOLD, "seed": 3, **extra}


CALLS: dict[str, dict[str, Any]] = {
    "thai_cer": _texts(),
    "intent_accuracy/intent_accuracy.py": {
        "predictions": ["ก", "ข", "x"],
        "references": ["ก", "ก", "ข"],
        "closed_set": ["ก", "ข"],
    },
    "thai_wer": _texts(segmenter="longest"),
    "thai_tone_error": _texts(),
    "thai_ner": {"predictions": NER_TOLD, "references": NER_GOLD, "seed": 3},
    "thai_chrf": _texts(),
    "keyword_hits": _texts(keywords=["ข้าว", "จาน"]),
    "sr_proxies": _texts(spoken=["ข้าว", None]),
    "embedding_similarity": _texts(),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each module computes in a process of its own, without network and without a cache."""
    place = tmp_path_factory.mktemp("offline")
    environment = {
        **os.environ,
        "PYTHONPATH": str(METRICS.parents[1]),
        "HF_HOME": str(place),
        "HF_MODULES_CACHE": str(place / "modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(METRICS), json.dumps(CALLS)],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_module_is_tried(loaded: dict[str, Any]) -> None:
    folders = {path.parent.name for path in METRICS.glob("*/*.py") if path.stem == path.parent.name}
    assert {place.split("/")[0] for place in loaded} == folders
    assert len(folders) == 9


def test_character_error_rate(loaded: dict[str, Any]) -> None:
    found = loaded["thai_cer"]
    direct = cer(GOLD, TOLD, seed=3)
    assert (found["thai_cer"], found["low"], found["high"]) == (
        direct.value,
        direct.low,
        direct.high,
    )
    assert (
        (found["edits"], found["characters"]) == (direct.numerator, direct.denominator) == (5, 14)
    )
    assert found["spoken"] == cer_spoken(GOLD, TOLD).value
    assert found["normalizer"] == "thai-v1"


def test_intents(loaded: dict[str, Any]) -> None:
    found = loaded["intent_accuracy/intent_accuracy.py"]
    assert found["intent_accuracy"] == pytest.approx(1 / 3)
    assert found["invalid_rate"] == pytest.approx(1 / 3)
    assert found["chance"] == 0.5


@pytest.mark.parametrize(
    ("place", "scores"),
    [
        ("thai_wer", [wer(GOLD, TOLD, segmenter="longest", seed=3)]),
        ("thai_tone_error", [tone_error(GOLD, TOLD, seed=3)]),
        ("thai_ner", ner_scores(NER_GOLD, NER_TOLD, seed=3)),
        ("thai_chrf", [corpus_chrf(GOLD, TOLD, seed=3)]),
        ("keyword_hits", keyword_scores(GOLD, TOLD, ["ข้าว", "จาน"], seed=3)),
        ("sr_proxies", sr_proxies(GOLD, TOLD, spoken=["ข้าว", None], seed=3)),
    ],
)
def test_modules_say_what_the_functions_say(
    loaded: dict[str, Any], place: str, scores: list[Score]
) -> None:
    found = loaded[place]
    for score in scores:
        assert found[score.name] == score.value
        assert found[f"{score.name}_numerator"] == score.numerator
        assert found[f"{score.name}_denominator"] == score.denominator
        assert (found[f"{score.name}_low"], found[f"{score.name}_high"]) == (score.low, score.high)
        assert found[f"{score.name}_note"] == score.note


def test_an_embedder_is_passed_in(loaded: dict[str, Any]) -> None:
    found = loaded["embedding_similarity"]
    assert 0.9 < found["embedding_similarity"] < 1
    assert found["embedding_similarity_denominator"] == 2
