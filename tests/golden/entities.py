"""Pairs of entity labels, worked by hand: the specification of reading and matching.

A row is (what it is about, reference, prediction, matched, gold, predicted, matched by type alone,
sum of character distances). The three counts are "PLOG": one digit each for PER, LOC, ORG, OTH;
predicted is "-" for an answer that cannot be read. The sentences are the author's own.
"""

from __future__ import annotations

import json

Row = tuple[str, str, str, str, str, str, int, float]


def four(per: str = "", loc: str = "", org: str = "", oth: str = "") -> str:
    """The published JSON object; surfaces of a type are parted by a vertical line."""
    lists = [[s for s in text.split("|") if s] for text in (per, loc, org, oth)]
    keys = ("บุคคล", "สถานที่", "องค์กร", "อื่นๆ")
    return json.dumps(dict(zip(keys, lists, strict=True)), ensure_ascii=False)


def bio(text: str, separator: str = "\t") -> str:
    """Lines "token TAG" from "token/TAG token/TAG"."""
    return "\n".join(separator.join(item.rsplit("/", 1)) for item in text.split(" "))


MATCHING: tuple[Row, ...] = (
    ("one person", four("สมชาย"), four("สมชาย"), "1000", "1000", "1000", 1, 0),
    ("one place", four(loc="ชลบุรี"), four(loc="ชลบุรี"), "0100", "0100", "0100", 1, 0),
    ("one organisation", four(org="ปตท"), four(org="ปตท"), "0010", "0010", "0010", 1, 0),
    ("one other", four(oth="สงกรานต์"), four(oth="สงกรานต์"), "0001", "0001", "0001", 1, 0),
    ("one of each", four("มะลิ", "ตรัง", "ธกส", "ลอยกระทง"), four("มะลิ", "ตรัง", "ธกส", "ลอยกระทง"),
     "1111", "1111", "1111", 4, 0),
    ("none at all", four(), four(), "0000", "0000", "0000", 0, 0),
    ("missed", four("สมชาย"), four(), "0000", "1000", "0000", 0, 0),
    ("invented", four(), four("สมชาย"), "0000", "0000", "1000", 0, 0),
    ("wrong type", four("สมชาย"), four(loc="สมชาย"), "0000", "1000", "0100", 0, 0),
    ("wrong surface", four("กขคง"), four("กขคจ"), "0000", "1000", "1000", 1, 0.25),
    ("nothing in common", four("กข"), four("คง"), "0000", "1000", "1000", 1, 1),
    ("prefix", four("กขคง"), four("กข"), "0000", "1000", "1000", 1, 0.5),
    ("longer", four("กข"), four("กขคง"), "0000", "1000", "1000", 1, 0.5),
    ("tone differs", four(loc="บ้าน"), four(loc="บาน"), "0000", "0100", "0100", 1, 0.25),
    ("title included", four("ดรมะลิ"), four("มะลิ"), "0000", "1000", "1000", 1, 2 / 6),
    ("two, one found", four("มะลิ|กล้า"), four("กล้า"), "1000", "2000", "1000", 1, 0),
    ("two, order exchanged", four("มะลิ|กล้า"), four("กล้า|มะลิ"), "2000", "2000", "2000", 2, 0),
    ("twice, found twice", four("กข|กข"), four("กข|กข"), "2000", "2000", "2000", 2, 0),
    ("twice, found once", four("กข|กข"), four("กข"), "1000", "2000", "1000", 1, 0),
    ("once, told twice", four("กข"), four("กข|กข"), "1000", "1000", "2000", 1, 0),
    ("once, told thrice", four("กข"), four("กข|กข|กข"), "1000", "1000", "3000", 1, 0),
    ("one right, one wrong", four("กข|คง"), four("กข|จฉ"), "1000", "2000", "2000", 2, 1),
    ("closest pair first", four("กขคง|กขจฉ"), four("กขจง|กขจฉ"), "1000", "2000", "2000", 2, 0.25),
    ("split in two", four(loc="กขคง"), four(loc="กข|คง"), "0000", "0100", "0200", 1, 0.5),
    ("two made one", four(loc="กข|คง"), four(loc="กขคง"), "0000", "0200", "0100", 1, 0.5),
    ("type by type", four("กข", "คง"), four("คง", "กข"), "0000", "1100", "1100", 2, 2),
    ("same surface, two types", four("กข", "กข"), four("กข", "กข"), "1100", "1100", "1100", 2, 0),
    ("same surface, one type told", four("กข", "กข"), four("กข"), "1000", "1100", "1000", 1, 0),
    ("all in one key", four("กข", "คง", "จฉ"), four("กข|คง|จฉ"), "1000", "1110", "3000", 1, 0),
    ("everything missed", four("กข", "คง", "จฉ", "ชซ"), four(), "0000", "1111", "0000", 0, 0),
    ("everything invented", four(), four("กข", "คง", "จฉ", "ชซ"), "0000", "0000", "1111", 0, 0),
    ("three of four", four("กข", "คง", "จฉ", "ชซ"), four("กข", "คง", "จฉ"), "1110", "1111", "1110",
     3, 0),
    ("one too many", four("กข"), four("กข", "คง"), "1000", "1000", "1100", 1, 0),
)  # fmt: skip

