"""Tricky pairs of Thai text, worked by hand: the specification of `thai-v1` and of the headline CER.

A row is (what it is about, reference, prediction, `normalize(prediction)`, edits, characters of the
reference), the last two without spaces. Code points are written out where print does not show them.
"""

from __future__ import annotations

# Order of the columns is as above; edits 0 means: the same text, typed differently.
Row = tuple[str, str, str, str, int, int]

SARA_AM: tuple[Row, ...] = (
    ("nikhahit + aa", "คำ", "ค\u0e4d\u0e32", "ค\u0e33", 0, 2),
    ("nikhahit + aa in the reference", "ค\u0e4d\u0e32", "คำ", "ค\u0e33", 0, 2),
    ("both decomposed", "ท\u0e4d\u0e32", "ท\u0e4d\u0e32", "ท\u0e33", 0, 2),
    ("tone, nikhahit, aa", "น้ำ", "น\u0e49\u0e4d\u0e32", "น\u0e49\u0e33", 0, 3),
    ("nikhahit, tone, aa", "น้ำ", "น\u0e4d\u0e49\u0e32", "น\u0e49\u0e33", 0, 3),
    ("sara am, tone", "น้ำ", "น\u0e33\u0e49", "น\u0e49\u0e33", 0, 3),
    ("low tone", "ต่ำ", "ต\u0e4d\u0e48\u0e32", "ต\u0e48\u0e33", 0, 3),
    ("two syllables", "ทำงำ", "ท\u0e4d\u0e32ง\u0e4d\u0e32", "ท\u0e33ง\u0e33", 0, 4),
    ("nikhahit alone stays", "ค\u0e4d", "ค\u0e4d", "ค\u0e4d", 0, 2),
    ("nikhahit apart from aa stays", "ค\u0e4dกา", "ค\u0e4dกา", "ค\u0e4dกา", 0, 4),
    ("am for a is an error", "กา", "กำ", "กำ", 1, 2),
    ("missing tone over am", "น้ำ", "น\u0e4d\u0e32", "นำ", 1, 3),
    ("other tone over am", "ค้ำ", "ค\u0e48\u0e4d\u0e32", "ค\u0e48\u0e33", 1, 3),
    ("published spelling", "สำนักงาน", "ส\u0e4d\u0e32นักงาน", "ส\u0e33นักงาน", 0, 8),
    ("zero width inside", "คำ", "ค\u0e4d\u200b\u0e32", "ค\u0e33", 0, 2),
    ("parted by a space", "คำ", "ค\u0e4d \u0e32", "ค\u0e4d \u0e32", 0, 2),
)

SARA_E: tuple[Row, ...] = (
    ("two sara e", "แม่", "เเม่", "แม่", 0, 3),
    ("two sara e in the reference", "เเม่", "แม่", "แม่", 0, 3),
    ("in a word", "แกงแดง", "เเกงเเดง", "แกงแดง", 0, 6),
    ("one sara e is another vowel", "แก", "เก", "เก", 1, 2),
    ("three give two letters", "แเก", "เเเก", "แเก", 0, 3),
    ("four give two", "แแ", "เเเเ", "แแ", 0, 2),
    ("zero width between", "แล", "เ\u200bเล", "แล", 0, 2),
    ("a space between is kept, then gone", "แล", "เ เล", "เ เล", 0, 2),
    ("a mark between", "แล", "เ-เล", "แล", 0, 2),
    ("sara e across words", "เอเล", "เอเล", "เอเล", 0, 4),
)

