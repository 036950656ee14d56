"""Files per second and core: headers alone, and a directory to a manifest, beside soundfile, lhotse and datasets.

Everybody reads the same generated files, which lie in memory, and must agree on them before a clock is started. One
process, no workers. A rate is by the time that the process spent on a core, so that what else the machine does
matters less; the rates by the clock on the wall stand beside it. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from tests.bench import measure
from thaitool.audio.headers import read_header
from thaitool.data.manifest import append_quarantine
from thaitool.data.scan import scan
from thaitool.records import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("wav", "flac")
RATE_HZ = 16_000
#: The issue's floor for the header scan, files per second and core.
MUST_REACH = 40_000


def generate(folder: Path, count: int, kind: str) -> list[str]:
    """Files of 2 to 4 s of noise, no two alike."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(4 * RATE_HZ + count)
    paths = []
    for k in range(count):
        path = folder / f"{k // 1000:03d}" / f"utterance-{k:06d}.{kind}"
        path.parent.mkdir(exist_ok=True)
        length = int(rng.integers(2 * RATE_HZ, 4 * RATE_HZ))
        soundfile.write(path, noise[k : k + length], RATE_HZ, "PCM_16")
        paths.append(str(path))
    return paths


@dataclass(frozen=True)
class Times:
    """Seconds of one call."""

    core: float
    wall: float


def clocked(run: Callable[[], object]) -> Times:
    """The times of one call."""
    core, wall = time.process_time(), time.perf_counter()
    run()
    return Times(time.process_time() - core, time.perf_counter() - wall)


def ours(path: str) -> tuple[int, int, int]:
    header = read_header(path)
    return header.frames, header.sample_rate_hz, header.channels


def of_soundfile(path: str) -> tuple[int, int, int]:
    info = soundfile.info(path)
    return info.frames, info.samplerate, info.channels


def of_lhotse(path: str) -> tuple[int, int, int]:
    from lhotse import Recording

    found = Recording.from_file(path)
    return found.num_samples, found.sampling_rate, found.num_channels


def readers() -> dict[str, Callable[[str], tuple[int, int, int]]]:
    """Everything that reads a header, ours first."""
    found: dict[str, Callable[[str], tuple[int, int, int]]] = {
        "thaitool": ours,
        "soundfile": of_soundfile,
    }
    if importlib.util.find_spec("lhotse"):
        found["lhotse"] = of_lhotse
    return found


def torchcodec() -> str:
    """Makes torchcodec importable, which `datasets` asks for even where it decodes nothing."""
    importlib.import_module("datasets")  # looks for torchcodec, and must not find the stand-in
    try:
        importlib.import_module("torchcodec.encoders")
    except (ImportError, OSError, RuntimeError):
        # It needs FFmpeg's libraries. In the build of an audio folder none of its functions is called.
        for name in ("encoders", "decoders"):
            stand_in = ModuleType(f"torchcodec.{name}")
            vars(stand_in).update(AudioEncoder=object, AudioDecoder=type("AudioDecoder", (), {}))
            sys.modules[stand_in.__name__] = stand_in
        sys.modules["torchcodec"] = ModuleType("torchcodec")
        return "replaced by an empty module"
    return "installed"


def audiofolder(folder: Path) -> Any:
    """What `datasets` makes of a directory: rows with the files' paths, nothing decoded."""
    from datasets import load_dataset, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as cache:
        return load_dataset("audiofolder", data_dir=str(folder), cache_dir=cache, split="train")


def header_rates(paths: list[str], repeats: int) -> dict[str, Any]:
    """Files per second of every reader on the same files, after all have given the same answers."""
    found = readers()
    answers = {name: [read(path) for path in paths] for name, read in found.items()}
    for name, answer in answers.items():
        if answer != answers["thaitool"]:
            raise SystemExit(f"{name} and thaitool must agree on every header, but do not.")

    def run(read: Callable[[str], object]) -> Times:
        return clocked(lambda: [read(path) for path in paths])

    times = measure.interleaved({name: partial(run, read) for name, read in found.items()}, repeats)
    return rates(times, len(paths))