SPELLING: tuple[Row, ...] = (
    ("space inside", four("สมชาย"), four("สม ชาย"), "1000", "1000", "1000", 1, 0),
    ("space in the reference", four("สม ชาย"), four("สมชาย"), "1000", "1000", "1000", 1, 0),
    ("decomposed sara am", four(loc="น้ำ"), four(loc="น\u0e49\u0e4d\u0e32"), "0100", "0100", "0100",
     1, 0),
    ("two sara e", four("แดง"), four("เเดง"), "1000", "1000", "1000", 1, 0),
    ("order of marks", four(loc="ที่"), four(loc="ท\u0e48\u0e35"), "0100", "0100", "0100", 1, 0),
    ("zero width", four("มะลิ"), four("มะ\u200bลิ"), "1000", "1000", "1000", 1, 0),
    ("Thai digits", four(oth="ปี2567"), four(oth="ปี๒๕๖๗"), "0001", "0001", "0001", 1, 0),
    ("Latin case", four(org="ptt"), four(org="PTT"), "0010", "0010", "0010", 1, 0),
    ("stops", four(org="ปตท"), four(org="ป.ต.ท."), "0010", "0010", "0010", 1, 0),
    ("quotes", four("มะลิ"), four("“มะลิ”"), "1000", "1000", "1000", 1, 0),
    ("paiyannoi is a letter", four(loc="กทมฯ"), four(loc="กทม"), "0000", "0100", "0100", 1, 0.25),
    ("line end inside", four("สมชาย"), four("สม\r\nชาย"), "1000", "1000", "1000", 1, 0),
    ("tone pair", four("ข่าว"), four("ข้าว"), "0000", "1000", "1000", 1, 0.25),
    ("hyphen", four(org="ทีโอที"), four(org="ที-โอ-ที"), "0010", "0010", "0010", 1, 0),
    ("byte order mark", four("มะลิ"), "\ufeff" + four("มะลิ"), "1000", "1000", "1000", 1, 0),
    ("spaces around", four("มะลิ"), "\r\n  " + four("มะลิ") + " \n", "1000", "1000", "1000", 1, 0),
    ("repetition is heard", four("นกๆ"), four("นก"), "0000", "1000", "1000", 1, 1 / 3),
    ("escaped JSON", four("มะลิ"), json.dumps({"บุคคล": ["มะลิ"]}), "1000", "1000", "1000", 1, 0),
)  # fmt: skip

