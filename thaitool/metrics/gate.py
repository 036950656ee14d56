"""A metric's own examination, passed before its numbers are believed: six kinds of answers.

An answer may be the reference itself, a paraphrase, an unrelated sentence, the reference looped,
the same with Thai digits, or the same with another tone. A metric that cannot put these in order
measures something else. It says nothing about how well a metric agrees with people.
"""

from __future__ import annotations

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
# Places on the metric's own scale, 0 for unrelated answers and 1 for identical ones.
_LEAST_RANGE = 0.05
_LEAST_PARAPHRASE = 0.1
_LEAST_NUMBER_FORMAT = 0.5
_LESS_THAN_IDENTICAL = 1 - 1e-6


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


def gate(measure: Measure, *, best: float) -> tuple[GateRow, ...]:
    """Examine a metric whose value for identical texts is `best` (0 for an error rate).

    Whether high or low is better follows from the values for identical and unrelated answers.
    """
    gold = [case[0] for case in _CASES]
    answers = (
        gold,
        [case[1] for case in _CASES],
        [case[2] for case in _CASES],
        [" ".join([text] * 3) for text in gold],
        [case[3] for case in _CASES],
        [case[4] for case in _CASES],
    )
    values = [float(measure(gold, told)) for told in answers]
    identical, unrelated = values[0], values[2]
    span = identical - unrelated
    places = [(value - unrelated) / span if span else 0.0 for value in values]
    passed = (
        abs(identical - best) <= 1e-3 * max(1.0, abs(best)),
        _LEAST_PARAPHRASE <= places[1] < _LESS_THAN_IDENTICAL,
        abs(span) >= _LEAST_RANGE,
        places[3] < _LESS_THAN_IDENTICAL,
        places[4] >= _LEAST_NUMBER_FORMAT,
        places[5] < _LESS_THAN_IDENTICAL,
    )
    wanted = (
        f"{best:g}",
        f"a place of at least {_LEAST_PARAPHRASE:g} and below 1",
        f"at least {_LEAST_RANGE:g} from identical",
        "a place below 1",
        f"a place of at least {_LEAST_NUMBER_FORMAT:g}",
        "a place below 1",
    )
    rows = zip(KINDS, values, places, passed, wanted, strict=True)
    return tuple(GateRow(*row) for row in rows)


def require_gate(name: str, measure: Measure, *, best: float) -> tuple[GateRow, ...]:
    """As `gate`.

    Raises:
        InputError: the metric fails a kind; the message gives every failure with its number.
    """
    rows = gate(measure, best=best)
    failures = [
        f"{row.kind}: {row.value:.4g} (place {row.place:.3g}; wanted {row.wanted})"
        for row in rows
        if not row.passed
    ]
    if failures:
        raise InputError(
            f"The metric {name} must tell Thai answers apart before it is used, but fails "
            f"{len(failures)} of {len(rows)} kinds: {'; '.join(failures)}. Use another embedder, "
            "judge or normaliser."
        )
    return rows
