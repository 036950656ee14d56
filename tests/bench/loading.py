"""Plan, padding, collate, loader memory and shard cache, beside the peers, in one run. Trains nothing.

Each row is checked before it is timed: every utterance once, values equal. Rates are by the time that the process spent
on a core, so that what else the machine does matters less. `--quick` takes less of everything.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests.bench import measure  # noqa: E402
from thaitool.audio.decode import resample  # noqa: E402
from thaitool.data.cache import build_cache  # noqa: E402
from thaitool.data.loader import batches, load_audio, pad  # noqa: E402
from thaitool.data.manifest import Manifest, from_utterances  # noqa: E402
from thaitool.data.plan import SPREAD, BatchPlan, make_plan  # noqa: E402
from thaitool.records import AudioRef, Utterance  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

BATCH_S = 75.0
#: 35,500 hours of cut speech.
N_CORPUS = 19_000_000


def lognormal(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Durations of cut speech: 3 to 15 s, mean 6.8 s."""
    rng = np.random.default_rng(seed)
    found = np.empty(n)
    for at in range(0, n, 1 << 20):
        part = found[at : at + (1 << 20)]
        part[:] = np.exp(rng.normal(np.log(6.3), 0.45, len(part))).clip(3, 15)
    return found


def distributions(quick: bool) -> dict[str, NDArray[np.float64]]:
    """What people bring: cut speech, much or little of it, and long recordings cropped to 15 s."""
    many = 20_000 if quick else 200_000
    rng = np.random.default_rng(1)
    return {
        f"log-normal 3-15 s, {many:,}": lognormal(many),
        "log-normal 3-15 s, 2,000": lognormal(2_000),
        "80 % at the crop of 15 s, 50,000": np.where(
            rng.random(50_000) < 0.8, 15.0, lognormal(50_000)
        ),
        "log-normal 0.3-30 s, 50,000": np.exp(rng.normal(np.log(6), 0.7, 50_000)).clip(0.3, 30),
    }


