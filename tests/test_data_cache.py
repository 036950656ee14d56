"""The shard cache: the same samples, whole or absent whenever it is stopped, and never two builders at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from thaitool.data import cache
from thaitool.data.cache import BYTES_PER_SECOND, build_cache, to_int16
from thaitool.data.loader import batches, load_audio
from thaitool.data.manifest import Manifest, from_utterances, open_manifest, write_manifest
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.errors import EnvironmentProblem
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tests.conftest import Tone
    from thaitool.records import Advance

#: A few recordings to a shard.
SMALL = 60_000


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Manifest:
    """Ten recordings of 0.3 to 1.2 s, some not 16-bit, mono or 16 kHz; a silent one; and one stretch of another."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(10):
        rate_hz = {4: 48_000, 5: 8_000}.get(number, 16_000)
        suffix = {6: "flac", 7: "ogg", 8: "mp3"}.get(number, "wav")
        samples = tone(0.3 + 0.1 * number, rate_hz)
        if number == 9:
            samples = np.stack([samples, 0 * samples], 1)
        soundfile.write(folder / f"{number:02}.{suffix}", samples, rate_hz)
    soundfile.write(folder / "03b.wav", 0 * tone(0.5), 16_000)
    found = scan([folder])[0]
    rows = [found[i] for i in range(len(found))]
    first = rows[2]
    rows.append(Utterance("part", first.audio, 0.25, 16_000, start_s=0.1, end_s=0.35, text="ก"))
    return from_utterances(rows)


def everything(folder: Path) -> dict[str, bytes]:
    """Every finished file of a cache; the lock holds nothing."""
    return {
        p.name: p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "lock" and not p.name.startswith(".")
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_holds_the_same_samples(manifest: Manifest, tmp_path: Path, workers: int) -> None:
    cached, rejected = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=workers)
    assert [(Path(r.item).name, r.reason) for r in rejected] == [("03b.wav", "silent")]
    kept = [u for u in (manifest[i] for i in range(len(manifest))) if u.id != "03b.wav"]
    assert [cached[i].id for i in range(len(cached))] == [u.id for u in kept]
    for i, original in enumerate(kept):
        there = cached[i]
        assert there.audio.path.endswith(".pcm16")
        samples, exact = load_audio(there), load_audio(original)
        assert len(samples) == len(exact) == round(there.duration_s * 16_000)
        # What was 16 bits, mono and 16 kHz comes back bit for bit, the rest rounded to 16 bits.
        is_plain = original.audio.path.endswith((".wav", ".flac")) and original.id[:2] not in {
            "04",
            "05",
            "09",
        }
        np.testing.assert_allclose(samples, exact, rtol=0, atol=0 if is_plain else 2**-16)
        assert (there.sample_rate_hz, there.start_s, there.end_s) == (16_000, 0.0, None)
        assert (there.text, there.source_id) == (original.text, original.source_id)
    assert len({cached[i].audio.path for i in range(len(cached))}) >= 3
    sizes = [path.stat().st_size for path in (tmp_path / "c").rglob("*.pcm16")]
    assert sum(sizes) == round(cached.duration_s.sum() * BYTES_PER_SECOND)
    assert sum(sizes) <= manifest.duration_s.sum() * BYTES_PER_SECOND


def test_batches_from_the_cache_are_those_of_the_files(manifest: Manifest, tmp_path: Path) -> None:
    cached, _ = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=0)
    originals = {manifest[i].id: manifest[i] for i in range(len(manifest))}
    same = from_utterances(originals[cached[i].id] for i in range(len(cached)))
    plan = make_plan(cached.duration_s, batch_s=4, seed=0)
    for a, b in zip(
        batches(cached, plan, range(plan.batches_per_epoch), crop_s=0.6),
        batches(same, plan, range(plan.batches_per_epoch), crop_s=0.6),
        strict=True,
    ):
        assert [u.id for u in a.utterances] == [u.id for u in b.utterances]
        assert a.audio_lengths.tolist() == b.audio_lengths.tolist()
        np.testing.assert_allclose(a.audio.numpy(), b.audio.numpy(), atol=1e-3)


def test_a_second_call_reads_what_is_there(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rejected = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=0)
    monkeypatch.setattr(cache, "load_audio", None)
    again, rejected_again = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=0)
    assert first.table.equals(again.table)
    assert rejected == rejected_again
    # Also without the recordings, and read-only.
    (kept,) = (tmp_path / "c").rglob("manifest-*.arrow")
    assert open_manifest(kept).digest() == first.digest()


