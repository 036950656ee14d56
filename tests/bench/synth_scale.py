"""`synth` as a whole: what several processes gain, and memory as rows become more. Called by tests/bench/synth.py.

Memory is that of a process of its own, with a voice that costs nothing: what grows is what `synth` itself holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests import tiny
from thaitool.config import SynthConfig
from thaitool.records import Advance
from thaitool.stages import synth
from thaitool.synth import assembly
from thaitool.synth.backends.protocol import Identity
from thaitool.synth.draws import pick
from thaitool.synth.espeak import Speech

#: Clips after which the clock starts: by then every process has loaded its voices.
WARM = 100
WORDS = (
    *(
        "บ้าน",
        "น้ำ",
        "รถ",
        "เพลง",
        "ข้าว",
        "เมือง",
        "วันนี้",
        "ถนน",
        "หนังสือ",
        "ดอกไม้",
        "แม่น้ำ",
        "ตลาด",
        "ทะเล",
        "ภูเขา",
    ),
    *(
        "อาหาร",
        "โรงเรียน",
        "หมอ",
        "ครู",
        "เด็ก",
        "แมว",
        "หมา",
        "ฝน",
        "ลม",
        "ไฟ",
        "ดาว",
        "เดือน",
        "กลางคืน",
        "เช้า",
        "เย็น",
    ),
)


class InstantTts:
    """Noise as long as the text, made once."""

    identity = Identity("espeak:", "instant", "")
    voices = tuple("abcdefg")
    in_flight = 1

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._noise = (0.1 * rng.standard_normal(16_000 * 60)).astype(np.float32)

    async def speak(self, text: str, voice: str, **_: Any) -> Speech:
        """Noise."""
        return Speech(self._noise[: int(16_000 * len(text) / 12)], 16_000, voice, "")

    async def close(self) -> None:
        """Nothing to give back."""


def sentences(count: int) -> Iterator[str]:
    """Different Thai sentences of three words."""
    for n in range(count):
        yield "".join(pick(WORDS, n, place) for place in range(3)) + f" {n}"


def memory_of(rows: int) -> dict[str, Any]:
    """One pass in this process, which should be a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.txt"
        source.write_text("".join(f"{s}\n" for s in sentences(rows)), "utf-8")
        values = {"source": source, "out": Path(folder) / "x", "language": "th", "tasks": ["asr"]}
        values |= {
            "variants": 1,
            "shard_rows": 200,
            "gates": {"tone_canary": False},
            "max_rejected_share": 1.0,
        }
        before = _peak_mb()
        with mock.patch.object(assembly, "open_tts", lambda *_: InstantTts()):
            began = time.process_time()
            made = synth.run(SynthConfig.model_validate(values))
    return {
        "source_rows": rows,
        "rows": sum(n for *_, n, _ in made.counts),
        "rejected": sum(n for _, n in made.rejected),
        "start_mb": before,
        "peak_mb": _peak_mb(),
        "processor_ms_per_row": round(1e3 * (time.process_time() - began) / rows, 2),
    }


def memory(counts: Sequence[int]) -> list[dict[str, Any]]:
    """`memory_of` in a fresh process for each."""
    found = []
    for rows in counts:
        command = [sys.executable, "-m", "tests.bench.synth_scale", "--memory-of", str(rows)]
        ran = subprocess.run(command, cwd=tiny.ROOT, capture_output=True, text=True, check=True)
        found.append(json.loads(ran.stdout.splitlines()[-1]))
    return found


def scaling(rows_each: int, workers: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Clips of the embedded voices a second, by the clock on the wall, for each number of processes."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = tiny.alpaca_excerpt(Path(folder) / "source.jsonl", intents=8, rows_each=rows_each)
        for count in workers:
            config = tiny.make(
                SynthConfig, source=source, out=Path(folder) / str(count), workers=count
            )
            found[f"clips_per_s_{count}"] = round(_clips_per_s(config), 2)
    first, last = (found[f"clips_per_s_{n}"] for n in (workers[0], workers[-1]))
    return found | {f"scaling_{workers[-1]}_processes": round(last / first, 3)}


def _clips_per_s(config: SynthConfig) -> float:
    times: list[float] = []

    @contextmanager
    def clock(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str = "") -> None:
            if description == "synth: speech":
                times.append(time.perf_counter())

        yield advance

    synth.make(config, clock)
    return (len(times) - WARM) / (times[-1] - times[WARM - 1])


def _peak_mb() -> float:
    """Most memory of this program so far; `ru_maxrss` would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text("utf-8")
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory-of", type=int)
    given = parser.parse_args()
    found = memory_of(given.memory_of) if given.memory_of else scaling(20)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