def run_plan(n: int) -> dict[str, Any]:
    """Seconds and peak memory of a plan and an epoch, beyond the column of durations (152 MB at 19 M)."""
    duration_s = lognormal(n)
    make_plan(duration_s[:1000], batch_s=BATCH_S, seed=0).epoch(0)  # loads what is loaded once
    seconds: dict[str, float] = {}
    held: list[Any] = []

    def work() -> None:
        began = time.perf_counter()
        plan = make_plan(duration_s, batch_s=BATCH_S, seed=0)
        seconds["plan"] = time.perf_counter() - began
        began = time.perf_counter()
        held.extend([plan, plan.epoch(3)])
        seconds["epoch"] = time.perf_counter() - began

    peak = measure.peak_over(work)
    plan, order = held
    began = time.perf_counter()
    for k in range(0, len(order), max(1, len(order) // 100_000)):
        order[k]
    n_looked = len(range(0, len(order), max(1, len(order) // 100_000)))
    lookup = (time.perf_counter() - began) / n_looked
    counts = np.bincount(order.utterances, minlength=n)
    if counts.min() != 1 or counts.max() != 1:
        raise SystemExit("The plan does not take every utterance once.")
    return {
        "utterances": n,
        "hours": round(float(duration_s.sum()) / 3600),
        "batches": plan.batches_per_epoch,
        "plan_s": round(seconds["plan"], 2),
        "epoch_s": round(seconds["epoch"], 2),
        "batch_lookup_us": round(1e6 * lookup, 2),
        "peak_mb_beyond_durations": None if peak is None else round(peak / 1e6),
        "held_mb": round(
            sum(
                a.nbytes
                for a in (plan.cost, plan.slots, order.utterances, order.starts, order.turns)
            )
            / 1e6
        ),
    }


def padding(duration_s: NDArray[np.float64], found: Iterable[Any]) -> dict[str, float]:
    """Share of padding, and how full batches are; raises if an utterance is missing or comes twice."""
    padded, n_batches = 0.0, 0
    seen = np.zeros(len(duration_s), int)
    for batch in found:
        index = np.asarray(batch, dtype=np.int64)
        np.add.at(seen, index, 1)
        padded += len(index) * float(duration_s[index].max())
        n_batches += 1
    if not (seen == 1).all():
        raise SystemExit(f"{int((seen != 1).sum())} utterances were not taken exactly once.")
    total = float(duration_s.sum())
    return {
        "padding_percent": round(100 * (1 - total / padded), 2),
        "batches": n_batches,
        "audio_s_per_batch": round(total / n_batches, 1),
    }


def partners(plan: BatchPlan, n: int, epochs: int = 10) -> dict[str, float]:
    """Of those an utterance met over some epochs, how many were different ones; chance alone gives about 100 %."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(n, 50, replace=False)
    met: dict[int, list[int]] = {int(i): [] for i in chosen}
    for epoch in range(epochs):
        order = plan.epoch(epoch)
        where = np.empty(n, np.int64)
        where[order.utterances] = np.arange(n)
        for who, others in met.items():
            k = int(np.searchsorted(order.starts, where[who], "right")) - 1
            batch = order.utterances[order.starts[k] : order.starts[k + 1]].tolist()
            others.extend(i for i in batch if i != who)
    return {
        "met": measure.median_of(len(others) for others in met.values()),
        "different": measure.median_of(len(set(others)) for others in met.values()),
    }


def lhotse_batches(duration_s: NDArray[np.float64], n_buckets: int) -> Iterable[list[int]]:
    """What lhotse's sampler makes of the same durations."""
    lhotse, dataset, dummies = (
        importlib.import_module(f"lhotse{name}") for name in ("", ".dataset", ".testing.dummies")
    )
    cuts = lhotse.CutSet.from_cuts(
        dummies.dummy_cut(i, start=0.0, duration=float(d)) for i, d in enumerate(duration_s)
    )
    warnings.filterwarnings("ignore", message="You are using DynamicBucketingSampler with an eager")
    sampler = dataset.DynamicBucketingSampler(
        cuts, max_duration=BATCH_S, num_buckets=n_buckets, shuffle=True, seed=0, drop_last=False
    )
    for batch in sampler:
        yield [int(cut.id.rsplit("-", 1)[1]) for cut in batch]


def run_padding(quick: bool) -> dict[str, Any]:
    """Padding of an epoch at 75 s."""
    table: dict[str, Any] = {}
    for name, duration_s in distributions(quick).items():
        n = len(duration_s)
        plan = make_plan(duration_s, batch_s=BATCH_S, seed=0)
        fixed = np.random.default_rng(0).permutation(n)
        rows: dict[str, Any] = {
            "thaitool": padding(duration_s, plan.epoch(0)) | {"partners": partners(plan, n)},
            "random, 16 a batch": padding(duration_s, np.array_split(fixed, -(-n // 16))),
        }
        if importlib.util.find_spec("lhotse") is None:
            rows["lhotse"] = "not installed"
        elif n == 2_000 or (n == 200_000 and not quick):  # a minute and more for each larger set
            for n_buckets in (20, 100):
                found = lhotse_batches(duration_s, n_buckets)
                rows[f"lhotse, {n_buckets} buckets"] = padding(duration_s, found)
        table[name] = rows
    return {"batch_s": BATCH_S, "spread": SPREAD, "sets": table}


def run_collate(repeats: int) -> dict[str, Any]:
    """Normalising and padding one batch of 75 s, without decoding; transformers' feature extractor beside."""
    from transformers import Wav2Vec2FeatureExtractor

    rng = np.random.default_rng(0)
    plan = make_plan(lognormal(2_000), batch_s=BATCH_S, seed=0)
    seconds = lognormal(2_000)[plan.epoch(0)[50]]
    clips = [(0.1 * rng.standard_normal(round(16_000 * s))).astype("f4") for s in seconds]
    hours = sum(len(c) for c in clips) / 16_000 / 3600
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)

    def theirs() -> Any:
        return extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")

    difference = float((pad(clips)[0] - theirs()["input_values"]).abs().max())
    if difference > 1e-5:
        raise SystemExit(f"Collated values differ from transformers' by {difference}.")
    times = measure.interleaved({"ours": timed(pad, clips), "theirs": timed(theirs)}, repeats)
    return {
        "clips": len(clips),
        "largest_difference": difference,
        "thaitool_hours_per_minute": round(60 * hours / measure.median_of(times["ours"]), 1),
        "transformers_hours_per_minute": round(60 * hours / measure.median_of(times["theirs"]), 1),
        "ratio": round(measure.median_ratio(times["theirs"], times["ours"]), 1),
    }


def timed(work: Callable[..., object], *arguments: object) -> Callable[[], float]:
    """Seconds on a core of one call."""

    def run() -> float:
        began = time.process_time()
        work(*arguments)
        return time.process_time() - began

    return run


def recordings(folder: Path, n: int, suffix: str, rate_hz: int = 16_000) -> Manifest:
    """Noise with a tone under it, 16 bits."""
    rng = np.random.default_rng(0)
    rows = []
    for number, seconds in enumerate(lognormal(n)):
        path = folder / f"{number:05}-{rate_hz}.{suffix}"
        t = np.arange(round(seconds * rate_hz)) / rate_hz
        samples = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.02 * rng.standard_normal(len(t))
        # As whole numbers: libsndfile rounds floats differently for WAV and FLAC.
        soundfile.write(path, np.rint(2**15 * samples).astype("i2"), rate_hz)
        rows.append(Utterance(path.name, AudioRef(str(path)), len(t) / rate_hz, rate_hz))
    return from_utterances(rows)


def run_decode(quick: bool) -> dict[str, Any]:
    """Audio-hours per minute of one core: whole clips, and windows of 2 s; page cache warm for all alike."""
    n = 40 if quick else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {suffix: recordings(folder, n, suffix) for suffix in ("wav", "flac", "ogg", "mp3")}
        sets["flac, 48 kHz"] = recordings(folder, n, "flac", 48_000)
        sets["cache"], _ = build_cache(sets["flac"], folder / "cache", workers=0)
        for i in range(n):
            np.testing.assert_array_equal(load_audio(sets["cache"][i]), load_audio(sets["flac"][i]))
            np.testing.assert_array_equal(load_audio(sets["wav"][i]), load_audio(sets["flac"][i]))
        kinds = {kind: [m[i] for i in range(n)] for kind, m in sets.items()}

        def whole(rows: list[Utterance]) -> None:
            for row in rows:
                load_audio(row)

        def windows(rows: list[Utterance]) -> None:
            for row in rows:
                load_audio(row, (row.duration_s / 2 - 1, row.duration_s / 2 + 1))

        hours = sets["wav"].hours
        found: dict[str, Any] = {"clips": n}
        for what, work, amount in (("whole", whole, hours), ("windows", windows, 2 * n / 3600)):
            steps = {kind: timed(work, rows) for kind, rows in kinds.items()}
            times = measure.interleaved(steps, 3 if quick else 7)
            rates = {k: round(60 * amount / measure.median_of(t), 1) for k, t in times.items()}
            ratio = measure.median_ratio(times["flac"], times["cache"])
            found[what] = {"hours_per_minute": rates, "cache_over_flac": round(ratio, 1)}
    return found | {"resample_hours_per_minute": run_resample(3 if quick else 7)}


def run_resample(repeats: int) -> dict[str, float]:
    """To 16 kHz with torchaudio, one core; it takes float32 only, so that int16 would not save anything."""
    found = {}
    for rate_hz in (48_000, 44_100, 8_000):
        samples = np.random.default_rng(0).standard_normal(7 * rate_hz).astype("f4")
        times = measure.interleaved({"it": timed(resample, samples, rate_hz)}, 3 * repeats)["it"]
        found[f"{rate_hz} Hz"] = round(7 / 60 / measure.median_of(times), 1)
    return found


def run_memory(workers: int, n_batches: int) -> dict[str, Any]:
    """Memory of the loader and its workers, averaged over tenths of the way: batches under way make it go up and down.

    Flat means that the last three tenths do not hold more than the three after the first.
    """
    with tempfile.TemporaryDirectory() as name:
        manifest = recordings(Path(name), 150, "flac")
        rows = [manifest[i] for i in range(len(manifest))]
        many = from_utterances(
            Utterance(f"{k}/{u.id}", u.audio, u.duration_s, u.sample_rate_hz)
            for k in range(20)
            for u in rows
        )
        plan = make_plan(np.minimum(many.duration_s, 10.0), batch_s=BATCH_S, seed=0)
        source = batches(many, plan, range(n_batches), workers=workers, crop_s=10.0)
        every = [proportional_mb() for _ in source]
    tenths = [float(np.mean(part)) for part in np.array_split(every, 10)]
    growth = 100 * (np.mean(tenths[7:]) / np.mean(tenths[1:4]) - 1)
    return {
        "batches": n_batches,
        "mb_by_tenths": [round(x, 1) for x in tenths],
        "growth_percent": round(float(growth), 2),
    }


def proportional_mb() -> float:
    """Memory of this process and its children, what they share counted once.

    Without mapped files: libraries are shared with whatever else runs on the machine, and vary with that.
    """
    pids = [os.getpid()]
    for task in Path("/proc/self/task").iterdir():
        pids += [int(p) for p in (task / "children").read_text("ascii").split()]
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1])
    return total / 1024


def in_a_process(part: str, *arguments: str) -> dict[str, Any]:
    """A part on its own: memory is that of a process."""
    command = [sys.executable, "-m", "tests.bench.loading", "--part", part, *arguments]
    # Left alone, glibc keeps freed blocks, now ten megabytes more and now less, which hides or feigns a leak.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", choices=("plan", "memory"), help="used by itself")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    if options.part:
        plan = options.part == "plan"
        one = run_plan(options.number) if plan else run_memory(options.workers, options.number)
        sys.stdout.write(json.dumps(one))
        return
    torch.set_num_threads(1)
    n_batches = "200" if options.quick else "1000"
    report = {
        "machine": measure.machine("cpu"),
        "quick": options.quick,
        "plan": in_a_process("plan", "--number", str(N_CORPUS)),
        "padding": run_padding(options.quick),
        "collate": run_collate(20 if options.quick else 100),
        "decode": run_decode(options.quick),
        "loader_memory": {
            f"{workers} workers": in_a_process(
                "memory", "--workers", str(workers), "--number", n_batches
            )
            for workers in (0, 2)
        },
        "load_average": [round(x, 2) for x in os.getloadavg()],
    }
    text = json.dumps(report, indent=1)
    sys.stdout.write(text + "\n")
    if options.out:
        options.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
