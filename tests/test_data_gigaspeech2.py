"""GigaSpeech 2 as published: a TSV beside a folder of recordings, unpacked, in tars, or still packed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from tests.lists import split_up, write, write_tar
from thaitool.data import formats
from thaitool.data.formats import recognise
from thaitool.data.loader import load_audio
from thaitool.data.scan import scan
from thaitool.errors import InputError

if TYPE_CHECKING:
    from tests.conftest import Tone


def wav(tone: Tone, seconds: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(seconds), 16_000, format="WAV")
    return buffer.getvalue()


def test_files_and_tars(tmp_path: Path, tone: Tone) -> None:
    folder = tmp_path / "train"
    (folder / "0" / "7").mkdir(parents=True)
    (folder / "0" / "7" / "0-7-1.wav").write_bytes(wav(tone, 1.0))
    write_tar(
        folder / "6.tar",
        ("6/6279/6-6279-28.wav", wav(tone, 0.5)),
        ("6/6279/6-6279-29.txt", b"no sound"),
        ("6/6280/6-6280-3.wav", wav(tone, 0.7)),
    )
    path = write(
        tmp_path / "train_refined.tsv",
        "0-7-1\tสวัสดี ครับ",
        "6-6279-28\tน้ำ",
        "6-6279-29\tหาย",
        "6-6280-3\t ",
        "8-1-1\tหาย",
    )
    assert recognise(path) == formats.GIGASPEECH2
    utterances, rejected = split_up(path)
    assert [(u.id, u.text, u.split, u.source_id) for u in utterances] == [
        ("0-7-1", "สวัสดี ครับ", "train", "0-7"),
        ("6-6279-28", "น้ำ", "train", "6-6279"),
        ("6-6280-3", None, "train", "6-6280"),
    ]
    assert rejected == [(f"{path}:3", "missing"), (f"{path}:5", "missing")]
    manifest, _ = scan([path], max_rejected_share=0.5)
    assert manifest.duration_s.tolist() == [1.0, 0.5, 0.7]
    # 16-bit samples: what lies in the tar is what was put there.
    np.testing.assert_allclose(load_audio(manifest[1]), tone(0.5), atol=2**-15)


def test_a_tar_that_is_cut_short_gives_what_is_whole(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "dev").mkdir()
    tar = write_tar(
        tmp_path / "dev" / "3.tar", ("3/1/3-1-1.wav", wav(tone, 0.5)), ("3-1-2.wav", wav(tone, 1))
    )
    tar.write_bytes(tar.read_bytes()[:30_000])
    path = write(tmp_path / "dev.tsv", "3-1-1\tก", "3-1-2\tข")
    utterances, rejected = split_up(path)
    assert [(u.id, u.split) for u in utterances] == [("3-1-1", "dev")]
    assert rejected == [(f"{path}:2", "missing")]


def test_packed_tars_and_a_lost_folder_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path / "test.tsv", "3-1-1\tก", "3-1-2\tข")
    with pytest.raises(InputError, match="Keep the TSV beside the folders train, dev and test"):
        split_up(path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "3.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InputError, match=r"3\.tar\.gz and its like are packed: unpack them there"):
        split_up(path)
    (tmp_path / "test" / "3.tar").write_bytes(json.dumps({"no": "tar"}).encode() * 100)
    with pytest.raises(InputError, match=r"3\.tar must be an uncompressed tar, but is not"):
        split_up(path)


def test_malformed_lines_are_named(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "dev" / "3" / "1").mkdir(parents=True)
    (tmp_path / "dev" / "3" / "1" / "3-1-1.wav").write_bytes(wav(tone, 0.5))
    path = write(tmp_path / "dev.tsv", "3-1-1\tก", "3-1-2 ข", "3-1-3\tค\tง")
    with pytest.raises(InputError, match="2 lines are not: line 2: '3-1-2 ข' is no id, tab and"):
        split_up(path)
