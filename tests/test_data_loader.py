"""Batches: true lengths, zeros in the padding, and the same content whoever decodes them and wherever a run stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch

from thaitool.audio.decode import encode_flac
from thaitool.data.loader import Batch, _crop, batches, collate, in_order
from thaitool.data.manifest import Manifest, scan
from thaitool.data.plan import make_plan
from thaitool.data.shards import ThaiSupRow, write_shard
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Manifest:
    """Twelve recordings of 0.2 to 1.3 s, one of them at 48 kHz, and one that turns out silent."""
    for number in range(12):
        rate_hz = 48_000 if number == 4 else 16_000
        soundfile.write(tmp_path / f"{number:02}.wav", tone(0.2 + 0.1 * number, rate_hz), rate_hz)
    soundfile.write(tmp_path / "silent.wav", 0 * tone(0.75), 16_000)
    return scan([tmp_path])[0]


def ids(batch: Batch) -> list[str]:
    return [u.id for u in batch.utterances]


def equal(a: Batch, b: Batch) -> bool:
    return (
        (a.cursor, a.epoch, a.utterances, a.rejected)
        == (b.cursor, b.epoch, b.utterances, b.rejected)
        and torch.equal(a.audio, b.audio)
        and torch.equal(a.audio_lengths, b.audio_lengths)
    )


def test_lengths_are_true_and_the_padding_is_zero(manifest: Manifest) -> None:
    batch = collate(7, 2, [manifest[i] for i in (0, 4, 11)])
    assert (batch.cursor, batch.epoch, batch.rejected) == (7, 2, ())
    assert batch.audio_lengths.tolist() == [3_200, 9_600, 20_800]
    assert (batch.audio.shape, batch.audio.dtype) == ((3, 20_800), torch.float32)
    assert batch.audio_lengths.dtype == torch.int64
    assert batch.audio_s == pytest.approx(2.1)
    for samples, length in zip(batch.audio, batch.audio_lengths.tolist(), strict=True):
        assert not samples[length:].any()
        # Normalised over the clip alone: padding would have pulled both towards zero.
        assert float(samples[:length].mean()) == pytest.approx(0, abs=1e-4)
        assert float(samples[:length].square().mean()) == pytest.approx(1, abs=1e-3)
        assert samples[length - 1] != 0


def test_what_cannot_be_decoded_is_recorded_and_the_rest_stays(
    manifest: Manifest, tmp_path: Path
) -> None:
    silent = manifest[12]
    assert silent.id == "silent.wav"
    batch = collate(0, 0, [manifest[0], silent, manifest[1]])
    assert ids(batch) == ["00.wav", "01.wav"]
    (rejected,) = batch.rejected
    assert (rejected.item, rejected.reason) == (str(tmp_path / "silent.wav"), "silent")
    alone = collate(0, 0, [silent])
    assert (alone.audio.shape, alone.audio_s, len(alone.rejected)) == ((0, 0), 0.0, 1)


def test_a_file_that_vanished_after_the_scan_is_recorded(
    manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "03.wav").unlink()
    batch = collate(0, 0, [manifest[3]])
    assert batch.rejected == (
        Rejected(str(tmp_path / "03.wav"), "unreadable", "No such file or directory"),
    )


def test_a_crop_depends_on_seed_epoch_and_id_alone(manifest: Manifest, tmp_path: Path) -> None:
    def crop(row: int, *, seed: int = 0, epoch: int = 0, beside: int = 0) -> torch.Tensor:
        batch = collate(9, epoch, [manifest[beside], manifest[row]], crop_s=0.5, seed=seed)
        return batch.audio[1]

    first = crop(11)
    assert first.shape == (8_000,)
    assert torch.equal(first, crop(11, beside=1))
    assert not torch.equal(first, crop(11, seed=1))
    assert not torch.equal(first, crop(11, epoch=1))
    # The same sound under another id starts elsewhere.
    (tmp_path / "other.wav").write_bytes((tmp_path / "11.wav").read_bytes())
    other = Utterance("other", AudioRef(str(tmp_path / "other.wav")), 1.3, 16_000)
    assert not torch.equal(first, collate(0, 0, [other], crop_s=0.5).audio[0])
    # In every process: a crop that hung on Python's own string hash would not come here twice.
    assert int(_crop(np.arange(32_000, dtype=np.float32), "ไทย", 0.5, 3, 1)[0]) == 9_491
    # The window is a stretch of the whole, and shorter clips stay whole.
    whole = collate(0, 0, [manifest[11]]).audio[0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(whole, 8_000)
    likeness = windows @ first.numpy() / np.linalg.norm(windows, axis=1)
    assert likeness.max() / np.linalg.norm(first.numpy()) == pytest.approx(1, abs=1e-3)
    assert collate(0, 0, [manifest[0]], crop_s=0.5).audio_lengths.tolist() == [3_200]


def test_workers_and_processes_change_nothing(manifest: Manifest) -> None:
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    cursors = range(2 * plan.batches_per_epoch)
    alone = list(batches(manifest, plan, cursors, crop_s=0.9))
    assert [b.cursor for b in alone] == list(cursors)
    assert [b.epoch for b in alone] == [c // plan.batches_per_epoch for c in cursors]
    for epoch in (0, 1):
        seen = [i for b in alone if b.epoch == epoch for i in ids(b)]
        assert sorted(seen) == [f"{n:02}.wav" for n in range(12)]
    assert sum(len(b.rejected) for b in alone) == 2
    workers = list(batches(manifest, plan, cursors, crop_s=0.9, workers=2))
    assert all(equal(a, b) for a, b in zip(alone, workers, strict=True))
    # Process r of W takes cursors r, r + W, ...; a resumed run starts at any cursor.
    for world in (2, 3):
        shares = [
            iter(batches(manifest, plan, cursors[r::world], crop_s=0.9)) for r in range(world)
        ]
        assert all(equal(b, next(shares[b.cursor % world])) for b in alone)
    resumed = list(batches(manifest, plan, cursors[5:], crop_s=0.9))
    assert all(equal(a, b) for a, b in zip(alone[5:], resumed, strict=True))


def test_in_order_takes_everything_once_longest_first(manifest: Manifest) -> None:
    found = list(in_order(manifest, batch_s=2.0))
    assert sorted(i for b in found for i in ids(b)) == [f"{n:02}.wav" for n in range(12)]
    assert [r.reason for b in found for r in b.rejected] == ["silent"]
    longest = [int(b.audio_lengths.max()) for b in found if len(b.utterances)]
    assert longest == sorted(longest, reverse=True)
    assert all(b.audio.numel() <= 2.0 * 16_000 for b in found)
    assert [len(b.utterances) for b in in_order(manifest, batch_s=0.1)].count(1) == 12


def test_rows_of_a_shard_become_batches(tmp_path: Path, tone: Tone) -> None:
    def row(data_id: str, flac: bytes) -> ThaiSupRow:
        return ThaiSupRow("ASR", "p", data_id, "t", "t", flac, 16_000, 1, 0.3)

    good, cut = encode_flac(tone(0.3)), encode_flac(tone(0.3))[:3_000]
    shard = tmp_path / "sup/ASR/train/train-00000.parquet"
    write_shard(shard, [row("a", good), row("b", cut), row("c", good)])
    shards, _ = scan([tmp_path / "sup"])
    (batch,) = in_order(shards, batch_s=10)
    assert (ids(batch), batch.audio_lengths.tolist()) == (["a", "c"], [4_800, 4_800])
    (rejected,) = batch.rejected
    assert (rejected.item, rejected.reason) == (f"{shard}#1", "unreadable")