MARK_ORDER: tuple[Row, ...] = (
    ("tone before sara ii", "ที่", "ท\u0e48\u0e35", "ท\u0e35\u0e48", 0, 3),
    ("tone before sara i", "นิ่ง", "น\u0e48\u0e34ง", "น\u0e34\u0e48ง", 0, 4),
    ("tone before sara ue", "ขึ้น", "ข\u0e49\u0e36น", "ข\u0e36\u0e49น", 0, 4),
    ("tone before sara uee", "ชื่อ", "ช\u0e48\u0e37อ", "ช\u0e37\u0e48อ", 0, 4),
    ("tone before sara u", "รุ่น", "ร\u0e48\u0e38น", "ร\u0e38\u0e48น", 0, 4),
    ("tone before sara uu", "ผู้", "ผ\u0e49\u0e39", "ผ\u0e39\u0e49", 0, 3),
    ("tone before mai han akat", "วัน", "วัน", "วัน", 0, 3),
    ("mai han akat and tone", "นั่น", "น\u0e48\u0e31น", "น\u0e31\u0e48น", 0, 4),
    ("mai tri", "กั๊ก", "ก\u0e4a\u0e31ก", "ก\u0e31\u0e4aก", 0, 4),
    ("mai chattawa", "ปี๋", "ป\u0e4b\u0e35", "ป\u0e35\u0e4b", 0, 3),
    ("mai taikhu and tone", "เก็่", "เก\u0e48\u0e47", "เก\u0e47\u0e48", 0, 4),
    ("silencer before sara i", "สิทธิ์", "สิทธ\u0e4c\u0e34", "สิทธ\u0e34\u0e4c", 0, 6),
    ("silencer before sara u", "พันธุ์", "พันธ\u0e4c\u0e38", "พันธ\u0e38\u0e4c", 0, 6),
    ("phinthu goes first", "กฺุ", "ก\u0e38\u0e3a", "ก\u0e3a\u0e38", 0, 3),
    ("tone after sara aa", "ก่า", "กา\u0e48", "ก\u0e48า", 0, 3),
    ("tone after sara a", "จ๊ะ", "จะ\u0e4a", "จ\u0e4aะ", 0, 3),
    ("tone after sara aa in a word", "บ้าน", "บา\u0e49น", "บ\u0e49าน", 0, 4),
    ("three marks", "กิ่์", "ก\u0e4c\u0e48\u0e34", "ก\u0e34\u0e48\u0e4c", 0, 4),
    ("order and another tone", "ที่", "ท\u0e49\u0e35", "ท\u0e35\u0e49", 1, 3),
    ("order and another vowel", "ที่", "ท\u0e48\u0e34", "ท\u0e34\u0e48", 1, 3),
    ("two tones keep their order", "ก่้า", "ก\u0e48\u0e49า", "ก\u0e48\u0e49า", 0, 4),
    ("two tones the other way", "ก่้า", "ก\u0e49\u0e48า", "ก\u0e49\u0e48า", 2, 4),
    ("order parted by zero width", "ที่", "ท\u0e48\u200c\u0e35", "ท\u0e35\u0e48", 0, 3),
    ("a consonant between", "ท่นี", "ท\u0e48น\u0e35", "ท\u0e48น\u0e35", 0, 4),
)

LAKKHANGYAO: tuple[Row, ...] = (
    ("for sara aa", "มา", "มๅ", "มา", 0, 2),
    ("for sara aa, twice", "กาลา", "กๅลๅ", "กาลา", 0, 4),
    ("after rue stays", "ฤๅษี", "ฤๅษี", "ฤๅษี", 0, 4),
    ("after lue stays", "ฦๅ", "ฦๅ", "ฦๅ", 0, 2),
    ("rue with sara aa is another text", "ฤๅ", "ฤา", "ฤา", 1, 2),
    ("with nikhahit", "คำ", "ค\u0e4d\u0e45", "ค\u0e33", 0, 2),
    ("with a tone after", "ก่า", "ก\u0e45\u0e48", "ก\u0e48\u0e32", 0, 3),
)

INVISIBLE: tuple[Row, ...] = (
    ("zero-width space", "ไปมา", "ไป\u200bมา", "ไปมา", 0, 4),
    ("zero-width non-joiner", "ไปมา", "ไป\u200cมา", "ไปมา", 0, 4),
    ("zero-width joiner", "ไปมา", "ไป\u200dมา", "ไปมา", 0, 4),
    ("word joiner", "ไปมา", "ไป\u2060มา", "ไปมา", 0, 4),
    ("soft hyphen", "ไปมา", "ไป\u00adมา", "ไปมา", 0, 4),
    ("left-to-right mark", "ไปมา", "\u200eไปมา", "ไปมา", 0, 4),
    ("right-to-left mark", "ไปมา", "ไปมา\u200f", "ไปมา", 0, 4),
    ("directional embedding", "ไปมา", "\u202aไปมา\u202c", "ไปมา", 0, 4),
    ("byte order mark", "ไปมา", "\ufeffไปมา", "ไปมา", 0, 4),
    ("byte order mark inside", "ไปมา", "ไป\ufeffมา", "ไปมา", 0, 4),
    ("in the reference", "ไป\u200bมา", "ไปมา", "ไปมา", 0, 4),
    ("nothing else", "ไป", "\u200b\ufeff", "", 2, 2),
    ("several together", "ไป", "ไ\u200b\u200c\u200dป", "ไป", 0, 2),
)

