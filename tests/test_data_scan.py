"""Scanning: every recording ends as a row or as a line of the ledger, whatever is wrong with it."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.recordings import ids, write_good
from thaitool.audio.headers import BadAudio, read_head
from thaitool.data import measure, walk
from thaitool.data.loader import load_audio
from thaitool.data.scan import scan
from thaitool.errors import EnvironmentProblem, InputError, QuarantineError
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


@pytest.fixture
def messy(tmp_path: Path, tone: Tone) -> Path:
    """Four good recordings and one of every kind of bad one that a scan can meet."""
    root = tmp_path / "messy"
    write_good(root, tone, "b.wav", "a.flac", "sub/deep/c.OGG", "ไทย ๑.wav")
    good = (root / "b.wav").read_bytes()
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("not a recording", "utf-8")
    (root / "cut.wav").write_bytes(good[:-2_000])
    soundfile.write(root / "short.wav", tone(0.01), 16_000)
    (root / "gone.wav").symlink_to(root / "nowhere.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    (root / "sub" / "up").symlink_to(root)
    (root / "notes.txt").write_text("not audio, and not named like it", "utf-8")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.wav")).write_bytes(good)
    return root


def test_a_messy_directory_is_counted_to_the_last_file(messy: Path) -> None:
    manifest, rejected = scan([messy], max_rejected_share=0.7)
    ids = [manifest[i].id for i in range(len(manifest))]
    assert ids == ["a.flac", "b.wav", "sub/deep/c.OGG", "ไทย ๑.wav"]
    assert {Path(r.item).name: r.reason for r in rejected} == {
        "empty.wav": "empty",
        "text.wav": "unreadable",
        "cut.wav": "truncated",
        "short.wav": "too_short",
        "gone.wav": "unreadable",
        "loop.wav": "unreadable",
        "\udcff.wav": "bad_name",
    }
    assert Counter(bool(r.detail) for r in rejected) == {True: 7}
    again, _ = scan([messy], max_rejected_share=0.7)
    assert again.digest() == manifest.digest()
    for i in range(len(manifest)):
        assert len(load_audio(manifest[i])) == round(manifest[i].duration_s * 16_000)


def test_the_scan_stops_only_above_the_allowed_share(messy: Path) -> None:
    assert len(scan([messy], max_rejected_share=7 / 11)[1]) == 7
    with pytest.raises(QuarantineError) as caught:
        scan([messy], max_rejected_share=0.63)
    assert caught.value.exit_code == 4
    message = str(caught.value)
    for phrase in (
        "7 of 11 recordings are unusable",
        "share of 0.63",
        "max_rejected_share",
        "too_short",
    ):
        assert phrase in message
    assert "Repair or remove" in message
    assert "cut.wav" in message  # the first, with its reason


def test_sources_that_hold_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no audio", "utf-8")
    with pytest.raises(
        InputError, match=r"must hold audio \(\.flac, .*\) or Thai-SUP shards"
    ) as caught:
        scan([tmp_path])
    assert (str(tmp_path) in str(caught.value), caught.value.exit_code) == (True, 3)
    with pytest.raises(
        InputError, match="gone must be a directory, sound file or manifest, but does not"
    ):
        scan([tmp_path / "gone"])


def test_a_directory_that_cannot_be_listed_is_a_line(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav", "locked/b.wav")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest, rejected = scan([tmp_path], max_rejected_share=0.5)
    assert [manifest[i].id for i in range(len(manifest))] == ["a.wav"]
    assert rejected == [Rejected(str(tmp_path / "locked"), "unreadable", "Permission denied")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_a_line(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "a.wav", "b.wav")
    (tmp_path / "b.wav").chmod(0)
    assert [r.reason for r in scan([tmp_path], max_rejected_share=0.5)[1]] == ["unreadable"]


def test_two_directories_may_use_the_same_file_names(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "x/01.wav", "y/01.wav", "y/z/01.wav")
    manifest, _ = scan([tmp_path / "x", tmp_path / "y" / "01.wav", tmp_path / "y" / "z"])
    assert [manifest[i].id for i in range(3)] == ["x/01.wav", "y/01.wav", "y/z/01.wav"]
    alone, _ = scan([tmp_path / "x"])
    assert alone[0].id == "01.wav"
    with pytest.raises(InputError, match=r"Every source may be named once, but .*/x are one"):
        scan([tmp_path / "x", tmp_path / "x"])


def test_the_scan_and_the_loader_call_a_recording_by_one_name(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the quarantine of a run would list a file twice, under a relative and an absolute path."""
    monkeypatch.chdir(tmp_path)
    write_good(Path("data"), tone, "a.wav")
    soundfile.write("data/quiet.wav", 0 * tone(0.5), 16_000)
    (Path("data") / "empty.wav").write_bytes(b"")
    manifest, rejected = scan([Path("data")], max_rejected_share=0.5)
    with pytest.raises(BadAudio) as caught:
        load_audio(manifest[1])
    assert Path(caught.value.item).parent == Path(rejected[0].item).parent == tmp_path / "data"


