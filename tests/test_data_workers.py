"""Processes that decode ahead: what they are told, how they end, and what is said when one fails or dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from thaitool.audio.decode import encode_flac
from thaitool.data import loader
from thaitool.data.loader import batches
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.data.shards import ThaiSupRow, clear_cache, write_shard
from thaitool.errors import EnvironmentProblem, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Tone
    from thaitool.data.manifest import Manifest


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Manifest:
    """Eight recordings of 0.5 to 1.2 s."""
    for number in range(8):
        soundfile.write(tmp_path / f"{number:02}.wav", tone(0.5 + 0.1 * number), 16_000)
    return scan([tmp_path])[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unexpected_error_names_the_recording(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def breaks(_source: object, item: str, **_: object) -> NDArray[np.float32]:
        if item.endswith("07.wav"):
            raise MemoryError("no room")
        return np.ones(8_000, np.float32)

    monkeypatch.setattr(loader, "decode", breaks)
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    with pytest.raises(MemoryError) as caught:
        list(batches(manifest, plan, range(plan.batches_per_epoch), workers=workers))
    said = "".join(traceback.format_exception(caught.value))
    assert f"This happened with {manifest[7].audio} (utterance '07.wav')" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_is_the_same_sentence_from_a_worker(
    tmp_path: Path, tone: Tone, workers: int
) -> None:
    row = ThaiSupRow("ASR", "p", "a", "t", "t", encode_flac(tone(0.3)), 16_000, 1, 0.3)
    shard = tmp_path / "sup/ASR/train/train-00000.parquet"
    write_shard(shard, [row])
    found, _ = scan([tmp_path / "sup"])
    shard.write_bytes(shard.read_bytes()[:300])
    clear_cache()
    plan = make_plan(found.duration_s, batch_s=3, seed=0)
    with pytest.raises(InputError) as caught:
        list(batches(found, plan, range(1), workers=workers))
    assert str(caught.value).startswith(f"{shard} must be a whole parquet file")
    assert "Traceback" not in str(caught.value)


def test_a_killed_worker_is_an_error_and_not_a_hang(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "decode", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    with pytest.raises(EnvironmentProblem, match=r"has died \(DataLoader worker .*shared memory"):
        list(batches(manifest, plan, range(4), workers=2))


def test_a_worker_that_dies_does_not_disturb_what_the_program_does_just_then(
    manifest: Manifest,
) -> None:
    before = multiprocessing.active_children()
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    source = batches(manifest, plan, range(1_000), workers=1)
    next(source)
    (child,) = (c for c in multiprocessing.active_children() if c not in before)
    os.kill(child.pid or 0, signal.SIGKILL)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass  # torch's own handler of SIGCHLD would raise here
    with pytest.raises(EnvironmentProblem, match="process that decodes audio has died"):
        list(source)


def test_leaving_early_ends_the_workers(manifest: Manifest) -> None:
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    before = multiprocessing.active_children()
    source = batches(manifest, plan, range(1_000), workers=2)
    next(source)
    began = time.monotonic()
    children = [c for c in multiprocessing.active_children() if c not in before]
    assert len(children) == 2
    del source
    assert [c.exitcode for c in children] == [0, 0]
    assert time.monotonic() - began < 4  # torch asks them, waits for 5 s and then ends them


ABANDONED = """
import sys
from pathlib import Path
from thaitool.data.loader import batches
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
manifest = scan([Path(sys.argv[1])])[0]
plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
source = batches(manifest, plan, range(1_000), workers=2)
next(source)
kept = [source]
kept.append(kept)
raise ValueError("as a bug in training would")
"""


def test_a_program_that_fails_in_training_ends(manifest: Manifest, tmp_path: Path) -> None:
    """The traceback keeps the loader alive, and Python ends its workers by SIGTERM and waits for them."""
    ended = subprocess.run(
        [sys.executable, "-c", ABANDONED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, "as a bug in training would" in ended.stderr) == (1, True)


def test_a_worker_ends_for_its_parent_and_for_nobody_else(manifest: Manifest) -> None:
    before = multiprocessing.active_children()
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    source = batches(manifest, plan, range(40), workers=2)
    next(source)
    children = [c for c in multiprocessing.active_children() if c not in before]
    for child in children:
        for sign in ("-INT", "-TERM"):
            subprocess.run(["kill", sign, str(child.pid)], check=True)
    assert len(list(source)) == 39
    for child in children:
        child.join(5)
        assert child.exitcode == 0


def test_workers_are_told_little(manifest: Manifest) -> None:
    """A worker's memory must not grow with the manifest: it gets a few utterances, and keeps nothing."""
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    jobs = loader._Jobs(manifest, plan, range(2, 6))
    assert len(jobs) == len(list(jobs)) == 4
    assert all(len(pickle.dumps(job)) < 1_000 * (1 + len(job[2])) for job in jobs)
    assert len(pickle.dumps(loader._Collating(15.0, 0, normalised=True))) < 200
