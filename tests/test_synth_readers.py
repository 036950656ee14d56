"""Reading every other form of source: columns, tables, brackets, lines, recordings; real files and broken ones.

Alpaca and SNIPS are in `test_synth_sources`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from thaitool.cli.synth import _FORMATS
from thaitool.config.synth import SourceFormat
from thaitool.errors import ConfigError, InputError
from thaitool.synth.formats import read_source, recognise
from thaitool.synth.readers.bio import entities
from thaitool.synth.readers.joining import join_english
from thaitool.synth.recordings import samples
from thaitool.synth.sources import Source, Span, find_span
from thaitool.synth.splits import split_rows

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
TEXT = Path(os.environ.get("THAITOOL_SHARED", SHARED)) / "data" / "text"
real = pytest.mark.skipif(not TEXT.is_dir(), reason=f"the text collections are not at {TEXT}")


def wrote(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path: Path, *records: object) -> Path:
    return wrote(path, "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records))


def assert_spans_read_their_text(source: Source) -> None:
    for row in source.rows:
        assert row.text == row.text.strip() != ""
        ends = 0
        for span in row.entities:
            assert row.text[span.start : span.end] == span.text == span.text.strip() != ""
            assert span.start >= ends
            ends = span.end


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-A I-A O I-A", [(0, 1, "A"), (3, 3, "A")]),  # IOB1
        ("I-A B-A I-A I-B", [(0, 0, "A"), (1, 2, "A"), (3, 3, "B")]),
        ("B-A I-A B-A O B-B", [(0, 1, "A"), (2, 2, "A"), (4, 4, "B")]),  # IOB2
        ("S-A B-A E-A B-A I-A E-A", [(0, 0, "A"), (1, 2, "A"), (3, 5, "A")]),  # BIOES
        ("U-A B-A L-A I-A", [(0, 0, "A"), (1, 2, "A"), (3, 3, "A")]),  # BILOU
        ("B_PER I_PER O I_PER", [(0, 1, "PER"), (3, 3, "PER")]),
    ],
)
def test_entities_begin_and_end_as_in_conlleval(
    tags: str, expected: list[tuple[int, int, str]]
) -> None:
    assert entities(tags.split()) == expected


_TAGS = st.lists(st.sampled_from(("O", "B-A", "I-A", "B-B", "I-B")), max_size=12)


@given(tags=_TAGS)
def test_entities_are_those_of_conllevals_rules(tags: list[str]) -> None:
    # Its rules of where a chunk starts and ends between two tags, written out.
    started: list[tuple[int, int, str]] = []
    for index, tag in enumerate(tags):
        before = tags[index - 1] if index else "O"
        changes = before[2:] != tag[2:]
        starts = tag != "O" and (tag[0] == "B" or before == "O" or changes)
        if starts:
            after = tags[index + 1 :]
            length = next(
                (n for n, t in enumerate(after) if t[0] != "I" or t[2:] != tag[2:]), len(after)
            )
            started.append((index, index + length, tag[2:]))
    assert entities(tags) == started


_TOKENS = ("Ann", "(", ")", "[", "]", '"', ",", ".", "'s", "n't", "$", "%", "''", "``")


@given(tokens=st.lists(st.sampled_from(_TOKENS)))
def test_joined_tokens_lie_where_it_is_said(tokens: list[str]) -> None:
    text, extents = join_english(tokens)
    plain = ['"' if token in {"``", "''"} else token for token in tokens]
    assert [text[start:end] for start, end in extents] == plain
    assert text == " ".join(text.split())
    assert text.replace(" ", "") == "".join(plain)


def test_columns_become_sentences_with_exact_names(tmp_path: Path) -> None:
    tagged = "Ann NNP B-PER|Lee NNP I-PER|'s POS O|shop NN O|( ( O|Nan NNP B-LOC|) ) O|. . O|"
    english = "-DOCSTART- -X- O\n\n" + tagged.replace("|", "\n")
    source = read_source(wrote(tmp_path / "a.conll", english), licence="CC0-1.0")
    (row,) = source.rows
    assert row.text == "Ann Lee's shop (Nan)."
    assert row.entities == (Span(0, 7, "PER", "Ann Lee"), Span(16, 19, "LOC", "Nan"))
    assert (row.intent, row.corpus, row.licence, source.notes) == (None, "a", "CC0-1.0", ())
    # Windows line ends and a byte order mark; spaces are tokens; a name in the middle of a word.
    thai = (
        "\ufeffไป\tO\r\n \tO\r\nกรุง\tB-LOCATION\r\nเทพ\tI-LOCATION\r\nพรุ่งนี้\tB-DATE\r\n\r\n \tO\r\n"
    )
    source = read_source(wrote(tmp_path / "t.bio", thai), language="th")
    (row,) = source.rows
    assert (row.text, row.entities) == ("ไป กรุงเทพพรุ่งนี้", (Span(3, 10, "LOC", "กรุงเทพ"),))
    assert row.language == "th"
    assert [(r.item, r.reason) for r in source.rejected] == [("line 7", "empty")]
    wiki = wrote(tmp_path / "w.txt", "th:ลพบุรี B-LOC\nth:สวย O\n")
    assert recognise(wiki) == "wikiann"
    (row,) = read_source(wiki, language="th").rows
    assert (row.text, row.entities) == ("ลพบุรีสวย", (Span(0, 6, "LOC", "ลพบุรี"),))
    with pytest.raises(InputError, match=r"line 1: the token .* must begin with 'en:'"):
        read_source(wiki)
    four = wrote(tmp_path / "l.txt", "สมชาย\tNN\tB_PER\tB_CLS\nมา\tVV\tO\tE_CLS\n")
    (row,) = read_source(four, form="bio", language="th", tag_column=3).rows
    assert row.entities == (Span(0, 5, "PER", "สมชาย"),)


def test_broken_tags_are_repaired_and_said_bad_lines_refused(tmp_path: Path) -> None:
    broken = "Ann B-PER\nsaw O\nBob I-PER\nin O\nNan I-LOC\nTak B-LOC\n"
    source = read_source(wrote(tmp_path / "b.conll", broken))
    assert [s.text for s in source.rows[0].entities] == ["Ann", "Bob", "Nan", "Tak"]
    (note,) = source.notes
    assert note.startswith("2 entities go on without having begun")
    assert note.endswith("Lines 3, 5")
    iob1 = wrote(tmp_path / "c.conll", "Ann I-PER\nBob B-PER\nsings O\n")
    assert read_source(iob1).notes == ()
    bad = wrote(
        tmp_path / "d.conll",
        "# id = 1\nAnn\nBob B-PER\nLop X-PER\n# O\n\nTak B-TOWN\nNan B-RIVER\n",
    )
    with pytest.raises(InputError) as caught:
        read_source(bad)
    message = str(caught.value)
    assert "has 3 problems" in message
    assert "'RIVER' (1, first in line 7), 'TOWN' (1, first in line 7)" in message
    assert re.findall(r"line \d: must be columns", message) == [
        "line 2: must be columns",
        "line 4: must be columns",
    ]
    torn = wrote(tmp_path / "t.conll", "Ann\u00a0Lee B-PER\nNew York B-LOC\n")
    with pytest.raises(InputError, match=r"has 1 problem:\n  line 2: must have 2 columns.* not 3"):
        read_source(torn)
    mapped = {"TOWN": "LOC", "RIVER": None}
    good = wrote(tmp_path / "e.conll", "Tak B-TOWN\nNan B-RIVER\n")
    (row,) = read_source(good, entity_types=mapped).rows
    assert row.entities == (Span(0, 3, "LOC", "Tak"),)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    latin = tmp_path / "a.txt"
    latin.write_bytes("Call André.\nCall René.\nCall Zoë\n".encode("latin-1"))
    assert [(r.text, r.encoding) for r in read_source(latin).rows][:2] == [
        ("Call André.", "latin-1"),
        ("Call René.", "latin-1"),
    ]
    latin.write_bytes("สวัสดี\n".encode("cp874"))
    with pytest.raises(
        InputError, match=r"line 1: is not UTF-8 text \(Thai files may be in TIS-620\)"
    ):
        read_source(latin, language="th")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tanswer\nHello\tAndré\n".encode("latin-1")),
        ("a.jsonl", b'{"text": "Hello"}\n{"text": "Hi", "intent": "caf\xe9"}\n'),
        ("a.jsonl", b'{"text": "Hello"}\n{"text": "Hi \\ud83d"}\n'),
    ],
)
def test_letters_that_cannot_be_written_are_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="line 2: is not UTF-8 text"):
        read_source(tmp_path / name)


def test_utf16_is_not_taken_for_latin1(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Hello there\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"holds zero bytes, .*UTF-16"):
        read_source(tmp_path / "a.txt")


def test_english_tokens_are_joined_as_people_write() -> None:
    said = """`` Do n't , '' said Ann 's dog ( 5 % of $ 10 ) " now " : we 'll go ..."""
    text, extents = join_english(said.split())
    assert text == """"Don't," said Ann's dog (5% of $10) "now": we'll go..."""
    written = [text[start:end] for start, end in extents]
    assert written == ['"' if t in {"``", "''"} else t for t in said.split()]
    assert join_english(["Ann", " ", "sings", ""]) == (
        "Ann sings",
        [(0, 3), (3, 3), (4, 9), (9, 9)],
    )


