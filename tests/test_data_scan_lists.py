"""Scanning what is listed or packed: checks against headers, parts of files, several sources, the result on disk."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.recordings import ids, reasons, write_good
from thaitool.data import measure
from thaitool.data.loader import load_audio
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.data.scan import scan
from thaitool.data.shards import ThaiSupRow, write_shard
from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


def test_listed_durations_are_checked_against_the_header(tmp_path: Path, tone: Tone) -> None:
    lines = []
    for name, true_s, listed_s in (
        ("a", 1.0, 1.09),
        ("b", 1.0, 1.12),
        ("c", 20.0, 20.3),
        ("d", 20.0, 19.5),
    ):
        soundfile.write(tmp_path / f"{name}.wav", tone(true_s), 16_000)
        lines.append(
            json.dumps({"audio_filepath": f"{name}.wav", "duration": listed_s, "text": ""})
        )
    source = tmp_path / "nemo.jsonl"
    source.write_text("\n".join(lines))
    manifest, rejected = scan([source], max_rejected_share=0.5)
    assert manifest.duration_s.tolist() == [1.0, 20.0]
    assert reasons(rejected) == {"b.wav": "wrong_duration", "d.wav": "wrong_duration"}
    assert rejected[0].detail == "it is listed with 1.120 s, but has 1.000 s"


def test_members_of_a_tar_are_probed_in_place(tmp_path: Path, tone: Tone) -> None:
    files = tmp_path / "files"
    write_good(files, tone, "a.wav", "b.flac", "c.ogg", "d.wav")
    (files / "e.wav").write_bytes((files / "a.wav").read_bytes()[:-99])
    shutil.copy(files / "b.flac", files / "f.flac")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for path in sorted(files.iterdir()):
            tar.add(path, path.name)
    manifest, rejected = scan([tmp_path / "set.tar"], duplicates="drop", max_rejected_share=0.3)
    on_disk, _ = scan([files], duplicates="drop", max_rejected_share=0.3)
    assert manifest.duration_s.tolist() == on_disk.duration_s.tolist()
    assert manifest.column("sample_rate_hz") == on_disk.column("sample_rate_hz")
    assert sorted(r.reason for r in rejected) == ["duplicate", "truncated"]
    for i in range(len(manifest)):
        np.testing.assert_array_equal(load_audio(manifest[i]), load_audio(on_disk[i]))


def test_sound_in_parquet_is_probed_where_its_duration_is_not_stated(
    tmp_path: Path, tone: Tone
) -> None:
    write_good(tmp_path, tone, "a.wav", "b.flac", "c.ogg")
    sounds = [(tmp_path / name).read_bytes() for name in ("a.wav", "b.flac", "c.ogg", "a.wav")]
    sounds += [b"", sounds[0][:-99]]
    rows = [{"audio": {"bytes": sound, "path": f"{k}"}} for k, sound in enumerate(sounds)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet", row_group_size=2)
    source = tmp_path / "set.parquet"
    manifest, rejected = scan([source], duplicates="drop", max_rejected_share=0.5)
    assert manifest.duration_s.tolist() == pytest.approx([0.3, 0.4, 0.5])
    assert [(r.item, r.reason) for r in rejected] == [
        (f"{source}#4", "empty"),
        (f"{source}#5", "truncated"),
        (f"{source}#3", "duplicate"),
    ]
    for k, name in enumerate(("a.wav", "b.flac", "c.ogg")):
        alone, _ = scan([tmp_path / name])
        np.testing.assert_array_equal(load_audio(manifest[k]), load_audio(alone[0]))


def shard_row(name: str, task: str, flac: bytes) -> ThaiSupRow:
    return ThaiSupRow(task, "p", name, "สวัสดี", "สวัสดี", flac, 16_000, 1, 0.4)


def test_shards_and_sound_files_in_one_directory_are_refused(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "b.wav", "b.flac")
    flac = (tmp_path / "b.flac").read_bytes()
    write_shard(tmp_path / "IC/train/train-00000.parquet", [shard_row("1", "IC", flac)])
    with pytest.raises(InputError, match=r"mixes .*sound files.*Name the directories"):
        scan([tmp_path])
    manifest, _ = scan([tmp_path / "IC", tmp_path / "b.wav"])
    assert [(u.id, u.part) for u in map(manifest.__getitem__, range(2))] == [("1", 0), ("b.wav", 1)]


def test_the_parts_are_the_positions_of_the_sources(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "x/a.wav", "y/a.wav", "y/b.wav")
    first, _ = scan([tmp_path / "y"])
    write_manifest(first, tmp_path / "m.arrow")
    manifest, _ = scan([tmp_path / "x", tmp_path / "m.arrow"])
    assert manifest.part.tolist() == [0, 1, 1]
    assert ids(manifest) == ["x/a.wav", "a.wav", "b.wav"]


def test_rows_of_a_manifest_are_taken_at_their_word(tmp_path: Path) -> None:
    rows = [
        Utterance("a", AudioRef("gone.wav"), 1.0, 16_000, split="train"),
        Utterance("b", AudioRef("gone.wav"), 0.3, 16_000, split="dev"),
        Utterance("c", AudioRef("gone.wav"), 0.2, 16_000),
    ]
    write_manifest(from_utterances(rows), tmp_path / "m.arrow")
    manifest, rejected = scan([tmp_path / "m.arrow"], split="train", duplicates="drop")
    assert [manifest[i] for i in range(2)] == [rows[0], rows[2]]
    manifest, rejected = scan([tmp_path / "m.arrow"], min_s=0.25, max_rejected_share=0.4)
    assert (ids(manifest), [r.reason for r in rejected]) == (["a", "b"], ["too_short"])


def test_rows_can_go_to_a_file_instead_of_memory(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path / "x", tone, "a.wav", "b.wav")
    shutil.copy(tmp_path / "x" / "a.wav", tmp_path / "x" / "c.wav")
    into = tmp_path / "into"
    into.mkdir()
    manifest, rejected = scan([tmp_path / "x"], duplicates="drop", into=into)
    assert list(into.iterdir()) == []
    in_memory, same = scan([tmp_path / "x"], duplicates="drop")
    assert manifest.digest() == in_memory.digest()
    assert rejected == same
    assert (manifest.table.num_rows, ids(manifest)) == (3, ["a.wav", "b.wav"])
    held = pa.total_allocated_bytes()
    del in_memory
    assert pa.total_allocated_bytes() < held
    held = pa.total_allocated_bytes()
    del manifest
    assert pa.total_allocated_bytes() == held


def test_text_that_arrow_cannot_hold_is_a_line(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "a.wav", "b.wav")
    rows = [
        Utterance("a", AudioRef(str(tmp_path / "a.wav")), math.nan, 0, text="\ud800"),
        Utterance("b", AudioRef(str(tmp_path / "b.wav")), math.nan, 0, text="ก"),
    ]
    found = measure.measure(rows, 0.1)
    assert (found.kept, [r.reason for r in found.rejected]) == ([1], ["bad_name"])
    assert measure.measure([replace(rows[0], text="ก")], 0.1).kept == [0]


def test_two_lists_that_name_the_same_relative_path_stay_apart(tmp_path: Path, tone: Tone) -> None:
    for name, hz in (("a", 16_000), ("b", 8_000)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "01.wav", tone(0.5, hz), hz)
        (tmp_path / name / "list.jsonl").write_text(
            '{"audio_filepath": "01.wav", "duration": 0.5}\n'
        )
    manifest, rejected = scan([tmp_path / "a" / "list.jsonl", tmp_path / "b" / "list.jsonl"])
    assert rejected == []
    assert [manifest[i].id for i in range(2)] == ["a/01.wav", "b/01.wav"]
    assert manifest.part.tolist() == [0, 1]
