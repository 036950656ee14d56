"""Calls of `synth` against a local server with a known limit, with and without faults; and speech, packing, reading;
then whole data sets (tests/bench/synth_scale.py): two processes against one, and memory as rows become more.

The server (tests/stand_in.py) takes 200 ms for an answer and 32 at once: 160 calls a second are all that anybody could
make. Every question is one translation, through cache, budget, limits, check of the JSON and of the markers, as in the
stage. Rates by the clock on the wall need a machine that does nothing else; seconds of processor do not. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from tests.bench import measure, synth_scale
from tests.stand_in import Faults, serving
from thaitool.config import Calls
from thaitool.data.shards import ThaiSupRow, clear_cache, read_audio, write_shard
from thaitool.records import AudioRef, Rejected
from thaitool.synth.asking import Asker
from thaitool.synth.backends import open_llm
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Budget, Endpoint, Limits, Price
from thaitool.synth.espeak import VOICES, speak
from thaitool.synth.llm_translate import LlmTranslator
from thaitool.synth.parallel import as_they_end
from thaitool.synth.sources import SourceRow, Span

LATENCY_S, IN_FLIGHT = 0.2, 32
FAULTS = Faults(busy=0.05, error=0.02, hang=0.01, malformed=0.01)
#: The issue's bounds.
MUST_REACH = {
    "share_of_ideal_rate": 0.95,
    "most_calls_per_row": 1.15,
    "voice_times_real_time": 100,
    "packing_times_real_time": 500,
    "first_row_ms": 50,
    "scaling_2_processes": 1.8,
}
SAID = ("ช่วยตั้งนาฬิกาปลุกตอนเจ็ดโมงเช้าให้หน่อยครับ", "เปิดเพลงในห้องนั่งเล่น", "พรุ่งนี้ที่เชียงใหม่ฝนจะตกไหม")


def rows(count: int) -> list[SourceRow]:
    """Different sentences with one name each."""
    return [
        SourceRow(
            f"r{n}", "bench", "CC0", f"Call Ann about item {n}.", "i", (Span(5, 8, "PER", "Ann"),)
        )
        for n in range(count)
    ]


def calling(count: int, faults: Faults, timeout_s: float) -> dict[str, Any]:
    """`count` translations; what became of each, and what the server saw."""
    options = {"latency_s": LATENCY_S, "in_flight": IN_FLIGHT, "faults": faults}
    with serving(**options) as url, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_calling(url, Path(folder), rows(count), timeout_s))
        found["server"] = httpx2.get(f"{url}/stats").json()
    found["calls_per_row"] = round(found["server"]["requests"] / count, 4)
    return found


async def _calling(
    url: str, folder: Path, wanted: list[SourceRow], timeout_s: float
) -> dict[str, Any]:
    calls = Calls.model_validate({"in_flight": IN_FLIGHT, "timeout_s": timeout_s})
    llm = await open_llm(f"openai:{url}/v1#stand-in", calls, "llm")
    cache = Cache(folder / "cache.sqlite", "bench")
    endpoint = Endpoint(url, Limits(IN_FLIGHT, timeout_s=timeout_s))
    translator = LlmTranslator(Asker(llm, endpoint, cache, Budget(None), Price(0, 0), 0.7))
    ended: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    began, processor = time.perf_counter(), time.process_time()
    async for row, made in as_they_end(wanted, translator.translate, 2 * IN_FLIGHT):
        ended[row.source_id] += 1
        reasons[made.reason if isinstance(made, Rejected) else "done"] += 1
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    await llm.close()
    ideal = IN_FLIGHT / LATENCY_S
    return {
        "rows": len(wanted),
        "ended": dict(reasons),
        "rows_lost": len(wanted) - len(ended),
        "rows_doubled": sum(n > 1 for n in ended.values()),
        "outcomes": cache.outcomes(),
        "seconds": round(seconds, 2),
        "ideal_seconds": round(len(wanted) / ideal, 2),
        "share_of_ideal_rate": round(len(wanted) / ideal / seconds, 4),
        "client_processor_ms_per_row": round(1e3 * processor / len(wanted), 3),
    }


def speaking(clips: int) -> dict[str, Any]:
    """The embedded voices, then packing what they said, by seconds of processor; then the first row of the shard."""
    from thaitool.audio.decode import encode_flac

    for voice in VOICES[:2]:
        speak(SAID[0], voice)  # loads the library
    began = time.process_time()
    made = [speak(SAID[n % len(SAID)], VOICES[n % len(VOICES)]) for n in range(clips)]
    voice_s = time.process_time() - began
    audio_s = sum(speech.duration_s for speech in made)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train-00000.parquet"
        began = time.process_time()
        packed = [
            ThaiSupRow(
                "ASR",
                "?",
                f"ASR-{n:06d}",
                "ก",
                "ก",
                encode_flac(s.samples),
                16_000,
                1,
                s.duration_s,
            )
            for n, s in enumerate(made)
        ]
        write_shard(shard, packed)
        packing_s = time.process_time() - began
        first = []
        for _ in range(9):
            clear_cache()
            began_wall = time.perf_counter()
            read_audio(AudioRef(str(shard), 0))
            first.append(1e3 * (time.perf_counter() - began_wall))
    return {
        "clips": clips,
        "audio_s": round(audio_s, 1),
        "voice_times_real_time": round(audio_s / voice_s, 1),
        "packing_times_real_time": round(audio_s / packing_s, 1),
        "first_row_ms": round(measure.median_of(first), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[1000, 10_000, 50_000])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {
        "machine": measure.machine("cpu"),
        "versions": {name: version(name) for name in ("httpx2", "aiohttp", "pyarrow")},
        "server": {"latency_s": LATENCY_S, "in_flight": IN_FLIGHT},
        "must_reach": MUST_REACH,
        "clean": calling(given.rows, Faults(), 30.0),
        "faulty": calling(given.rows, FAULTS, 2.0),
        "speech": speaking(given.clips),
        "scaling": synth_scale.scaling(20),
        "memory": synth_scale.memory(given.memory_rows),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False)
    print(text)  # noqa: T201
    if given.out is not None:
        given.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
