"""What a careless language model might say to the questions of `synth`: Thai by rule, with labels that get lost.

The Thai of an English name depends on its letters alone, so that whoever knows the English label knows the Thai one.
It understands nothing: other words are replaced by words of a list, and it cannot label: who asks it for labels gets
JSON of another form, even after a repair. `tests.stand_in` serves it.
"""

from __future__ import annotations

import re
from typing import Any

from tests.stand_in import MARKED, OPENINGS
from thaitool.synth.draws import draw, pick

WORDS = (
    "บ้าน", "น้ำ", "รถ", "เพลง", "ข้าว", "เมือง", "วันนี้", "ถนน", "หนังสือ", "ดอกไม้", "แม่น้ำ", "ตลาด", "ช่วย", "เปิด",
    "หา", "ไป", "มา", "กับ", "ที่", "ใหม่", "เล็ก", "ใหญ่", "ดู", "ฟัง", "อยาก", "ร้าน", "โรงเรียน", "พรุ่งนี้", "เมื่อวาน", "สวย",
    "เร็ว", "ช้า", "ฝน", "แดด", "ลม", "ทะเล", "ภูเขา", "เพื่อน", "ครู", "เด็ก",
)  # fmt: skip
#: Of these a name is made; read aloud, none of them needs its neighbour.
SYLLABLES = (
    "มา", "นี", "โก", "ทอม", "วิน", "ลา", "เจน", "พอล", "ริก", "ซา", "โต", "เบน", "คิม", "ดา", "เม", "สัน", "ตัน", "โร",
    "แดน", "ลี",
)  # fmt: skip
#: Ways in which brackets do not come through.
BREAKS = ("lost", "bare", "doubled", "foreign", "empty", "half", "english")
#: Of broken answers, how many are as broken after the repair turn; and of those without brackets, how many are wrong.
STUBBORN, CARELESS = 0.5, 0.4
#: Of sentences, how many the filter answers at random: a good one is unnatural, a bad one passes.
DOZING = 0.05
#: Of variants, how many have lost a bracket, are in Thai, or repeat the sentence.
SPOILT = 0.06

#: Intents by the letters of their sentences: the filter's question says one, and only who wrote the variants knows.
_INTENTS: dict[str, str] = {}


def letters_of(text: str) -> str:
    """What is left of English when case, spaces, signs and letters outside ASCII do not count."""
    return "".join(re.findall(r"[a-z0-9]", text.casefold()))


def thai_name(name: str) -> str:
    """A name of three syllables for an English one; 8,000 differ."""
    key = letters_of(name)
    return "".join(pick(SYLLABLES, "name", key, n) for n in range(3))


def answer(content: str, *, repaired: bool, markers: float) -> dict[str, Any]:
    """See `tests.stand_in.answer`; `markers` is the share of sentences whose brackets do not come through."""
    if '"meaning"' in content:
        return _verdict(content)
    text = _field(content, "Sentence", "(?:Intent:|Names in it:|\n)")
    if '"variants"' in content:
        wanted = re.search(r"Write (\d+) variants", content)
        variants = [_variant(text, n) for n in range(int(wanted[1]) if wanted else 0)]
        for said in (text, *variants):
            _INTENTS[letters_of(said)] = _field(content, "Intent", "\n")
        return {"variants": variants}
    if '"names"' in content:
        return _without_brackets(text, dict(re.findall(r"^(\d+): (.*)$", content, re.MULTILINE)))
    said = _said(text)
    plain = MARKED.sub(r"\2", said)
    if _is_so(markers, "break", text) and not (repaired and not _is_so(STUBBORN, "stubborn", text)):
        said = _broken(said, text, pick(BREAKS, "kind", text))
    return {"spoken": said, "written": f"โปรด{plain}"}


def _field(content: str, name: str, following: str) -> str:
    """What stands behind `name:`, be it several lines, up to the line that begins with `following`."""
    found = re.search(rf"^{name}: (.*?)\n{following}", content, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _verdict(content: str) -> dict[str, bool]:
    """Of a filter that knows what was said and named, but for its share of wrong answers."""
    original, thai = _field(content, "Original", "Thai:"), _field(content, "Thai", "Intent:")
    intent = _field(content, "Intent", "Names")
    names_said = _field(content, "Names in the Thai sentence", "\n")
    names = dict(MARKED.findall(original))
    said = [MARKED.sub(r"\2", _said(original))]
    if names:
        said.append(_without_brackets(MARKED.sub(r"\2", original), names)["spoken"])
    listed = [n.partition(" ")[2] for n in names_said.split("; ") if n != "(none)"]
    right = {
        "meaning": thai in said,
        "natural": True,
        "label": _INTENTS.get(letters_of(original), intent) == intent
        and sorted(listed) == sorted(thai_name(name) for name in names.values()),
    }
    if _is_so(DOZING, "dozing", original, thai):
        return {**dict.fromkeys(right, True), "natural": not all(right.values())}
    return right


def _is_so(share: float, *what: str | int) -> bool:
    return draw(*what) % 10_000 < 10_000 * share


def _variant(text: str, number: int) -> str:
    if _is_so(SPOILT, "spoilt", text, number):
        spoilt = (MARKED.sub("", text, count=1), "ช่วยหน่อย", text)
        return pick(spoilt, "how", text, number)
    return f"{OPENINGS[number]} {text}"


def _said(text: str) -> str:
    """Names in their brackets, where they stood; at most four words between two of them."""
    start = next((n for n, o in enumerate(OPENINGS) if text.startswith(f"{o} ")), None)
    # Variants are worded differently in Thai too.
    parts, position = [] if start is None else [pick(WORDS, "start", start, n) for n in range(4)], 0
    for match in [*MARKED.finditer(text), None]:
        words = text[position : match.start() if match else len(text)].split()[:4]
        parts += [pick(WORDS, "word", word.casefold()) for word in words]
        if match is not None:
            parts.append(f"[{match[1]}|{thai_name(match[2])}]")
            position = match.end()
    return "".join(parts)


def _broken(said: str, text: str, kind: str) -> str:
    if kind == "english":
        return text
    brackets = list(MARKED.finditer(said))
    if not brackets:
        return f"{said} [1|{SYLLABLES[0]}]"
    match = pick(brackets, "which", text)
    instead = {
        "lost": "",
        "bare": match[2],
        "doubled": match[0] * 2,
        "foreign": f"{match[0]}[{int(match[1]) + 70}|{match[2]}]",
        "empty": f"[{match[1]}|]",
        "half": f"[{match[1]}|{match[2]}",
    }[kind]
    return said[: match.start()] + instead + said[match.end() :]


def _without_brackets(text: str, names: dict[str, str]) -> dict[str, Any]:
    thai = {number: thai_name(name) for number, name in names.items()}
    said = "".join(pick(WORDS, "word", word.casefold()) for word in text.split()[:6])
    said += "กับ".join(thai.values())
    if _is_so(CARELESS, "careless", text):
        number = pick(sorted(thai), "wrong", text)
        # Another spelling than in the sentence, or a name that stands there twice.
        if draw("how wrong", text) % 2:
            thai[number] = thai[number][:-1] + "์"
        else:
            said += thai[number]
    return {"spoken": said, "written": f"โปรด{said}", "names": thai}