def test_what_a_manifest_says_of_its_samples_may_change(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speaker, split, licence, fitness, text, id: those of today, from samples that were decoded once."""
    before = [manifest[i] for i in range(len(manifest))]
    first, rejected = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=0)
    monkeypatch.setattr(cache, "load_audio", None)
    after = [
        replace(u, speaker="p", split="dev", licence="CC0", trainable=False, text="ข", part=1)
        for u in before
    ]
    after[0] = replace(after[0], id="renamed")
    second, same = build_cache(from_utterances(after), tmp_path / "c", shard_bytes=SMALL, workers=0)
    assert same == rejected
    assert [second[i].audio for i in range(len(second))] == [
        first[i].audio for i in range(len(first))
    ]
    found = [second[i] for i in range(len(second))]
    assert {(u.speaker, u.split, u.licence, u.trainable, u.text, u.part) for u in found} == {
        ("p", "dev", "CC0", False, "ข", 1)
    }
    assert [u.id for u in found] == [u.id for u in after if u.id != "03b.wav"]
    back, _ = build_cache(manifest, tmp_path / "c", shard_bytes=SMALL, workers=0)
    assert back.table.equals(first.table)
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_another_manifest_gets_another_cache_in_the_same_folder(
    manifest: Manifest, tmp_path: Path
) -> None:
    build_cache(manifest, tmp_path / "c", workers=0)
    part, _ = build_cache(manifest.select([i < 3 for i in range(12)]), tmp_path / "c", workers=0)
    assert len(part) == 3
    # The same names and durations elsewhere: a denoised copy must not be taken for the original.
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (tmp_path / "audio").iterdir():
        samples, rate_hz = soundfile.read(path)
        if path.suffix == ".wav":
            soundfile.write(copy / path.name, samples / 2, rate_hz)
        else:
            shutil.copy(path, copy)
    found = scan([copy])[0]
    original = scan([tmp_path / "audio"])[0]
    assert found.digest() == original.digest()
    build_cache(original, tmp_path / "c", workers=0)
    halved, _ = build_cache(found, tmp_path / "c", workers=0)
    np.testing.assert_allclose(
        load_audio(halved[0]), load_audio(original[0]) / 2, rtol=0, atol=2**-15
    )


BUILD = """
import sys, time
from pathlib import Path
from thaitool.data import cache
from thaitool.data.manifest import open_manifest
load = cache.load_audio
def slowly(utterance):
    time.sleep(float(sys.argv[3]))
    return load(utterance)
cache.load_audio = slowly
cache._JOB_S = 0.0
cache.build_cache(open_manifest(Path(sys.argv[1])), Path(sys.argv[2]), shard_bytes=60_000,
                  workers=int(sys.argv[4]))
"""


def builder(
    manifest: Path, folder: Path, *, delay_s: float = 0.0, workers: int = 0
) -> subprocess.Popen[str]:
    arguments = [str(manifest), str(folder), str(delay_s), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: object, within_s: float = 30.0) -> None:
    assert callable(condition)
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)


@pytest.fixture
def on_disk(manifest: Manifest, tmp_path: Path) -> Path:
    write_manifest(manifest, tmp_path / "m.arrow")
    return tmp_path / "m.arrow"


class Stopped(BaseException):
    """Stands for SIGKILL: nothing of the program handles it."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the program live for `step` more of the things that change or precede a change of the disk."""
    left = [step]

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(cache, "load_audio", counted(load_audio))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("replace", "mkdir", "open", "write_text"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def test_wherever_a_build_stops_the_next_one_ends_in_the_same_bytes(
    manifest: Manifest, tmp_path: Path
) -> None:
    build_cache(manifest, tmp_path / "whole", shard_bytes=SMALL, workers=0)
    expected = everything(tmp_path / "whole")
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        with pytest.MonkeyPatch.context() as patches:
            stop_at(steps, patches)
            try:
                build_cache(manifest, folder, shard_bytes=SMALL, workers=0)
            except Stopped:
                pass
            else:
                break
        # Whatever has its own name is whole, and the manifest comes last.
        found = everything(folder)
        assert all(found[n] == expected[n] for n in found if n.startswith("shard-"))
        if any(name.startswith("manifest-") for name in found):
            assert found.keys() == expected.keys()
        cached, rejected = build_cache(manifest, folder, shard_bytes=SMALL, workers=0)
        after = everything(folder)
        assert after.keys() == expected.keys()
        assert all(after[n] == expected[n] for n in after if n.endswith((".pcm16", ".json")))
        assert (len(cached), len(rejected)) == (len(manifest) - 1, 1)
        steps += 1
    assert steps > 30


def test_a_killed_build_goes_on_and_keeps_its_finished_shards(
    on_disk: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    process = builder(on_disk, folder, delay_s=0.1, workers=1)
    wait_for(lambda: len(list(folder.rglob("shard-*.json"))) >= 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(folder.rglob("manifest-*.arrow"))
    # A shard that the file system lost a part of is made again, and only that one.
    (home,) = folder.glob("*")
    (home / "shard-000000.pcm16").write_bytes(b"")
    times = {p: p.stat().st_mtime_ns for p in home.glob("shard-*.json")}
    cached, _ = build_cache(open_manifest(on_disk), folder, shard_bytes=SMALL, workers=0)
    remade = [p.name for p, t in times.items() if p.stat().st_mtime_ns != t]
    assert remade == ["shard-000000.json"]
    assert len(load_audio(cached[0])) == 4_800


def test_two_builders_do_not_meet(on_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    process = builder(on_disk, folder, delay_s=0.3)
    wait_for(lambda: list(folder.rglob(".shard-*.tmp")))
    manifest = open_manifest(on_disk)
    with pytest.raises(EnvironmentProblem, match="Another process is building the audio cache"):
        build_cache(manifest, folder, shard_bytes=SMALL, workers=0)
    process.kill()
    process.communicate()
    cached, _ = build_cache(manifest, folder, shard_bytes=SMALL, workers=0)
    assert len(cached) == len(manifest) - 1


def test_a_killed_worker_is_an_error_and_not_a_hang(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "load_audio", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(EnvironmentProblem, match="process that decodes audio has died"):
        build_cache(manifest, tmp_path / "c", workers=1)


def test_a_disk_that_is_too_small_is_a_sentence_before_anything_is_written(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(EnvironmentProblem, match=r"needs 0\.0 GB more .* has 0\.0 GB free"):
        build_cache(manifest, tmp_path / "c", workers=0)
    assert not list((tmp_path / "c").rglob("*.pcm16"))


def test_a_disk_that_fills_up_is_a_sentence(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        build_cache(manifest, tmp_path / "c", workers=0)


def test_nothing_decodable_is_an_empty_cache_and_its_ledger(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "a.wav", 0 * tone(0.5), 16_000)
    silent = from_utterances([Utterance("a", AudioRef(str(tmp_path / "a.wav")), 0.5, 16_000)])
    for _ in range(2):
        cached, rejected = build_cache(silent, tmp_path / "c", workers=0)
        assert (len(cached), [r.reason for r in rejected]) == (0, ["silent"])


def test_progress_counts_every_utterance(manifest: Manifest, tmp_path: Path) -> None:
    told: list[int] = []

    @contextmanager
    def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        told.extend([total, done])

        def advance(steps: int = 1, note: str = "") -> None:
            told.append(steps)

        yield advance

    build_cache(manifest, tmp_path / "c", workers=0, progress=progress)
    assert told[:2] == [len(manifest), 0]
    assert sum(told[2:]) == len(manifest)


def test_sixteen_bits_round_and_clip() -> None:
    every: NDArray[np.int16] = np.arange(-(2**15), 2**15, dtype=np.int16)
    np.testing.assert_array_equal(to_int16(every.astype(np.float32) / np.float32(2**15)), every)
    loud = np.array([1.0, 1.5, -1.0, -2.0, 0.6 / 2**15], np.float32)
    assert to_int16(loud).tolist() == [32_767, 32_767, -32_768, -32_768, 1]


def test_the_ledger_of_a_cache_is_json(manifest: Manifest, tmp_path: Path) -> None:
    build_cache(manifest, tmp_path / "c", workers=0)
    (ledger,) = (tmp_path / "c").rglob("rejected.json")
    ((item, reason, _),) = json.loads(ledger.read_text("utf-8"))
    assert (item, reason) == (str(tmp_path / "audio" / "03b.wav"), "silent")
