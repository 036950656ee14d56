"""Recognises the form in which recordings are listed, and reads any of them. Parses none itself: see `readers`.

A directory of sound files, a sound file and our own manifest are recognised here and read by `data.scan`.
"""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.audio.headers import EXTENSIONS
from thaitool.data.readers.common_voice import is_common_voice, read_common_voice
from thaitool.data.readers.fairseq import is_fairseq, read_fairseq
from thaitool.data.readers.gigaspeech2 import is_gigaspeech2, read_gigaspeech2
from thaitool.data.readers.kaldi import WAV_SCP, read_kaldi
from thaitool.data.readers.keyed import MULTITASK, QWEN_ASR, SLAM, WENET, keyed_form, read_keyed
from thaitool.data.readers.lhotse import is_lhotse, read_lhotse
from thaitool.data.readers.lines import opened, shown
from thaitool.data.readers.messages import is_messages, read_messages
from thaitool.data.readers.nemo import is_nemo, read_nemo
from thaitool.data.readers.parquet import read_parquet
from thaitool.data.readers.webdataset import is_tar, read_webdataset
from thaitool.data.shards import is_thai_sup, iterate_thai_sup
from thaitool.data.walk import walk
from thaitool.errors import InputError
from thaitool.records import Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST, THAI_SUP, FAIRSEQ, KALDI = "manifest", "thai_sup", "fairseq", "kaldi"
NEMO, LHOTSE, WEBDATASET, PARQUET, COMMON_VOICE, GIGASPEECH2 = (
    "nemo",
    "lhotse",
    "webdataset",
    "parquet",
    "common_voice",
    "gigaspeech2",
)
MESSAGES = "messages"
_CANDIDATES = (
    f"a directory of sound files or one of them ({', '.join(sorted(EXTENSIONS))}), a thaitool manifest (.arrow),"
    " Thai-SUP shards, a fairseq TSV, a Kaldi data directory or wav.scp, a NeMo manifest (.jsonl), lhotse cuts"
    " (.jsonl, .jsonl.gz), WebDataset tars, a Common Voice or GigaSpeech 2 TSV, parquet files with embedded sound, or"
    " JSON lines of SLAM (source, target), wenet (wav, txt), Qwen3-ASR (audio, text) or chats (messages, audios)"
)
#: How sound files, parquet files and Arrow files begin.
_SOUND_MARKS = (b"RIFF", b"RF64", b"BW64", b"RIFX", b"fLaC", b"OggS", b"ID3")
_ARROW_MARK, _PARQUET_MARK = b"ARROW1", b"PAR1"
_HEAD = 1 << 16
_PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def recognise(source: Path) -> str | None:
    """The form of a source, by its content and name; None for a directory of sound files, or a sound file.

    Raises:
        InputError: it does not exist, is none of the forms, or is a directory that mixes several.
    """
    if not source.exists():
        raise InputError(f"{source} must be {_CANDIDATES}, but does not exist.")
    return _recognise_directory(source) if source.is_dir() else _recognise_file(source)


def read(
    source: Path, *, kind: str | None = None, split: str | None = None, prefix: str = ""
) -> Iterator[Utterance | Rejected]:
    """The utterances of a source, and a ledger line for every item of it that cannot be used.

    Durations and rates are NaN and 0 where the source does not say them.

    Args:
        source: Anything but a directory of sound files, a sound file or a thaitool manifest.
        kind: What `recognise` says of it; None asks.
        split: Keep utterances of this split, and those of which no split is known.
        prefix: Put before ids that are paths or numbers within the source (`a/` and `b/` keep two lists apart that both
            name `01.wav`). Ids that the source gives itself stay as they are.

    Raises:
        InputError: the source is malformed (the message names the first lines), or none of its files exists.
    """
    kind = kind or recognise(source)
    if kind == THAI_SUP:
        yield from iterate_thai_sup(source, split=split)
        return
    for item in _read(source, kind, prefix):
        if isinstance(item, Rejected) or split is None or item.split in {None, split}:
            yield item


def _read(source: Path, kind: str | None, prefix: str) -> Iterator[Utterance | Rejected]:
    by_path = {FAIRSEQ: read_fairseq, NEMO: read_nemo, COMMON_VOICE: read_common_voice}
    by_id = {KALDI: read_kaldi, LHOTSE: read_lhotse, GIGASPEECH2: read_gigaspeech2}
    if kind in by_id or (kind in by_path and not prefix):
        yield from (by_id | by_path)[kind](source)
        return
    if kind in by_path:
        for item in by_path[kind](source):
            yield item if isinstance(item, Rejected) else _prefixed(item, prefix)
        return
    if kind in {SLAM, MULTITASK, WENET, QWEN_ASR}:
        yield from read_keyed(source, kind, prefix)
        return
    if kind == MESSAGES:
        yield from read_messages(source, prefix)
        return
    if kind not in {WEBDATASET, PARQUET}:
        raise InputError(
            f"{source} is {'a thaitool manifest' if kind else 'sound, not a list of recordings'}: use data.scan."
        )
    read_files = read_webdataset if kind == WEBDATASET else read_parquet
    if source.is_file():
        yield from read_files([source], source.parent, prefix)
        return
    found = list(walk(str(source), frozenset({".tar" if kind == WEBDATASET else ".parquet"})))
    yield from (entry for entry in found if isinstance(entry, Rejected))
    files = [source / entry.name for entry in found if not isinstance(entry, Rejected)]
    yield from read_files(files, source, prefix)


