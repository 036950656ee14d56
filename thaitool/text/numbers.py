"""Thai words for numbers: counts, digits one by one, clock times, amounts of money.

It does not find numbers in a text (that is `thaitool.text.spoken`) and never goes through a float:
0.10 stays ศูนย์จุดหนึ่งศูนย์.
"""

from __future__ import annotations

DIGIT_WORDS = ("ศูนย์", "หนึ่ง", "สอง", "สาม", "สี่", "ห้า", "หก", "เจ็ด", "แปด", "เก้า")
_PLACES = ("", "สิบ", "ร้อย", "พัน", "หมื่น", "แสน")
#: Longer runs of digits than this are numbers of accounts or telephones, read digit by digit.
LONGEST_QUANTITY = 9


def integer_words(number: int) -> str:
    """A count of zero or more: 21 is ยี่สิบเอ็ด, 1,000,001 หนึ่งล้านเอ็ด."""
    if number == 0:
        return DIGIT_WORDS[0]
    millions, rest = divmod(number, 1_000_000)
    words = f"{integer_words(millions)}ล้าน" if millions else ""
    for place in range(5, -1, -1):
        digit = rest // 10**place % 10
        if digit == 0:
            continue
        if place == 1 and digit < 3:
            words += ("สิบ", "ยี่สิบ")[digit - 1]
        elif place == 0 and digit == 1 and number > 1:
            words += "เอ็ด"
        else:
            words += DIGIT_WORDS[digit] + _PLACES[place]
    return words


def digit_words(digits: str) -> str:
    """Digit by digit; what is no digit (spaces, hyphens) is left out."""
    return "".join(DIGIT_WORDS[int(digit)] for digit in digits if digit in "0123456789")


def number_words(number: str) -> str:
    """A number written with ASCII digits, perhaps with commas and decimals, in Thai words.

    A leading zero, or more digits than `LONGEST_QUANTITY` without commas, is read digit by digit.
    """
    whole, _, decimals = number.partition(".")
    grouped = "," in whole
    whole = whole.replace(",", "")
    is_code = len(whole) > 1 and whole[0] == "0"
    is_code = is_code or (len(whole) > LONGEST_QUANTITY and not grouped)
    words = digit_words(whole) if is_code else integer_words(int(whole))
    return f"{words}จุด{digit_words(decimals)}" if decimals else words


def clock_words(hour: int, minute: int, second: int = 0) -> str:
    """The official 24-hour reading: 19:30 is สิบเก้านาฬิกาสามสิบนาที."""
    words = f"{integer_words(hour)}นาฬิกา"
    words += f"{integer_words(minute)}นาที" if minute else ""
    return words + (f"{integer_words(second)}วินาที" if second else "")


def colloquial_clock_words(hour: int, minute: int) -> str:
    """The everyday reading in six-hour quarters: 19:30 is หนึ่งทุ่มครึ่ง, 14:00 บ่ายสองโมง."""
    hour %= 24
    past = "" if minute == 0 else "ครึ่ง" if minute == 30 else f"{integer_words(minute)}นาที"
    if hour in (0, 12):
        return ("เที่ยงคืน" if hour == 0 else "เที่ยง") + past
    if hour < 6:
        return f"ตี{integer_words(hour)}{past}"
    if hour > 18:
        return f"{integer_words(hour - 18)}ทุ่ม{past}"
    if hour in (13, 14, 15):
        return f"บ่าย{integer_words(hour - 12) if hour > 13 else ''}โมง{past}"
    # Only these hours exist twice, หกโมง in the morning and in the evening, so all say which.
    part = "เช้า" if hour < 12 else "เย็น"
    words = f"{integer_words(hour if hour < 12 else hour - 12)}โมง"
    return f"{words}{past}ตอน{part}" if past else words + part


def money_words(amount: str, unit: str, part: str) -> str:
    """An amount such as 1,250.50; two decimals are hundredths, called `part` (สตางค์, เซนต์).

    Other decimals, and any if `part` is empty, are read as decimals.
    """
    whole, _, decimals = amount.partition(".")
    if len(decimals) != 2 or not part:
        return f"{number_words(amount)}{unit}"
    hundredths = f"{integer_words(int(decimals))}{part}" if int(decimals) else ""
    is_needed = int(whole.replace(",", "")) > 0 or not hundredths
    return (f"{number_words(whole)}{unit}" if is_needed else "") + hundredths
