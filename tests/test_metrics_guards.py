"""Gates that keep a metric, a test set or a join from lying."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from thaitool.errors import InputError
from thaitool.metrics.chrf import corpus_chrf
from thaitool.metrics.gate import KINDS, gate, require_gate
from thaitool.metrics.join import Pair, join
from thaitool.metrics.leakage import (
    JACCARD,
    LIKENESS,
    LONG,
    Leakage,
    Line,
    find_leaks,
    recording_ids,
)
from thaitool.metrics.monitors import collapse_monitors
from thaitool.metrics.transcripts import cer
from thaitool.records import Prediction, Reference
from thaitool.text.normalize import compact

# --- the gate


def _cer(references: Sequence[str], predictions: Sequence[str]) -> float:
    return cer(references, predictions, draws=1).value or 0.0


def _chrf(references: Sequence[str], predictions: Sequence[str]) -> float:
    return corpus_chrf(references, predictions, draws=1).value or 0.0


def test_our_metrics_pass_the_gate() -> None:
    assert [row.kind for row in require_gate("cer", _cer, best=0)] == list(KINDS)
    rows = {row.kind: row for row in require_gate("chrf", _chrf, best=1)}
    assert rows["identical"].place == 1
    assert rows["unrelated"].place == 0
    assert rows["number format"].place == 1
    assert 0.1 < rows["paraphrase"].place < 1


def _without_marks(text: str) -> str:
    """What normalisers for Latin text do to Thai: every mark becomes a space."""
    return "".join(" " if unicodedata.category(c)[0] in "MSP" else c for c in text)


def test_a_normaliser_that_strips_marks_fails_by_its_tones() -> None:
    def stripped(references: Sequence[str], predictions: Sequence[str]) -> float:
        return _cer([*map(_without_marks, references)], [*map(_without_marks, predictions)])

    failed = [row.kind for row in gate(stripped, best=0) if not row.passed]
    assert "tone" in failed
    with pytest.raises(InputError, match=r"destroyer must tell .* fails .* tone: 0 \(place 1;"):
        require_gate("destroyer", stripped, best=0)


@pytest.mark.parametrize(
    ("measure", "best", "kind"),
    [
        (lambda _gold, _told: 1.0, 1, "unrelated"),
        (lambda gold, told: 0.9 if gold == told else 0.0, 1, "identical"),
        (lambda gold, told: float(gold == told), 1, "paraphrase"),
        (lambda gold, told: float(gold == told), 1, "number format"),
        (
            lambda gold, told: float(all(g in t for g, t in zip(gold, told, strict=True))),
            1,
            "repeated",
        ),
    ],
)
def test_the_gate_names_what_a_metric_cannot_see(measure: object, best: float, kind: str) -> None:
    rows = {row.kind: row.passed for row in gate(measure, best=best)}  # type: ignore[arg-type]
    assert not rows[kind]


# --- leakage


def leaks_of(test: list[str], train: list[str]) -> Leakage:
    return find_leaks(
        [Line(f"t{i}", text) for i, text in enumerate(test)],
        (Line(f"r{i}", text) for i, text in enumerate(train)),
    )


@pytest.mark.parametrize(
    ("item_id", "found"),
    [
        ("common_voice_th_31022646", ["common_voice_th_31022646"]),
        ("clips/common_voice_th_31022646.mp3", ["common_voice_th_31022646"]),
        ("sr-common_voice_th_31022646-03", ["common_voice_th_31022646"]),
        ("6-6279-28", ["6-6279-28"]),
        ("/a/14-14813-2.wav", ["14-14813-2"]),
        ("2024-10-12", []),
        ("2024-10-12345", ["2024-10-12345"]),
        ("ic-3f2a-01", []),
        ("0001", []),
        ("12-34", []),
        ("1-2-3-4", []),
    ],
)
def test_ids_of_public_recordings(item_id: str, found: list[str]) -> None:
    assert recording_ids(item_id) == found


def test_the_same_recording_is_found_by_its_id() -> None:
    test = [Line("6-6279-28", "ก"), Line("common_voice_th_31022646", "ข"), Line("own", "ค")]
    train = [Line("wav/6-6279-28.flac", "อื่น"), Line("x/common_voice_th_31022646.mp3", "")]
    found = find_leaks(test, train)
    assert [(leak.test_id, leak.train_id, leak.kind) for leak in found.leaks] == [
        ("6-6279-28", "wav/6-6279-28.flac", "id"),
        ("common_voice_th_31022646", "x/common_voice_th_31022646.mp3", "id"),
    ]
    assert [(s.name, s.numerator, s.denominator) for s in found.scores] == [
        ("leaked", 2, 3),
        ("leaked_id", 2, 3),
        ("leaked_text", 0, 3),
        ("leaked_near", 0, 3),
    ]


def test_the_same_text_is_found_however_it_is_typed() -> None:
    found = leaks_of(["น้ำแข็ง 3 ก้อน", "ไปไหน"], ["น\u0e4d\u0e49\u0e32เเข็ง ๓ ก้อน!", "มาแล้ว"])
    assert [(leak.test_id, leak.kind) for leak in found.leaks] == [("t0", "text")]


def test_near_texts_long_and_short() -> None:
    long = "พรุ่งนี้เช้าจะมีการประชุมใหญ่ที่สำนักงานเขตบางรัก"
    found = leaks_of(
        [long, "ช่วยเปิดเพลงให้ฟัง", "เปิดเพลง"],
        [long + "ครับ", "ช่วยเปิดเพลงให้ฟังที", "เปิดเพลงหน่อย", "ไม่เกี่ยวกันเลยแม้แต่น้อย"],
    )
    assert [(leak.test_id, leak.train_id, leak.kind) for leak in found.leaks] == [
        ("t0", "r0", "near"),
        ("t1", "r1", "near"),
    ]


def test_the_surest_leak_of_an_item_is_kept() -> None:
    test = [Line("6-6279-28", "สวัสดีครับทุกคน")]
    train = [
        Line("a", "สวัสดีค่ะทุกคน"),
        Line("b", "สวัสดีครับทุกคน"),
        Line("6-6279-28", "อะไร"),
        Line("c", "สวัสดีครับทุกคน"),
    ]
    assert [(leak.train_id, leak.kind) for leak in find_leaks(test, train).leaks] == [
        ("6-6279-28", "id")
    ]


@pytest.mark.parametrize(
    ("test", "message"),
    [([], "there are 0"), ([Line("a", ""), Line("a", "")], "1 repeat an earlier id")],
)
def test_a_leakage_check_needs_items(test: list[Line], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_leaks(test, [])


def _is_near(test: str, train: str) -> bool:
    """The definition, without an index."""
    a, b = compact(test), compact(train)
    if a == b or not a or not b:
        return False
    if len(a) < LONG:
        grams = [{x[i : i + 3] for i in range(len(x) - 2)} for x in (a, b)]
        return bool(grams[0]) and Levenshtein.normalized_similarity(a, b) >= LIKENESS - 1e-9
    grams = [{x[i : i + 5] for i in range(len(x) - 4)} for x in (a, b)]
    return bool(grams[1]) and len(grams[0] & grams[1]) / len(grams[0] | grams[1]) >= JACCARD


_WORDS = ["กิน", "ข้าว", "ไป", "บ้าน", "น้ำ", "มะลิ", "ก", "กา"]


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=14), st.integers(0, 2**32))
def test_the_index_finds_every_near_pair(parts: list[str], seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    text = "".join(parts)
    others = []
    for _ in range(8):
        changed = list(text)
        for _ in range(dice.randint(0, 4)):
            where = dice.randrange(len(changed) + 1)
            changed[where : where + dice.randint(0, 2)] = dice.choice(["", "ก", "ฟ", "ไป"])
        others.append("".join(changed))
    for other in others:
        found = leaks_of([text, "".join(reversed(parts))], [other]).leaks
        kinds = {leak.test_id: leak.kind for leak in found}
        assert (kinds.get("t0") == "near") == _is_near(text, other), (text, other)


def test_leaks_are_told_in_the_order_of_the_test_set() -> None:
    texts = [f"ประโยคที่{n}ของชุดทดสอบ" for n in ("หนึ่ง", "สอง", "สาม")]
    found = leaks_of(texts, list(reversed(texts)))
    assert [leak.test_id for leak in found.leaks] == ["t0", "t1", "t2"]
    assert re.search("against 3 training items", found.scores[0].note)


# --- joining and damaged text


def _joined(wanted: list[str], given: list[str]) -> int:
    return len(
        join(
            [Reference(i, "asr", "ก", i, i) for i in wanted],
            [Prediction(i, "asr", "ก") for i in given],
        )
    )


def test_ids_with_spaces_are_ids() -> None:
    assert _joined(["a b", "a  b", " a b"], [" a b", "a b", "a  b"]) == 3


@pytest.mark.parametrize("given", ["utt 1", "\ufeffutt1", "utt1\r", " utt1 ", "utt\u00a01"])
def test_ids_that_differ_in_white_space_are_told(given: str) -> None:
    with pytest.raises(
        InputError, match=r"1 of the unknown ids, such as .* in white space, a byte"
    ):
        _joined(["utt1", "utt2"], [given, "utt2"])


def test_a_reference_twice_does_not_hide_a_prediction_without_one() -> None:
    with pytest.raises(
        InputError, match=r"1 references occur more than once: a .* no reference: b"
    ):
        _joined(["a", "a"], ["a", "b"])


def test_other_ids_get_no_hint() -> None:
    with pytest.raises(InputError) as caught:
        _joined(["utt1"], ["utt3"])
    assert "white space" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        ("ข้าว", 0),
        ("caf\u00e9 d\u00e9j\u00e0 vu", 0),
        ("“น้ำ” – 50% ฿", 0),
        ("ข้\ufffdว", 1),
        ("ข้าว".encode().decode("latin-1"), 1),
        ("ข้าว".encode().decode("cp1252", "replace"), 1),
        ("กินข้าว".encode("tis-620").decode("latin-1"), 1),
    ],
)
def test_text_of_the_wrong_encoding_is_seen(text: str, damaged: int) -> None:
    pair = Pair(Reference("1", "asr", "ข้าว", "1", "1"), Prediction("1", "asr", text))
    found = {score.name: score for score in collapse_monitors([pair])}["damaged_share"]
    assert found.numerator == damaged
    assert found.note == "references 0.0 %"