def test_tables_with_and_without_a_line_of_names(tmp_path: Path) -> None:
    dialog = wrote(
        tmp_path / "d.tsv",
        "weather/find\t3:10:location,10:15:datetime\tฝนกกรุงเทพวันนี้ \nalarm/set_alarm\t\tปลุกฉัน\tth_XX\t{}\n",
    )
    first, second = read_source(dialog, language="th").rows
    assert not first.has_names  # nobody has marked people
    assert (first.intent, first.text) == ("weather/find", "ฝนกกรุงเทพวันนี้")
    assert first.entities == (Span(3, 10, "LOC", "กรุงเทพ"),)
    assert (second.intent, second.text, second.entities) == ("alarm/set_alarm", "ปลุกฉัน", ())
    named = wrote(
        tmp_path / "n.tsv",
        "id\tutterance\tanswer\tsplit\tslots\n7\t Call Ann\tDone.\ttest\t6:9:PER\n",
    )
    (row,) = read_source(named).rows
    assert (row.source_id, row.text, row.output, row.split) == ("7", "Call Ann", "Done.", "test")
    assert row.entities == (Span(5, 8, "PER", "Ann"),)
    bad = wrote(
        tmp_path / "b.tsv",
        "a\t0:4:PER,3:6:LOC\tAnna in Nan\na\t0:40:PER\tAnn\na\tx:1:PER\tAnn\na\t\t \na\tb\n",
    )
    with pytest.raises(InputError) as caught:
        read_source(bad)
    for line, what in (
        (1, "span at characters 3 to 6 overlaps the one before, which ends at 4"),
        (2, "characters 0 to 40 of a sentence of 3 are no place in it"),
        (3, "slots must be start:end:type"),
        (4, "the sentence is empty"),
        (5, "must have 3 columns (intent, slots, text), but has 2"),
    ):
        assert re.search(rf"line {line}: .*{re.escape(what)}", str(caught.value)), what


