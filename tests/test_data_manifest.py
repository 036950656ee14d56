"""Scanning, quarantine and the manifest on disk: nothing is lost without a line, nothing is listed twice."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from thaitool.audio.decode import BadAudio
from thaitool.data.loader import load_audio
from thaitool.data.manifest import (
    Manifest,
    append_quarantine,
    check_share,
    from_utterances,
    open_manifest,
    require_trainable,
    scan,
    write_manifest,
)
from thaitool.errors import InputError, QuarantineError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


def write_good(folder: Path, tone: Tone, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(0.3 + 0.1 * number), 16_000)


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


def test_check_share_counts_and_does_not_divide_by_zero() -> None:
    bad = [Rejected("a", "silent", "d")]
    check_share([], 0, 0.0)
    check_share(bad, 10, 0.1)
    with pytest.raises(QuarantineError, match="1 of 9 recordings"):
        check_share(bad, 9, 0.1)


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
    with pytest.raises(InputError, match=r"'01\.wav' occurs twice; is the same data named twice"):
        scan([tmp_path / "x", tmp_path / "x"])


UTTERANCES = [
    Utterance("a", AudioRef("a.wav"), 1.5, 16_000),
    Utterance("b", AudioRef("s.parquet", 3), 2.25, 48_000, 0.5, 2.75, "สวัสดี", "asr", "สวัสดี", "v1"),
    Utterance(
        "c",
        AudioRef("c.wav"),
        3.0,
        8_000,
        source="s",
        source_id="i",
        licence="CC0-1.0",
        trainable=False,
    ),
]


def test_a_manifest_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    manifest = from_utterances(UTTERANCES)
    path = tmp_path / "m.arrow"
    write_manifest(manifest, path)
    assert list(tmp_path.iterdir()) == [path]
    before = pa.total_allocated_bytes()
    opened = open_manifest(path)
    assert pa.total_allocated_bytes() == before  # mapped, not read
    assert [opened[i] for i in range(len(opened))] == UTTERANCES
    assert opened.digest() == manifest.digest()
    assert opened.hours == pytest.approx(6.75 / 3600)
    scanned, rejected = scan([path])
    assert (scanned.table.equals(manifest.table), rejected) == (True, [])
    kept = opened.select(np.array([True, False, True]))
    assert [kept[i].id for i in range(len(kept))] == ["a", "c"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"audio": AudioRef("elsewhere/b.wav")}, True),
        ({"speaker": "v2"}, True),
        ({"text": "ลาก่อน"}, False),
        ({"label": None}, False),
        ({"duration_s": 2.26}, False),
        ({"start_s": 0.4}, False),
        ({"task": "sr"}, False),
        ({"id": "bb"}, False),
    ],
)
def test_the_digest_covers_what_is_trained_on(change: dict[str, Any], same: bool) -> None:
    a, b, c = UTTERANCES
    changed = from_utterances([a, replace(b, **change), c])
    assert (changed.digest() == from_utterances(UTTERANCES).digest()) is same


def test_ids_are_unique() -> None:
    with pytest.raises(InputError, match="'a' occurs twice"):
        from_utterances([UTTERANCES[0], UTTERANCES[0]])


def test_what_is_no_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    write_manifest(from_utterances(UTTERANCES), path)
    whole = path.read_bytes()
    broken = {"empty": b"", "text": b"hello " * 50, "cut": whole[: len(whole) // 2]}
    for content in broken.values():
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"m\.arrow must be a thaitool manifest \(Arrow\), but is not"
        ):
            scan([path])
    other = pa.table({"name": ["x"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(InputError, match=r"with the columns id, path, .*, but has name"):
        scan([path])
    with pytest.raises(InputError, match=r"gone\.arrow must be a thaitool manifest"):
        open_manifest(tmp_path / "gone.arrow")


def test_quarantine_lists_every_item_once(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    append_quarantine(path, [])
    assert not path.exists()
    odd = ["ไทย.wav", "line\u2028end.wav", "new\nline.wav", "\udcff.wav", 'quo"te.wav']
    rows = [Rejected(name, "silent", "first") for name in odd]
    append_quarantine(path, [*rows, replace(rows[0], detail="second")])
    append_quarantine(path, [replace(r, detail="third") for r in rows])
    append_quarantine(path, [Rejected("later.wav", "empty", "0 bytes")])
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert lines == [
        *({"item": name, "reason": "silent", "detail": "first"} for name in odd),
        {"item": "later.wav", "reason": "empty", "detail": "0 bytes"},
    ]
    assert "ไทย.wav" in path.read_text("utf-8")  # for people to read


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


def test_rows_unfit_for_training_need_permission_by_name() -> None:
    manifest: Manifest = from_utterances(UTTERANCES)
    with pytest.raises(
        InputError, match=r"1 of 3 rows are marked trainable: false.*allow_untrainable=true"
    ):
        require_trainable(manifest, allowed=False)
    require_trainable(manifest, allowed=True)
    require_trainable(manifest.select([True, True, False]), allowed=False)
