"""Rewrites Thai text as it is read aloud: numbers, times and ๆ become words, punctuation goes.

It leaves what it does not know (Latin letters, symbols) as it is; the phonemes refuse that.
"""

from __future__ import annotations

import re

_DIGIT_WORDS = ("ศูนย์", "หนึ่ง", "สอง", "สาม", "สี่", "ห้า", "หก", "เจ็ด", "แปด", "เก้า")
_THAI_DIGITS = str.maketrans("๐๑๒๓๔๕๖๗๘๙", "0123456789")
#: Read as nothing. Symbols that are read as a word (+ = & @ #) are not here and stay in the text.
_PUNCTUATION = re.compile(r"[\"'“”‘’«»`(){}\[\]<>,.!?;:…\-–—_/\\|*~฿ฯ๏๚๛\u200b\ufeff]+")
#: Longer runs of digits than this are numbers of accounts or telephones, read digit by digit.
_LONGEST_QUANTITY = 9
#: Words that ๆ repeats together with the next word: ทีละคน ๆ is ทีละคนทีละคน.
_REPEATED_WITH_NEXT = ("ทีละ", "วันละ", "แต่ละ")

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_CLOCK = re.compile(
    r"(?<![\d.:])(\d{1,2})(?::([0-5]\d)(?:\s*น\.|\s*นาฬิกา)?|\.([0-5]\d)\s*(?:น\.|นาฬิกา))(?![\d:])"
)
_HOUR = re.compile(r"(?<![\d.:,])(\d{1,2})\s*น\.")
_PHONE = re.compile(
    r"(?<![\d,.])0\d{1,2}[- ]\d{3}[- ]\d{3,4}(?![\d,])|(?<![\d,.])0\d+(?![\d,.]|\.\d)"
)
_BAHT = re.compile(rf"฿\s*({_NUMBER})|({_NUMBER})\s*(?:บาท|฿)")
_PERCENT = re.compile(rf"({_NUMBER})\s*[%％]")
_RANGE = re.compile(r"(?<=\d)(?:[-–]| [-–] )(?=\d)")
_NEGATIVE = re.compile(r"(?:(?<=\s)|^)[-−](?=\d)")


def spoken_form(text: str) -> str:
    """What a person says who reads Thai `text` aloud, in Thai letters as far as it is known.

    Doing it twice changes nothing more. Spaces are kept as single ones: they are the pauses.
    """
    text = text.translate(_THAI_DIGITS).replace("ฯลฯ", "และอื่นๆ")
    text = _CLOCK.sub(_clock, text)
    text = _HOUR.sub(lambda m: _clock_words(m[0], int(m[1]), 0), text)
    text = _PHONE.sub(lambda m: _digit_by_digit(m[0]), text)
    text = _BAHT.sub(lambda m: _baht(m[1] or m[2]), text)
    text = _PERCENT.sub(lambda m: number_words(m[1]) + "เปอร์เซ็นต์", text)
    text = _RANGE.sub("ถึง", text)
    text = _NEGATIVE.sub("ลบ", text)
    text = re.sub(_NUMBER, lambda m: number_words(m[0]), text)
    text = _PUNCTUATION.sub(" ", text)
    return " ".join(_repeat_words(text).split())


def number_words(number: str) -> str:
    """A number written with ASCII digits, perhaps with commas and decimals, in Thai words.

    The digits are taken as written, never through a float: 0.10 is ศูนย์จุดหนึ่งศูนย์.
    """
    from pythainlp.util import num_to_thaiword

    whole, _, decimals = number.replace(",", "").partition(".")
    if len(whole) > 1 and (whole[0] == "0" or len(whole) > _LONGEST_QUANTITY):
        words = _digit_by_digit(whole) if "," not in number else str(num_to_thaiword(int(whole)))
    else:
        words = str(num_to_thaiword(int(whole)))
    return f"{words}จุด{_digit_by_digit(decimals)}" if decimals else words


def _digit_by_digit(digits: str) -> str:
    return "".join(_DIGIT_WORDS[int(digit)] for digit in digits if digit.isdecimal())


def _clock(match: re.Match[str]) -> str:
    return _clock_words(match[0], int(match[1]), int(match[2] or match[3]))


def _clock_words(written: str, hour: int, minute: int) -> str:
    if hour > 24:
        return written
    words = f"{number_words(str(hour))}นาฬิกา"
    return f"{words}{number_words(str(minute))}นาที" if minute else words


def _baht(amount: str) -> str:
    whole, _, decimals = amount.partition(".")
    if len(decimals) != 2:
        return f"{number_words(amount)}บาท"
    satang = f"{number_words(str(int(decimals)))}สตางค์" if int(decimals) else ""
    baht = f"{number_words(whole)}บาท" if int(whole.replace(",", "")) or not satang else ""
    return baht + satang


def _repeat_words(text: str) -> str:
    """Put the word before each ๆ (or run of them) once more; a ๆ with nothing before it stays."""
    if "ๆ" not in text:
        return text
    from pythainlp.tokenize import word_tokenize

    pieces = re.split(r"\s*ๆ[ๆ\s]*", text)
    out = pieces[0]
    for piece in pieces[1:]:
        if not out.strip():
            out += "ๆ" + piece
            continue
        words = word_tokenize(out.split()[-1].replace("ๆ", ""), engine="newmm")
        start = -2 if len(words) > 1 and words[-2] in _REPEATED_WITH_NEXT else -1
        out += "".join(words[start:]) + (" " if piece.strip() else "") + piece
    return out