def test_slots_in_brackets_of_slurp_and_massive(tmp_path: Path) -> None:
    slurp = {
        "slurp_id": 5,
        "sentence": "wake ann in bangkok at five",
        "sentence_annotation": "Wake [person : Ann] in [place_name : bangkok] at [time : five]",
        "intent": "set",
        "scenario": "alarm",
    }
    massive = {
        "id": "9",
        "locale": "th-TH",
        "partition": "dev",
        "scenario": "weather",
        "intent": "weather_query",
        "utt": "อากาศที่ เชียงใหม่ วันนี้",
        "annot_utt": "อากาศที่ [place_name : เชียงใหม่][date : วันนี้]",
    }
    torn = slurp | {"slurp_id": 6, "sentence": "wake bob in bangkok at five"}
    source = read_source(jsonl(tmp_path / "s.jsonl", slurp, torn))
    (row,) = source.rows
    assert (row.source_id, row.intent) == ("5", "alarm_set")
    assert row.entities == (Span(5, 8, "PER", "ann"), Span(12, 19, "LOC", "bangkok"))
    assert [(r.item, r.reason) for r in source.rejected] == [("6", "annotation_mismatch")]
    (row,) = read_source(jsonl(tmp_path / "m.jsonl", massive)).rows
    assert (row.language, row.split, row.intent) == ("th", "dev", "weather_query")
    assert row.entities == (Span(9, 18, "LOC", "เชียงใหม่"),)


