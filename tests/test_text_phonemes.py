"""Spelling to sounds and tones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench import g2p, g2p_train
from thaitool.errors import InputError
from thaitool.text import phonemes
from thaitool.text.phonemes import rule_syllables, syllables, word_syllables
from thaitool.text.syllable import Syllable, to_ipa


def ipa(text: str) -> str:
    return " ".join(to_ipa(syllable) for syllable in syllables(text))


def test_syllable_is_the_documented_value() -> None:
    assert syllables("ข้าว") == (Syllable("kʰ", "a", True, "w", 3),)
    assert Syllable("kʰr", "a", True, "", 1).initial_sounds == ("kʰ", "r")
    assert Syllable("tɕʰ", "a", True, "", 1).initial_sounds == ("tɕʰ",)
    assert Syllable("r", "a", True, "", 1).initial_sounds == ("r",)


@pytest.mark.parametrize(
    ("words", "tones"),
    [
        # class of the consonant x tone mark, live syllables
        ("กา ก่า ก้า ก๊า ก๋า", (1, 2, 3, 4, 5)),
        ("ขา ข่า ข้า", (5, 2, 3)),
        ("คา ค่า ค้า", (1, 3, 4)),
        # dead syllables: mid and high class low; low class by the length of the vowel
        ("กาก จะ ขาด ขะ", (2, 2, 2, 2)),
        ("มาก นัก ละ", (3, 4, 4)),
        # a leading ห or อ gives its class and no sound
        ("หมา หน้า อยู่", (5, 3, 2)),
    ],
)
def test_tone_rules(words: str, tones: tuple[int, ...]) -> None:
    assert tuple(syllable.tone for syllable in syllables(words)) == tones


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ตลาด", "ta˨˩ laːt˨˩"),
        ("สนาม", "sa˨˩ naːm˩˩˦"),
        ("ถนน", "tʰa˨˩ non˩˩˦"),
        ("ขนม", "kʰa˨˩ nom˩˩˦"),
        ("แสดง", "sa˨˩ dɛːŋ˧"),
        ("เสมอ", "sa˨˩ mɤː˩˩˦"),
        ("ทราย", "saːj˧"),
        ("สร้าง", "saːŋ˥˩"),
        ("จริง", "tɕiŋ˧"),
        ("ปลา", "plaː˧"),
        ("ควาย", "kʰwaːj˧"),
        ("ควร", "kʰuan˧"),
        ("คน", "kʰon˧"),
        ("พร", "pʰɔːn˧"),
        ("กรรม", "kam˧"),
        ("บรรยาย", "ban˧ jaːj˧"),
        ("จันทร์", "tɕan˧"),
        ("ศาสตร์", "saːt˨˩"),
        ("สิทธิ์", "sit˨˩"),
        ("บัตร", "bat˨˩"),
        ("ชาติ", "tɕʰaːt˥˩"),
        ("เหตุ", "heːt˨˩"),
        ("รัฐบาล", "rat˦˥ tʰa˨˩ baːn˧"),
        ("วิทยา", "wit˦˥ tʰa˦˥ jaː˧"),
        ("เกาะ", "kɔ˨˩"),
        ("เร็ว", "rew˧"),
        ("เดิน", "dɤːn˧"),
        ("เลย", "lɤːj˧"),
        ("เสือ", "sɯa˩˩˦"),
        ("มือ", "mɯː˧"),
        ("วัว", "wua˧"),
        ("ไทย", "tʰaj˧"),
        ("ทำ", "tʰam˧"),
        ("เรา", "raw˧"),
        ("เล่น", "len˥˩"),
        ("น้ำ", "naːm˦˥"),
        ("เพชร", "pʰet˦˥"),
        ("ฤดู", "rɯ˦˥ duː˧"),
        ("คอมพิวเตอร์", "kʰɔːm˧ pʰiw˧ tɤː˥˩"),
    ],
)
def test_spelling_rules(word: str, expected: str) -> None:
    assert ipa(word) == expected


def test_compounds_are_read_by_their_parts() -> None:
    assert ipa("สนามบิน") == ipa("สนาม") + " " + ipa("บิน")
    assert ipa("ร้านขนม") == ipa("ร้าน") + " " + ipa("ขนม")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ใช้ GPS", "GPS"),
        ("ดีmาก", "m"),
        ("มี 123 คน", "123"),
        ("เด็ก ๆ", "ๆ"),
        ("บ้าน + รถ", "+"),
        ("สัข์", "สัข์"),
        ("เเเเ", "แ"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_the_word(text: str, word: str) -> None:
    with pytest.raises(InputError, match=re.escape(word)):
        syllables(text)


def test_every_entry_of_the_lexicon_is_read_as_it_is_respelled() -> None:
    for word, respelled in phonemes._RESPELLED.items():
        assert len(word_syllables(word)) == len(respelled.split("-")), word


@pytest.mark.parametrize(
    ("word", "rules", "expected"),
    [
        # The closing letter is read twice, the last vowel of a compound's part is read.
        ("ประถมศึกษา", "pra˨˩ tʰom˩˩˦ sɯk˨˩ saː˩˩˦", "pra˨˩ tʰom˩˩˦ ma˦˥ sɯk˨˩ saː˩˩˦"),
        ("ชาติพันธุ์", "tɕʰaːt˥˩ pʰan˧", "tɕʰaːt˥˩ ti˨˩ pʰan˧"),
    ],
)
def test_the_network_corrects_what_spelling_does_not_tell(
    word: str, rules: str, expected: str
) -> None:
    assert " ".join(map(to_ipa, rule_syllables(word))) == rules
    assert " ".join(map(to_ipa, word_syllables(word))) == expected


def test_nothing_gives_nothing() -> None:
    assert syllables("  ") == ()


@given(st.text(alphabet="กขคงจตนมรลวสหอะาิีุูเแโไ่้์็ั", min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_letters_are_read_within_the_inventory_or_refused(word: str) -> None:
    try:
        found = word_syllables(word)
    except InputError:
        return
    for syllable in found:
        assert syllable.tone in {1, 2, 3, 4, 5}
        assert syllable.vowel in {"i", "ɯ", "u", "e", "ɤ", "o", "ɛ", "a", "ɔ", "ia", "ɯa", "ua"}
        assert syllable.final in {"", "p", "t", "k", "m", "n", "ŋ", "j", "w"}


def _shared() -> Path:
    found = os.environ.get("THAITOOL_SHARED")
    root = Path(found) if found else Path(__file__).resolve().parents[1].parent / "shared"
    return root / "data" / "text"


def test_agrees_with_a_pronunciation_dictionary() -> None:
    """Sounds and tones of words that nothing was trained or tuned on (see tests/bench/g2p.py)."""
    path = _shared() / "mfa_thai_dictionary" / "thai_mfa.dict"
    if not path.exists():
        pytest.skip(f"no pronunciation dictionary at {path}; set THAITOOL_SHARED")
    words = g2p.sample(g2p_train.read_dictionary(path), 200)
    counts = g2p.count([g2p.answer(word, readings) for word, readings in words.items()])
    assert counts["all"].exact / counts["all"].words > 0.65