M = four("มะลิ")
ML = four("มะลิ", "ตรัง")
OBJECTS: tuple[Row, ...] = (
    ("keys of the table", M, '{"PER": ["มะลิ"]}', "1000", "1000", "1000", 1, 0),
    ("keys in lower case", M, '{"per": ["มะลิ"]}', "1000", "1000", "1000", 1, 0),
    ("long keys", ML, '{"PERSON": ["มะลิ"], "LOCATION": ["ตรัง"]}', "1100", "1100", "1100", 2, 0),
    ("long keys, organisation", four(org="ธกส"), '{"ORGANIZATION": ["ธกส"]}', "0010", "0010", "0010",
     1, 0),
    ("other", four(oth="ไข่เจียว"), '{"OTHER": ["ไข่เจียว"]}', "0001", "0001", "0001", 1, 0),
    ("MISC is other", four(oth="ไข่เจียว"), '{"MISC": ["ไข่เจียว"]}', "0001", "0001", "0001", 1, 0),
    ("DATE is other", four(oth="วันจันทร์"), '{"DATE": ["วันจันทร์"]}', "0001", "0001", "0001", 1, 0),
    ("unknown Thai key is other", four(oth="กข"), '{"อาหาร": ["กข"]}', "0001", "0001", "0001", 1, 0),
    ("a key missing", ML, '{"บุคคล": ["มะลิ"], "สถานที่": ["ตรัง"]}', "1100", "1100", "1100", 2, 0),
    ("a key twice", four("กข|คง"), '{"PER": ["กข"], "PER": ["คง"]}', "2000", "2000", "2000", 2, 0),
    ("a key in two languages", four("กข|คง"), '{"PER": ["กข"], "บุคคล": ["คง"]}', "2000", "2000",
     "2000", 2, 0),
    ("keys in another order", ML, '{"สถานที่": ["ตรัง"], "บุคคล": ["มะลิ"]}', "1100", "1100", "1100",
     2, 0),
    ("space around a key", M, '{" บุคคล ": ["มะลิ"]}', "1000", "1000", "1000", 1, 0),
    ("empty object", M, "{}", "0000", "1000", "0000", 0, 0),
    ("empty object is no entities", "{}", four(), "0000", "0000", "0000", 0, 0),
    ("empty lists", "{}", '{"บุคคล": [], "อื่นๆ": []}', "0000", "0000", "0000", 0, 0),
)  # fmt: skip

LISTS: tuple[Row, ...] = (
    ("objects with text", M, '[{"type": "PER", "text": "มะลิ"}]', "1000", "1000", "1000", 1, 0),
    ("objects with surface", M, '[{"surface": "มะลิ", "type": "PER"}]', "1000", "1000", "1000", 1, 0),
    ("objects with a Thai type", M, '[{"type": "บุคคล", "text": "มะลิ"}]', "1000", "1000", "1000", 1, 0),
    ("pairs", ML, '[["PER", "มะลิ"], ["LOC", "ตรัง"]]', "1100", "1100", "1100", 2, 0),
    ("pairs, Thai types", ML, '[["บุคคล", "มะลิ"], ["สถานที่", "ตรัง"]]', "1100", "1100", "1100", 2, 0),
    ("a surface like a tag", four("O"), '[["PER", "O"]]', "1000", "1000", "1000", 1, 0),
    ("texts", ML, '["PER: มะลิ", "LOC: ตรัง"]', "1100", "1100", "1100", 2, 0),
    ("mixed", ML, '[["PER", "มะลิ"], "LOC: ตรัง"]', "1100", "1100", "1100", 2, 0),
    ("empty list", "[]", "[]", "0000", "0000", "0000", 0, 0),
    ("lines", ML, "PER: มะลิ\nLOC: ตรัง", "1100", "1100", "1100", 2, 0),
    ("lines with CRLF", ML, "PER: มะลิ\r\nLOC: ตรัง\r\n", "1100", "1100", "1100", 2, 0),
    ("lines in Thai", ML, "บุคคล: มะลิ\nสถานที่: ตรัง", "1100", "1100", "1100", 2, 0),
    ("a line of an unknown type", four(oth="กข"), "FOOD: กข", "0001", "0001", "0001", 1, 0),
    ("blank lines", ML, "\nPER: มะลิ\n\nLOC: ตรัง\n", "1100", "1100", "1100", 2, 0),
    ("a colon in the surface", four(oth="กข"), "OTH: ก:ข", "0001", "0001", "0001", 1, 0),
)  # fmt: skip

