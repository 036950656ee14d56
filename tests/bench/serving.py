"""The server with 32 clients at a time beside offline `infer` on the same clips. Verifies texts before it reads clocks.

An untrained model of a usual shape, in a process of its own as `thaitool infer --serve`; clients are threads of this
one, with a connection each. Rounds of both alternate, and medians are reported. `--quick` takes a small model and few
clips.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

import httpx2  # noqa: E402
import soundfile  # noqa: E402

from tests.bench import measure  # noqa: E402
from tests.bench.infer import SHAPES, batched, make_clips, make_model  # noqa: E402
from thaitool.inference.model import load  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The issue's floor: throughput of the server as a share of offline `infer`.
MUST_REACH = 0.8


@dataclass(frozen=True)
class Served:
    """What one round of clients saw."""

    texts: list[str]
    """In the order of the clips; of one that failed, its status and body."""
    errors: int
    seconds: float
    latencies_s: list[float]


@contextmanager
def server(model: Path, tokens: int) -> Iterator[str]:
    """The URL of `thaitool infer --serve` in a process of its own."""
    running = subprocess.Popen(
        [
            *(sys.executable, "-m", "thaitool", "infer", "--serve", "--port", "0"),
            *("--device", "cpu", "--model", str(model), "--max-new-tokens", str(tokens)),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "THAITOOL_API_KEY": ""},
    )
    assert running.stderr is not None
    try:
        line = running.stderr.readline()
        found = re.search(r"Serving on (\S+) ", line)
        if found is None:
            raise SystemExit(f"The server did not start: {line}{running.stderr.read()}")
        yield found[1]
        running.send_signal(signal.SIGTERM)
        if running.wait(60):
            raise SystemExit(f"The server ended with code {running.returncode}.")
    finally:
        running.kill()
        running.wait()


def ask(url: str, paths: list[Path], clients: int) -> Served:
    """One round: every clip once, by as many clients at a time."""
    own = threading.local()
    opened: list[httpx2.Client] = []

    def one(path: Path) -> tuple[str, bool, float]:
        if not hasattr(own, "client"):
            own.client = httpx2.Client(timeout=600)
            opened.append(own.client)
        began = time.perf_counter()
        response = own.client.post(
            f"{url}/v1/audio/transcriptions", files={"file": (path.name, path.read_bytes())}
        )
        seconds = time.perf_counter() - began
        if response.status_code != 200:
            return f"{response.status_code}: {response.text}", False, seconds
        return str(response.json()["text"]), True, seconds

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(one, paths))
    seconds = time.perf_counter() - began
    for client in opened:
        client.close()
    return Served(
        [text for text, _, _ in found],
        sum(not is_right for _, is_right, _ in found),
        seconds,
        [latency for _, _, latency in found],
    )


def compare(shape: str, count: int, tokens: int, clients: int, rounds: int) -> dict[str, Any]:
    """Clips per second of both; raises if a request fails or a text differs, in any round."""
    with tempfile.TemporaryDirectory() as base:
        path = make_model(Path(base), SHAPES[shape])
        paths = make_clips(Path(base) / "clips", count)
        model = load(path, device="cpu")
        offline: list[float] = []
        served: list[Served] = []
        with server(path, tokens) as url:
            expected = batched(model, paths, tokens)
            _require_equal(expected, ask(url, paths, clients))
            for _ in range(rounds):
                began = time.perf_counter()
                batched(model, paths, tokens)
                offline.append(time.perf_counter() - began)
                served.append(ask(url, paths, clients))
                _require_equal(expected, served[-1])
        audio_s = sum(soundfile.info(file).duration for file in paths)
    seconds = statistics.median(s.seconds for s in served)
    latencies = sorted(latency for s in served for latency in s.latencies_s)
    return {
        "clips": count,
        "audio_s": round(audio_s, 1),
        "tokens_each": tokens,
        "clients": clients,
        "errors": sum(s.errors for s in served),
        "texts_equal": True,
        "distinct_texts": len(set(expected)),
        "clips_per_s": {
            "offline": round(count / statistics.median(offline), 2),
            "served": round(count / seconds, 2),
        },
        "served_of_offline": round(statistics.median(offline) / seconds, 3),
        "latency_s": {
            "median": round(statistics.median(latencies), 3),
            "p95": round(latencies[int(0.95 * (len(latencies) - 1))], 3),
        },
    }


def _require_equal(expected: list[str], served: Served) -> None:
    wrong = [i for i, text in enumerate(served.texts) if text != expected[i]]
    if served.errors or wrong:
        raise SystemExit(
            f"{served.errors} of {len(expected)} requests failed and {len(wrong)} texts differ, the first:"
            f" {served.texts[wrong[0]]!r}; nothing was timed."
        )


def main() -> None:
    """Parses, runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    shapes = list(SHAPES)[:1] if given.quick else list(SHAPES)
    count, tokens, rounds = (64, 12, 2) if given.quick else (200, 32, 3)
    found = {shape: compare(shape, count, tokens, 32, rounds) for shape in shapes}
    report = {"machine": measure.machine("cpu"), "must_reach": MUST_REACH, "serving": found}
    print(json.dumps(report, indent=1))  # noqa: T201
    if given.out is not None:
        given.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    worst = min(row["served_of_offline"] for row in found.values())
    if worst < MUST_REACH and not given.quick:
        raise SystemExit(f"The server reaches {worst} of offline; {MUST_REACH} is asked for.")


if __name__ == "__main__":
    main()
