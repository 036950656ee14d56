"""Predictions on disk: what editors, other tools and power cuts do to such files, and items without an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thaitool.errors import ConfigError, InputError
from thaitool.records import Prediction
from thaitool.reports.predictions import (
    Failure,
    append,
    named_files,
    read_answers,
    read_predictions,
    reopen,
)

THAI = {"id": "ก 1", "task": "asr", "text": "ไป บ้าน"}


def line(**changes: object) -> str:
    return json.dumps({**THAI, **changes}, ensure_ascii=False)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n", b"\r\n \r\n"])
def test_byte_order_mark_and_line_ends_mean_nothing(
    tmp_path: Path, start: bytes, end: bytes
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(start + end.join([line().encode(), line(id=" b ").encode(), b""]))
    found = read_predictions(file)
    # Ids are joined as they are written, spaces too.
    assert [p.id for p in found] == ["ก 1", " b "]
    assert {p.text for p in found} == {"ไป บ้าน"}


def test_an_answer_may_hold_characters_that_end_lines_elsewhere(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd\r\ne"
    append(tmp_path / "p.jsonl", [Prediction("x", "asr", text)], [])
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction("x", "asr", text)]


def test_no_text_is_a_failure_and_no_empty_answer(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    rows = [line(text=""), line(id="b", text=None, error="time-out"), line(id="c", text=None)]
    file.write_text("\n".join(rows), "utf-8")
    answers = read_answers(file)
    assert [(p.id, p.text) for p in answers.predictions] == [("ก 1", "")]
    assert answers.failures == [
        Failure("b", "asr", "time-out"),
        Failure("c", "asr", "no reason given"),
    ]


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (line().encode() + b"\n" + line().encode("cp874"), ["p.jsonl:2", "UTF-8", "CP874", "0xa1"]),
        (line().encode("utf-16"), ["UTF-16", "iconv"]),
        (b'{"id": 7, "task": "asr", "text": "x"}', ["p.jsonl:1", "'id'"]),
        (b'{"id": "a", "task": "asr"}', ["p.jsonl:1", "'text'"]),
        (b'["a"]', ["p.jsonl:1", "'id'"]),
        (line(seconds="fast").encode(), ["'seconds'", "fast"]),
        (b'\n{"id": "a"', ["p.jsonl:2", "JSON"]),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes, phrases: list[str]) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_answers(tmp_path / "p.jsonl")
    assert all(phrase in str(caught.value) for phrase in phrases), str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl must be a JSONL file .*No such file"):
        read_answers(tmp_path / "none.jsonl")


def test_a_file_cut_at_any_byte_goes_on_where_it_was_whole(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    made = [Prediction(f"น้ำ{i}", "asr", "ข้าว", stopped=bool(i), audio_s=1.5) for i in range(3)]
    append(file, made, [Failure("bad", "ic", "truncated: half")])
    whole = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        answers = reopen(file)
        assert answers.predictions == made[:kept]
        assert len(answers.failures) == max(0, kept - 3)
        append(file, made[kept:], [Failure("bad", "ic", "truncated: half")] if kept < 4 else [])
        assert file.read_bytes() == whole
    assert reopen(tmp_path / "new.jsonl").predictions == []


def test_an_id_that_is_no_utf8_survives(tmp_path: Path) -> None:
    item = "caf\udce9.wav"  # a file name in Latin-1, as Python keeps it
    append(tmp_path / "p.jsonl", [Prediction(item, "asr", "x")], [])
    assert read_predictions(tmp_path / "p.jsonl")[0].id == item


def test_named_files(tmp_path: Path) -> None:
    for name in ("a=b.jsonl", "c.jsonl"):
        (tmp_path / name).touch()
    a, c = tmp_path / "a=b.jsonl", tmp_path / "c.jsonl"
    assert named_files([f"ครู={a}", f"vote={c}"], "--also") == {"ครู": a, "vote": c}
    for wrong in ([str(c)], [f"={c}"], ["x="], [f"x={c}", f"x={a}"]):
        with pytest.raises(ConfigError, match="--also must be NAME=PATH"):
            named_files(wrong, "--also")
    with pytest.raises(ConfigError, match="must be a file"):
        named_files(["x=nowhere"], "--also")