NAME = four("สมชาย")
TAGS: tuple[Row, ...] = (
    ("one token", NAME, bio("สมชาย/B-PER ไป/O"), "1000", "1000", "1000", 1, 0),
    ("two tokens", NAME, bio("สม/B-PER ชาย/I-PER ไป/O"), "1000", "1000", "1000", 1, 0),
    ("parted by spaces", NAME, bio("สม/B-PER ชาย/I-PER", "  "), "1000", "1000", "1000", 1, 0),
    ("as the reference", bio("สม/B-PER ชาย/I-PER"), NAME, "1000", "1000", "1000", 1, 0),
    ("all outside", NAME, bio("สม/O ชาย/O"), "0000", "1000", "0000", 0, 0),
    ("two entities side by side", four("สม|ชาย"), bio("สม/B-PER ชาย/B-PER"), "2000", "2000", "2000",
     2, 0),
    ("inside without begin", NAME, bio("สม/I-PER ชาย/I-PER"), "1000", "1000", "1000", 1, 0),
    ("inside after outside", four("ชาย"), bio("สม/O ชาย/I-PER"), "1000", "1000", "1000", 1, 0),
    ("inside of another type", four("สม", "ชาย"), bio("สม/B-PER ชาย/I-LOC"), "1100", "1100", "1100",
     2, 0),
    ("inside after another's end", four("สม|ชาย"), bio("สม/B-PER ไป/O ชาย/I-PER"), "2000", "2000",
     "2000", 2, 0),
    ("long type names", NAME, bio("สม/B-PERSON ชาย/I-PERSON"), "1000", "1000", "1000", 1, 0),
    ("types that become other stay apart", four(oth="กข|คง"), bio("กข/B-DATE คง/I-TIME"), "0002",
     "0002", "0002", 2, 0),
    ("blank lines between", NAME, "สม\tB-PER\nชาย\tI-PER\n\n", "1000", "1000", "1000", 1, 0),
    ("CRLF", NAME, "สม\tB-PER\r\nชาย\tI-PER\r\n", "1000", "1000", "1000", 1, 0),
    ("a space is a token", NAME, "สม\tB-PER\n \tI-PER\nชาย\tI-PER", "1000", "1000", "1000", 1, 0),
    ("an empty token", NAME, "\tO\nสม\tB-PER\n\tI-PER\nชาย\tI-PER", "1000", "1000", "1000", 1, 0),
    ("cut short", NAME, bio("สม/B-PER ชาย/O"), "0000", "1000", "1000", 1, 0.6),
    ("pairs in JSON", NAME, '[["สม", "B-PER"], ["ชาย", "I-PER"], ["ไป", "O"]]', "1000", "1000", "1000",
     1, 0),
    ("tokens and tags", NAME, '{"tokens": ["สม", "ชาย"], "tags": ["B-PER", "I-PER"]}', "1000", "1000",
     "1000", 1, 0),
    ("tokens and tags, none", NAME, '{"tokens": ["สม"], "tags": ["O"]}', "0000", "1000", "0000", 0, 0),
    ("Latin tokens", four(loc="new york"), bio("New/B-LOC York/I-LOC"), "0100", "0100", "0100", 1, 0),
)  # fmt: skip

UNREADABLE: tuple[Row, ...] = tuple(
    (f"unreadable: {what}", NAME, answer, "0000", "1000", "-", 0, 0)
    for what, answer in (
        ("nothing", ""),
        ("a refusal", "ไม่มี"),
        ("a sentence", "สมชายไปชลบุรี"),
        ("a sentence with a colon", "คำตอบ: สมชาย"),
        ("cut off", '{"บุคคล": ["สมชาย"'),
        ("a text for a list", '{"บุคคล": "สมชาย"}'),
        ("a number", '{"บุคคล": [1]}'),
        ("an empty surface", '{"บุคคล": [""]}'),
        ("a fence", "```json\n" + NAME + "\n```"),
        ("words before", "ได้แก่ " + NAME),
        ("a nested object", '{"บุคคล": {"ชื่อ": "สมชาย"}}'),
        ("only a type", "PER:"),
        ("a tag that is none", '{"tokens": ["สม"], "tags": ["PER"]}'),
        ("fewer tags than tokens", '{"tokens": ["สม", "ชาย"], "tags": ["B-PER"]}'),
    )
)

ROWS: tuple[Row, ...] = (*MATCHING, *SPELLING, *OBJECTS, *LISTS, *TAGS, *UNREADABLE)