UNICODE: tuple[Row, ...] = (
    ("composed e acute", "caf\u00e9", "cafe\u0301", "caf\u00e9", 0, 4),
    ("accent is a letter's part", "cafe", "caf\u00e9", "caf\u00e9", 1, 4),
    ("ohm sign", "\u03c9", "\u2126", "\u03c9", 0, 1),
    ("kelvin sign", "k", "\u212a", "k", 0, 1),
    ("angstrom sign", "\u00e5", "\u212b", "\u00e5", 0, 1),
    ("full-width letters are kept apart", "a", "\uff41", "\uff41", 1, 1),
    ("superscript is not folded", "2", "\u00b2", "\u00b2", 1, 1),
)

DIGITS: tuple[Row, ...] = (
    ("Thai digits", "3", "๓", "3", 0, 1),
    ("all ten", "0123456789", "๐๑๒๓๔๕๖๗๘๙", "0123456789", 0, 10),
    ("published spelling", "ทั้ง3หลัง", "ทั้ง๓หลัง", "ทั้ง3หลัง", 0, 9),
    ("mixed in one number", "25", "๒5", "25", 0, 2),
    ("another digit", "25", "๒๖", "26", 1, 2),
    ("digit against word", "3", "สาม", "สาม", 3, 1),
    ("word against digit", "สาม", "3", "3", 3, 3),
    ("thousands", "1000", "1,000", "1000", 0, 4),
    ("Thai thousands", "1000", "๑,๐๐๐", "1000", 0, 4),
    ("decimal point", "3.5", "๓.๕", "3.5", 0, 3),
    ("decimal point lost", "3.5", "35", "35", 1, 3),
    ("clock with colon", "1030", "10:30", "1030", 0, 4),
    ("clock with point is a decimal", "1030", "10.30", "10.30", 1, 4),
    ("minus sign is read", "5", "\u22125", "\u22125", 1, 1),
    ("hyphen goes", "5", "-5", "5", 0, 1),
    ("phone number", "0812345678", "081-234-5678", "0812345678", 0, 10),
    ("range", "510", "5-10", "510", 0, 3),
    ("two numbers apart", "5 10", "5, 10", "5 10", 0, 3),
)

FULL_STOP: tuple[Row, ...] = (
    ("last", "ไป", "ไป.", "ไป", 0, 2),
    ("first", "ไป", ".ไป", "ไป", 0, 2),
    ("abbreviation", "พศ", "พ.ศ.", "พศ", 0, 2),
    ("abbreviation with space", "พศ 2500", "พ.ศ. 2500", "พศ 2500", 0, 6),
    ("after a number", "5", "5.", "5", 0, 1),
    ("before a number", "5", ".5", "5", 0, 1),
    ("between number and letter", "5ก", "5.ก", "5ก", 0, 2),
    ("two points", "12", "1..2", "12", 0, 2),
    ("number, stop, space, number", "5 10", "5. 10", "5 10", 0, 3),
    ("version number", "1.2.3", "1.2.3", "1.2.3", 0, 5),
    ("ellipsis of stops", "ไป", "ไป...", "ไป", 0, 2),
    ("stop and comma between digits", "35", "3.,5", "35", 0, 2),
    ("web address", "wwwcoth", "www.co.th", "wwwcoth", 0, 7),
)

PUNCTUATION: tuple[Row, ...] = (
    *(
        (f"U+{ord(mark):04X}", "ไปมา", f"ไป{mark}มา", "ไปมา", 0, 4)
        for mark in "!\"'()*,-/:;<>?[\\]^_`{|}~«·»‐‑‒–—―‘’‚“”„•…′″‹›、。！（），：；？๏๚๛"
    ),
    *(
        (f"read aloud: U+{ord(mark):04X}", "ไปมา", f"ไป{mark}มา", f"ไป{mark}มา", 1, 4)
        for mark in "#$%&+=@฿ฯๆ−°"
    ),
    ("nothing but marks", "ไป", "?!…", "", 2, 2),
    ("question in quotes", "ไปไหน", "“ไปไหน?”", "ไปไหน", 0, 5),
    ("a mark becomes no space", "ไปมา", "ไป,มา", "ไปมา", 0, 4),
    ("a mark and a space", "ไป มา", "ไป, มา", "ไป มา", 0, 4),
    ("dash between spaces", "ไป มา", "ไป - มา", "ไป มา", 0, 4),
    ("percent", "50%", "๕๐%", "50%", 0, 3),
    ("paiyannoi", "กรุงเทพฯ", "กรุงเทพฯ", "กรุงเทพฯ", 0, 8),
    ("paiyannoi lost", "กรุงเทพฯ", "กรุงเทพ", "กรุงเทพ", 1, 8),
    ("and so on", "ฯลฯ", "ฯลฯ", "ฯลฯ", 0, 3),
)

