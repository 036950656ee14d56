"""Reads words in Latin letters as Thai speakers do: known loans, letter names, else by spelling.

It does not know English pronunciation: a word outside both word lists comes out as a Thai reader
would sound its letters, which is a guess (`nvidia` is right because it is listed).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise

_LETTER_NAMES = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        "เอ บี ซี ดี อี เอฟ จี เอช ไอ เจ เค แอล เอ็ม เอ็น โอ พี คิว อาร์ เอส ที ยู วี ดับเบิลยู เอ็กซ์ วาย แซด".split(),  # noqa: SIM905 reads better
        strict=True,
    )
)

#: Names and everyday loans, as they are said in Thai.
_WORDS = {
    "ai": "เอไอ", "airport": "แอร์พอร์ต", "amazon": "แอมะซอน", "android": "แอนดรอยด์", "app": "แอป",
    "apple": "แอปเปิล", "bangkok": "แบงค็อก", "battery": "แบตเตอรี่", "bitcoin": "บิตคอยน์",
    "black": "แบล็ก", "blog": "บล็อก", "blue": "บลู", "bluetooth": "บลูทูท", "bts": "บีทีเอส",
    "bug": "บั๊ก", "call": "คอล", "central": "เซ็นทรัล", "chat": "แชต", "chatgpt": "แชตจีพีที",
    "check": "เช็ก", "chrome": "โครม", "cloud": "คลาวด์", "club": "คลับ", "code": "โค้ด", "coffee": "คอฟฟี่",
    "com": "คอม", "computer": "คอมพิวเตอร์", "covid": "โควิด", "data": "ดาต้า", "delivery": "เดลิเวอรี",
    "digital": "ดิจิทัล", "disney": "ดิสนีย์", "download": "ดาวน์โหลด", "email": "อีเมล", "facebook": "เฟซบุ๊ก",
    "family": "แฟมิลี", "fan": "แฟน", "fashion": "แฟชั่น", "fast": "ฟาสต์", "file": "ไฟล์", "food": "ฟู้ด",
    "free": "ฟรี", "game": "เกม", "gmail": "จีเมล", "google": "กูเกิล", "grab": "แกร็บ", "grand": "แกรนด์",
    "green": "กรีน", "group": "กรุ๊ป", "happy": "แฮปปี้", "hello": "เฮลโล", "hi": "ไฮ", "home": "โฮม",
    "hotel": "โฮเทล", "hotmail": "ฮอตเมล", "in": "อิน", "inbox": "อินบ็อกซ์", "instagram": "อินสตาแกรม",
    "internet": "อินเทอร์เน็ต", "ios": "ไอโอเอส", "ipad": "ไอแพด", "iphone": "ไอโฟน", "it": "ไอที",
    "jazz": "แจ๊ส", "kfc": "เคเอฟซี", "laptop": "แล็ปท็อป", "lazada": "ลาซาด้า", "like": "ไลก์",
    "line": "ไลน์", "link": "ลิงก์", "live": "ไลฟ์", "lotus": "โลตัส", "love": "เลิฟ", "mail": "เมล",
    "mall": "มอลล์", "marketing": "มาร์เก็ตติ้ง", "max": "แม็กซ์", "meeting": "มีตติ้ง", "menu": "เมนู",
    "messenger": "เมสเซนเจอร์", "microsoft": "ไมโครซอฟท์", "mini": "มินิ", "mobile": "โมบาย", "mr": "มิสเตอร์",
    "mrs": "มิสซิส", "ms": "มิส", "music": "มิวสิก", "netflix": "เน็ตฟลิกซ์", "new": "นิว", "news": "นิวส์",
    "nike": "ไนกี้", "no": "โน", "note": "โน้ต", "notebook": "โน้ตบุ๊ก", "nvidia": "เอ็นวิเดีย", "ok": "โอเค",
    "okay": "โอเค", "on": "ออน", "online": "ออนไลน์", "of": "ออฟ", "open": "โอเพน", "party": "ปาร์ตี้",
    "passport": "พาสปอร์ต", "password": "พาสเวิร์ด", "phone": "โฟน", "playlist": "เพลย์ลิสต์", "plaza": "พลาซ่า",
    "plus": "พลัส", "pm": "พีเอ็ม", "podcast": "พอดแคสต์", "pop": "ป็อป", "post": "โพสต์", "premium": "พรีเมียม",
    "pro": "โปร", "promotion": "โปรโมชั่น", "rap": "แร็ป", "red": "เรด", "review": "รีวิว", "robinson": "โรบินสัน",
    "rock": "ร็อก", "sale": "เซล", "samsung": "ซัมซุง", "service": "เซอร์วิส", "share": "แชร์", "shopee": "ช้อปปี้",
    "shop": "ช็อป", "shopping": "ช้อปปิ้ง", "show": "โชว์", "siri": "สิริ", "smartphone": "สมาร์ตโฟน", "spa": "สปา",
    "spotify": "สปอติฟาย", "star": "สตาร์", "starbucks": "สตาร์บัคส์", "start": "สตาร์ต", "startup": "สตาร์ตอัป",
    "status": "สเตตัส", "stop": "สต็อป", "story": "สตอรี่", "super": "ซูเปอร์", "tablet": "แท็บเล็ต", "taxi": "แท็กซี่",
    "tesla": "เทสลา", "test": "เทสต์", "thai": "ไทย", "thailand": "ไทยแลนด์", "the": "เดอะ", "tiktok": "ติ๊กต็อก",
    "top": "ท็อป", "toyota": "โตโยต้า", "twitter": "ทวิตเตอร์", "uber": "อูเบอร์", "unesco": "ยูเนสโก",
    "unicef": "ยูนิเซฟ", "update": "อัปเดต", "usb": "ยูเอสบี", "version": "เวอร์ชัน", "video": "วิดีโอ",
    "view": "วิว", "vip": "วีไอพี", "web": "เว็บ", "website": "เว็บไซต์", "weekend": "วีกเอนด์", "wifi": "วายฟาย",
    "windows": "วินโดวส์", "work": "เวิร์ก", "world": "เวิลด์", "www": "ดับเบิลยูดับเบิลยูดับเบิลยู", "yes": "เยส",
    "youtube": "ยูทูบ", "zoom": "ซูม", "opec": "โอเปก", "nasa": "นาซา", "nato": "นาโต", "asean": "อาเซียน",
    "gdp": "จีดีพี", "net": "เน็ต", "org": "ออร์ก", "co": "ซีโอ", "th": "ทีเอช", "and": "แอนด์", "you": "ยู",
    "to": "ทู", "for": "ฟอร์", "my": "มาย", "me": "มี", "we": "วี", "is": "อีส", "big": "บิ๊ก", "bank": "แบงก์",
    "x": "เอ็กซ์", "a": "เอ", "i": "ไอ",
}  # fmt: skip

_ONSETS = {
    "b": "บ", "c": "ค", "ch": "ช", "d": "ด", "f": "ฟ", "g": "ก", "gh": "ก", "h": "ฮ", "j": "จ",
    "k": "ค", "kh": "ค", "l": "ล", "m": "ม", "n": "น", "p": "พ", "ph": "ฟ", "q": "ค", "r": "ร",
    "s": "ซ", "sh": "ช", "t": "ท", "th": "ท", "v": "ว", "w": "ว", "wh": "ว", "x": "ซ", "y": "ย",
    "z": "ซ", "qu": "คว", "bl": "บล", "br": "บร", "cl": "คล", "cr": "คร", "dr": "ดร", "fl": "ฟล",
    "fr": "ฟร", "gl": "กล", "gr": "กร", "kl": "คล", "kr": "คร", "pl": "พล", "pr": "พร", "tr": "ทร",
}  # fmt: skip
# Before e, i and y c is s, and g and j are one.
_SOFT_ONSETS = {"c": "ซ", "g": "จ"}
# Vowel spellings with the place of the onset (-); the second form stands before a final.
_VOWELS = {
    "a": ("-า", "แ-"), "e": ("-ี", "เ-"), "i": ("-ิ", "-ิ"), "o": ("โ-", "-อ"), "u": ("-ู", "-ั"),
    "y": ("-ี", "-ิ"), "aa": ("-า", "-า"), "ai": ("ไ-", "เ-"), "ay": ("เ-ย์", "เ-"), "au": ("-อ", "-อ"),
    "aw": ("-อ", "-อ"), "ea": ("-ี", "-ี"), "ee": ("-ี", "-ี"), "ei": ("เ-ย์", "เ-"),
    "ew": ("-ิว", "-ู"), "ey": ("-ี", "-ี"), "ie": ("-ี", "-ี"), "oa": ("โ-", "โ-"), "oe": ("โ-", "โ-"),
    "oi": ("-อย", "-อย"), "oo": ("-ู", "-ู"), "ou": ("เ-า", "-ู"), "ow": ("โ-", "โ-"), "oy": ("-อย", "-อย"),
    "ue": ("-ู", "-ู"), "ui": ("-ุย", "-ุย"),
    "ar": ("-าร์", "-า"), "er": ("เ-อร์", "เ-อ"), "ir": ("เ-อร์", "เ-อ"), "or": ("-อร์", "-อ"),
    "ur": ("เ-อร์", "เ-อ"), "eu": ("-ิว", "-ู"),
}  # fmt: skip
# The vowel of an open syllable is said before one consonant and a silent e: name, time, home.
_BEFORE_SILENT_E = {"a": "เ-", "e": "-ี", "i": "ไ-", "o": "โ-", "u": "-ู", "y": "ไ-"}
_CODAS = {
    "b": "บ", "c": "ก", "": "", "ch": "ช", "ck": "ก", "d": "ด", "f": "ฟ", "g": "ก", "gh": "", "j": "ด", "k": "ก",
    "l": "ล", "m": "ม", "n": "น", "ng": "ง", "p": "ป", "ph": "ฟ", "q": "ก", "r": "", "s": "ส",
    "sh": "ช", "t": "ต", "th": "ท", "v": "ฟ", "w": "ว", "x": "ก", "z": "ส", "h": "", "y": "",
}  # fmt: skip

_NUCLEUS = re.compile(
    "aa|a[iuy]|aw(?![aeiou])|e[aeiu]|e[wy](?![aeiou])|ie|o[aeiou]|o[wy](?![aeiou])|u[ei]"
    "|[aeiou]r(?![aeiouy])|[aeiou]|(?<=[b-df-hj-np-tv-xz])y"
)


def latin_words(text: str) -> str:
    """One word of Latin letters, perhaps with accents, in Thai letters.

    Listed words come first; capitals and words without a vowel are read by the names of their
    letters; the rest is sounded letter by letter.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if c.isascii() and c.isalpha())
    word = plain.lower()
    known = _WORDS.get(word)
    if known:
        return known
    is_letters = len(plain) == 1 or (plain.isupper() and len(plain) <= 5)
    if not is_letters and word in _loans():
        return _loans()[word]
    if not is_letters and re.fullmatch("[a-z]*[aeiouy][a-z]*[ts]ions?", word):
        return _sounded(re.sub("[ts]ions?$", "", word)) + "ชั่น"
    if is_letters or not re.search("[aeiouy]", word):
        return letter_names(word)
    return _sounded(word)


