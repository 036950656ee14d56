"""Reading alpaca rows and SNIPS files, good ones and broken ones; the other forms are in `test_synth_readers`.

What becomes of the rows is tested in `test_synth_text`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from thaitool.errors import ConfigError, InputError
from thaitool.synth.formats import read_source
from thaitool.synth.sources import Span
from thaitool.synth.splits import split_rows

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SNIPS = Path(os.environ.get("THAITOOL_SHARED", SHARED)) / "data" / "text" / "snips"


def write_lines(path: Path, *records: object) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_alpaca_lines_and_array_are_one_source(tmp_path: Path) -> None:
    plain = {"instruction": "Ann, announce it to", "input": "Ann in Nan", "output": "Done."}
    named = plain | {"entities": [{"type": "PER", "text": "Ann"}, {"type": "LOC", "text": "Nan"}]}
    lines = read_source(write_lines(tmp_path / "a.jsonl", named), licence="CC0-1.0")
    array = tmp_path / "a.json"
    array.write_text(json.dumps([named], indent=1), encoding="utf-8")
    assert read_source(array, licence="CC0-1.0").rows == lines.rows
    (row,) = lines.rows
    assert row.text == "Ann, announce it to Ann in Nan"
    assert row.entities == (Span(0, 3, "PER", "Ann"), Span(27, 30, "LOC", "Nan"))
    assert (row.intent, row.corpus, row.licence, row.variant) == (None, "a", "CC0-1.0", 0)
    assert re.fullmatch("[0-9a-f]{16}", row.source_id)
    (bare,) = read_source(write_lines(tmp_path / "b.jsonl", plain)).rows
    assert bare.source_id == row.source_id
    assert bare.licence == "unknown"


def test_names_are_found_as_whole_words_only(tmp_path: Path) -> None:
    record = {"instruction": "Announce it to Ann.", "output": "Done."}
    found = record | {"entities": [{"type": "PER", "text": "Ann"}]}
    (row,) = read_source(write_lines(tmp_path / "a.jsonl", found)).rows
    assert row.entities == (Span(15, 18, "PER", "Ann"),)


def test_a_sentence_that_comes_twice_is_set_aside(tmp_path: Path) -> None:
    record = {"instruction": "Call home.", "output": "Done."}
    source = read_source(
        write_lines(
            tmp_path / "a.jsonl", record, record, record | {"id": "x", "instruction": "call home"}
        )
    )
    assert len(source.rows) == 1
    assert [(r.reason, r.item) for r in source.rejected] == [
        ("duplicate_text", source.rows[0].source_id),
        ("duplicate_text", "x"),
    ]


def test_up_to_twenty_mistakes_are_named_with_line_and_field(tmp_path: Path) -> None:
    good = {"instruction": "Call Ann.", "output": "Done."}
    path = write_lines(
        tmp_path / "bad.jsonl",
        good | {"id": "one"},
        "{nonsense",
        [1],
        {"output": "x"},
        good | {"output": 3},
        good | {"entities": {"type": "PER"}},
        good | {"entities": [{"type": "DOG", "text": "Ann"}]},
        good | {"entities": [{"type": "PER", "text": "Bob"}]},
        good | {"instruction": "Call Bob.", "id": "one"},
    )
    with pytest.raises(InputError) as caught:
        read_source(path)
    message = str(caught.value)
    assert message.startswith(
        f"{path} has 8 problems:\n  unknown entity types: 'DOG' (1, first in line 7:"
    )
    for line, what in (
        (2, "not JSON"),
        (3, "must be a JSON object, not list"),
        (4, "field 'instruction' is missing"),
        (5, "field 'output' must be a string, not int"),
        (6, "field 'entities' must be a list, not dict"),
        (8, "text 'Bob' does not stand in the sentence 'Call Ann.'"),
        (9, "field 'id' repeats 'one' of line 1"),
    ):
        assert re.search(rf"line {line}: .*{re.escape(what)}", message), what
    many = write_lines(tmp_path / "many.jsonl", *[{"output": "x"}] * 25)
    with pytest.raises(InputError, match="and 5 more") as caught:
        read_source(many)
    assert str(caught.value).count("is missing") == 20


def test_files_that_are_no_source_are_refused(tmp_path: Path) -> None:
    cases = (
        ("a.json", "{", "is not JSON"),
        ("b.json", "3", "must hold a JSON array"),
        ("a.jsonl", "\n", "holds no rows"),
        (
            "c.json",
            '[{"output": "x"},\n\n{"instruction": "a"}]',
            "line 3: field 'output' is missing",
        ),
    )
    for name, content, what in cases:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=re.escape(what)):
            read_source(path)
    unknown = tmp_path / "a.csv"
    unknown.write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--format: alpaca, snips, bio, .*, speech\."):
        read_source(unknown)
    with pytest.raises(InputError, match="cannot be read"):
        read_source(tmp_path / "absent.jsonl")
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"instruction": "Call André", "output": "x"}'.encode("latin-1"))
    with pytest.raises(InputError, match="line 1: is not UTF-8 text"):
        read_source(latin)


def test_snips_chunks_become_spans_in_three_encodings(tmp_path: Path) -> None:
    def item(name: bytes) -> bytes:
        return (
            b'{"data": [{"text": " Play "}, {"text": "' + name + b' ", "entity": "artist"},'
            b' {"text": "in "}, {"text": "2010", "entity": "year"}, {"text": " "}]}'
        )

    emoji = "\ud83c\udf55".encode("utf-8", "surrogatepass")
    names = (b"Ren\xc3\xa9", b"Ren\xe9", b"Tom " + emoji)
    path = tmp_path / "play.json"
    path.write_bytes(b'{"PlayMusic": [' + b", ".join(map(item, names)) + b"]}")
    source = read_source(path)
    # The first two are one sentence once decoded.
    assert [r.reason for r in source.rejected] == ["duplicate_text"]
    assert [(r.text, r.encoding) for r in source.rows] == [
        ("Play René in 2010", "utf-8"),
        ("Play Tom \U0001f355 in 2010", "cesu-8"),
    ]
    assert source.rows[0].entities == (Span(5, 9, "PER", "René"),)
    assert source.rows[0].intent == "PlayMusic"
    path.write_bytes(b'{"PlayMusic": [' + item(names[1]) + b"]}")
    (row,) = read_source(path).rows
    assert (row.text, row.encoding) == ("Play René in 2010", "latin-1")
    path.write_bytes(b'{"PlayMusic": [' + item(b"\x93Tom\x94") + b"]}")
    with pytest.raises(InputError, match=r"PlayMusic\[0\]\.data\[1\]: .*nor Latin-1"):
        read_source(path)
    path.write_bytes(b'{"PlayMusic": [{"data": [{"text": "Play", "entity": "mood"}]}, {}], "B": 1}')
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert "unknown entity types: 'mood' (1, first in PlayMusic[0]); say" in str(caught.value)
    assert "PlayMusic[1]: field 'data' must be a list" in str(caught.value)
    assert "intent 'B': must be a list" in str(caught.value)


@pytest.mark.skipif(not SNIPS.is_dir(), reason=f"the SNIPS files are not at {SNIPS}")
def test_the_real_snips_files_are_read_whole() -> None:
    files = sorted(SNIPS.glob("train_*_full.json"))
    assert len(files) == 7
    encodings = Counter[str]()
    for path in files:
        source = read_source(path, licence="CC0-1.0")
        (items,) = json.loads(path.read_bytes().decode("utf-8", "replace")).values()
        assert len(source.rows) + len(source.rejected) == len(items)
        # The corpus repeats some sentences: counted, under a tenth of any file.
        assert len(source.rejected) * 10 < len(items)
        encodings.update(row.encoding for row in source.rows)
        assert len({row.source_id for row in source.rows}) == len(source.rows)
        for row in source.rows:
            assert row.corpus == "snips"
            assert all(row.text[s.start : s.end] == s.text for s in row.entities)
        shares = Counter(split_rows(source.rows).values())
        assert shares["train"] > shares["test"] > shares["dev"] > 0
    assert encodings.keys() == {"utf-8", "cesu-8"}
    assert encodings["cesu-8"] == 1
