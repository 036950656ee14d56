"""`synth` that is killed, stopped or continued: nothing is asked twice, nothing differs in the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import tiny
from tests.stand_in import Faults, serving
from thaitool.config import SynthConfig
from thaitool.data.shards import read_thai_sup
from thaitool.errors import ConfigError, InputError
from thaitool.stages import synth
from thaitool.synth.gates import canary

SENTENCES = 24
IN_FLIGHT = 8


def write_source(path: Path) -> Path:
    rows = [
        {
            "instruction": f"Call Ann about item {n}.",
            "output": "Done.",
            "id": f"r{n}",
            "intent": "make_call",
            "entities": [{"type": "PER", "text": "Ann"}],
        }
        for n in range(SENTENCES)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def settings(url: str, source: Path, out: Path) -> dict[str, Any]:
    return {
        "source": source,
        "out": out,
        "llm": f"openai:{url}/v1#stand-in",
        "translator": f"openai:{url}/v1#stand-in",
        "tts": f"speech:{url}/v1#voice",
        "voices": ["ann", "bob:2", "cy"],
        "dev_voices": 1,
        "test_voices": 1,
        "variants": 4,
        "shard_rows": 20,
        "tasks": ["ic", "ner"],
        "calls": {"in_flight": IN_FLIGHT},
        # The stand-in says the same for many sentences.
        "gates": {"duplicates": "keep"},
    }


def start(values: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    recipe = folder / f"{values['out'].name}.json"  # JSON is YAML
    recipe.write_text(json.dumps({"synth": values}, default=str), "utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "thaitool", "synth", "--config", str(recipe)],
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def answers(cache: Path) -> int:
    if not cache.exists():
        return 0
    with sqlite3.connect(cache) as db:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name='answers'").fetchone()
        return int(db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]) if known else 0


def successes(cache: Path) -> int:
    with sqlite3.connect(cache) as db:
        query = "SELECT COUNT(*) FROM attempts WHERE outcome = 'ok'"
        return int(db.execute(query).fetchone()[0])


def files(root: Path) -> dict[str, bytes]:
    """By name; without what was spent, as calls that died with a process are not counted."""
    found = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    del found["report.html"]
    for name in ("dataset_card.json", "report.json"):
        value = json.loads(found[name])
        assert value.pop("spending")["calls"] > 0
        found[name] = json.dumps(value).encode()
    return found


def test_killed_twice_it_asks_nothing_again_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jsonl")
    with serving(latency_s=0.02, faults=Faults(markers=0.2)) as url:
        whole = synth.make(SynthConfig.model_validate(settings(url, source, tmp_path / "whole")))
        one_pass = httpx2.get(f"{url}/stats").json()["outcomes"]
        assert whole.spending is not None
        calls = successes(tmp_path / "whole.cache.sqlite")

        values = settings(url, source, tmp_path / "killed")
        cache, work = tmp_path / "killed.cache.sqlite", tmp_path / ".killed.work" / "data"
        halfway = (  # in the texts, then in the speech
            lambda: answers(cache) >= calls // 4,
            lambda: len(list(work.rglob("*.parquet"))) >= 2,
        )
        for condition in halfway:
            process = start(values, tmp_path)
            wait_for(condition, process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            assert not values["out"].exists()
        process = start(values, tmp_path)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "rows were made before" in out
        two = httpx2.get(f"{url}/stats").json()

    # Every answer that arrived was used; only those on their way when it died were asked for again.
    assert successes(cache) == calls
    again = sum(two["outcomes"].values()) - 2 * sum(one_pass.values())
    assert 0 <= again <= 2 * 2 * IN_FLIGHT
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not (tmp_path / ".killed.work").exists()
    made = read_thai_sup(tmp_path / "killed")
    assert len({u.id for u in made}) == len(made)
    rejected = sum(n for _, n in whole.result.rejected)
    texts_lost = sum(n for r, n in whole.result.rejected if r.startswith("translate_"))
    assert len(made) + 2 * texts_lost + (rejected - texts_lost) == SENTENCES * 4 * 2
    for line in map(json.loads, (tmp_path / "killed/manifest.jsonl").read_text().splitlines()):
        assert (tmp_path / "killed" / line["file"]).is_file()


def test_added_rows_and_another_voice_ask_only_what_is_new(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jsonl")
    with serving() as url:
        values = settings(url, source, tmp_path / "a") | {"cache": tmp_path / "shared.sqlite"}
        first = synth.make(SynthConfig.model_validate(values))
        before = httpx2.get(f"{url}/stats").json()["outcomes"]
        more = source.read_text() + json.dumps(
            {"instruction": "Ring Ann now.", "output": "", "intent": "make_call", "id": "new"}
            | {"entities": [{"type": "PER", "text": "Ann"}], "output": "Done."}
        )
        added = tmp_path / "more.jsonl"
        added.write_text(more, "utf-8")
        values |= {"source": added, "out": tmp_path / "b", "tts": f"speech:{url}/v1#other"}
        second = synth.make(SynthConfig.model_validate(values))
        after = httpx2.get(f"{url}/stats").json()["outcomes"]
    assert after["ok"] - before["ok"] == 1 + 4  # one augmentation, four translations
    assert after["speech"] - before["speech"] == before["speech"] + 8
    assert first.spending is not None
    assert second.spending is not None
    assert second.spending.calls == 1 + 4 + after["speech"] - before["speech"]
    with pytest.raises(InputError, match="made with another source or other settings"):
        synth.make(SynthConfig.model_validate(values | {"source": source}))


def test_unfinished_work_of_other_settings_is_not_mixed_in(tmp_path: Path) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "source.jsonl", intents=1)
    values = {"source": source, "out": tmp_path / "x", "variants": 1, "tasks": ["ic"]}
    left = tmp_path / ".x.work"
    (left / "data" / "IC" / "train").mkdir(parents=True)
    with sqlite3.connect(left / "ledger.sqlite") as db:
        db.execute("CREATE TABLE run (fingerprint TEXT NOT NULL)")
        db.execute("INSERT INTO run VALUES ('of another')")
        db.execute("CREATE TABLE texts (position INTEGER PRIMARY KEY, texts TEXT NOT NULL)")
        db.execute("INSERT INTO texts VALUES (0, '{}')")
    (left / "data" / "IC" / "train" / "train-00009.parquet").write_bytes(b"other rows")
    with pytest.raises(
        InputError, match="holds unfinished work of another source or other settings"
    ):
        synth.make(SynthConfig.model_validate(values))
    done = synth.make(SynthConfig.model_validate(values | {"restart": True}))
    assert done.resumed_rows == 0
    names = {p.name for p in (tmp_path / "x" / "IC" / "train").iterdir()}
    assert names == {"train-00000.parquet"}


def test_two_processes_on_one_data_set_are_kept_apart(tmp_path: Path) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "source.jsonl", intents=1)
    values = {"source": source, "out": tmp_path / "x", "variants": 1, "tasks": ["ic"]}
    (tmp_path / ".x.work").mkdir()
    with sqlite3.connect(tmp_path / ".x.work" / "ledger.sqlite") as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="worked on by another process"):
            synth.make(SynthConfig.model_validate(values))


def test_a_dry_run_asks_nothing_and_its_calls_are_those_of_the_run(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jsonl")
    with serving() as url:
        prices = {"stand-in": {"prompt": 1.0, "completion": 2.0}}
        values = settings(url, source, tmp_path / "x")
        values["calls"] = {"in_flight": 8, "prices": prices}
        config = SynthConfig.model_validate(values)
        plan = synth.plan(config)
        assert httpx2.get(f"{url}/stats").json()["requests"] == 0
        done = synth.make(config)
    assert done.spending is not None
    assert plan.calls == done.spending.calls == SENTENCES * (1 + 4 + 4 * 2) + 3 * len(canary.WORDS)
    assert plan.rows == sum(n for _, _, n, _ in done.result.counts)
    assert plan.usd is not None
    assert 0.3 < plan.usd / done.spending.usd < 3
    no_price = config.model_dump() | {"calls": {"max_cost_usd": 1.0}, "out": tmp_path / "y"}
    with pytest.raises(ConfigError, match="max_cost_usd needs the price of the model"):
        synth.make(SynthConfig.model_validate(no_price))
    dear = {"prices": prices, "max_cost_usd": 0.01}
    changed = {"calls": dear, "out": tmp_path / "y", "gates": {"tone_canary": False}}
    with pytest.raises(ConfigError, match="more than max_cost_usd"):
        synth.make(SynthConfig.model_validate(values | changed))
