"""Thai-SUP shards: the published schema to the byte's type, the join with provenance, and damaged files by name."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thaitool.audio.decode import encode_flac
from thaitool.audio.headers import BadAudio
from thaitool.data import shards
from thaitool.data.loader import load_audio
from thaitool.data.scan import scan
from thaitool.data.shards import (
    Provenance,
    ThaiSupRow,
    is_thai_sup,
    read_audio,
    read_thai_sup,
    write_provenance,
    write_shard,
)
from thaitool.errors import InputError
from thaitool.records import AudioRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Tone

#: From the data set card; written out, as a change of ours must not change what is compared with.
PUBLISHED = [
    ("task_id", "string"),
    ("task_prompt", "string"),
    ("data_id", "string"),
    ("text", "string"),
    ("label", "string"),
    ("audio_flac", "binary"),
    ("sampling_rate", "int32"),
    ("num_channels", "int32"),
    ("duration_s", "float"),
]


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    shards.clear_cache()


def row(
    data_id: str, flac: bytes = b"flac", task: str = "IC", duration_s: float = 0.5
) -> ThaiSupRow:
    return ThaiSupRow(
        task, "ถามอะไร", data_id, "ฝนตกไหม", "ตรวจสอบสภาพอากาศ", flac, 16_000, 1, duration_s
    )


def provenance(data_id: str) -> Provenance:
    return Provenance(
        data_id,
        f"source-{data_id}",
        "alpaca",
        "CC0-1.0",
        "train",
        2,
        "weather",
        "Rain?",
        "ฝนตกไหม",
        "v7",
        "f o n",
        False,
    )


def write_set(root: Path, tone: Tone) -> None:
    flac = encode_flac(tone(0.5))
    write_shard(root / "IC/train/train-00000.parquet", [row("ic-1", flac), row("ic-2", flac)])
    write_shard(root / "IC/test/test-00000.parquet", [row("ic-3", flac)])
    write_shard(root / "SR/train/train-00000.parquet", [row("sr-1", flac, "SR")])


def test_a_shard_has_the_published_schema_and_row_groups_of_100(tmp_path: Path) -> None:
    path = tmp_path / "IC/train/train-00000.parquet"
    rows = [row(f"ic-{i}", str(i).encode()) for i in range(250)]
    write_shard(path, rows)
    schema = pq.read_schema(path)
    assert [(field.name, str(field.type)) for field in schema] == PUBLISHED
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [100, 100, 50]
    assert [ThaiSupRow(**r) for r in pq.read_table(path).to_pylist()] == rows
    for index in (0, 99, 100, 199, 200, 249):
        assert read_audio(AudioRef(str(path), index)) == str(index).encode()


def test_utterances_join_their_provenance_by_data_id(tmp_path: Path, tone: Tone) -> None:
    write_set(tmp_path, tone)
    # In another order than the rows, and with one row that has none.
    write_provenance(
        tmp_path / "provenance/train-00000.parquet",
        [provenance("sr-1"), provenance("ic-2"), provenance("ic-1")],
    )
    assert is_thai_sup(tmp_path)
    by_id = {u.id: u for u in read_thai_sup(tmp_path)}
    assert list(by_id) == ["ic-3", "ic-1", "ic-2", "sr-1"]
    known = by_id["ic-2"]
    assert known.audio == AudioRef(str(tmp_path / "IC/train/train-00000.parquet"), 1)
    assert (known.task, known.split, known.label) == ("ic", "train", "ตรวจสอบสภาพอากาศ")
    assert (known.speaker, known.source_id, known.source) == ("v7", "source-ic-2", "alpaca")
    assert (known.licence, known.trainable, known.duration_s) == ("CC0-1.0", False, 0.5)
    unknown = by_id["ic-3"]
    assert (unknown.speaker, unknown.source, unknown.licence) == (None, None, None)
    assert (unknown.source_id, unknown.trainable) == ("ic-3", True)
    assert len(load_audio(known)) == 8_000
    # A task or split folder finds the provenance above it.
    assert [u.speaker for u in read_thai_sup(tmp_path / "IC" / "train")] == ["v7", "v7"]


def test_a_split_can_be_chosen_and_published_data_has_no_provenance(
    tmp_path: Path, tone: Tone
) -> None:
    write_set(tmp_path, tone)
    assert [u.id for u in read_thai_sup(tmp_path, split="test")] == ["ic-3"]
    manifest, rejected = scan([tmp_path], split="train")
    assert [manifest[i].id for i in range(len(manifest))] == ["ic-1", "ic-2", "sr-1"]
    assert rejected == []
    with pytest.raises(
        InputError, match="must hold Thai-SUP parquet shards of split 'dev', but none"
    ):
        scan([tmp_path], split="dev")


def test_a_shard_without_a_column_is_named_with_the_column(tmp_path: Path) -> None:
    path = tmp_path / "IC/train/train-00000.parquet"
    write_shard(path, [row("ic-1")])
    table = pq.read_table(path)
    for name, _ in PUBLISHED:
        pq.write_table(table.drop_columns([name]), path)
        with pytest.raises(InputError, match=f"train-00000.parquet must have .* but lacks {name}"):
            read_thai_sup(tmp_path)


def test_nulls_are_refused_where_a_row_cannot_do_without(tmp_path: Path) -> None:
    path = tmp_path / "IC/train/train-00000.parquet"
    write_shard(path, [row("ic-1"), replace(row("ic-2"), duration_s=None)])  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"train-00000\.parquet must have a value .* of duration_s"
    ):
        read_thai_sup(tmp_path)
    write_shard(path, [row("ic-1"), replace(row("ic-2"), audio_flac=None, label=None)])  # type: ignore[arg-type]
    nothing = read_thai_sup(tmp_path)[1]
    with pytest.raises(BadAudio) as caught:
        load_audio(nothing)
    assert (caught.value.item, caught.value.reason) == (f"{path}#1", "empty")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"this is no parquet file " * 20,
    "cut": lambda whole: whole[: len(whole) // 2],
    "no footer": lambda _: b"PAR1" + bytes(100) + b"PAR1",
    "bad pages": lambda whole: (
        whole[:4] + b"\xff" * (len(whole) // 3) + whole[4 + len(whole) // 3 :]
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_an_input_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "IC/train/train-00000.parquet"
    write_shard(path, [row(f"ic-{i}", bytes(1_000)) for i in range(20)])
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    for read in (lambda: read_thai_sup(tmp_path), lambda: read_audio(AudioRef(str(path), 0))):
        with pytest.raises(
            InputError, match=r"train-00000\.parquet must be a whole parquet file"
        ) as caught:
            read()
        assert str(caught.value).endswith("Fetch or make it again.")


def test_damaged_provenance_is_named(tmp_path: Path, tone: Tone) -> None:
    write_set(tmp_path, tone)
    path = tmp_path / "provenance/train-00000.parquet"
    write_provenance(path, [provenance("ic-1")])
    pq.write_table(pq.read_table(path).drop_columns(["voice"]), path)
    with pytest.raises(
        InputError, match=r"provenance/train-00000\.parquet must have .* but lacks voice"
    ):
        read_thai_sup(tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(
        InputError, match=r"provenance/train-00000\.parquet must be a whole parquet file"
    ):
        read_thai_sup(tmp_path)


def test_rows_that_do_not_exist_are_named(tmp_path: Path) -> None:
    path = tmp_path / "IC/train/train-00000.parquet"
    write_shard(path, [row("ic-1")])
    with pytest.raises(InputError, match="has 1 rows, but row 1 was asked for"):
        read_audio(AudioRef(str(path), 1))
    with pytest.raises(InputError, match="names no row"):
        read_audio(AudioRef(str(path)))
    path.unlink()
    shards.clear_cache()
    with pytest.raises(
        InputError, match=r"must be a whole parquet file, but could not be read: .*No such file"
    ):
        read_audio(AudioRef(str(path), 0))


def test_other_parquet_files_are_no_thai_sup(tmp_path: Path) -> None:
    write_provenance(tmp_path / "provenance/train-00000.parquet", [provenance("ic-1")])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "numbers.parquet")
    assert not is_thai_sup(tmp_path)
    assert not is_thai_sup(tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="must hold Thai-SUP parquet shards, but none was found"):
        read_thai_sup(tmp_path)


def blob(row: int, n_bytes: int) -> bytes:
    """Bytes that differ by row and do not compress."""
    return np.random.default_rng(row).bytes(n_bytes)


# Parquet reads a page at a time, and unpacks a packed one whole.
@pytest.mark.parametrize(("compression", "rows_per_page"), [("none", 1024), ("snappy", 8)])
def test_one_large_row_group_is_read_in_bounded_memory_and_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, rows_per_page: int
) -> None:
    n_rows, n_bytes = 400, 100_000
    path = tmp_path / "large.parquet"
    feature = [{"bytes": blob(k, n_bytes), "path": f"{k}.flac"} for k in range(n_rows)]
    pq.write_table(
        pa.table({"audio": feature}),
        path,
        row_group_size=n_rows,
        compression=compression,
        write_batch_size=rows_per_page,
        use_dictionary=False,
    )
    del feature
    assert pq.read_metadata(path).num_row_groups == 1
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1_000_000)
    monkeypatch.setattr(shards, "CACHE_BYTES", 3_000_000)
    passes = []
    real = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: object, **kwargs: object) -> object:
        passes.append(kwargs["row_groups"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    before = pa.total_allocated_bytes()
    peak = 0
    for k in range(n_rows):
        assert read_audio(AudioRef(str(path), k)) == blob(k, n_bytes)
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert passes == [[0]]
    # What is kept, and the chunk being read: not the 40 MB of the row group.
    assert peak < 6_000_000
    assert shards._chunks.n_bytes <= shards.CACHE_BYTES
    # At random every row is right too, whatever has to be read again; in the chunk that is kept nothing is.
    for k in np.random.default_rng(0).permutation(n_rows)[:40].tolist():
        assert read_audio(AudioRef(str(path), k)) == blob(k, n_bytes)
        n_passes = len(passes)
        assert read_audio(AudioRef(str(path), k)) == blob(k, n_bytes)
        assert len(passes) == n_passes


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_rows_of_any_size_in_groups_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    rng = np.random.default_rng(1)
    rows = [blob(k, int(n)) if n % 7 else None for k, n in enumerate(rng.integers(0, 9_000, 90))]
    path = tmp_path / "x.parquet"
    schema = pa.schema([("audio", pa.large_binary())])
    monkeypatch.setattr(shards, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(shards, "CACHE_BYTES", 50_000)
    with pq.ParquetWriter(path, schema, compression=compression) as writer:
        for start, stop in ((0, 1), (1, 60), (60, 61), (61, 90)):
            writer.write_table(pa.table({"audio": rows[start:stop]}, schema=schema))
    for order in (range(90), reversed(range(90)), rng.permutation(90).tolist()):
        for k in order:
            assert read_audio(AudioRef(str(path), k)) == (rows[k] or b"")


def test_damage_in_the_middle_of_a_group_does_not_shift_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = [blob(k, 50_000) for k in range(60)]
    pq.write_table(
        pa.table({"audio": rows}),
        path,
        row_group_size=20,
        data_page_size=50_000,
        compression="zstd",
    )
    whole = path.read_bytes()
    place = whole.find(rows[30][:64]) if rows[30][:64] in whole else len(whole) // 2
    path.write_bytes(whole[:place] + b"\xff" * 3_000 + whole[place + 3_000 :])
    outcomes: list[bool | None] = []
    for k in range(60):
        try:
            outcomes.append(read_audio(AudioRef(str(path), k)) == rows[k])
        except InputError:
            outcomes.append(None)
    assert outcomes[:20] == outcomes[40:] == [True] * 20
    assert False not in [o for k, o in enumerate(outcomes) if not 20 <= k < 40]
    assert None in outcomes or False in outcomes[20:40]


def test_a_directory_of_shards_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in it would be missing without a word. Simulated, as root may list everything."""
    write_shard(tmp_path / "ASR" / "train" / "train-00000.parquet", [row("a")])
    (tmp_path / "IC").mkdir()
    assert len(read_thai_sup(tmp_path)) == 1
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("IC"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"IC must be readable, .* Permission denied"):
        read_thai_sup(tmp_path)
