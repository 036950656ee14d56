"""Says what ๆ repeats: the last word before it, or a phrase that belongs together.

It does not tell whether the writer meant emphasis or plural; both are read alike.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: Words that ๆ repeats together with the next word: ทีละคน ๆ is ทีละคนทีละคน.
_REPEATED_WITH_NEXT = ("ทีละ", "วันละ", "แต่ละ", "คราวละ", "ครั้งละ", "คนละ", "ปีละ", "เดือนละ")
#: "One" behind a word that counts is repeated with it: วันหนึ่ง ๆ is วันหนึ่งวันหนึ่ง.
_COUNTED = frozenset("วัน คืน ปี เดือน ครั้ง คน อย่าง สิ่ง แห่ง เรื่อง ตัว ชั่วโมง นาที สัปดาห์ คราว".split())  # noqa: SIM905
#: Adjectives and the like that are repeated alone though a word list joins them with a noun:
#: เด็กเล็กๆ is เด็กเล็กเล็ก.
_REPEATED_ALONE = (
    "เล็ก", "ใหญ่", "ดี", "สูง", "ต่ำ", "ยาว", "สั้น", "เร็ว", "ช้า", "ร้อน", "เย็น", "หนาว",
    "เก่า", "ใหม่", "สวย", "แดง", "ดำ", "ขาว", "เขียว", "เหลือง", "อ้วน", "ผอม", "หนัก", "เบา",
    "ใกล้", "ไกล", "ง่าย", "ยาก", "แรง", "หวาน", "เค็ม", "เปรี้ยว", "เผ็ด", "น้อย", "มาก",
    "ลึก", "ตื้น", "กว้าง", "แคบ", "หนา", "บาง", "เงียบ", "สด", "แห้ง", "เปียก", "สวยงาม",
    "จริง", "แพง", "ถูก", "ห่าง", "ชัด", "นาน", "บ่อย", "กลม", "แก่", "อ่อน", "เข้ม",
)  # fmt: skip
#: Joined with a noun these are no adjectives, so the whole word is repeated: ผู้ใหญ่ๆ.
_WHOLE = frozenset("ผู้ใหญ่ ผู้น้อย ทางยาว พอดี หวัดดี ทันดี คนแก่ ยินดี ใจดี โชคดี หวังดี คนดี".split())  # noqa: SIM905


def repeated(before: str) -> str:
    """What a ๆ repeats that stands behind the text `before`; empty if there is no word.

    `thaitool.text.spoken` calls it with numbers already in words.
    """
    chunks = re.findall("[ก-ฺเ-ๅ็-๎]+", before)
    return _last_phrase(chunks[-1][-60:]) if chunks else ""


@lru_cache(maxsize=10_000)
def _last_phrase(chunk: str) -> str:
    from pythainlp.tokenize import word_tokenize

    words: list[str] = [word for word in word_tokenize(chunk, engine="newmm") if word.strip()]
    last, previous = words[-1], words[-2] if len(words) > 1 else ""
    if last == "หนึ่ง" and previous in _COUNTED:
        return previous + last
    for noun in _COUNTED:
        if last == f"{noun}หนึ่ง":
            return last
    if previous in _REPEATED_WITH_NEXT:
        return previous + last
    if last.startswith(_REPEATED_WITH_NEXT):
        return last
    if last in _WHOLE:
        return last
    alone = [word for word in _REPEATED_ALONE if last.endswith(word) and last != word]
    # The rest must be a word itself: แดง is no part of แสดง.
    alone = [word for word in alone if _is_word(last.removesuffix(word))]
    return max(alone, key=len) if alone else last


def _is_word(text: str) -> bool:
    from pythainlp.corpus.common import thai_words

    return text in thai_words()