def test_our_own_form_says_all_and_nothing_else(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 16000), 16000)
    text = "สมชายไปหาสมหญิงที่ลำปาง"
    whole = {
        "id": "r1",
        "text": text,
        "lang": "th",
        "intent": "ask",
        "entities": [
            {"type": "LOC", "start": 18, "end": 23, "text": "ลำปาง"},
            {"type": "PER", "text": "สมชาย"},
        ],
        "rephrase": "นายสมชายเดินทางไปลำปาง",
        "answer": "ครับ",
        "licence": "CC0-1.0",
        "corpus": "mine",
        "split": "test",
        "audio": "a.wav",
    }
    (row,) = read_source(jsonl(tmp_path / "r.jsonl", whole)).rows
    assert row.entities == (Span(0, 5, "PER", "สมชาย"), Span(18, 23, "LOC", "ลำปาง"))
    assert (row.output, row.corpus, row.licence, row.split) == ("ครับ", "mine", "CC0-1.0", "test")
    assert samples(row.audio).shape == (16000,)
    assert split_rows([row]) == {"r1": "test"}
    bad = jsonl(
        tmp_path / "b.jsonl",
        {"text": "Call Ann", "intnet": "x"},
        {"text": "Call Ann", "lang": "fr"},
        {"text": "Call Bob", "entities": [{"type": "PER", "start": 5, "end": 8, "text": "Ann"}]},
        {"text": "Call Cid", "audio": "absent.wav", "lang": "th"},
        {"text": "Call Dan", "split": "train", "audio": "a.wav"},
    )
    with pytest.raises(InputError) as caught:
        read_source(bad)
    for place, what in (
        ("line 1", "there is no field 'intnet'"),
        ("line 2", "'lang' must be en or th, not 'fr'"),
        ("line 3", "characters 5 to 8 are 'Bob', not 'Ann'"),
        ("line 4", "which is no file"),
        ("line 5", "its language must be Thai (--lang th)"),
    ):
        assert re.search(rf"{place}: .*{re.escape(what)}", str(caught.value)), what
    mixed = jsonl(tmp_path / "c.jsonl", {"text": "a", "split": "dev"}, {"text": "b"})
    with pytest.raises(InputError, match=r"line 2: has no split .* as 1 of 2 rows; either all"):
        read_source(mixed)


def test_what_is_no_name_still_takes_its_place(tmp_path: Path) -> None:
    text, types = "May I call  May", {"DATE": None}
    names = [{"type": "DATE", "text": "May"}, {"type": "PER", "text": " May"}]
    rows = jsonl(tmp_path / "r.jsonl", {"text": text, "entities": names})
    alpaca = jsonl(tmp_path / "a.jsonl", {"instruction": text, "output": " ", "entities": names})
    for path in (rows, alpaca):
        (row,) = read_source(path, entity_types=types).rows
        assert (row.entities, row.output) == ((Span(12, 15, "PER", "May"),), "")


