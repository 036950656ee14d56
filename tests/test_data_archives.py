"""Sound inside tars and parquet files: read in place, and whole as far as they are whole."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lists import split_up, write_sounds, write_tar
from thaitool.data import formats
from thaitool.data.formats import read, recognise
from thaitool.data.scan import scan
from thaitool.data.shards import ThaiSupRow, read_audio, write_shard
from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


@pytest.fixture
def audio(tmp_path: Path, tone: Tone) -> Path:
    """See `write_sounds`."""
    return write_sounds(tmp_path / "audio", tone)


def test_tars_are_read_in_place(audio: Path, tmp_path: Path) -> None:
    wav, flac = ((audio / name).read_bytes() for name in ("a.wav", "b.flac"))
    long_name = "ยาว" * 60  # past the 100 bytes of a plain tar header
    (tmp_path / "set/deep").mkdir(parents=True)
    first = write_tar(
        tmp_path / "set/deep/000.tar",
        ("./k1.wav", wav),
        ("./k1.txt", "หนึ่ง\n".encode()),
        ("dir/k2.seg.flac", flac),
        ("dir/k2.json", '{"text": "สอง", "speaker": "p", "lang": "th"}'.encode()),
        (f"{long_name}.flac", flac),
    )
    second = write_tar(
        tmp_path / "set/001.tar",
        ("k1.txt", b"text alone"),
        ("k2.wav", wav),
        ("k2.flac", flac),
        ("k3.wav", wav),
        ("k3.json", b"{"),
        ("k4.wav", wav),
        ("k4.txt", b"\xff\xfe"),
    )
    assert recognise(tmp_path / "set") == formats.WEBDATASET
    assert recognise(first) == formats.WEBDATASET
    utterances, rejected = split_up(tmp_path / "set")
    assert [(u.id, u.text, u.speaker) for u in utterances] == [
        ("deep/000/k1", "หนึ่ง", None),
        ("deep/000/dir/k2", "สอง", "p"),
        (f"deep/000/{long_name}", None, None),
    ]
    content = first.read_bytes()
    for u, sound in zip(utterances, (wav, flac, flac), strict=True):
        assert u.audio.path == str(first)
        assert u.audio.offset is not None
        assert u.audio.n_bytes == len(sound)
        assert content[u.audio.offset : u.audio.offset + len(sound)] == sound
    assert rejected == [
        (f"{second}#k1", "no_audio"),
        (f"{second}#k2", "several_sounds"),
        (f"{second}#k3", "bad_text"),
        (f"{second}#k4", "bad_text"),
    ]
    manifest, _ = scan([tmp_path / "set"], max_rejected_share=0.9)
    assert manifest.duration_s.tolist() == [1.0, 2.0, 2.0]


def test_tars_cut_anywhere_yield_what_is_whole(audio: Path, tmp_path: Path) -> None:
    sounds = {f"k{k}.flac": (audio / "b.flac").read_bytes() + bytes(k) for k in range(4)}
    path = write_tar(tmp_path / "x.tar", *sounds.items())
    content = path.read_bytes()
    whole = [u for u in read(path) if isinstance(u, Utterance)]
    assert len(whole) == 4
    ends = [(u.audio.offset or 0) + (u.audio.n_bytes or 0) for u in whole]
    rng = np.random.default_rng(1)
    places = [*rng.integers(1, len(content), 150).tolist(), *ends, *(e - 1 for e in ends)]
    for place in places:
        path.write_bytes(content[:place])
        if place < 512:
            with pytest.raises(InputError, match="must be an uncompressed tar, but is not"):
                split_up(path)
            continue
        utterances, rejected = split_up(path)
        assert [u.audio for u in utterances] == [
            u.audio for u, end in zip(whole, ends, strict=True) if end <= place
        ]
        # Padding and end mark may be gone; the mark is a block of zeros after the last member.
        is_marked = place >= -(-ends[-1] // 512) * 512 + 512
        assert rejected == ([] if is_marked else [(str(path), "truncated")])


def test_damaged_tars_end_and_lose_nothing_silently(audio: Path, tmp_path: Path) -> None:
    sounds = [(f"k{k}.flac", (audio / "b.flac").read_bytes()[: 700 + k]) for k in range(6)]
    path = write_tar(tmp_path / "x.tar", *sounds)
    content = path.read_bytes()
    refs = {u.audio for u in read(path) if isinstance(u, Utterance)}
    rng = np.random.default_rng(2)
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, 6 * 1536, 3):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            utterances, rejected = split_up(path)
        except InputError:
            continue  # the first header itself
        assert rejected or len(utterances) == 6
        assert {u.audio for u in utterances} <= refs or rejected


def test_a_negative_size_in_a_tar_is_no_endless_loop(audio: Path, tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "x.tar", ("k0.wav", (audio / "a.wav").read_bytes()), ("k1.wav", b"")
    )
    content = bytearray(path.read_bytes())
    second = -(-(512 + (audio / "a.wav").stat().st_size) // 512) * 512
    header = bytearray(content[second : second + 512])
    header[124:136] = b"\xff" + (2**88 - 3 * 512).to_bytes(
        11, "big"
    )  # GNU's base 256, two's complement
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[second : second + 512] = header
    path.write_bytes(content)
    utterances, rejected = split_up(path)
    assert [u.id for u in utterances] == ["x/k0"]
    assert rejected == [(str(path), "truncated")]


def test_compressed_tars_are_refused(audio: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", ("k.wav", (audio / "a.wav").read_bytes()))
    for name in ("x.tar.gz", "x.tgz", "unnamed.gz"):
        packed = tmp_path / "packed" / name
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(tar.read_bytes()))
        with pytest.raises(InputError, match=r"must be an uncompressed tar.*Unpack it"):
            recognise(packed)
    with pytest.raises(InputError, match=r"must be an uncompressed tar.*Unpack it"):
        recognise(tmp_path / "packed")


def test_reading_a_tar_takes_no_memory_per_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", *((f"k{k}.wav", b"x") for k in range(4_000)))
    peaks = []
    for limit in (500, 4_000):
        tracemalloc.start()
        for _, _ in zip(read(path), range(limit), strict=False):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000


def test_parquet_that_datasets_wrote(audio: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from datasets.table import embed_table_storage

    files = [str(audio / name) for name in ("a.wav", "b.flac", "a.wav")]
    rows = {"audio": files, "sentence": ["ก", "ข", "ค"], "client_id": ["p", "q", "p"]}
    data = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(16_000))
    folder = tmp_path / "data"
    folder.mkdir()
    data.to_parquet(folder / "test-00000-of-00002.parquet")  # refers to the files
    embedded = data.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    embedded.to_parquet(folder / "train-00000-of-00002.parquet")
    assert recognise(folder) == formats.PARQUET
    utterances, rejected = split_up(folder)
    assert not rejected
    names = [f"{s}-00000-of-00002.parquet#{k}" for s in ("test", "train") for k in range(3)]
    assert [u.id for u in utterances] == names
    assert [u.split for u in utterances] == ["test"] * 3 + ["train"] * 3
    assert [u.audio.path for u in utterances[:3]] == files
    assert [u.text for u in utterances] == ["ก", "ข", "ค"] * 2
    assert [u.speaker for u in utterances] == ["p", "q", "p"] * 2
    for u, file in zip(utterances[3:], files, strict=True):
        assert read_audio(u.audio) == Path(file).read_bytes()
    manifest, _ = scan([folder], split="train")
    assert manifest.duration_s.tolist() == [1.0, 2.0, 1.0]


def test_parquet_columns(audio: Path, tmp_path: Path) -> None:
    wav = (audio / "a.wav").read_bytes()
    table = {
        "segment_id": [7, 8, 9],
        "wav": [wav, None, wav],
        "transcription": ["ก", "ข", None],
        "speaker": ["p", None, "q"],
        "duration": [1.0, 1.0, 1.0],
        "sampling_rate": [16_000] * 3,
    }
    path = tmp_path / "validation.parquet"
    pq.write_table(pa.table(table), path, row_group_size=2)
    utterances, rejected = split_up(path)
    got = [(u.id, u.text, u.speaker, u.split, u.duration_s, u.audio.row) for u in utterances]
    assert got == [("7", "ก", "p", "dev", 1.0, 0), ("9", None, "q", "dev", 1.0, 2)]
    assert rejected == [(f"{path}#1", "empty")]
    # Ids that do not tell rows apart are no ids.
    pq.write_table(pa.table(table | {"segment_id": [7, 7, 9]}), path)
    assert [u.id for u in split_up(path)[0]] == ["validation.parquet#0", "validation.parquet#2"]
    # Nor are those of another list: a prefix keeps two apart.
    ids = [u.id for u in read(path, prefix="x/") if isinstance(u, Utterance)]
    assert ids == ["x/validation.parquet#0", "x/validation.parquet#2"]


def test_parquet_without_one_column_of_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(InputError, match="but 0 of its columns can be that: text"):
        split_up(path)
    pq.write_table(pa.table({"left": [b"a"], "right": [b"b"]}), path)
    with pytest.raises(InputError, match="but 2 of its columns can be that: left, right"):
        split_up(path)
    pq.write_table(pa.table({"image": [b"a"], "audio": [b"b"]}), path)
    assert read_audio(AudioRef(str(path), 0)) == b"b"
    path.write_bytes(b"PAR1" + bytes(64))
    with pytest.raises(InputError, match="must be a whole parquet file"):
        split_up(path)


def test_thai_sup_keeps_its_own_reader(tmp_path: Path) -> None:
    row = ThaiSupRow("IC", "ถาม", "ic-1", "ก", "ข", b"f", 16_000, 1, 1.0)
    write_shard(tmp_path / "IC/train/train-00000.parquet", [row])
    write_shard(tmp_path / "IC/test/test-00000.parquet", [row])
    shard = tmp_path / "IC/test/test-00000.parquet"
    assert recognise(tmp_path) == recognise(shard) == formats.THAI_SUP
    assert [u.split for u in split_up(tmp_path)[0]] == ["test", "train"]
    got = [(u.id, u.task, u.split) for u in read(shard) if isinstance(u, Utterance)]
    assert got == [("ic-1", "ic", "test")]
    assert len(list(read(tmp_path, split="train"))) == 1