def rates(times: dict[str, list[Times]], count: int) -> dict[str, Any]:
    """Median files per second, and how many times as fast as each peer we are."""
    core = {name: [t.core for t in found] for name, found in times.items()}
    wall = {name: [t.wall for t in found] for name, found in times.items()}
    return {
        "files_per_core_s": {n: round(count / measure.median_of(t)) for n, t in core.items()},
        "files_per_wall_s": {n: round(count / measure.median_of(t)) for n, t in wall.items()},
        "ratio": {
            name: round(measure.median_ratio(t, core["thaitool"]), 2)
            for name, t in core.items()
            if name != "thaitool"
        },
    }


def scan_rates(folder: Path, paths: list[str], repeats: int) -> dict[str, Any]:
    """A directory to a manifest: with and without duplicates, beside lhotse's loop over the same files."""
    manifest, rejected = scan([folder])
    durations = [soundfile.info(path).duration for path in paths]
    if rejected or not np.allclose(np.sort(manifest.duration_s), np.sort(durations)):
        raise SystemExit("The scan must find every file with its duration, but does not.")
    steps: dict[str, Callable[[], Times]] = {
        "thaitool": lambda: clocked(lambda: scan([folder])),
        "thaitool, duplicates dropped": lambda: clocked(lambda: scan([folder], duplicates="drop")),
    }
    if importlib.util.find_spec("lhotse"):
        steps["lhotse"] = lambda: clocked(lambda: lhotse_recordings(folder))
        if len(lhotse_recordings(folder)) != len(manifest):
            raise SystemExit("lhotse must find as many files as the scan, but does not.")
    return rates(measure.interleaved(steps, repeats), len(paths))


def lhotse_recordings(folder: Path) -> Any:
    from lhotse import Recording, RecordingSet

    files = sorted(path for kind in KINDS for path in folder.rglob(f"*.{kind}"))
    return RecordingSet.from_recordings(Recording.from_file(path, str(path)) for path in files)