LATIN: tuple[Row, ...] = (
    ("capitals", "bts", "BTS", "bts", 0, 3),
    ("in Thai", "ขึ้น bts", "ขึ้น BTS", "ขึ้น bts", 0, 7),
    ("title case", "line", "Line", "line", 0, 4),
    ("Latin against Thai", "bts", "บีทีเอส", "บีทีเอส", 7, 3),
    ("apostrophe", "dont", "don't", "dont", 0, 4),
    ("letters and digits", "5g", "5G", "5g", 0, 2),
    ("sharp s stays", "straße", "STRASSE", "strasse", 2, 6),
    ("another letter", "bts", "BRT", "brt", 2, 3),
)

SPACES: tuple[Row, ...] = (
    ("phrase space", "ไปบ้าน", "ไป บ้าน", "ไป บ้าน", 0, 6),
    ("many", "ไปบ้าน", "ไป   บ้าน", "ไป บ้าน", 0, 6),
    ("around", "ไป", "  ไป ", "ไป", 0, 2),
    ("tab", "ไปมา", "ไป\tมา", "ไป มา", 0, 4),
    ("line feed", "ไปมา", "ไป\nมา", "ไป มา", 0, 4),
    ("carriage return and line feed", "ไปมา", "ไป\r\nมา\r\n", "ไป มา", 0, 4),
    ("no-break space", "ไปมา", "ไป\u00a0มา", "ไป มา", 0, 4),
    ("ideographic space", "ไปมา", "ไป\u3000มา", "ไป มา", 0, 4),
    ("line separator", "ไปมา", "ไป\u2028มา", "ไป มา", 0, 4),
    ("only a space", "ไป", " ", "", 2, 2),
    ("every letter apart", "ไปมา", "ไ ป ม า", "ไ ป ม า", 0, 4),
    ("before ๆ", "เด็กๆ", "เด็ก ๆ", "เด็ก ๆ", 0, 5),
)

TONES: tuple[Row, ...] = (
    ("news, rice", "ข่าว", "ข้าว", "ข้าว", 1, 4),
    ("news, white", "ข่าว", "ขาว", "ขาว", 1, 4),
    ("white, rice", "ขาว", "ข้าว", "ข้าว", 1, 3),
    ("near, far", "ใกล้", "ไกล", "ไกล", 2, 4),
    ("forest, aunt", "ป่า", "ป้า", "ป้า", 1, 3),
    ("aunt, father", "ป้า", "ป๊า", "ป๊า", 1, 3),
    ("father, pa", "ป๊า", "ป๋า", "ป๋า", 1, 3),
    ("come, horse", "มา", "ม้า", "ม้า", 1, 2),
    ("horse, dog", "ม้า", "หมา", "หมา", 2, 3),
    ("shirt, mat", "เสื้อ", "เสื่อ", "เสื่อ", 1, 5),
    ("tiger, shirt", "เสือ", "เสื้อ", "เสื้อ", 1, 4),
    ("new, burn", "ใหม่", "ไหม้", "ไหม้", 2, 4),
    ("silk, new", "ไหม", "ไหม่", "ไหม่", 1, 3),
    ("field, face", "นา", "หน้า", "หน้า", 2, 2),
    ("I, he", "ฉัน", "ชั้น", "ชั้น", 2, 3),
    ("polite, question", "ค่ะ", "คะ", "คะ", 1, 3),
    ("question, polite", "คะ", "ค่ะ", "ค่ะ", 1, 2),
    ("all tones lost", "พี่น้องบ้านนี้", "พีนองบานนี", "พีนองบานนี", 4, 14),
    ("repeated tone mark", "น้ำ", "น้้ำ", "น้้ำ", 1, 3),
)

