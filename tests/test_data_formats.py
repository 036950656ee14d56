"""Which form a source has, and what the readers of all lists share: encodings, mistakes, paths, streams."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lists import objects, split_up, write, write_sounds, write_tar
from thaitool.data import formats
from thaitool.data.formats import read, recognise
from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.records import Utterance

if TYPE_CHECKING:
    from tests.conftest import Tone


@pytest.fixture
def audio(tmp_path: Path, tone: Tone) -> Path:
    """See `write_sounds`."""
    return write_sounds(tmp_path / "audio", tone)


def test_bom_and_crlf_and_no_last_newline(audio: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{audio}\r\na.wav\t16000\r\n\r\nb.flac\t32000".encode())
    assert recognise(path) == formats.FAIRSEQ
    assert [u.id for u in split_up(path)[0]] == ["a.wav", "b.flac"]
    path = tmp_path / "m.json"
    path.write_bytes(b'\xef\xbb\xbf{"audio_filepath": "audio/a.wav"}\r\n')
    assert [u.id for u in split_up(path)[0]] == ["audio/a.wav"]


def test_lines_that_are_not_utf8_are_named(audio: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(f"{audio}\na.wav\t1\n".encode() + "ก.wav\t1\n".encode("tis-620"))
    with pytest.raises(InputError, match=r"train\.tsv must be UTF-8, but line 3 is not, at byte 1"):
        split_up(path)
    path.write_bytes(f"{audio}\na.wav\t1\n".encode("utf-16"))
    with pytest.raises(InputError) as caught:
        recognise(path)
    assert "its first line is" in str(caught.value)


def test_what_is_not_recognised_names_the_candidates(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.txt", "", "# shopping", "milk")
    with pytest.raises(InputError) as caught:
        recognise(path)
    message = str(caught.value)
    for phrase in ("fairseq", "Kaldi", "NeMo", "lhotse", "WebDataset", "parquet", "'# shopping'"):
        assert phrase in message
    path.write_text("", "utf-8")
    with pytest.raises(InputError, match="but is empty"):
        recognise(path)
    path.write_text('[{"audio_filepath": "a"}]', "utf-8")
    with pytest.raises(InputError, match="Write one JSON object per line"):
        recognise(path)
    with pytest.raises(InputError, match="but does not exist"):
        recognise(tmp_path / "nowhere")


def test_sound_and_directories_of_it_are_left_to_the_scan(audio: Path, tmp_path: Path) -> None:
    assert recognise(audio) is None
    assert recognise(audio / "a.wav") is None
    (audio / "a.wav").rename(audio / "a.bin")
    assert recognise(audio / "a.bin") is None  # by its content
    assert recognise(write(tmp_path / "text.wav", "no sound")) is None  # the ledger says what it is
    for source in (audio, audio / "b.flac"):
        with pytest.raises(InputError, match=r"is sound, not a list of recordings"):
            list(read(source))


def test_mixtures_are_refused_and_name_an_example_of_each(audio: Path) -> None:
    write_tar(audio / "deep.tar", ("k.wav", b"x"))
    with pytest.raises(InputError) as caught:
        recognise(audio)
    message = str(caught.value)
    assert "mixes sound files and tars" in message
    assert "deep.tar" in message
    (audio / "deep.tar").unlink()
    # A download that lies beside what was unpacked from it is no data.
    (audio / "all.tar.gz").write_bytes(b"")
    assert recognise(audio) is None


def test_a_scan_looks_once_at_what_a_source_is(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large directory that is a walk over all of it."""
    path = write(tmp_path / "train.tsv", str(audio), "a.wav\t16000")
    seen: list[Path] = []

    def looking(source: Path) -> str | None:
        seen.append(source)
        return recognise(source)

    monkeypatch.setattr(formats, "recognise", looking)
    assert len(scan([path])[0]) == 1
    assert seen == [path]