def datasets_rates(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """A directory to a table, beside `datasets`, whose fixed cost of starting is part of its time."""
    if not importlib.util.find_spec("datasets"):
        return {"missing": "datasets is not installed"}
    found = torchcodec()
    if len(audiofolder(folder)) != len(scan([folder])[0]):
        raise SystemExit("datasets must find as many files as the scan, but does not.")
    steps = {
        "thaitool": lambda: clocked(lambda: scan([folder])),
        "datasets": lambda: clocked(lambda: audiofolder(folder)),
    }
    return {"torchcodec": found} | rates(measure.interleaved(steps, repeats), count)


def many_links(folder: Path, paths: list[str], count: int) -> None:
    """A directory of `count` names for a few files: hard links take no space for content."""
    for k in range(count):
        target = folder / f"speaker-{k // 1000:04d}" / f"utterance-{k:08d}.wav"
        if k % 1000 == 0:
            target.parent.mkdir(parents=True)
        os.link(paths[k % len(paths)], target)


#: In a process of its own, because an allocator remembers what came before. Prints the bytes that the scan added.
_PEAK = """
import sys
from pathlib import Path
from tests.bench.measure import peak_over
from thaitool.data.scan import scan
folder, small, into = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None
scan([small])
print(peak_over(lambda: scan([folder], into=into)))
"""


def peak_bytes(folder: Path, into: Path | None) -> int | None:
    """The most that a scan holds beyond what a process that has scanned a thousand files holds."""
    arguments = [str(folder), str(folder / "speaker-0000"), *([str(into)] if into else [])]
    run = subprocess.run(
        [sys.executable, "-c", _PEAK, *arguments], check=True, capture_output=True, text=True
    )
    return None if run.stdout.strip() == "None" else int(run.stdout)


def memory(folder: Path, count: int) -> dict[str, Any]:
    """Bytes per file of a large scan (the rows, and the most that is held meanwhile), and the speed of its rows."""
    manifest = scan([folder])[0]
    peaks = {
        name: peak_bytes(folder, into) for name, into in (("", None), ("_into", folder.parent))
    }
    digest_s = clocked(manifest.digest).core
    chosen = np.random.default_rng(0).integers(0, count, 20_000).tolist()
    manifest[0]
    row_s = clocked(lambda: [manifest[k] for k in chosen]).core / len(chosen)
    return {
        "files": count,
        "row_bytes": round(manifest.table.nbytes / count, 1),
        **{
            f"peak_mb{name}": None if peak is None else round(peak / 1e6)
            for name, peak in peaks.items()
        },
        "digest_rows_per_s": round(count / digest_s),
        "row_microseconds": round(1e6 * row_s, 2),
    }


def ledger(folder: Path, count: int) -> dict[str, float]:
    """Microseconds per line, one append each, of the first and of the last tenth of the lines."""
    path = folder / "quarantine.jsonl"

    def append(first: int, last: int) -> None:
        for k in range(first, last):
            append_quarantine(path, [Rejected(f"some/where/{k}.wav", "truncated", "it is cut")])

    tenth = count // 10
    early = clocked(lambda: append(0, tenth)).core
    append(tenth, count - tenth)
    late = clocked(lambda: append(count - tenth, count)).core
    return {
        "lines": count,
        "first_microseconds": round(1e6 * early / tenth, 1),
        "last_microseconds": round(1e6 * late / tenth, 1),
    }


def run(root: Path, quick: bool) -> dict[str, Any]:
    """All parts; `root` is an empty directory in memory."""
    count, repeats = (2000, 3) if quick else (4000, 9)
    data = root / "data"
    files = {kind: generate(data / kind, count // 2, kind) for kind in KINDS}
    both = [path for paths in files.values() for path in paths]
    result: dict[str, Any] = {
        "machine": measure.machine("cpu"),
        "versions": {
            name: version(name)
            for name in ("soundfile", "lhotse", "datasets", "pyarrow")
            if importlib.util.find_spec(name)
        },
        "files": {"count": count, "in_memory": str(root).startswith("/dev/shm")},  # noqa: S108
        "headers": {kind: header_rates(paths, repeats) for kind, paths in files.items()},
        "scan": scan_rates(data, both, repeats),
        "scan_beside_datasets": datasets_rates(data, count, 1 if quick else 3),
    }
    links = 20_000 if quick else 500_000
    many_links(root / "links", files["wav"], links)
    result["memory"] = memory(root / "links", links)
    result["ledger"] = ledger(root, 2000 if quick else 20_000)
    return result


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table that is printed."""
    parts = {f"header, {kind}": part for kind, part in result["headers"].items()}
    parts |= {"scan": result["scan"], "scan beside datasets": result["scan_beside_datasets"]}
    for title, part in parts.items():
        for name, rate in part.get("files_per_core_s", {}).items():
            ratio = part["ratio"].get(name)
            times = "" if ratio is None else f"  we are {ratio:g} x as fast"
            yield f"{title:22}{name:30}{rate:>9,} files/s/core{times}"
        if "missing" in part:
            yield f"{title:22}not measured: {part['missing']}"
    for title in ("memory", "ledger"):
        yield f"{title:22}{', '.join(f'{k} {v:,}' for k, v in result[title].items() if v is not None)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--quick", action="store_true", help="fewer files and repeats")
    options = parser.parse_args()
    shared = Path("/dev/shm")  # noqa: S108  (memory on Linux)
    root = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    try:
        result = run(root, options.quick)
    finally:
        shutil.rmtree(root)
    print("\n".join(lines(result)))  # noqa: T201
    slow = [
        k for k, p in result["headers"].items() if p["files_per_core_s"]["thaitool"] < MUST_REACH
    ]
    if slow:
        print(f"Under {MUST_REACH:,} files/s/core: {', '.join(slow)}")  # noqa: T201
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