def test_any_rate_width_and_length_is_read_from_the_header(tmp_path: Path, tone: Tone) -> None:
    stereo = np.stack([tone(0.5, 96_000)] * 2, 1)
    soundfile.write(tmp_path / "high.wav", stereo, 96_000, "PCM_24")
    soundfile.write(tmp_path / "high.flac", stereo, 96_000, "PCM_24")
    soundfile.write(tmp_path / "phone.wav", tone(0.5, 8_000), 8_000)
    soundfile.write(tmp_path / "silent.wav", 0 * tone(0.5), 16_000)  # the decoder finds these two
    soundfile.write(tmp_path / "nan.wav", np.nan * tone(0.5), 16_000, "FLOAT")
    (tmp_path / "flac.wav").write_bytes((tmp_path / "high.flac").read_bytes())
    six_hours = 2 * 8_000 * 6 * 3600
    with (tmp_path / "long.wav").open("wb") as file:
        file.write((tmp_path / "phone.wav").read_bytes()[:40] + six_hours.to_bytes(4, "little"))
        file.truncate(44 + six_hours)
    manifest, rejected = scan([tmp_path])
    assert rejected == []
    found = {u.id: (u.duration_s, u.sample_rate_hz) for u in map(manifest.__getitem__, range(7))}
    assert found == {
        "flac.wav": (0.5, 96_000),
        "high.flac": (0.5, 96_000),
        "high.wav": (0.5, 96_000),
        "long.wav": (6 * 3600, 8_000),
        "nan.wav": (0.5, 16_000),
        "phone.wav": (0.5, 8_000),
        "silent.wav": (0.5, 16_000),
    }