def letter_names(word: str) -> str:
    """The names of Latin letters, one after the other: gps is จีพีเอส."""
    return "".join(_LETTER_NAMES[letter] for letter in word.lower())


@cache
def _loans() -> dict[str, str]:
    """English words with their accepted Thai spelling, from the word list that pythainlp carries."""
    from pythainlp.corpus.th_en_translit import get_transliteration_dict

    found: dict[str, str] = {}
    for thai, entry in get_transliteration_dict().items():
        for english in entry["en"]:
            word = str(english).lower()
            if re.fullmatch("[a-z]{2,}", word) and re.fullmatch("[ก-์]+", thai):
                found.setdefault(word, thai)
    return found


def _sounded(word: str) -> str:
    """Syllable by syllable: one for each vowel, consonants between two go to the later one."""
    word = re.sub(r"([b-df-hj-np-tv-z])\1", r"\1", word)
    # A silent e at the end makes the vowel before it long.
    silent = re.search("[aeiouy][b-df-hj-np-tv-xz]+(e)s?$", word)
    word = word[: silent.start(1)] if silent else word
    nuclei = list(_NUCLEUS.finditer(word))
    if not nuclei:
        return letter_names(word)
    cuts = [0, *(_cut(word, a.end(), b.start()) for a, b in pairwise(nuclei)), len(word)]
    out = ""
    for index, nucleus in enumerate(nuclei):
        onset, coda = word[cuts[index] : nucleus.start()], word[nucleus.end() : cuts[index + 1]]
        is_long = silent is not None and index == len(nuclei) - 1
        out += _syllable(onset, nucleus[0], coda, is_long=is_long)
    return out


