"""Recordings that are there twice: by a link, under another name, in another file; and those that only look it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.recordings import ids, reasons, write_good
from thaitool.data import duplicates as find
from thaitool.data import measure
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected

if TYPE_CHECKING:
    from tests.conftest import Tone


def test_a_file_reached_twice_is_one(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "x/a.wav", "x/y/b.wav")
    (tmp_path / "x" / "link.wav").symlink_to(tmp_path / "x" / "a.wav")
    (tmp_path / "x" / "other").symlink_to(tmp_path / "x" / "y")
    manifest, rejected = scan([tmp_path / "x"], max_rejected_share=0)
    assert ids(manifest) == ["a.wav", "y/b.wav"]
    path = str(tmp_path / "x" / "a.wav")
    assert rejected == [Rejected(path, "duplicate", "the file of a.wav")]
    (tmp_path / "x" / "link.wav").unlink()
    manifest, rejected = scan([tmp_path / "x" / "y", tmp_path / "x"])
    assert [(u.id, u.part) for u in map(manifest.__getitem__, range(2))] == [
        ("y/b.wav", 0),
        ("a.wav", 1),
    ]
    assert [r.reason for r in rejected] == ["duplicate"]
    with pytest.raises(InputError, match=r"Every source may be named once, but .* are one"):
        scan([tmp_path / "x", tmp_path / "x" / "other", tmp_path / "x" / "y"])


def test_the_same_audio_under_another_name_is_a_duplicate(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path, tone, "a.wav", "b.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "c.wav")
    samples = tone(0.7)
    soundfile.write(tmp_path / "d.flac", samples, 16_000)
    soundfile.write(tmp_path / "e.flac", samples, 16_000, compression_level=0.0)
    (tmp_path / "f.mp3").write_bytes((tmp_path / "d.flac").read_bytes())
    almost = bytearray((tmp_path / "a.wav").read_bytes())
    almost[-1] ^= 1  # the same size and the same first bytes
    (tmp_path / "g.wav").write_bytes(almost)
    whole, rejected = scan([tmp_path])
    assert (len(whole), rejected) == (7, [])
    manifest, rejected = scan([tmp_path], duplicates="drop", max_rejected_share=0)
    assert ids(manifest) == ["a.wav", "b.wav", "d.flac", "g.wav"]
    assert rejected == [
        Rejected(str(tmp_path / later), "duplicate", f"same audio as {tmp_path / first}")
        for first, later in (("a.wav", "c.wav"), ("d.flac", "e.flac"), ("d.flac", "f.mp3"))
    ]
    assert (tmp_path / "d.flac").stat().st_size != (tmp_path / "e.flac").stat().st_size


def test_a_whole_flac_is_not_dropped_for_one_that_ends_early(tmp_path: Path, tone: Tone) -> None:
    """They have one checksum: the header of the cut one is that of the whole one."""
    soundfile.write(tmp_path / "b.flac", tone(1.0), 16_000)
    whole = (tmp_path / "b.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.flac").write_bytes(whole)
    manifest, rejected = scan([tmp_path], duplicates="drop")
    assert ids(manifest) == ["b.flac"]
    assert reasons(rejected) == {"a.flac": "duplicate", "c.flac": "duplicate"}


def test_a_file_that_goes_before_it_can_be_compared(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    original = measure.measure

    def measured(*args: Any, **more: Any) -> Any:
        found = original(*args, **more)
        (tmp_path / "a.wav").unlink()
        return found

    monkeypatch.setattr(measure, "measure", measured)
    manifest, rejected = scan([tmp_path], duplicates="drop", max_rejected_share=0.5)
    assert ids(manifest) == ["b.wav"]
    assert rejected == [Rejected(str(tmp_path / "a.wav"), "vanished", "No such file or directory")]


@pytest.mark.parametrize("look", ["_sha256", "_decodes"])
@pytest.mark.parametrize("trouble", ["vanished", "unreadable"])
def test_a_flac_that_cannot_be_read_when_it_is_compared_is_a_line_and_no_duplicate(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch, look: str, trouble: str
) -> None:
    first, second, third = (tmp_path / name for name in ("a.flac", "b.flac", "c.flac"))
    for path, level in ((first, 0.0), (second, 1.0), (third, 1.0)):
        soundfile.write(path, tone(1.0), 16_000, compression_level=level)
    assert first.read_bytes() != second.read_bytes()
    original = getattr(find, look)

    def looking(ref: AudioRef) -> object:
        if ref.path == str(first):
            if trouble == "unreadable":
                raise OSError(5, "Input/output error")
            first.unlink(missing_ok=True)
        return original(ref)

    monkeypatch.setattr(find, look, looking)
    manifest, rejected = scan([tmp_path], duplicates="drop", max_rejected_share=0.5)
    assert ids(manifest) == ["b.flac"]
    assert reasons(rejected) == {"a.flac": trouble, "c.flac": "duplicate"}
    assert f"same audio as {second}" in {r.detail for r in rejected}


def test_what_agrees_in_all_bytes_is_read_once(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_good(tmp_path, tone, "a.wav")
    for name in ("b.wav", "c.wav"):
        shutil.copy(tmp_path / "a.wav", tmp_path / name)
    read: list[str] = []
    original = find._sha256

    def counted(ref: AudioRef) -> bytes:
        read.append(Path(ref.path).name)
        return original(ref)

    monkeypatch.setattr(find, "_sha256", counted)
    manifest, rejected = scan([tmp_path], duplicates="drop")
    assert (ids(manifest), len(rejected)) == (["a.wav"], 2)
    assert read == ["a.wav", "b.wav", "c.wav"]


def kaldi(
    folder: Path, segments: list[tuple[str, str, float, float]], text: dict[str, str]
) -> Path:
    folder.mkdir()
    recordings = sorted({r for _, r, _, _ in segments})
    (folder / "wav.scp").write_text("".join(f"{r} {folder.parent / r}.wav\n" for r in recordings))
    (folder / "segments").write_text(
        "".join(f"{name} {r} {start} {end}\n" for name, r, start, end in segments)
    )
    (folder / "text").write_text("".join(f"{k} {v}\n" for k, v in text.items()))
    return folder


def test_stretches_and_texts_make_utterances_different(tmp_path: Path, tone: Tone) -> None:
    soundfile.write(tmp_path / "r.wav", tone(3.0), 16_000)
    shutil.copy(tmp_path / "r.wav", tmp_path / "s.wav")
    segments = [
        ("r1", "r", 0.0, 1.0),
        ("r2", "r", 1.0, 2.0),
        ("r3", "r", 1.0, 2.0),
        ("s1", "s", 0.0, 1.0),
        ("s2", "s", 1.0, 2.0),
        ("s3", "s", 2.0, 2.05),
        ("s4", "s", 2.0, 4.0),
        ("s5", "s", 2.5, 3.05),
    ]
    text = dict.fromkeys(["r1", "r2", "s1", "s5"], "หนึ่ง") | dict.fromkeys(["r3", "s2"], "สอง")
    text |= {"s3": "x", "s4": "y"}
    source = kaldi(tmp_path / "kaldi", segments, text)
    manifest, rejected = scan([source], duplicates="drop", max_rejected_share=0.4)
    assert ids(manifest) == ["r1", "r2", "r3", "s5"]
    assert [manifest[3].duration_s, manifest[3].start_s] == pytest.approx([0.5, 2.5])
    path = str(tmp_path / "s.wav")
    assert [(r.item.removeprefix(path), r.reason) for r in rejected] == [
        ("@2000-2050", "too_short"),
        ("@2000-4000", "wrong_duration"),
        ("@0-1000", "duplicate"),
        ("@1000-2000", "duplicate"),
    ]
    assert "from 2 to 4 s of a recording of 3.000 s" in rejected[1].detail
    assert rejected[2].detail == f"same audio as {tmp_path / 'r.wav'}@0-1000"


def test_a_whole_flac_stays_for_a_damaged_one_of_the_same_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "b.flac", 0.2 * rng.standard_normal(32_000), 16_000)
    whole = (tmp_path / "b.flac").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 2000] = bytes(2000)
    (tmp_path / "a.flac").write_bytes(bytes(damaged))
    manifest, rejected = scan([tmp_path], duplicates="drop", max_rejected_share=1.0)
    assert [manifest[i].id for i in range(len(manifest))] == ["b.flac"]
    assert [(r.reason, r.item) for r in rejected] == [("duplicate", str(tmp_path / "a.flac"))]
