"""The rules of the spoken form, in the order in which they are applied: a pattern and its words.

They see letters, not meaning; the tables of abbreviations and units are in
`thaitool.text.abbreviations`, and which letters stay is decided by the last rules.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from thaitool.text.abbreviations import (
    ABBREVIATIONS,
    BARE_ABBREVIATIONS,
    CURRENCIES,
    CUT_SHORT,
    DAYS,
    MONTHS,
    SIGNS,
    UNITS,
    UNITS_TH,
)
from thaitool.text.latin import latin_words, letter_names
from thaitool.text.numbers import (
    clock_words,
    colloquial_clock_words,
    digit_words,
    integer_words,
    money_words,
    number_words,
)
from thaitool.text.repetition import repeated

if TYPE_CHECKING:
    from collections.abc import Callable

    from thaitool.text.traced import Pieces

Rule = tuple[re.Pattern[str], "Callable[[re.Match[str]], Pieces]"]

_THAI = "ก-ฮะ-ฺเ-ๅ็-๎"
_NUMBER = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?"
_NO_DIGIT_BEFORE = r"(?<![\d.:,])"


def _longest_first(names: object) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))  # type: ignore[call-overload]


def _plain_letter(match: re.Match[str]) -> str:
    """Digits of any script as ASCII ones, full-width letters and signs as plain ones."""
    letter = match[0]
    return (
        str(unicodedata.digit(letter))
        if letter.isdecimal()
        else unicodedata.normalize("NFKC", letter)
    )


# --- addresses of the net ----------------------------------------------------------------------
_ADDRESS_SIGNS = {".": " จุด ", "@": " แอท ", "/": " ทับ ", "-": " ขีด ", "_": " ขีดล่าง ", ":": " "}


def _address(match: re.Match[str]) -> str:
    parts = re.split(r"([./@_:-])", re.sub("^https?://", "", match[0]).rstrip("/."))
    return "".join(_ADDRESS_SIGNS.get(part, part) for part in parts)


# --- dates -------------------------------------------------------------------------------------
def _date_words(day: str, month: str, year: str) -> str | None:
    if not (1 <= int(day) <= 31 and 1 <= int(month) <= 12):
        return None
    return f"{integer_words(int(day))} {MONTHS[int(month) - 1]} {integer_words(int(year))}"


def _date(match: re.Match[str]) -> Pieces:
    return _date_words(match["day"], match["month"], match["year"])


def _day_and_month(match: re.Match[str]) -> Pieces:
    if not (1 <= int(match[1]) <= 31 and 1 <= int(match[2]) <= 12):
        return None
    return ((f"{match[1]} ", 1), (MONTHS[int(match[2]) - 1], 2))


# --- clock -------------------------------------------------------------------------------------
def _clock_rules(words: Callable[[int, int, int], str]) -> tuple[Rule, ...]:
    end = r"(?:น\.?(?![" + _THAI + r"])|นาฬิกา)"
    time = r"(\d{1,2})[.:]([0-5]\d)"

    def one(match: re.Match[str]) -> Pieces:
        hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
        return words(hour, minute, second) if _is_time(hour, minute) else None

    def two(match: re.Match[str]) -> Pieces:
        hours, minutes = (int(match[1]), int(match[4])), (int(match[2]), int(match[5]))
        if not all(map(_is_time, hours, minutes)):
            return None
        return words(hours[0], minutes[0], 0) + "ถึง" + words(hours[1], minutes[1], 0)

    def hours_only(match: re.Match[str]) -> Pieces:
        return words(int(match[1]), 0, 0) if int(match[1]) <= 24 else None

    def half_day(match: re.Match[str]) -> Pieces:
        hour, minute = int(match[1]), int(match[2] or 0)
        if not 1 <= hour <= 12:
            return None
        return words(hour % 12 + (12 if match[3].lower() == "p" else 0), minute, 0)

    return (
        (re.compile(rf"{_NO_DIGIT_BEFORE}{time}(\s*)(?:-|–|ถึง)\s*{time}\s*{end}"), two),
        (re.compile(rf"{_NO_DIGIT_BEFORE}(\d{{1,2}})(?:[:.]([0-5]\d))?\s*([ap])\.?m\b\.?", re.IGNORECASE), half_day),
        (re.compile(rf"{_NO_DIGIT_BEFORE}(\d{{1,2}}):([0-5]\d)(?::([0-5]\d))?(?:\s*{end})?(?![\d:])"), one),
        (re.compile(rf"{_NO_DIGIT_BEFORE}(\d{{1,2}})\.([0-5]\d)()\s*{end}"), one),
        (re.compile(r"(?:(?<=เวลา)|(?<=เวลา ))(\d{1,2})\.([0-5]\d)()(?![\d.])"), one),
        (re.compile(rf"{_NO_DIGIT_BEFORE}(\d{{1,2}})\s*น\.(?![{_THAI}])"), hours_only),
    )  # fmt: skip


def _is_time(hour: int, minute: int) -> bool:
    return hour < 24 or (hour == 24 and minute == 0)


# --- numbers that are read digit by digit -------------------------------------------------------
_CODE_CUES = (
    "โทร|โทรศัพท์|เบอร์|เบอร์โทร|สายด่วน|แฟกซ์|ต่อ|รหัส|รหัสไปรษณีย์|รหัสผ่าน|เลขบัญชี|เลขที่บัญชี|บัญชีเลขที่|ทะเบียน"
    "|เลขทะเบียน|หมายเลข|พัสดุ|ตู้ ปณ|OTP|PIN|otp|pin|สายรถเมล์"
)


def _coded(match: re.Match[str]) -> Pieces:
    return ((match["cue"], 1), (_digit_groups(match["code"]), 2))


def _digit_groups(code: str) -> str:
    """Digits one by one, groups as written apart, a plus as word."""
    groups = re.split(r"[-\s]+", code)
    return " ".join("บวก" * group.startswith("+") + digit_words(group) for group in groups)


# --- money, percent, units ----------------------------------------------------------------------
_SIGN = _longest_first(CURRENCIES)
_SCALE = "พันล้าน|หมื่นล้าน|แสนล้าน|ล้านล้าน|ล้าน|แสน|หมื่น|พัน"


def _sign_first(match: re.Match[str]) -> str:
    name, part = CURRENCIES[match[1]]
    if match["scale"]:
        return f"{number_words(match[2])}{match['scale']}{name}"
    return money_words(match[2], name, part)


def _sign_last(match: re.Match[str]) -> Pieces:
    name, part = CURRENCIES.get(match[2], ("บาท", "สตางค์"))
    return money_words(match[1], name, part)


def _unit(match: re.Match[str]) -> str:
    unit = match[2]
    return match[1] + (UNITS.get(unit) or UNITS_TH[unit])


# --- fractions, scores, ranges -------------------------------------------------------------------
_ADDRESS_CUES = (
    "(?:เลขที่|ที่|บ้าน|มาตรา|คดี|ข้อ|ห้อง|ชั้น|อาคาร|ม\\.|ป\\.|อ\\.|หมู่|ซอย|ลงวันที่|ครั้งที่|ประกาศ|ฉบับที่)\\s*"
)


def _slashed(match: re.Match[str]) -> Pieces:
    above, below = int(match[2]), int(match[3])
    if match[1] is None and 0 < above < below <= 100:
        return (("เศษ", 2), (integer_words(above), 2), (f"ส่วน{integer_words(below)}", 3))
    return (*(((match[1], 1),) if match[1] else ()), (match[2], 2), (f"ทับ{match[3]}", 3))


def _vulgar_fraction(match: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKC", match[0]).split("\u2044")
    return f"เศษ{integer_words(int(above))}ส่วน{integer_words(int(below))}"


def _several_points(match: re.Match[str]) -> str:
    return "จุด".join(number_words(part) for part in match[0].split("."))


# --- letters with numbers -------------------------------------------------------------------------
_ROMAN = {"I": 1, "V": 5, "X": 10}


def _roman(match: re.Match[str]) -> str:
    values = [_ROMAN[letter] for letter in match[0]]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return integer_words(sum(-value if value < following else value for value, following in pairs))


def _letters_and_digits(match: re.Match[str]) -> Pieces:
    # TG103, A380: three digits and more behind letters are a code.
    digits = match[2]
    words = digit_words(digits) if len(digits) > 2 else number_words(digits)
    return ((f"{latin_words(match[1])} ", 1), (words, 2))


# --- abbreviations ---------------------------------------------------------------------------------
_DAY = _longest_first(DAYS)
#: Follow another abbreviation without a space: ศ.ดร.
_TITLES = ("ดร.", "นพ.", "พญ.", "น.พ.", "พ.ญ.", "ตร.")


#: These are read as abbreviations right behind Thai letters too: ปีพ.ศ., ที่กทม.
_ATTACHED = tuple(
    name
    for name in ABBREVIATIONS
    if name.count(".") > 1 or len(name) > 3 or name in ("ดร.", "กก.", "กม.")
)


def _abbreviation(match: re.Match[str]) -> Pieces:
    group = 1 if match[1] else 2
    return ((ABBREVIATIONS[match[group]], group), (ABBREVIATIONS[match[3]] if match[3] else "", 3))


#: Abbreviations without full stops, between characters that are not Thai.
BARE = re.compile(rf"(?<![{_THAI}])(?:{_longest_first(BARE_ABBREVIATIONS)})(?![{_THAI}])")


def _initials(match: re.Match[str]) -> str:
    """Letters with full stops that are in no table: ก.พ.ร. is read กอพอรอ."""
    return "".join(f"{letter}อ" for letter in match[0] if "ก" <= letter <= "ฮ")


def _grade(match: re.Match[str]) -> Pieces:
    return ((f"{match[1]}อ", 1), (match[2], 2))


# --- what is left -----------------------------------------------------------------------------------
def _sign(match: re.Match[str]) -> str:
    return f" {SIGNS[match[0]]} "


def _repetition(match: re.Match[str]) -> Pieces:
    words = repeated(match.string[: match.start()])
    if not words:
        return None
    return words + (" " if match.string[match.end() :].strip() else "")


def _unread(match: re.Match[str]) -> Pieces:
    """Punctuation, emoji and other signs become a pause; letters and their marks stay."""
    is_letter = unicodedata.category(match[0])[0] in "LM" and match[0] not in "ฯ๎ํ"
    return None if is_letter else " "


_FIRST: tuple[Rule, ...] = (
    (re.compile("[๐-๙\uff01-\uff5e]|(?![0-9])\\d"), _plain_letter),
    (re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\ufe00-\ufe0f]"), lambda _: ""),
    (re.compile(_longest_first(CUT_SHORT)), lambda m: CUT_SHORT[m[0]]),
    (re.compile(r"https?://[^\s" + _THAI + r"]+|[\w.+-]+@[\w-]+(?:\.[A-Za-z]{2,})+"
                r"|\b(?:[A-Za-z][\w-]*\.)+(?:com|net|org|co\.th|or\.th|go\.th|ac\.th|in\.th|io|ai|th)\b(?:/[\w/.-]*)?",
                re.ASCII), _address),
    (re.compile(r"(?<![\d/.-])(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})(?![\d/-])"), _date),
    (re.compile(r"(?<![\d/.-])(?P<day>\d{1,2})([/.-])(?P<month>\d{1,2})\2(?P<year>\d{4}|\d{2})(?![\d/-])"), _date),
    (re.compile(r"(?<=วันที่)(\s*\d{1,2})/(\d{1,2})(?![\d/])"), _day_and_month),
)  # fmt: skip

_AFTER_CLOCK: tuple[Rule, ...] = (
    (re.compile(r"()(?<![\d+])(?P<code>\+\d{1,3}[- ]\d{1,3}(?:[- ]\d{3,4}){1,2})(?!\d)"),
     lambda m: _digit_groups(m["code"])),
    (re.compile(r"(?<![\d,.-])0\d{1,2}[- ]\d{3,4}[- ]\d{3,4}(?![\d,])|(?<![\d,.-])1[5-9]\d{2}[- ]\d{3}[- ]\d{3}(?!\d)"),
     lambda m: _digit_groups(m[0])),
    (re.compile(rf"(?P<cue>(?:{_CODE_CUES})(?:\.|:|\s)*)(?P<code>\d{{3,}}(?:-\d+)*)(?![\d,.]*\d|\s*(?:บาท|คน|ครั้ง))"),
     _coded),
    (re.compile(r"(?<![\d,.])0\d+(?![\d,.]|\.\d)"), lambda m: digit_words(m[0])),
    (re.compile(rf"({_SIGN})\s*({_NUMBER})(?:\s*(?P<scale>{_SCALE}))?"), _sign_first),
    (re.compile(rf"({_NUMBER})\s*(บาท|{_SIGN}(?![A-Za-z]))"), _sign_last),
    (re.compile(rf"({_NUMBER})\s*\.-(?!\d)(?:\s*บาท)?"), lambda m: money_words(m[1], "บาท", "สตางค์")),
    (re.compile(r"(?<=\d)()\s*[%％]"), lambda _: "เปอร์เซ็นต์"),
    (re.compile(rf"(?<=\d)(\s?)({_longest_first(UNITS)})(?![A-Za-z0-9])"), _unit),
    (re.compile(rf"(?<=\d)(\s?)({_longest_first(UNITS_TH)})(?![{_THAI}])"), _unit),
    (re.compile("[¼-¾⅐-⅞]"), _vulgar_fraction),
    (re.compile(rf"(?:({_ADDRESS_CUES})|(?<![\d/.,]))(\d+)\s?/\s?(\d+)(?![\d/]|\.\d)"), _slashed),
    (re.compile(r"(?<![\d.,])\d+(?:\.\d+){2,}(?![\d,])"), _several_points),
    (re.compile(r"(?<=\d)(\s?)[xX×*](\s?)(?=\d)"), lambda m: f"{m[1]}คูณ{m[2]}"),
    (re.compile(r"(?<=\d)(\s?):(\s?)(?=\d)"), lambda m: f"{m[1]}ต่อ{m[2]}"),
    (re.compile(r"(?P<cue>(?:ชนะ|แพ้|เสมอ|สกอร์|ผล|นำ|ตาม)\s*)(?P<a>\d+)\s*[-–]\s*(?P<b>\d+)(?!\d)"),
     lambda m: ((m["cue"], 1), (m["a"], 2), (f"ต่อ{m['b']}", 3))),
    (re.compile(r"(?<=\d)(?:[-–—]|\s[-–—]\s|\s?~\s?)(?=\d)"), lambda _: "ถึง"),
    (re.compile(r"(?:(?<=[\s(])|^)[-−](?=\d)"), lambda _: "ลบ"),
    (re.compile(r"(?<=\d)\s-\s(?=\d)"), lambda _: "ถึง"),
    (re.compile(r"(?<=[ก-ฮ]\.)\s?[-–]\s?(?=\d)"), lambda _: " ถึง "),
    (re.compile(r"\^(?=-?\d)"), lambda _: "ยกกำลัง"),
    (re.compile(r"(?<=[A-Za-z])\s?&\s?(?=[A-Za-z])"), lambda _: " แอนด์ "),
    (re.compile(r"[~≈](?=\s?\d)"), lambda _: "ประมาณ"),
    (re.compile(r"<\s?(?=\d)"), lambda _: "น้อยกว่า"),
    (re.compile(r">\s?(?=\d)"), lambda _: "มากกว่า"),
    (re.compile(r"#(?=\d)"), lambda _: "หมายเลข"),
    (re.compile(r"(?<![A-Za-z\d.,])(\d+)(?:st|nd|rd|th)\b"), lambda m: f"ที่{integer_words(int(m[1]))}"),
    (re.compile(r"(?:(?<=ที่)|(?<=ที่ )|(?<=ภาค )|(?<=ภาค))[IVX]+(?![A-Za-z0-9.])"), _roman),
)  # fmt: skip

_LAST: tuple[Rule, ...] = (
    (re.compile(rf"(?<![{_THAI}])({_DAY})\s*[-–]\s*({_DAY})"),
     lambda m: ((DAYS[m[1]], 1), (f"ถึง{DAYS[m[2]]}", 2))),
    (re.compile(r"(?<![ก-๎])([ปม])\.\s?(\d)"), _grade),
    (re.compile(rf"(?:(?<![{_THAI}.])({_longest_first(ABBREVIATIONS)})|(?<!\.)({_longest_first(_ATTACHED)}))((?:{_longest_first(_TITLES)})?)(?![ก-ฮ]\.)"),
     _abbreviation),
    (re.compile(rf"(?<![{_THAI}])(?:[ก-ฮ]\.)+(?:[ก-ฮ](?![{_THAI}]))?"), _initials),
    (BARE, lambda m: BARE_ABBREVIATIONS[m[0]]),
    (re.compile(r"([A-Za-z]+)-?(\d+)(?![\d.,]*\d)"), _letters_and_digits),
    (re.compile(r"\b(?:[A-Za-z]\.){2,}"), lambda m: letter_names(m[0].replace(".", ""))),
    (re.compile("[A-Za-z\u00c0-\u024f]+(?:['’][A-Za-z]+)?"), lambda m: latin_words(m[0])),
    (re.compile(_NUMBER), lambda m: number_words(m[0])),
    (re.compile(_longest_first(SIGNS)), _sign),
    (re.compile(r"\s*ๆ[ๆ\s]*"), _repetition),
    (re.compile(rf"[^{_THAI}ๆ\s]"), _unread),
    # Once more: what was dropped may have joined one to other letters.
    (BARE, lambda m: BARE_ABBREVIATIONS[m[0]]),
    (re.compile(r"^\s+|\s+$"), lambda _: ""),
    (re.compile(r"\s+"), lambda _: " "),
)  # fmt: skip


def _official(hour: int, minute: int, second: int) -> str:
    return clock_words(hour, minute, second)


def _colloquial(hour: int, minute: int, second: int) -> str:
    return colloquial_clock_words(hour, minute) if not second else clock_words(hour, minute, second)


RULES = (*_FIRST, *_clock_rules(_official), *_AFTER_CLOCK, *_LAST)
RULES_COLLOQUIAL = (*_FIRST, *_clock_rules(_colloquial), *_AFTER_CLOCK, *_LAST)
