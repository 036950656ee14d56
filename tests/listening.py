"""A small data set to listen to, and raters who fill in their pages, for the tests of listening. Holds no tests."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import soundfile

from tests import tiny
from thaitool.data.manifest import Manifest, from_utterances, write_manifest
from thaitool.listening.key import Clip, Key
from thaitool.listening.ratings import HEADER
from thaitool.records import AudioRef, Utterance

#: Naturalness, answer about tones, and what was heard, as they stand in the file.
Answer = tuple[str, str, str]


def data(folder: Path, count: int = 24, prefix: str = "synthetic") -> Manifest:
    """`count` clips of four tasks and three voices, each with a sentence of its own."""
    rows = []
    kind = "ข้อความ" if prefix == "real" else "ประโยค"
    for k, path in enumerate(sorted(tiny.clips(folder / prefix, count).iterdir())):
        info = soundfile.info(path)
        rows.append(
            Utterance(
                f"{prefix}-{k}",
                AudioRef(str(path)),
                info.frames / info.samplerate,
                info.samplerate,
                text=f"{kind}ที่ {'กขคงจฉชซ'[k % 8]}{'นมยรลวสห'[k // 8]}",
                task=("asr", "ic", "ner", "sr")[k % 4],
                speaker=f"voice{k % 3}",
                split=("train", "test")[k % 2],
                source_id=f"{prefix}-source-{k // 2}",
            )
        )
    return from_utterances(rows)


def stored(folder: Path, count: int = 24, prefix: str = "synthetic") -> Path:
    """The same as a manifest file."""
    path = folder / f"{prefix}.arrow"
    write_manifest(data(folder, count, prefix), path)
    return path


def attentive(clip: Clip) -> Answer:
    """A rater who tells good clips from spoilt ones."""
    if clip.kind in {"item", "anchor"}:
        mark = "5" if clip.kind == "anchor" else "3"
        return (mark, "yes", "") if clip.shown else (mark, "", clip.text)
    return "1", "no", ""


def careless(clip: Clip) -> Answer:
    """A rater who finds everything good."""
    return ("5", "yes", "") if clip.shown else ("5", "", "ไม่รู้")


def rows_of(key: Key, rater: str, answer: Callable[[Clip], Answer]) -> list[list[str]]:
    """The lines of a rater's file."""
    return [
        [key.pack, rater, name, *answer(key.clips[clip])]
        for name, clip in key.orders[rater].items()
    ]


def save(path: Path, rows: list[list[str]]) -> Path:
    """A file of ratings as the page saves it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(rows)
    body = text.getvalue()
    end = f"end,{len(rows)},{zlib.crc32(body.encode('utf-8')):08x},,,\n"
    path.write_text(body + end, "utf-8-sig")
    return path