def _prefixed(u: Utterance, prefix: str) -> Utterance:
    return replace(u, id=prefix + u.id, source_id=f"{prefix}{u.source_id}")


def _recognise_directory(source: Path) -> str | None:
    if (source / WAV_SCP).is_file():
        return KALDI
    first = _survey(source)
    packed = first.pop("packed", None)
    if packed and not first:
        raise InputError(_packed(packed))
    if len(first) > 1:
        examples = ", ".join(str(path.relative_to(source)) for path in first.values())
        raise InputError(
            f"{source} must hold one form of data, but mixes {' and '.join(sorted(first))} ({examples}). Name the"
            " directories of each form separately."
        )
    if "tars" in first:
        return WEBDATASET
    if "parquet files" in first:
        return THAI_SUP if is_thai_sup(source) else PARQUET
    return None


def _survey(source: Path) -> dict[str, Path]:
    """The kinds of data files at or below a directory, each with one example. Looks at names only."""
    first: dict[str, Path] = {}
    # Directories that cannot be listed are passed over here; who reads the source accounts for them.
    for folder, _, names in os.walk(source):
        for name in names:
            kind = _KINDS.get(name[name.rfind(".") :].lower())
            if kind == "packed" and not name.lower().endswith(_PACKED_TARS):
                continue
            if kind and kind not in first:
                first[kind] = Path(folder, name)
    return first


_KINDS = (
    dict.fromkeys(EXTENSIONS, "sound files")
    | {".tar": "tars", ".parquet": "parquet files"}
    | dict.fromkeys((".gz", ".tgz", ".bz2", ".xz", ".zst"), "packed")
)


def _packed(path: Path) -> str:
    return (
        f"{path} must be an uncompressed tar, so that its recordings can be read in place, but is compressed (sound"
        " hardly gets smaller by it). Unpack it to a .tar."
    )


def _recognise_file(source: Path) -> str | None:
    name = source.name.lower()
    if name.endswith(_PACKED_TARS):
        raise InputError(_packed(source))
    with opened(source) as file:
        head = file.read(_HEAD)
        is_packed = isinstance(file, gzip.GzipFile)
    if is_packed and is_tar(source, head):
        raise InputError(_packed(source))
    if head.startswith(_ARROW_MARK) or name.endswith(".arrow"):
        return MANIFEST
    if head.startswith(_PARQUET_MARK) or name.endswith(".parquet"):
        return THAI_SUP if is_thai_sup(source) else PARQUET
    if is_tar(source, head) or name.endswith(".tar"):
        return WEBDATASET
    # What is called .wav is a recording, however damaged: the ledger says so.
    if head.startswith(_SOUND_MARKS) or source.suffix.lower() in EXTENSIONS:
        return None
    if name.endswith(".scp"):
        return KALDI
    return _recognise_text(source, head)


def _recognise_text(source: Path, head: bytes) -> str:
    text = head.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise InputError(f"{source} must be {_CANDIDATES}, but is empty.")
    if lines[0].lstrip().startswith("{"):
        row = _object(lines[0], is_cut=len(lines) == 1 and len(head) == _HEAD)
        if is_nemo(row):
            return NEMO
        if is_lhotse(row):
            return LHOTSE
        form = MESSAGES if is_messages(row) else keyed_form(row)
        if form is not None:
            return form
    elif is_common_voice(lines):
        return COMMON_VOICE
    elif is_gigaspeech2(lines):
        return GIGASPEECH2
    elif is_fairseq(lines):
        return FAIRSEQ
    hint = " Write one JSON object per line." if lines[0].lstrip().startswith("[") else ""
    raise InputError(
        f"{source} must be {_CANDIDATES}, but its first line is {shown(lines[0], 100)}.{hint}"
    )


def _object(line: str, *, is_cut: bool) -> dict[str, object]:
    """The first JSON object of a list, or the keys that can be seen of it where the line is very long."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        marks = (
            "audio_filepath",
            "recording",
            "start",
            "duration",
            "type",
            "messages",
            "conversations",
        )
        return {mark: None for mark in marks if f'"{mark}":' in line} if is_cut else {}
    return row if isinstance(row, dict) else {}
