"""The manifest in memory and on disk, its digest and its views, against slow definitions of the same."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from thaitool.data import columns, manifest
from thaitool.data.manifest import (
    DIGEST_COLUMNS,
    SCHEMA,
    Manifest,
    describe_difference,
    from_utterances,
    open_manifest,
    require_trainable,
    write_manifest,
)
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from numpy.typing import NDArray


UTTERANCES = [
    Utterance("a", AudioRef("a.wav"), 1.5, 16_000),
    Utterance("b", AudioRef("s.parquet", 3), 2.25, 48_000, 0.5, 2.75, "สวัสดี", "asr", "สวัสดี", "v1"),
    Utterance(
        "c",
        AudioRef("c.tar", None, 1 << 40, 77),
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
        ({"part": 1}, False),
        ({"end_s": None}, False),
        ({"audio": AudioRef("s.tar", None, 512, 99)}, True),
    ],
)
def test_the_digest_covers_what_is_trained_on(change: dict[str, Any], same: bool) -> None:
    a, b, c = UTTERANCES
    changed = from_utterances([a, replace(b, **change), c])
    assert (changed.digest() == from_utterances(UTTERANCES).digest()) is same


def test_ids_are_unique() -> None:
    with pytest.raises(InputError, match=r"'a' occurs twice \(a\.wav and z\.wav; 1 such rows\)"):
        from_utterances([*UTTERANCES, replace(UTTERANCES[0], audio=AudioRef("z.wav"))])


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


def random_utterances(rng: random.Random, count: int) -> list[Utterance]:
    """Values of which many are alike, empty, missing or 0, so that mistakes do not cancel by chance."""
    texts = [None, "", "a", "b", "ab", "\0", "ก", "กก", "a" * 50]
    numbers = [0.0, 0.5, 1.0, 3.0]
    return [
        Utterance(
            id=f"{rng.choice(['u', 'ก', ''])}{k}",
            audio=AudioRef(f"{k}.wav", *(rng.choice([None, 0, 1, 2**40]) for _ in range(3))),
            duration_s=rng.choice(numbers),
            sample_rate_hz=rng.choice([8_000, 16_000]),
            start_s=rng.choice(numbers),
            end_s=rng.choice([None, *numbers]),
            text=rng.choice(texts),
            task=rng.choice(texts),
            label=rng.choice(texts),
            speaker=rng.choice(texts),
            trainable=rng.random() < 0.5,
            part=rng.randrange(3),
        )
        for k in range(count)
    ]


def in_chunks(utterances: list[Utterance], rng: random.Random) -> Manifest:
    """The same rows in record batches of random sizes, some of them empty, some slices of longer ones."""
    batches: list[pa.RecordBatch] = []
    rest = utterances
    while rest or not batches:
        size = rng.randrange(0, 5)
        before, after = random_utterances(rng, 2), random_utterances(rng, 1)
        whole = manifest.record_batch([*before, *rest[:size], *after])
        batches.append(whole.slice(2, len(rest[:size])))
        rest = rest[size:]
    return Manifest(pa.Table.from_batches(batches, SCHEMA))


def rows_of(found: Manifest) -> list[Utterance]:
    return [found[k] for k in range(len(found))]


@pytest.mark.parametrize("seed", range(25))
def test_a_view_is_what_the_copied_rows_would_be(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_BLOCK_ROWS", 4)
    rng = random.Random(seed)  # noqa: S311
    utterances = random_utterances(rng, rng.randrange(0, 30))
    whole = in_chunks(utterances, rng)
    assert rows_of(whole) == utterances
    mask = np.array([rng.random() < 0.6 for _ in utterances], dtype=bool)
    view, kept = whole.select(mask), [u for u, m in zip(utterances, mask, strict=True) if m]
    again = np.array([rng.random() < 0.6 for _ in kept], dtype=bool)
    shuffled = rng.sample(range(len(utterances)), len(utterances))
    order: NDArray[np.int64] = np.array(shuffled, np.int64)
    for found, expected in (
        (view, kept),
        (view.select(again), [u for u, m in zip(kept, again, strict=True) if m]),
        (Manifest(whole.table, order), [utterances[k] for k in order]),
        (pickle.loads(pickle.dumps(view)), kept),  # noqa: S301
    ):
        copied = from_utterances(expected)
        assert rows_of(found) == expected
        assert len(found) == len(expected)
        assert found.digest() == copied.digest() == in_chunks(expected, rng).digest()
        assert found.duration_s.tolist() == [u.duration_s for u in expected]
        assert found.part.tolist() == [u.part for u in expected]
        assert (found.duration_s.dtype, found.part.dtype) == (np.float64, np.int16)
        assert found.hours == pytest.approx(sum(u.duration_s for u in expected) / 3600)
        for name in SCHEMA.names:
            assert found.column(name).to_pylist() == copied.table.column(name).to_pylist()


def test_a_manifest_of_an_earlier_version_lacks_prompts_and_keeps_its_digest(
    tmp_path: Path,
) -> None:
    rng = random.Random(2)  # noqa: S311
    now = in_chunks(random_utterances(rng, 50), rng)
    earlier = now.table.drop_columns(list(manifest.YOUNGER_COLUMNS))
    path = tmp_path / "m.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, earlier.schema) as writer:
        writer.write_table(earlier)
    opened = open_manifest(path)
    assert rows_of(opened) == rows_of(now)
    assert opened.digest() == now.digest()
    assert opened.digest() == columns.digest(now.table.select(manifest.DIGEST_COLUMNS))


def test_prompts_and_contexts_are_part_of_the_digest_and_of_what_differs() -> None:
    plain = [Utterance(f"u{k}", AudioRef("/a.wav"), 1.0, 16_000) for k in range(3)]
    asked = [*plain[:2], replace(plain[2], prompt="ถาม")]
    known = [*plain[:2], replace(plain[2], context="ถาม")]
    made = [from_utterances(rows) for rows in (plain, asked, known)]
    assert len({m.digest() for m in made}) == 3
    # Of a selection, only its own rows count.
    assert (
        made[1].select([True, True, False]).digest() == made[0].select([True, True, False]).digest()
    )
    assert "u2: prompt None, now 'ถาม'" in manifest.describe_difference(made[0], made[1])


def test_a_view_goes_to_disk_as_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "BLOCK_ROWS", 7)
    rng = random.Random(1)  # noqa: S311
    whole = in_chunks(random_utterances(rng, 40), rng)
    view = whole.select(np.arange(40) % 3 > 0)
    write_manifest(view, tmp_path / "m.arrow")
    opened = open_manifest(tmp_path / "m.arrow")
    assert rows_of(opened) == rows_of(view)
    assert opened.digest() == view.digest()
    assert [len(batch) for batch in opened.table.to_batches()] == [7, 7, 7, 5]
    assert from_utterances(rows_of(view)).digest() == view.digest()


def test_rows_are_asked_for_as_of_a_list() -> None:
    found = from_utterances(UTTERANCES)
    assert (found[-1], found[-3]) == (UTTERANCES[2], UTTERANCES[0])
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=f"has 3 rows, but row {wrong}"):
            found[wrong]
    with pytest.raises(ValueError, match=r"shape \(3,\), but has \(2,\)"):
        found.select([True, False])
    assert (len(from_utterances([])), from_utterances([]).hours) == (0, 0.0)


def test_equal_digests_mean_equal_rows_and_no_less() -> None:
    """Against comparing the values themselves, over pairs that differ in little or in nothing."""
    rng = random.Random(3)  # noqa: S311
    by_digest: dict[str, object] = {}
    by_values: dict[object, str] = {}
    for _ in range(400):
        utterances = random_utterances(rng, rng.randrange(0, 3))
        values = tuple(tuple(getattr(u, name) for name in DIGEST_COLUMNS) for u in utterances)
        digest = in_chunks(utterances, rng).digest()
        assert by_values.setdefault(values, digest) == digest
        assert by_digest.setdefault(digest, values) == values
    assert len(by_digest) > 100
    shifted = [[("ab", "c")], [("a", "bc")], [("", "abc")], [("abc", "")]]
    pairs = [
        from_utterances([replace(UTTERANCES[0], text=t, task=k) for t, k in p]) for p in shifted
    ]
    assert len({found.digest() for found in pairs}) == 4
    assert (
        from_utterances([replace(UTTERANCES[0], start_s=-0.0)]).digest()
        == from_utterances([UTTERANCES[0]]).digest()
    )


def test_the_digest_is_the_same_in_every_process() -> None:
    """Python hashes strings differently in every process; the digest must not depend on it."""
    code = (
        "from tests.test_data_manifest import UTTERANCES; from thaitool.data.manifest import from_utterances;"
        "print(from_utterances(UTTERANCES).digest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout.strip() == from_utterances(UTTERANCES).digest()


@pytest.mark.parametrize("seed", range(10))
def test_what_occurs_twice_is_found_with_its_first_row(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_BLOCK_ROWS", 5)
    rng = random.Random(seed)  # noqa: S311
    values = [rng.choice("abcdefgh") * rng.randrange(1, 4) for _ in range(rng.randrange(0, 30))]
    column = pa.chunked_array([values[:7], values[7:]], pa.string())
    expected = [
        (values.index(value), k) for k, value in enumerate(values) if values.index(value) < k
    ]
    assert columns.find_twice(column) == expected
    # Values whose hashes happen to agree are still different values.
    monkeypatch.setattr(columns, "hashes", lambda c: np.zeros(len(c), np.int64))
    assert columns.find_twice(column) == expected


def test_a_difference_is_described_with_examples() -> None:
    a, b, c = UTTERANCES
    old = from_utterances(UTTERANCES)
    new = from_utterances([a, replace(b, duration_s=2.0, text=None), replace(c, id="d")])
    assert describe_difference(old, new) == (
        "The manifest had 3 rows (0.00 h) and has 3 rows (0.00 h) now: 1 added (d), 1 removed (c),"
        " 1 changed (b: duration_s 2.25, now 2.0; text 'สวัสดี', now None)."
    )
    moved = describe_difference(old, from_utterances([c, a, b]))
    assert moved.endswith("0 added, 0 removed, 0 changed. The rows come in another order.")
    assert describe_difference(old, old).endswith("0 added, 0 removed, 0 changed.")
    many = from_utterances([replace(a, id=str(k), duration_s=3600.0) for k in range(9)])
    assert describe_difference(from_utterances([]), many) == (
        "The manifest had 0 rows (0.00 h) and has 9 rows (9.00 h) now: 9 added (0, 1, 2, ...), 0 removed, 0 changed."
    )


def test_differences_are_those_of_a_comparison_row_by_row() -> None:
    changes: list[dict[str, Any]] = [{}, {}, {"text": "z"}, {"part": 9}, {"speaker": "z"}]
    for seed in range(30):
        rng = random.Random(seed)  # noqa: S311
        before = random_utterances(rng, 12)
        after = [replace(u, **rng.choice(changes)) for u in rng.sample(before, 9)] + [
            replace(u, id=f"new {u.id}") for u in before[:2]
        ]
        known = {u.id: u for u in before}
        changed = sum(
            any(getattr(u, n) != getattr(known[u.id], n) for n in DIGEST_COLUMNS)
            for u in after
            if u.id in known
        )
        text = describe_difference(in_chunks(before, rng), in_chunks(after, rng))
        assert "2 added" in text
        assert "3 removed" in text
        assert f"{changed} changed" in text


def test_a_manifest_cut_anywhere_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "m.arrow"
    write_manifest(from_utterances(UTTERANCES), path)
    whole = path.read_bytes()
    for size in random.Random(0).sample(range(len(whole)), 60):  # noqa: S311
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"must be a thaitool manifest \(Arrow\)"):
            open_manifest(path)


def test_rows_unfit_for_training_need_permission_by_name() -> None:
    manifest: Manifest = from_utterances(UTTERANCES)
    with pytest.raises(
        InputError, match=r"1 of 3 rows are marked trainable: false.*allow_untrainable=true"
    ):
        require_trainable(manifest, allowed=False)
    require_trainable(manifest, allowed=True)
    require_trainable(manifest.select([True, True, False]), allowed=False)