def test_two_recordings_of_one_sentence_have_ids_of_their_own(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.linspace(-0.5, 0.5, 16000), 16000)
    said = {"text": "ไปไหนมา", "lang": "th"}
    records = [said | {"audio": "a.wav"}, said | {"audio": "b.wav"}, said]
    rows = read_source(jsonl(tmp_path / "r.jsonl", *records)).rows
    assert len(split_rows(rows)) == len(rows) == 3


def test_recordings_keep_their_sound_and_are_not_compared(tmp_path: Path) -> None:
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", np.linspace(-0.5, 0.5, 32000), 16000)
    nemo = jsonl(
        tmp_path / "m.jsonl",
        {"audio_filepath": "a.wav", "text": "ไปไหนมาคะ", "offset": 0.5, "duration": 1.0},
        {"audio_filepath": "b.wav", "text": "ไปไหนมาคะ", "speaker": "nok"},
        {"audio_filepath": "c.wav"},
    )
    assert recognise(nemo) == "speech"
    source = read_source(nemo, language="th", corpus="calls")
    assert [r.text for r in source.rows] == ["ไปไหนมาคะ"] * 2
    assert [len(samples(r.audio)) for r in source.rows] == [16000, 32000]
    assert [(r.corpus, r.speaker) for r in source.rows] == [("calls", ""), ("calls", "nok")]
    assert [r.reason for r in source.rejected] == ["no_text"]
    with pytest.raises(InputError, match="its language must be Thai"):
        read_source(nemo)


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", "Hello there\nCall O\nBye\n", "text"),
        ("a.txt", "Call O\nAnn B-PER\n", "bio"),
        ("a.jsonl", '{"text": "x"}\n', "rows"),
        ("a.jsonl", '{"instruction": "x"}\n', "alpaca"),
        ("a.tsv", "text\tintent\nx\ty\n", "tsv"),
        ("a.tsv", "a\t1:2:x\tabc\n", "tsv"),
        ("a.json", "{}", "snips"),
        ("a.json", '[{"text": "x"}]', "rows"),
        ("a.json", '[{"instruction": "x"}]', "alpaca"),
        ("a.txt", "# id = 1\nAnn B-PER\nsings O\n", "bio"),
        ("a.bio", "th:ลพบุรี B-LOC\nth: O\n", "wikiann"),
    ],
)
def test_forms_are_recognised(tmp_path: Path, name: str, content: str, form: SourceFormat) -> None:
    assert recognise(wrote(tmp_path / name, content)) == form


def test_help_names_all_forms() -> None:
    assert re.split(", | or ", _FORMATS) == list(get_args(SourceFormat))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "x\ty\n"),
        ("a.tsv", "x\t\ty\nx\tz\ty\n"),
        ("a.tsv", "text\tutterance\nx\ty\n"),
        ("a.md", "x\n"),
        ("a.jsonl", "[1]\n"),
        ("a.jsonl", '{"words": "x"}\n'),
        ("a.json", '[{"words": "x"}]'),
        ("a.txt", '{"text": "x"}\n'),
        ("a.txt", "weather\t0:3:location\tNan\nx\t\ty\n"),
        ("a.txt", "Ann B-PER\nsings O\nBob\n"),
        ("a.txt", "My blood type is O\n"),
    ],
)
def test_forms_that_are_not_safe_to_tell_are_asked_for(
    tmp_path: Path, name: str, content: str
) -> None:
    with pytest.raises(ConfigError, match=r"--format: alpaca, .*, speech\."):
        recognise(wrote(tmp_path / name, content))