VOWELS: tuple[Row, ...] = (
    ("short, long", "กิน", "กีน", "กีน", 1, 3),
    ("u, uu", "ดุ", "ดู", "ดู", 1, 2),
    ("ue, uee", "ลึก", "ลืก", "ลืก", 1, 3),
    ("ai mai muan, ai mai malai", "ใจ", "ไจ", "ไจ", 1, 2),
    ("a, aa", "กะ", "กา", "กา", 1, 2),
    ("mai taikhu lost", "เป็น", "เปน", "เปน", 1, 4),
    ("silencer lost", "จันทร์", "จันทร", "จันทร", 1, 6),
    ("silencer on the wrong letter", "ศุกร์", "ศุก์ร", "ศุก์ร", 2, 5),
    ("vowel lost", "กิน", "กน", "กน", 1, 3),
    ("vowel doubled is a loop", "กิน", "กิิน", "กิิน", 1, 3),
    ("vowel order is not folded", "เกา", "กเา", "กเา", 2, 3),
    ("o, sara o", "โต", "ตอ", "ตอ", 2, 2),
)

REPETITION: tuple[Row, ...] = (
    ("heard", "เด็กๆ", "เด็ก", "เด็ก", 1, 5),
    ("written out", "เด็กๆ", "เด็กเด็ก", "เด็กเด็ก", 4, 5),
    ("twice", "มากๆ", "มากๆๆ", "มากๆๆ", 1, 4),
    ("loop of a vowel", "นานา", "นานาาา", "นานาาา", 2, 4),
    ("loop of a word", "ไป", "ไปไปไป", "ไปไปไป", 4, 2),
    ("laughter", "555", "55555", "55555", 2, 3),
    ("everything repeated", "สวัสดี", "สวัสดีสวัสดี", "สวัสดีสวัสดี", 6, 6),
)

SENTENCES: tuple[Row, ...] = (
    ("right", "กินข้าวหรือยัง", "กินข้าวหรือยัง", "กินข้าวหรือยัง", 0, 14),
    ("one word lost", "กินข้าวหรือยัง", "กินข้าวยัง", "กินข้าวยัง", 4, 14),
    ("one word more", "ไปตลาด", "ไปที่ตลาด", "ไปที่ตลาด", 3, 6),
    ("one word for another", "ไปตลาด", "ไปบ้าน", "ไปบ้าน", 3, 6),
    ("words exchanged", "มาไป", "ไปมา", "ไปมา", 4, 4),
    ("empty answer", "ไปตลาด", "", "", 6, 6),
    ("prefix", "ไปตลาด", "ไป", "ไป", 4, 6),
    ("suffix", "ไปตลาด", "ตลาด", "ตลาด", 2, 6),
    ("unrelated", "กขค", "งจฉ", "งจฉ", 3, 3),
    ("longer than the reference", "กข", "คงจฉช", "คงจฉช", 5, 2),
    (
        "everything at once",
        "น้ำแข็ง12.5กกok",
        "“น\u0e4d\u0e49\u0e32เเข็ง” ๑๒.๕ กก., OK!",
        "น้ำแข็ง 12.5 กก ok",
        0,
        15,
    ),
    ("spelling by sound", "ใช่ไหม", "ใช่มั้ย", "ใช่มั้ย", 4, 6),
    ("final letter by sound", "พบ", "พพ", "พพ", 1, 2),
    ("cluster lost", "ครับ", "คับ", "คับ", 1, 4),
    ("r and l", "รัก", "ลัก", "ลัก", 1, 3),
    ("leading h lost", "หนู", "นู", "นู", 1, 3),
    ("same sound, other s", "ศาล", "สาน", "สาน", 2, 3),
    ("Buddhist year", "พศ2567", "พ.ศ. ๒๕๖๗", "พศ 2567", 0, 6),
    ("price", "ราคา1500บาท", "ราคา 1,500 บาท", "ราคา 1500 บาท", 0, 11),
    ("clock", "1030น", "๑๐:๓๐ น.", "1030 น", 0, 5),
    ("name with title", "ดรสมชาย", "ดร.สมชาย", "ดรสมชาย", 0, 7),
    ("hashtag", "#ข่าว", "#ข่าว", "#ข่าว", 0, 5),
    ("e-mail", "ab@cth", "a.b@c.th", "ab@cth", 0, 6),
    ("emoji is a character", "ดี", "ดี😀", "ดี😀", 1, 2),
    ("replacement character is an error", "ดี", "ด\ufffd", "ด\ufffd", 1, 2),
)

ROWS: tuple[Row, ...] = (
    *SARA_AM, *SARA_E, *MARK_ORDER, *LAKKHANGYAO, *INVISIBLE, *UNICODE, *DIGITS, *FULL_STOP,
    *PUNCTUATION, *LATIN, *SPACES, *TONES, *VOWELS, *REPETITION, *SENTENCES,
)  # fmt: skip
