"""CTC units: where text is cut, that nothing is lost, and that unknown units are counted."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaitool.errors import InputError
from thaitool.text.normalize import canonical
from thaitool.text.units import (
    BLANK_ID,
    UNKNOWN_ID,
    UNKNOWN_TEXT,
    Vocabulary,
    build_vocabulary,
    join_units,
    load_vocabulary,
    split_units,
)

CUTS = {
    "ที่บ้าน": ["ที่", "บ้", "า", "น"],
    "น้ำ": ["น้", "ำ"],
    "เมื่อ": ["เ", "มื่", "อ"],
    "จันทร์": ["จั", "น", "ท", "ร์"],
    "ไป บ้าน": ["ไ", "ป", " ", "บ้", "า", "น"],
    "\u0e48ก": ["\u0e48", "ก"],
    "ก \u0e48\u0e34": ["ก", " ", "\u0e34\u0e48"],
    "": [],
    "BTS๑": ["B", "T", "S", "๑"],
}


@pytest.mark.parametrize(("text", "units"), CUTS.items())
def test_cuts(text: str, units: list[str]) -> None:
    assert split_units(text) == units


def test_both_decomposed_forms_of_sara_am_give_the_same_units() -> None:
    assert split_units("น\u0e49\u0e4d\u0e32") == split_units("น\u0e4d\u0e49\u0e32") == ["น้", "ำ"]


@settings(derandomize=True, max_examples=800, deadline=None)
@given(
    st.text(alphabet="กนทเ าำ\u0e34\u0e35\u0e38\u0e48\u0e49\u0e4c\u0e4d\u0301é\nA1", max_size=12)
)
def test_round_trip_and_shape_of_units(text: str) -> None:
    units = split_units(text)
    assert join_units(units) == canonical(text)
    for unit in units:
        assert all(unicodedata.category(char).startswith("M") for char in unit[1:])
        assert len(unit) == 1 or not unit[0].isspace()


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet="กนทเ าำ\u0e34\u0e38\u0e48\u0e49\u0e4d\u0301é\nA1", max_size=12))
def test_plain_characters_are_code_points_and_come_back(text: str) -> None:
    units = split_units(text, "characters")
    assert units == list(canonical(text))
    if units:
        vocabulary = build_vocabulary([text], kind="characters")
        assert vocabulary.decode(vocabulary.encode(text).ids) == canonical(text)


def test_a_vocabulary_keeps_its_kind_and_the_name_of_the_normaliser(tmp_path: Path) -> None:
    vocabulary = build_vocabulary(["ที่ น้ำ"], kind="characters", normalizer="thai-v1")
    assert set(vocabulary.units) == set("ที่ น้ำ")
    vocabulary.save(tmp_path / "units.json")
    assert load_vocabulary(tmp_path / "units.json") == vocabulary
    text = (tmp_path / "units.json").read_text("utf-8")
    (tmp_path / "units.json").write_text(text.replace("characters", "words"), "utf-8")
    with pytest.raises(InputError, match='"kind" must be one of thai, characters'):
        load_vocabulary(tmp_path / "units.json")


def test_vocabulary_order_frequency_and_counts() -> None:
    vocabulary = build_vocabulary(["กขขค", "ข ค"], min_frequency=2)
    assert vocabulary.units == ("ข", "ค")
    assert len(vocabulary) == 4
    assert (vocabulary.total_count, vocabulary.dropped_units, vocabulary.dropped_count) == (7, 2, 2)
    assert vocabulary.encode("ขคข").ids == (2, 3, 2)


def test_unknown_is_counted_and_visible() -> None:
    vocabulary = build_vocabulary(["กข"])
    encoded = vocabulary.encode("กฮขฮ")
    assert encoded.ids == (2, UNKNOWN_ID, 3, UNKNOWN_ID)
    assert encoded.unknown == 2
    assert vocabulary.decode(encoded.ids) == f"ก{UNKNOWN_TEXT}ข{UNKNOWN_TEXT}"


def test_known_text_comes_back() -> None:
    texts = ["แม่บอกว่าไม่เคยไป", "น้ำแข็ง ๓ ก้อน"]
    vocabulary = build_vocabulary(texts)
    for text in texts:
        assert vocabulary.encode(text).unknown == 0
        assert vocabulary.decode(vocabulary.encode(text).ids) == text


def test_frames_follow_the_ctc_rule() -> None:
    vocabulary = build_vocabulary(["กข"])
    assert vocabulary.decode_frames([0, 2, 2, 0, 2, 3, 3, 0, 0]) == "กกข"
    assert vocabulary.decode_frames([]) == ""
    assert vocabulary.decode_frames([BLANK_ID] * 4) == ""


@pytest.mark.parametrize("bad", [-1, 4, 99])
def test_id_outside_is_refused(bad: int) -> None:
    with pytest.raises(InputError, match=f"Unit id {bad} is outside this vocabulary of 4 ids"):
        build_vocabulary(["กข"]).decode([2, bad])


def test_save_and_load(tmp_path: Path) -> None:
    vocabulary = build_vocabulary(["ที่ ที่ น้ำ", "ก"], min_frequency=2)
    vocabulary.save(tmp_path / "units.json")
    assert load_vocabulary(tmp_path / "units.json") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["units.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "cannot be read"),
        ("[]", "is not a unit vocabulary"),
        ('{"format": "other"}', "is not a unit vocabulary"),
        ('{"format": "thaitool-ctc-units-1", "units": "กข"}', '"units" must be a list'),
        ('{"format": "thaitool-ctc-units-1", "units": ["ก"]}', '"min_frequency" must be a whole'),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "units.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_vocabulary(path)
    assert "units.json" in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json cannot be read"):
        load_vocabulary(tmp_path / "nothing.json")


@pytest.mark.parametrize("units", [("ก", "ก"), ("",), ("<blank>",), ("<unk>", "ก")])
def test_ambiguous_units_are_refused(units: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="must be different"):
        Vocabulary(units)


def test_nothing_to_build_from() -> None:
    with pytest.raises(InputError, match="No unit occurs 2 times or more in 1 units"):
        build_vocabulary(["ก"], min_frequency=2)
    with pytest.raises(InputError, match="at least 1; it is 0"):
        build_vocabulary(["ก"], min_frequency=0)


def test_file_is_readable_by_people(tmp_path: Path) -> None:
    build_vocabulary(["ที่"]).save(tmp_path / "units.json")
    text = (tmp_path / "units.json").read_text(encoding="utf-8")
    assert "ที่" in text
    assert json.loads(text)["units"] == ["ที่"]