def test_what_vanishes_while_it_is_looked_for_is_a_line(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav", "b.wav", "c/d.wav", "e/f.wav")
    real_listing = walk._listing

    def listing(root: str, folder: str, suffixes: frozenset[str]) -> Any:
        if folder == "c":
            shutil.rmtree(tmp_path / "c")
        found = real_listing(root, folder, suffixes)
        if folder == "e":
            write_good(tmp_path, tone, "e/later.wav")  # too late to be seen
            (tmp_path / "b.wav").unlink()
        return found

    monkeypatch.setattr(walk, "_listing", listing)
    manifest, rejected = scan([tmp_path], max_rejected_share=0.6)
    assert ids(manifest) == ["a.wav", "e/f.wav"]
    assert rejected == [
        Rejected(str(tmp_path / "b.wav"), "vanished", "No such file or directory"),
        Rejected(str(tmp_path / "c"), "vanished", "No such file or directory"),
    ]


def test_what_may_not_be_read_is_a_line_for_root_too(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is simulated."""
    write_good(tmp_path, tone, "a.wav", "b.wav")

    def refuse(path: str) -> Any:
        if path.endswith("b.wav"):
            raise PermissionError(13, "Permission denied", path)
        return read_head(path)

    monkeypatch.setattr("thaitool.data.duplicates.read_head", refuse)
    _, rejected = scan([tmp_path], max_rejected_share=0.5)
    assert rejected == [Rejected(str(tmp_path / "b.wav"), "unreadable", "Permission denied")]


def test_a_named_pipe_does_not_stop_the_scan(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path)
    manifest, rejected = scan([tmp_path], max_rejected_share=0.7)
    assert ids(manifest) == ["a.wav"]
    assert sorted(r.detail for r in rejected) == ["it is not a regular file"] * 2


def test_the_order_is_that_of_path_parts(tmp_path: Path, tone: Tone) -> None:
    names = ["a/z.wav", "a-b.wav", "a.wav", "B.wav", "b/a.wav", "b/a/c.wav", "b.b/a.wav", "ก.wav"]
    write_good(tmp_path, tone, *names)
    assert ids(scan([tmp_path])[0]) == [p.as_posix() for p in sorted(map(Path, names))]
    found = [f.name for f in walk.walk(str(tmp_path)) if isinstance(f, walk.Found)]
    assert found == ids(scan([tmp_path])[0])


def test_directories_nested_four_hundred_deep(tmp_path: Path, tone: Tone) -> None:
    deep = tmp_path
    for _ in range(400):
        deep /= "d"
        deep.mkdir()
    write_good(deep, tone, "a.wav")
    assert ids(scan([tmp_path])[0]) == ["d/" * 400 + "a.wav"]


def test_the_number_of_workers_changes_nothing(
    messy: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "CHUNK", 3)
    good = (messy / "b.wav").read_bytes()
    for k in range(20):
        (messy / f"{k:02d}.wav").write_bytes(good)
    alone, line = scan([messy], duplicates="drop", max_rejected_share=0.7)
    shared, lines = scan([messy], duplicates="drop", max_rejected_share=0.7, workers=2)
    assert shared.digest() == alone.digest()
    assert lines == line
    assert Counter(r.reason for r in lines)["duplicate"] == 20


def die(*_: Any, **__: Any) -> None:
    os._exit(9)


def test_a_killed_worker_is_an_error_not_a_hang(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav")
    monkeypatch.setattr(measure, "measure", die)
    with pytest.raises(EnvironmentProblem, match=r"One of the 2 processes .* was killed"):
        scan([tmp_path], workers=2)


def test_every_file_is_accounted_for(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav", "b.wav")
    original = measure.measure

    def forgetful(utterances: list[Utterance], min_s: float) -> Any:
        return original(utterances[1:], min_s)

    monkeypatch.setattr(measure, "measure", forgetful)
    with pytest.raises(RuntimeError, match="met 2 and kept 1 and rejected 0"):
        scan([tmp_path])


#: suffix and how soundfile is asked to write it
FORMATS: list[tuple[str, dict[str, str]]] = [
    (".wav", {}),
    (".wav", {"subtype": "PCM_24", "format": "WAVEX"}),
    (".wav", {"subtype": "FLOAT"}),
    (".wav", {"format": "RF64"}),
    (".flac", {}),
    (".ogg", {}),
    (".opus", {"format": "OGG", "subtype": "OPUS"}),
    (".mp3", {}),
]


def test_damaged_files_of_every_format_end_in_rows_or_lines(tmp_path: Path, tone: Tone) -> None:
    """Cut at random bytes, random bytes changed, random bytes put in: 640 files, one outcome each, in seconds."""
    rng = random.Random(4)  # noqa: S311
    made = 0
    for number, (suffix, how) in enumerate(FORMATS):
        path = tmp_path / f"whole{suffix}"
        soundfile.write(path, tone(0.3), 16_000, **how)
        whole = path.read_bytes()
        path.unlink()
        for k in range(80):
            damaged = bytearray(whole)
            if k % 4 == 0:
                del damaged[rng.randrange(len(whole)) :]
            else:
                reach = (100, len(whole), 300)[k % 4 - 1]
                for _ in range(rng.choice([1, 2, 16])):
                    damaged[rng.randrange(min(reach, len(damaged)))] = rng.randrange(256)
            if k % 8 == 3:
                place = rng.randrange(len(damaged))
                damaged[place:place] = rng.randbytes(rng.randrange(64))
            (tmp_path / f"{number}-{k:02d}{suffix}").write_bytes(damaged)
            made += 1
    began = time.monotonic()
    manifest, rejected = scan([tmp_path], duplicates="drop", max_rejected_share=1)
    assert time.monotonic() - began < 30
    assert len(manifest) + len(rejected) == made == 640
    assert (
        len({r.item for r in rejected} | {manifest[i].audio.path for i in range(len(manifest))})
        == 640
    )
    assert {r.reason for r in rejected} <= {
        "bad_length",
        "duplicate",
        "empty",
        "too_short",
        "truncated",
        "unreadable",
    }
    assert len(manifest) > 100
    assert (manifest.duration_s >= 0.1).all()
    for i in range(0, len(manifest), 5):
        try:
            load_audio(manifest[i])
        except BadAudio as bad:
            assert bad.item == manifest[i].audio.path
