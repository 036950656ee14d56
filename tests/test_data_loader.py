"""Batches: true lengths, zeros in the padding, and the same content whoever decodes them and wherever a run stopped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor

from thaitool.audio.decode import decode, encode_flac
from thaitool.data import loader
from thaitool.data.loader import Batch, batches, collate, crop_window, in_order, load_audio, pad
from thaitool.data.manifest import Manifest
from thaitool.data.plan import BatchPlan, EpochOrder, make_plan
from thaitool.data.scan import scan
from thaitool.data.shards import ThaiSupRow, write_shard
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def test_a_silent_stretch_of_a_longer_recording_is_a_pause(tmp_path: Path, tone: Tone) -> None:
    """It is listed with its place, and does not count as an unusable recording."""
    soundfile.write(tmp_path / "a.wav", np.r_[tone(2.0), np.zeros(48_000)], 16_000)
    whole = scan([tmp_path])[0][0]
    piece = replace(whole, id="piece", start_s=2.5, end_s=4.5, duration_s=2.0)
    (rejected,) = collate(0, 0, [piece]).rejected
    assert (rejected.item, rejected.reason) == (f"{tmp_path / 'a.wav'}@2500-4500", "pause")
    # A window of 1 s is silent in some epochs, which makes the recording no worse.
    windows = [collate(0, epoch, [whole], crop_s=1.0).rejected for epoch in range(30)]
    assert {r.reason for found in windows for r in found} == {"pause"}
    assert collate(0, 0, [whole]).rejected == ()


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
    known = Utterance("ไทย", AudioRef("a"), 2.0, 16_000, start_s=1.0)
    assert crop_window(known, 0.5, 3, 1) == ((16_000 + 9_491) / 16_000, (16_000 + 17_491) / 16_000)
    # The window is a stretch of the whole, and shorter clips stay whole.
    whole = collate(0, 0, [manifest[11]]).audio[0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(whole, 8_000)
    likeness = windows @ first.numpy() / np.linalg.norm(windows, axis=1)
    assert likeness.max() / np.linalg.norm(first.numpy()) == pytest.approx(1, abs=1e-3)
    assert collate(0, 0, [manifest[0]], crop_s=0.5).audio_lengths.tolist() == [3_200]


@pytest.mark.parametrize(
    ("suffix", "rate_hz"), [("wav", 16_000), ("flac", 48_000), ("mp3", 44_100)]
)
def test_a_crop_is_cut_before_decoding_and_is_what_cutting_afterwards_gives(
    tmp_path: Path, tone: Tone, suffix: str, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(3.0, rate_hz), rate_hz)
    stretch = Utterance("a", AudioRef(str(path)), 2.0, rate_hz, start_s=0.5, end_s=2.5)
    whole = load_audio(stretch)
    for epoch in range(5):
        window = crop_window(stretch, 0.7, 0, epoch)
        assert window is not None
        first = round(window[0] * 16_000) - 8_000
        assert 0 <= first <= 32_000 - 11_200
        (audio,), _ = pad([whole[first : first + 11_200]])
        batch = collate(0, epoch, [stretch], crop_s=0.7)
        np.testing.assert_allclose(batch.audio[0], audio, atol=1e-5)
    asked: list[float] = []

    def watched(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        asked.append(kwargs["end_s"] - kwargs["start_s"])
        return decode(*args, **kwargs)

    monkeypatch.setattr(loader, "decode", watched)
    collate(0, 0, [stretch], crop_s=0.7)
    assert asked == [pytest.approx(0.7)]


def test_values_are_those_of_the_feature_extractor(tone: Tone) -> None:
    rng = np.random.default_rng(0)
    clips = [
        tone(1.0),
        0.001 * tone(0.3) + np.float32(0.5),
        rng.standard_normal(5_000).astype("f4"),
    ]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    theirs = extractor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    audio, lengths = pad(clips)
    torch.testing.assert_close(audio, theirs["input_values"], atol=1e-5, rtol=1e-5)
    assert lengths.tolist() == theirs["attention_mask"].sum(1).tolist()


def test_a_file_that_became_shorter_after_the_scan_is_recorded(
    manifest: Manifest, tmp_path: Path, tone: Tone
) -> None:
    soundfile.write(tmp_path / "11.wav", tone(0.7), 16_000)
    (rejected,) = collate(0, 0, [manifest[11]]).rejected
    assert (rejected.reason, rejected.detail) == (
        "truncated",
        "0.70 s could be read, the manifest says 1.30 s",
    )
    # And so is a window that lies behind the new end.
    outcomes = {collate(0, e, [manifest[11]], crop_s=0.3).rejected == () for e in range(20)}
    assert outcomes == {True, False}


def test_a_disk_that_fails_once_is_asked_again(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaitool.audio.decode.RETRY_AFTER_S", 0.0)
    real_open, failures = os.open, [2]

    def stale(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("11.wav") and failures[0] > 0:
            failures[0] -= 1
            raise OSError(116, "Stale file handle")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", stale)
    failed = collate(0, 0, [manifest[11]]).rejected
    assert [(r.reason, r.detail) for r in failed] == [("unreadable", "Stale file handle")]
    failures[0] = 1
    assert collate(0, 0, [manifest[11]]).rejected == ()


def test_an_epoch_is_computed_once_and_only_when_it_is_needed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    n, computed = plan.batches_per_epoch, []
    real = BatchPlan.epoch

    def watched(self: BatchPlan, epoch: int) -> EpochOrder:
        computed.append(epoch)
        return real(self, epoch)

    monkeypatch.setattr(BatchPlan, "epoch", watched)
    list(batches(manifest, plan, range(7 * n + 1, 9 * n, 2)))
    assert computed == [7, 8]


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


def test_in_order_crops_what_is_held_out_always_alike(manifest: Manifest) -> None:
    found = list(in_order(manifest, batch_s=2.0, crop_s=0.5))
    assert sorted(i for b in found for i in ids(b)) == [f"{n:02}.wav" for n in range(12)]
    assert all(b.audio.shape[1] <= 8_000 and b.audio.numel() <= 32_000 for b in found)
    again = list(in_order(manifest, batch_s=2.0, crop_s=0.5))
    assert all(equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_batches_are_the_same(manifest: Manifest) -> None:
    plan = make_plan(manifest.duration_s, batch_s=3, seed=3)
    for workers in (0, 2):
        pinned = list(batches(manifest, plan, range(3), workers=workers, pin=True))
        plain = list(batches(manifest, plan, range(3)))
        assert all(b.audio.is_pinned() for b in pinned)
        assert all(equal(a, b) for a, b in zip(pinned, plain, strict=True))


def test_bytes_of_another_file_and_samples_of_the_cache_are_read(
    tmp_path: Path, tone: Tone
) -> None:
    flac = encode_flac(tone(0.5))
    whole = load_audio(
        Utterance("w", AudioRef(str(on_disk(tmp_path / "w.flac", flac))), 0.5, 16_000)
    )
    tar = on_disk(tmp_path / "a.tar", b"x" * 512 + flac + b"y" * 99)
    member = Utterance("m", AudioRef(str(tar), offset=512, n_bytes=len(flac)), 0.5, 16_000)
    np.testing.assert_array_equal(load_audio(member), whole)
    samples = np.rint(whole * 2**15).astype("<i2").tobytes()
    shard = on_disk(tmp_path / "a.pcm16", b"\x01" * 6 + samples + b"\x01" * 4)
    cached = Utterance("c", AudioRef(str(shard), offset=6, n_bytes=len(samples)), 0.5, 16_000)
    np.testing.assert_array_equal(load_audio(cached), whole)
    np.testing.assert_array_equal(load_audio(cached, (0.1, 0.3)), whole[1_600:4_800])
    # A file that was cut since: what is asked for is no longer there.
    tar.write_bytes(tar.read_bytes()[:2_000])
    (rejected,) = collate(0, 0, [member]).rejected
    assert (rejected.item, rejected.reason) == (f"{tar}#512", "truncated")


def on_disk(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


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