def test_a_directory_that_cannot_be_listed_is_in_the_ledger(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    (folder / "shut").mkdir(parents=True)
    write_tar(folder / "x.tar", ("k.wav", (audio / "a.wav").read_bytes()))
    # Tests may run as root, who may list everything.
    real = os.scandir

    def scandir(path: str | os.PathLike[str] = ".") -> object:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    utterances, rejected = split_up(folder)
    assert [u.id for u in utterances] == ["x/k"]
    assert rejected == [(str(folder / "shut"), "unreadable")]


def test_pipes_are_not_opened(audio: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    path = write(tmp_path / "t.tsv", str(tmp_path), "pipe.wav\t1", "audio/a.wav\t16000")
    assert split_up(path)[1] == [(f"{path}:2", "missing")]


def test_a_prefix_keeps_two_lists_of_the_same_names_apart(audio: Path, tmp_path: Path) -> None:
    lists = [
        write(tmp_path / "t.tsv", str(audio), "a.wav\t16000"),
        objects(tmp_path / "t.jsonl", {"audio_filepath": "audio/a.wav"}),
        write_tar(tmp_path / "t.tar", ("a.wav", b"x")),
    ]
    ids = [u.id for path in lists for u in read(path, prefix="x/") if isinstance(u, Utterance)]
    assert ids == ["x/a.wav", "x/audio/a.wav", "x/t/a"]
    # An id that the list gives itself is a name by which others know the recording.
    kaldi = write(tmp_path / "wav.scp", f"r1 {audio}/a.wav")
    assert [u.id for u in read(kaldi, prefix="x/") if isinstance(u, Utterance)] == ["r1"]


def test_long_lists_are_streamed(audio: Path, tmp_path: Path) -> None:
    row = json.dumps({"audio_filepath": "audio/a.wav", "duration": 1.0, "text": "ก" * 50})
    path = tmp_path / "m.jsonl"
    path.write_text(f"{row}\n" * 20_000, "utf-8")
    tracemalloc.start()
    assert sum(1 for _ in read(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def lists_of_every_form(folder: Path, audio: Path) -> dict[str, Path]:
    a, b = str(audio / "a.wav"), str(audio / "b.flac")
    source = {"type": "file", "channels": [0], "source": a}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16_000, "duration": 1.0}
    answer = {"role": "assistant", "content": "ข"}
    said = {"id": "s", "start": 0, "duration": 1, "text": "ก", "speaker": "p"}
    cut = {"id": "c", "start": 0.0, "duration": 1.0, "channel": 0, "recording": recording}
    cut |= {"supervisions": [said], "type": "MonoCut"}
    cuts = objects(folder / "cuts.jsonl", *(cut | {"id": f"c{k}"} for k in range(4)))
    (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(cuts.read_bytes(), mtime=0))
    kaldi = write(folder / "k/wav.scp", f"r1 {a}", f"r2 {b}").parent
    for name, value in (("text", "ก ข"), ("utt2spk", "p"), ("segments", "r1 0.0 0.5")):
        write(kaldi / name, *(f"u{k} {value}" for k in range(4)))
    pq.write_table(
        pa.table({"audio": [b"RIFF", b"fLaC"], "text": ["ก", "ข"]}), folder / "p.parquet"
    )
    return {
        "fairseq": write(folder / "f.tsv", str(audio), "a.wav\t16000", "b.flac\t32000"),
        "common voice": write(
            folder / "c.tsv", "client_id\tpath\tsentence", f"p\t{a}\tก", f"q\t{b}\tข"
        ),
        "nemo": objects(
            folder / "n.jsonl", *({"audio_filepath": p, "offset": 0.5} for p in (a, b))
        ),
        "lhotse": cuts,
        "packed cuts": folder / "cuts.jsonl.gz",
        "slam": objects(
            folder / "s.jsonl",
            {"key": "k1", "source": a, "target": "ก"},
            {"key": "k2", "source": b, "target": "ข", "prompt": "ถาม"},
        ),
        "chats": objects(
            folder / "chats.jsonl",
            *(
                {"messages": [{"role": "user", "content": "<audio>ก"}, answer], "audios": [p]}
                for p in (a, b)
            ),
        ),
        "tar": write_tar(folder / "t.tar", ("k.wav", b"RIFF"), ("k.txt", b"x"), ("l.wav", b"x")),
        "parquet": folder / "p.parquet",
        "wav.scp": kaldi / "wav.scp",
        "segments": kaldi / "segments",
        "text": kaldi / "text",
    }


def test_damage_anywhere_is_a_sentence_or_a_ledger_line(audio: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    outcomes = dict.fromkeys(("read", "refused"), 0)
    for name, path in lists_of_every_form(tmp_path, audio).items():
        source = path.parent if name in {"segments", "text"} else path
        whole = path.read_bytes()
        assert split_up(source)[0], name
        for round_ in range(60):
            damaged = bytearray(whole)
            if round_ % 3 == 0:
                del damaged[int(rng.integers(len(whole))) :]
            else:
                for place in rng.integers(0, len(whole), 1 + round_ % 4):
                    damaged[place] = int(rng.integers(256))
            path.write_bytes(damaged)
            try:
                utterances, _ = split_up(source)
            except InputError as error:
                outcomes["refused"] += 1
                assert str(path.parent) in str(error)
            else:
                outcomes["read"] += 1
                # What is damaged may be text; it may not be a number or path that nobody checked.
                assert all(Path(u.audio.path).is_file() for u in utterances)
                assert not any(u.duration_s < 0 or u.start_s < 0 for u in utterances)
        path.write_bytes(whole)
    assert min(outcomes.values()) > 100