def test_thai_names_are_found_as_whole_syllables() -> None:
    assert find_span("มานีมานา", "PER", "มานา", []) == Span(4, 8, "PER", "มานา")
    assert find_span("เขานา", "LOC", "ขา", []) is None  # after a vowel that is written before it
    assert find_span("นามาน", "PER", "น", []) == Span(4, 5, "PER", "น")
    assert find_span("โทรหาAnnนะ", "PER", "Ann", []) == Span(5, 8, "PER", "Ann")
    assert find_span("Announce it", "PER", "Ann", []) is None


@real
def test_real_columns_hold_as_many_entities_as_can_be_counted() -> None:
    thai = (TEXT / "thainer" / "train.conll").read_text("utf-8")
    source = read_source(TEXT / "thainer" / "train.conll", language="th", licence="CC-BY-3.0")
    assert_spans_read_their_text(source)
    assert len(source.rows) == 5079
    assert (source.rejected, source.notes) == ((), ())
    counted = Counter(re.findall(r"\tB-(PERSON|LOCATION|ORGANIZATION|LAW)$", thai, re.MULTILINE))
    found = Counter(span.type for row in source.rows for span in row.entities)
    assert found == {
        "PER": counted["PERSON"],
        "LOC": counted["LOCATION"],
        "ORG": counted["ORGANIZATION"],
        "OTH": counted["LAW"],
    }
    letters = sum(len(line.split("\t")[0]) for line in thai.split("\n") if "\t" in line)
    # But for spaces at the ends of sentences.
    spaces = letters - sum(len(row.text) for row in source.rows)
    assert 0 <= spaces < 0.01 * letters
    gold = read_source(TEXT / "wikigold" / "wikigold.conll")
    assert_spans_read_their_text(gold)
    assert gold.notes == ()
    text = (TEXT / "wikigold" / "wikigold.conll").read_text("utf-8")
    # One type through: an entity begins where the line before has another tag (IOB1 without B).
    begun = re.findall(r"(?<! I-PER)\n\S+ I-PER$", text, re.MULTILINE)
    repeated = [r for r in gold.rejected if r.reason == "duplicate_text"]
    assert len(gold.rows) + len(repeated) == 1696
    people = sum(span.type == "PER" for row in gold.rows for span in row.entities)
    assert 0 <= len(begun) - people <= len(repeated)


@real
@pytest.mark.parametrize(
    ("name", "language", "rows"),
    [("train-th", "th", 2156), ("eval-th", "th", 1235), ("eval-en", "en", 4181)],
)
def test_real_dialogues_are_read_whole(name: str, language: str, rows: int) -> None:
    path = TEXT / "multilingual_task_dialog" / f"{name}.tsv"
    source = read_source(path, language="th" if language == "th" else "en")
    assert_spans_read_their_text(source)
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    assert len(lines) == rows == len(source.rows) + len(source.rejected)
    assert {r.reason for r in source.rejected} == {"duplicate_text"}
    kept = {row.text for row in source.rows}
    assert {row.intent for row in source.rows} <= {line[0] for line in lines}
    places = {
        (line[2].strip(), slot.split(":")[2]): line[2][slice(*map(int, slot.split(":")[:2]))]
        for line in lines
        for slot in line[1].split(",")
        if slot.endswith(":location") and line[2].strip() in kept
    }
    found = {(row.text, span.text) for row in source.rows for span in row.entities}
    assert {(text, surface.strip()) for (text, _), surface in places.items()} <= found
    shares = Counter(split_rows(source.rows).values())
    assert shares["train"] > shares["test"] > shares["dev"] > 0


@real
def test_real_lines_are_read_whole() -> None:
    path = TEXT / "wisesight" / "q.txt"
    sentences = [line.strip() for line in path.read_text("utf-8").split("\n") if line.strip()]
    source = read_source(path, language="th")
    assert len(source.rows) + len(source.rejected) == len(sentences)
    assert [row.text for row in source.rows] == list(dict.fromkeys(sentences))
