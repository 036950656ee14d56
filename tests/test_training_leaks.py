"""Leakage between training and held-out rows: each kind against a known truth, what stops a run, and what is kept."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from thaitool.config import FinetuneConfig
from thaitool.data import samples
from thaitool.data.manifest import Manifest, from_utterances, write_manifest
from thaitool.data.samples import same_samples
from thaitool.errors import InputError
from thaitool.records import AudioRef, Utterance
from thaitool.training import leaks
from thaitool.training.leaks import KINDS, check_leaks, find_hits, record_leaks
from thaitool.training.run_dir import RunDir

RATE_HZ = 16_000


def sound(path: Path, seed: int, n: int = 8_000, **how: Any) -> Utterance:
    """A file of noise; the same seed is the same noise."""
    noise = np.random.default_rng(seed).integers(-9_000, 9_000, n).astype(np.int16)
    soundfile.write(path, noise, RATE_HZ, **how)
    return Utterance(path.stem, AudioRef(str(path)), n / RATE_HZ, RATE_HZ)


def row(name: str, **fields: Any) -> Utterance:
    """A row whose audio nobody needs to open: its length is its own."""
    duration_s = 1 + zlib.crc32(name.encode()) / 2**32
    return Utterance(name, AudioRef(f"/audio/{name}.wav"), duration_s, RATE_HZ, **fields)


def hits(train: Manifest, held: Manifest) -> dict[str, int]:
    found, _ = find_hits(train, held, "dev")
    return {hit.kind: hit.rows for hit in found}


def test_the_same_samples_are_found_in_another_coding(tmp_path: Path) -> None:
    held = [sound(tmp_path / f"h{k}.wav", k) for k in range(3)]
    train = [
        sound(tmp_path / "a.flac", 0),
        sound(tmp_path / "b.flac", 7),
        sound(tmp_path / "c.wav", 2),
        sound(tmp_path / "d.wav", 1, n=8_001),
    ]
    found = same_samples(from_utterances(held), from_utterances(train))
    assert found.pairs == [(0, 0), (2, 2)]
    assert (found.candidates, found.hashed, found.unreadable) == (6, 6, 0)
    samples_read, _ = soundfile.read(tmp_path / "c.wav", dtype="int16")
    samples_read[100] ^= 1
    soundfile.write(tmp_path / "c.wav", samples_read, RATE_HZ)
    assert same_samples(from_utterances(held), from_utterances(train)).pairs == [(0, 0)]


def test_stretches_are_compared_as_stretches(tmp_path: Path) -> None:
    whole = sound(tmp_path / "whole.wav", 0, n=32_000)
    copy = sound(tmp_path / "copy.flac", 0, n=32_000)
    cut = [
        replace(whole, id=f"w{k}", start_s=k / 2, end_s=k / 2 + 0.5, duration_s=0.5) for k in (0, 1)
    ]
    other = [
        replace(copy, id=f"c{k}", start_s=k / 2, end_s=k / 2 + 0.5, duration_s=0.5) for k in (1, 2)
    ]
    assert same_samples(from_utterances(cut), from_utterances(other)).pairs == [(1, 0)]


def test_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    held, train = sound(tmp_path / "h.wav", 0), sound(tmp_path / "t.wav", 1)
    (tmp_path / "t.wav").unlink()
    found = same_samples(from_utterances([held]), from_utterances([train]))
    assert (found.pairs, found.unreadable) == ([], 1)


def test_of_too_many_every_nth_is_compared(tmp_path: Path) -> None:
    held = from_utterances([sound(tmp_path / "h.wav", 4)])
    train = from_utterances([sound(tmp_path / f"t{k}.wav", k) for k in range(8)])
    found = same_samples(held, train, most=4)  # rows 0, 2, 4, 6
    assert found.pairs == [(0, 4)]
    assert (found.candidates, found.hashed) == (9, 5)


def test_hashes_are_kept_and_forgotten_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, train = sound(tmp_path / "h.wav", 0), sound(tmp_path / "t.wav", 0)
    sets = from_utterances([held]), from_utterances([train])
    assert same_samples(*sets, cache=tmp_path / "kept").pairs == [(0, 0)]
    asked: list[str] = []
    real = samples.samples_digest

    def counted(utterance: Utterance) -> bytes:
        asked.append(utterance.id)
        return real(utterance)

    monkeypatch.setattr(samples, "samples_digest", counted)
    assert same_samples(*sets, cache=tmp_path / "kept").pairs == [(0, 0)]
    assert not asked
    sound(tmp_path / "t.wav", 1)
    assert same_samples(*sets, cache=tmp_path / "kept").pairs == []
    assert asked == ["t"]


def test_half_a_line_of_a_killed_run_costs_nothing(tmp_path: Path) -> None:
    sets = [from_utterances([sound(tmp_path / f"{k}.wav", 0)]) for k in range(4)]
    kept = tmp_path / "kept"
    same_samples(sets[0], sets[1], cache=kept)
    (file,) = kept.iterdir()
    file.write_text(file.read_text("utf-8")[:-9], "utf-8")
    assert same_samples(sets[2], sets[3], cache=kept).pairs == [(0, 0)]
    assert same_samples(sets[0], sets[1], cache=kept).pairs == [(0, 0)]
    assert len(file.read_text("utf-8").splitlines()) == 4
    assert list(kept.iterdir()) == [file]


def test_each_kind_is_found_and_nothing_else() -> None:
    held = from_utterances(
        [
            row("a", text="พรุ่งนี้ไปเชียงใหม่", source_id="s1", speaker="p1"),
            row("common_voice_th_31022646", text="สวัสดีครับ"),
            row("c", text="เปิดไฟห้องนอน", speaker="", source_id="s3"),
            row("d", text="ตั้งนาฬิกาปลุกตอนเจ็ดโมงเช้าวันจันทร์ให้หน่อย"),
            row("e"),
        ]
    )
    assert (
        hits(from_utterances([row("x", text="ไม่เกี่ยวกัน", source_id="s9", speaker="")]), held) == {}
    )
    train = {
        "source": row("x1", source_id="s1"),
        "speaker": row("x2", speaker="p1"),
        "recording": row("x3-common_voice_th_31022646.mp3"),
        "text": row("x4", text="เปิดไฟ ห้องนอน"),
        "near": row("x5", text="ตั้งนาฬิกาปลุกตอนแปดโมงเช้าวันจันทร์ให้หน่อย"),
    }
    for kind, one in train.items():
        assert hits(from_utterances([one]), held) == {kind: 1}, kind
    assert hits(from_utterances(train.values()), held) == dict.fromkeys(train, 1)


def test_one_id_is_one_recording_only_if_it_is_as_long() -> None:
    held = from_utterances([replace(row("1"), duration_s=2.0), replace(row("2"), duration_s=2.0)])
    train = from_utterances([replace(row("1"), duration_s=2.01), replace(row("2"), duration_s=2.6)])
    assert hits(train, held) == {"recording": 1}


def test_equal_texts_are_those_of_a_comparison_of_all_with_all() -> None:
    letters = np.random.default_rng(0).choice(list("กขค "), (200, 4))
    texts = ["".join(line) for line in letters]
    held = [row(f"h{k}", text=text) for k, text in enumerate(texts[:100])]
    train = [row(f"t{k}", text=text) for k, text in enumerate(texts[100:])]
    forms = {"".join((u.text or "").split()) for u in train} - {""}
    truth = sum("".join((u.text or "").split()) in forms for u in held)
    assert 10 < truth < 90
    assert hits(from_utterances(train), from_utterances(held))["text"] == truth


def config(folder: Path, rows: list[Utterance], allow: list[str] | None = None) -> FinetuneConfig:
    write_manifest(from_utterances(rows), folder / "data.arrow")
    return FinetuneConfig.model_validate(
        {
            "data": [str(folder / "data.arrow")],
            "model": str(folder / "model"),
            "out": str(folder / "out"),
            "allow_leakage": allow or [],
            "train": {"updates": 1, "batch_s": 10.0, "learning_rate": 1e-3},
        }
    )


TRAIN = [row("t1", text="เปิดไฟ", speaker="p1", split="train"), row("t2", split="train")]
DEV = [row("d1", text="เปิดไฟ", speaker="p1", split="dev"), row("d2", text="ปิดไฟ", split="dev")]
TEST = [row("e1", text="เปิด ไฟ", split="test")]


def test_a_hit_stops_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    train, dev = from_utterances(TRAIN), from_utterances(DEV)
    with pytest.raises(InputError) as stopped:
        check_leaks(config(tmp_path, [*TRAIN, *DEV, *TEST]), train, dev)
    message = str(stopped.value)
    assert "speaker: 1 of 2 dev rows are spoken by a speaker of training rows (d1: p1)" in message
    assert (
        "text: 1 of 2 dev rows have the transcript of a training row (d1 is t1 'เปิดไฟ')" in message
    )
    assert "text: 1 of 1 test rows" in message
    assert "allow_leakage=[speaker,text]" in message
    with pytest.raises(InputError, match="text: 1 of 2 dev rows") as stopped:
        check_leaks(config(tmp_path, [*TRAIN, *DEV, *TEST], ["speaker"]), train, dev)
    assert "p1" not in str(stopped.value)


def test_what_is_allowed_or_near_is_told_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = [row("t3", text="ตั้งนาฬิกาปลุกตอนแปดโมงเช้าวันจันทร์ให้หน่อย", split="train")]
    late = [row("d3", text="ตั้งนาฬิกาปลุกตอนเจ็ดโมงเช้าวันจันทร์ให้หน่อย", split="dev")]
    settings = config(tmp_path, [*TRAIN, *DEV, *near, *late], ["speaker", "text"])
    sets = from_utterances([*TRAIN, *near]), from_utterances([*DEV, *late])
    found = check_leaks(settings, *sets)
    assert [hit.kind for hit in found.hits] == ["speaker", "text", "near"]
    assert [line.rpartition("; ")[2] for line in found.lines] == [
        "allowed",
        "allowed",
        "this does not stop a run",
    ]
    run = RunDir(tmp_path / "out")
    run.path.mkdir()
    (run.path / "run.json").write_text('{"fingerprint": {"a": 1}}')
    record_leaks(run, found)
    kept = json.loads((run.path / "run.json").read_text("utf-8"))
    assert kept["fingerprint"] == {"a": 1}
    assert kept["leakage"]["allowed"] == ["speaker", "text"]
    assert [hit["kind"] for hit in kept["leakage"]["hits"]] == ["speaker", "text", "near"]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the rows were compared again")

    monkeypatch.setattr(leaks, "find_hits", never)
    assert check_leaks(settings, *sets) == found
    with pytest.raises(AssertionError, match="compared again"):
        check_leaks(settings, sets[0], from_utterances(DEV))


def test_a_sound_split_is_silent(tmp_path: Path) -> None:
    dev = [row("d9", text="สบายดีไหม", speaker="p9", source_id="s9", split="dev")]
    found = check_leaks(
        config(tmp_path, [*TRAIN, *dev]), from_utterances(TRAIN), from_utterances(dev)
    )
    assert found.hits == ()
    assert found.lines == []
    assert found.compared["dev"]["with_speaker"] == 1
    assert set(KINDS) == {"audio", "recording", "source", "speaker", "text", "near"}
