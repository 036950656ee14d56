"""Turns Thai in spoken form into syllables with sounds and tones: rules, exceptions, a network.

It does not expand numbers or ๆ (that is `thaitool.text.spoken`), and it drops nothing: a word that
it cannot read is an error that names the word.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache, lru_cache

from thaitool.errors import InputError
from thaitool.text import learned
from thaitool.text.syllable import FALLING, HIGH, LOW, MID, RISING, Syllable
from thaitool.text.syllables import CONSONANTS, Spelled, is_linked, spell

_SOUNDS = {
    "k": "ก", "kʰ": "ขฃคฅฆ", "ŋ": "ง", "tɕ": "จ", "tɕʰ": "ฉชฌ", "s": "ซศษส", "j": "ญย", "d": "ฎด",
    "t": "ฏต", "tʰ": "ฐฑฒถทธ", "n": "ณน", "b": "บ", "p": "ป", "pʰ": "ผพภ", "f": "ฝฟ", "m": "ม",
    "r": "ร", "l": "ลฬ", "w": "ว", "h": "หฮ", "ʔ": "อ",
}  # fmt: skip
_SOUND_OF = {letter: sound for sound, letters in _SOUNDS.items() for letter in letters}
_FINALS = {
    "k": "กขคฆ", "t": "จชซฎฏฐฑฒดตถทธศษส", "p": "บปพฟภ", "ŋ": "ง", "n": "ญณนรลฬ", "m": "ม",
    "j": "ย", "w": "ว",
}  # fmt: skip
_FINAL_OF = {letter: sound for sound, letters in _FINALS.items() for letter in letters}
_HIGH_CLASS = set("ขฃฉฐถผฝศษสห")
_MID_CLASS = set("กจฎฏดตบปอ")
_SONORANTS = set("งญณนมยรลวฬ")
# Tone by class of the onset and tone mark; dead syllables without a mark are in `_tone`.
_MARKED = {
    "่": (LOW, LOW, FALLING),
    "้": (FALLING, FALLING, HIGH),
    "๊": (HIGH,) * 3,
    "๋": (RISING,) * 3,
}


def syllables(text: str) -> tuple[Syllable, ...]:
    """The syllables of Thai text in spoken form, in order; spaces separate words and are not kept.

    Raises:
        InputError: names the first word that is not Thai letters, or that has no reading.
    """
    from pythainlp.tokenize import word_tokenize
    from pythainlp.util import normalize

    out: list[Syllable] = []
    for chunk in text.split():
        for word in word_tokenize(normalize(chunk), engine="newmm"):
            out.extend(word_syllables(word))
    return tuple(out)


@lru_cache(maxsize=50_000)
def word_syllables(word: str) -> tuple[Syllable, ...]:
    """The syllables of one word: by the list of exceptions, else by the rules or by the network.

    The network only chooses between its own reading and that of the rules; it is sure of nonsense,
    so what the rules cannot read is refused.

    Raises:
        InputError: the word is not Thai letters, or has no reading.
    """
    if not _THAI_WORD.fullmatch(word):
        raise InputError(
            f"The word {word!r} cannot be read aloud: only Thai letters, vowels and tone marks "
            "can. Convert numbers and ๆ with spoken_form() and write foreign words in Thai letters."
        )
    by_rules = rule_syllables(word)
    if not by_rules:
        raise InputError(
            f"The word {word!r} has no reading by the rules of Thai spelling; correct it, or leave "
            "out the text."
        )
    if len(word) == 1 or word in _RESPELLED:
        return by_rules
    advantage = _ADVANTAGE_OF_ONE if len(by_rules) == 1 else 0.0
    return learned.choose(word, by_rules, advantage=advantage)


def rule_syllables(word: str) -> tuple[Syllable, ...]:
    """The syllables of one word by the rules and the list of exceptions; empty if they have none."""
    if len(word) == 1 and word in CONSONANTS:
        word += "อ"  # a letter by itself is read as the first sound of its name: ก. is กอ
    if word in _RESPELLED:
        parts = _RESPELLED[word].split("-")
        return tuple(syllable for part in parts for syllable in _by_rules(part))
    parts = _compound(word)
    if len(parts) > 1:
        readings = [rule_syllables(part) for part in parts]
        return tuple(one for reading in readings for one in reading) if all(readings) else ()
    out = _by_rules(word)
    if len(out) > 1 and _LOAN_ENDING.search(word):
        out = (*out[:-1], replace(out[-1], tone=FALLING))
    return out


# A single written syllable is regular but for the length of its vowel, so the network must be much
# surer than the rules. Chosen on part 1 of the dictionary (tests/bench/g2p_train.py).
_ADVANTAGE_OF_ONE = 3.0

_THAI_WORD = re.compile(f"[{CONSONANTS}ฤฦะ-ฺเ-ๅ็-๎]+")
# A silenced letter takes the vowel sign on it and the cluster before it along: สิทธิ์, จันทร์, ลักษณ์.
_SILENCED = re.compile(f"(?:[ตทดธกค]ร|ษณ|ษม|ริย|สต|[{CONSONANTS}])[ิุู]?์")
# Endings of English words are said with a falling tone that is not written: คอมพิวเตอร์.
_LOAN_ENDING = re.compile(f"เ[{CONSONANTS}]+อร์$|เ[ซบดมลร]ียม$")


def _without_silent_letters(word: str) -> str:
    word = word.replace("ฤๅ", "รือ").replace("ฤา", "รือ")
    word = re.sub("(?<=[กตทปศส])ฤ", "ริ", word).replace("ฤ", "รึ").replace("ฦ", "ลึ")
    word = re.sub("^บริ", "บอริ", word)
    word = re.sub("บดี$", "บอดี", word)
    # ชาติ, สมบัติ, เหตุ: the vowel sign on a closing ต is not read.
    word = re.sub("(?<=[าั]ต)[ิุ]$|(?<=เหต)ุ$", "", word)
    return _SILENCED.sub("", word)


@cache
def _words() -> frozenset[str]:
    from pythainlp.corpus.common import thai_words

    # Two letters are a word of a compound only with า, ี, อ, ไ or ใ: ดี, ใจ.
    words = (w for w in thai_words() if len(w) > 2 or re.fullmatch("[ก-ฮ][าีอ]|[ไใ][ก-ฮ]", w))
    return frozenset(words) | _RESPELLED.keys()


def _compound(word: str) -> list[str]:
    """The word cut into the fewest words of pythainlp's list; the word alone if it is no compound.

    No cut is made where the letter before it is read twice (ราช|การ): the parts sound different.
    """
    known, best = _words(), {0: list[str]()}
    for end in range(2, len(word) + 1):
        found = [
            [*best[at], word[at:end]]
            for at in range(end - 1)
            if at in best and end - at < len(word) and word[at:end] in known
            and not is_linked(word[:at], word[at:])
        ]  # fmt: skip
        if found:
            best[end] = min(found, key=len)
    return best.get(len(word), [word])


def _by_rules(word: str) -> tuple[Syllable, ...]:
    spelled = spell(_without_silent_letters(word))
    return _sounded(spelled) if spelled else ()


def _sounded(spelled: tuple[Spelled, ...]) -> tuple[Syllable, ...]:
    out: list[Syllable] = []
    for index, one in enumerate(spelled):
        leader = spelled[index - 1] if index else None
        if leader and leader.weak and index > 1 and spelled[index - 2].final == leader.onset:
            leader = None  # a letter that is read twice gives its class no further: อัศวิน
        onset_class = _onset_class(one, leader)
        final = _FINAL_OF[one.final] if one.final else ""
        follower = spelled[index + 1] if index + 1 < len(spelled) else None
        if follower and follower.weak and not final and not one.weak and not one.is_long:
            # มัธยม, วิทยา: the bare consonant also closes a short syllable before it.
            final = _FINAL_OF.get(follower.onset, "")
        initial = _initial(one)
        # เล่น, แผ่น, ก่อน: with the first tone mark and these finals the vowels are short.
        short_finals = ("n", "ŋ", "m", "j") if one.vowel == "ɔ" else ("n", "ŋ", "m")
        is_short = one.vowel in ("e", "ɛ", "ɔ") and one.mark == "่" and final in short_finals
        out.append(
            Syllable(
                initial,
                one.vowel,
                one.is_long and not is_short,
                final,
                _tone(onset_class, one, final),
            )
        )
    return tuple(out)


def _onset_class(one: Spelled, leader: Spelled | None) -> int:
    """0 mid, 1 high, 2 low; a sonorant after a bare mid or high consonant takes its class: ตลาด."""
    letter = one.onset[0]
    if leader is not None and not one.weak:
        lead = leader.onset[0]
        is_bare = leader.weak and letter in _SONORANTS and lead in _HIGH_CLASS | _MID_CLASS
        # ตำรวจ, สำเร็จ, ดำรัส: behind -ำ the class reaches ร in syllables that end in a stop.
        is_infix = (leader.vowel, leader.final, letter, one.mark) == ("a", "ม", "ร", "")
        if is_bare or (is_infix and _FINAL_OF.get(one.final, "") in ("p", "t", "k")):
            letter = lead
    if letter in _HIGH_CLASS:
        return 1
    return 0 if letter in _MID_CLASS else 2


def _initial(one: Spelled) -> str:
    onset = one.onset
    if len(onset) == 1:
        return _SOUND_OF[onset]
    if onset[0] in "หอ":
        return _SOUND_OF[onset[1]]
    if onset == "ทร" and not (one.vowel in ("e", "ɔ") or (one.vowel == "i" and not one.is_long)):
        return "s"  # ทราบ, ทรง, อินทรี; but ทริป, เทรน, ทรอย are English tr
    if onset in ("จร", "ซร", "สร", "ศร"):
        return _SOUND_OF[onset[0]]
    return _SOUND_OF[onset[0]] + _SOUND_OF[onset[1]]


def _tone(onset_class: int, one: Spelled, final: str) -> int:
    if one.mark:
        return _MARKED[one.mark][onset_class]
    is_dead = final in ("p", "t", "k") or (not final and not one.is_long)
    if not is_dead:
        return RISING if onset_class == 1 else MID
    if onset_class < 2:
        return LOW
    return FALLING if one.is_long else HIGH


#: Common words that are not read as they are spelled, written as they sound, syllable by syllable.
_RESPELLED = {
    "ก็": "ก้อ", "น้ำ": "น้าม", "ท่าน": "ทั่น", "เพชร": "เพ็ด", "สามารถ": "สา-มาด", "ประโยชน์": "ประ-โหยด",
    "ได้": "ด้าย", "ไม้": "ม้าย", "ใต้": "ต้าย", "เท้า": "ท้าว", "เก้า": "ก้าว", "เช้า": "ช้าว", "เจ้า": "จ้าว",
    "เปล่า": "ปล่าว", "จริง": "จิง", "สระ": "สะ", "เสร็จ": "เส็ด", "ตำรวจ": "ตำ-หรวด", "สำเร็จ": "สำ-เหร็ด",
    "สำรวจ": "สำ-หรวด", "ดำริ": "ดำ-หริ", "บุรุษ": "บุ-หรุด", "ประโยค": "ประ-โหยก",
    "ประวัติ": "ประ-หวัด", "กำเนิด": "กำ-เหนิด",
    "ศักราช": "สัก-กะ-หราด", "สิริ": "สิ-หริ", "อายุ": "อา-ยุ",
    "ขโมย": "ขะ-โมย", "มรดก": "มอ-ระ-ดก", "ทรมาน": "ทอ-ระ-มาน",
    "กรณี": "กะ-ระ-นี", "จระเข้": "จอ-ระ-เข้",
    "ธรณี": "ทอ-ระ-นี", "มรสุม": "มอ-ระ-สุม", "พยายาม": "พะ-ยา-ยาม", "พยาบาล": "พะ-ยา-บาน",
    "มหา": "มะ-หา", "สหรัฐ": "สะ-หะ-รัด", "อเมริกา": "อะ-เม-ริ-กา",
    "กษัตริย์": "กะ-สัด", "ปรารถนา": "ปราด-ถะ-หนา", "ปรากฏ": "ปรา-กด",
    "ราษฎร": "ราด-สะ-ดอน",
    "สวรรค์": "สะ-หวัน", "โทรทัศน์": "โท-ระ-ทัด", "โทรศัพท์": "โท-ระ-สับ", "โทร": "โท", "วิทยุ": "วิด-ทะ-ยุ",
    "สุขภาพ": "สุก-ขะ-พาบ", "ผลไม้": "ผน-ละ-ม้าย", "สัปดาห์": "สับ-ดา", "อนุญาต": "อะ-นุ-ยาด", "ญาติ": "ยาด",
    "เกียรติ": "เกียด", "พฤหัสบดี": "พะ-รึ-หัด-สะ-บอ-ดี", "ทฤษฎี": "ทริด-สะ-ดี", "พฤศจิกายน": "พรึด-สะ-จิ-กา-ยน",
    "กรกฎาคม": "กะ-ระ-กะ-ดา-คม", "มกราคม": "มะ-กะ-รา-คม", "กุมภาพันธ์": "กุม-พา-พัน", "อังกฤษ": "อัง-กริด",
    "ฤกษ์": "เริก", "สมาคม": "สะ-มา-คม", "สมาชิก": "สะ-มา-ชิก", "สมาธิ": "สะ-มา-ทิ", "คุณภาพ": "คุน-นะ-พาบ",
    "ปกติ": "ปก-กะ-ติ", "เศรษฐกิจ": "เสด-ถะ-กิด", "เศรษฐศาสตร์": "เสด-ถะ-สาด", "เศรษฐี": "เสด-ถี",
    "สารคดี": "สา-ระ-คะ-ดี", "วารสาร": "วา-ระ-สาน", "ธุรกิจ": "ทุ-ระ-กิด", "บุคลากร": "บุก-คะ-ลา-กอน",
    "ไปรษณีย์": "ไปร-สะ-นี", "สมัคร": "สะ-หมัก", "มูลนิธิ": "มูน-ละ-นิ-ทิ", "สังคมวิทยา": "สัง-คม-วิด-ทะ-ยา",
    "ปรอท": "ปะ-หรอด", "พลัง": "พะ-ลัง", "ปฐม": "ปะ-ถม", "เทศบาล": "เทด-สะ-บาน", "เอกชน": "เอก-กะ-ชน",
    "ต้อง": "ต็้อง", "ห้อง": "ห็้อง", "น้อง": "น็้อง", "ท้อง": "ท็้อง", "บ้าง": "บั้ง",
    "ณ": "นะ", "บ่": "บ่อ", "สรุป": "สะ-หรุบ",
    "ศาสนา": "สาด-สะ-หนา", "วาสนา": "วาด-สะ-หนา", "สาธารณะ": "สา-ทา-ระ-นะ", "ศิลปะ": "สิน-ละ-ปะ",
    "ลิขสิทธิ์": "ลิก-ขะ-สิด", "ผลิตภัณฑ์": "ผะ-หลิด-ตะ-พัน", "มาตรฐาน": "มาด-ตระ-ถาน", "กรุณา": "กะ-รุ-นา",
    "อุปกรณ์": "อุ-ปะ-กอน", "ภูมิอากาศ": "พูม-มิ-อา-กาด", "กายภาพ": "กาย-ยะ-พาบ", "คุณสมบัติ": "คุน-นะ-สม-บัด",
    "คติ": "คะ-ติ", "ผลิต": "ผะ-หลิด", "ผลผลิต": "ผน-ผะ-หลิด", "ขณะ": "ขะ-หนะ",
    "ร้องไห้": "ร้อง-ฮ่าย", "อิสระ": "อิด-สะ-หระ", "เวร": "เวน",
    "นมัสการ": "นะ-มัด-สะ-กาน",
    "ศตวรรษ": "สะ-ตะ-วัด", "เสาร์": "เสา", "ศีรษะ": "สี-สะ",
    "ชนิด": "ชะ-นิด", "กิโลเมตร": "กิ-โล-เมด", "เมตร": "เมด", "บาท": "บาด", "สร้อย": "ส้อย",
    "ธนาคาร": "ทะ-นา-คาน", "ธรรมดา": "ทำ-มะ-ดา", "ธรรมชาติ": "ทำ-มะ-ชาด", "อุณหภูมิ": "อุน-หะ-พูม",
    "ภูมิ": "พูม", "ภาพยนตร์": "พาบ-พะ-ยน", "มหาวิทยาลัย": "มะ-หา-วิด-ทะ-ยา-ไล", "ประเทศ": "ประ-เทด",
    "ภูมิใจ": "พูม-ใจ", "คอมพิวเตอร์": "คอม-พิว-เต้อ", "องค์กร": "อง-กอน", "สมมุติ": "สม-มุด", "สมมติ": "สม-มด",
}  # fmt: skip
