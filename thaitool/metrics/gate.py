"""A metric's own examination, passed before its numbers are believed: six kinds of answers.

An answer may be the reference itself, a paraphrase, an unrelated sentence, the reference looped,
the same with Thai digits, or the same with another tone. A metric that cannot put these in order
measures something else. It says nothing about how well a metric agrees with people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thaitool.errors import InputError

#: A metric of a whole list: references, predictions -> one number.
Measure = Callable[[Sequence[str], Sequence[str]], float]

KINDS = ("identical", "paraphrase", "unrelated", "repeated", "number format", "tone")
# Reference, paraphrase, unrelated, Thai digits, another tone. Written for this purpose.
_CASES = (
    ("พรุ่งนี้เช้าประชุม 9 โมงที่ห้องใหญ่", "พรุ่งนี้มีประชุมตอนเช้า 9 โมงที่ห้องใหญ่",
     "แมวตัวนั้นชอบกินปลาย่าง", "พรุ่งนี้เช้าประชุม ๙ โมงที่ห้องใหญ่", "พรุ่งนี้เช้าประชุม 9 โม่งที่ห้องใหญ่"),
    ("ช่วยอ่านข่าวเศรษฐกิจ 3 ข่าวให้ฟัง", "อ่านข่าวเศรษฐกิจให้ฟังสัก 3 ข่าว",
     "ฝนตกหนักทางภาคใต้เมื่อคืน", "ช่วยอ่านข่าวเศรษฐกิจ ๓ ข่าวให้ฟัง", "ช่วยอ่านข้าวเศรษฐกิจ 3 ข้าวให้ฟัง"),
    ("ค่าไฟเดือนนี้ 1250 บาท", "เดือนนี้ต้องจ่ายค่าไฟ 1250 บาท",
     "เขาเรียนดนตรีอยู่ที่เชียงใหม่", "ค่าไฟเดือนนี้ ๑๒๕๐ บาท", "ค้าไฟเดือนนี้ 1250 บาท"),
    ("ยายปลูกต้นมะม่วงไว้ 12 ต้น", "ยายมีต้นมะม่วงที่ปลูกไว้ 12 ต้น",
     "รถไฟฟ้าขัดข้องช่วงเย็น", "ยายปลูกต้นมะม่วงไว้ ๑๒ ต้น", "ย้ายปลูกต้นมะม่วงไว้ 12 ต้น"),
    ("ร้านนี้ปิดตอน 4 ทุ่ม", "ร้านนี้เปิดถึง 4 ทุ่มแล้วก็ปิด",
     "หนังสือเล่มนั้นยังอ่านไม่จบ", "ร้านนี้ปิดตอน ๔ ทุ่ม", "ร้านนี่ปิดตอน 4 ทุ่ม"),
    ("โทรหาหมอที่เบอร์ 1669 ด้วย", "ช่วยโทรหาหมอที่เบอร์ 1669 หน่อย",
     "ตลาดนัดวันอาทิตย์คนเยอะมาก", "โทรหาหมอที่เบอร์ ๑๖๖๙ ด้วย", "โทรหาหม้อที่เบอร์ 1669 ด้วย"),
)  # fmt: skip
_LEAST_NUMBER_FORMAT = 0.5
_LESS_THAN_IDENTICAL = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Bar:
    """How high the bar is. Places are on the metric's own scale, 0 for unrelated answers, 1 for identical ones."""

    tolerance: float
    """How far the value of identical texts may be from the best one."""
    least_range: float
    """Between identical and unrelated answers, in the unit of the metric."""
    least_paraphrase: float
    """Place of paraphrases."""
    paraphrase_is_right: bool
    """Whether a paraphrase may be as good as the same words: to a judge of meaning, not to a measure of likeness."""


#: For a likeness or an error rate.
LIKENESS = Bar(1e-3, 0.05, 0.1, False)
#: For marks from 1 to 5 for meaning: at least a 4 for identical answers, as canaries want, and half the scale for
#: the range.
MARKS = Bar(1.0, 2.0, 0.5, True)


@dataclass(frozen=True, slots=True)
class GateRow:
    """How a metric saw one kind of answer."""

    kind: str
    value: float
    """The metric itself."""
    place: float
    """0 as bad as unrelated answers, 1 as good as identical ones."""
    passed: bool
    wanted: str


def gate(measure: Measure, *, best: float, bar: Bar = LIKENESS) -> tuple[GateRow, ...]:
    """Examine a metric whose value for identical texts is `best` (0 for an error rate).

    Whether high or low is better follows from the values for identical and unrelated answers.
    """
    return placed([float(measure(*pair)) for pair in gate_pairs()], best=best, bar=bar)


def gate_pairs() -> tuple[tuple[list[str], list[str]], ...]:
    """References and answers of each of `KINDS`."""
    gold = [case[0] for case in _CASES]
    answers = (
        gold,
        [case[1] for case in _CASES],
        [case[2] for case in _CASES],
        [" ".join([text] * 3) for text in gold],
        [case[3] for case in _CASES],
        [case[4] for case in _CASES],
    )
    return tuple((gold, told) for told in answers)


def placed(values: Sequence[float], *, best: float, bar: Bar) -> tuple[GateRow, ...]:
    """The value of each of `KINDS` beside what is wanted; what could not be measured is NaN, and fails."""
    identical, unrelated = values[0], values[2]
    span = identical - unrelated
    places = [(value - unrelated) / span if span else 0.0 for value in values]
    passed = (
        abs(identical - best) <= bar.tolerance * (1 + 1e-9),
        bar.least_paraphrase <= places[1]
        and (bar.paraphrase_is_right or places[1] < _LESS_THAN_IDENTICAL),
        abs(span) >= bar.least_range,
        places[3] < _LESS_THAN_IDENTICAL,
        places[4] >= _LEAST_NUMBER_FORMAT,
        places[5] < _LESS_THAN_IDENTICAL,
    )
    least = f"a place of at least {bar.least_paraphrase:g}"
    wanted = (
        f"{best:g}" if bar.tolerance < 0.01 else f"{best:g}, give or take {bar.tolerance:g}",
        least if bar.paraphrase_is_right else f"{least} and below 1",
        f"at least {bar.least_range:g} from identical",
        "a place below 1",
        f"a place of at least {_LEAST_NUMBER_FORMAT:g}",
        "a place below 1",
    )
    rows = zip(KINDS, values, places, passed, wanted, strict=True)
    return tuple(GateRow(*row) for row in rows)


def failures_of(rows: Sequence[GateRow]) -> str:
    """The kinds that failed, with their numbers; empty if none did."""
    if not any(math.isfinite(row.value) for row in rows):
        return "no kind of answer could be measured"
    return "; ".join(
        f"{row.kind}: {row.value:.4g} (place {row.place:.3g}; wanted {row.wanted})"
        for row in rows
        if not row.passed
    )


def require_gate(name: str, measure: Measure, *, best: float) -> tuple[GateRow, ...]:
    """As `gate`.

    Raises:
        InputError: the metric fails a kind; the message gives every failure with its number.
    """
    rows = gate(measure, best=best)
    if failures := failures_of(rows):
        raise InputError(
            f"The metric {name} must tell Thai answers apart before it is used, but fails "
            f"{sum(not row.passed for row in rows)} of {len(rows)} kinds: {failures}. Use another "
            "embedder, judge or normaliser."
        )
    return rows