def _cut(word: str, start: int, end: int) -> int:
    """Where the consonants word[start:end] between two vowels are divided."""
    return next((at for at in range(start, end) if word[at:end] in _ONSETS), end)


def _syllable(onset: str, vowel: str, coda: str, *, is_long: bool) -> str:
    extra = ""
    if onset and onset not in _ONSETS:
        # All but the last consonant (or cluster) are read with a short a, as ส in สเปน.
        at = _cut(onset, 1, len(onset))
        extra = "".join(("ส" if c == "s" else _ONSETS[c]) + "ะ" for c in onset[:at])
        onset = onset[at:]
    is_soft = vowel[0] in "eiy" and onset in _SOFT_ONSETS
    letters = _SOFT_ONSETS[onset] if is_soft else _ONSETS.get(onset, "อ")
    # One consonant closes the syllable; those behind it are not said.
    closing = (
        _CODAS[coda]
        if coda in _CODAS
        else _CODAS[coda[:2]]
        if coda[:2] in _CODAS
        else _CODAS[coda[:1]]
    )
    if is_long and vowel in _BEFORE_SILENT_E:
        frame, short = _BEFORE_SILENT_E[vowel], ""
    else:
        frame = _VOWELS[vowel][1 if closing else 0]
        # A single vowel letter before a final is short: แ็, เ็, -็อ.
        short = "็" if closing and frame in ("แ-", "เ-", "-อ") and len(vowel) == 1 else ""
    if frame[-1] in "ยว์" or (frame[0] == "ไ" and closing in ("ย", "ว")):
        closing = ""
    if frame == "-อ" and short:
        return f"{extra}{letters}็อ{closing}"
    return f"{extra}{frame.replace('-', letters + short)}{closing}"
