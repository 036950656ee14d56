"""The text half of `synth` over the shipped example: memory, variants, labels and splits.

Reading sources is tested in `test_synth_sources`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from thaitool.errors import ConfigError, InputError
from thaitool.records import ENTITY_KEYS_TH, ENTITY_TYPES, Entity, Rejected
from thaitool.synth.augment import augment
from thaitool.synth.formats import read_source
from thaitool.synth.labels import label_for
from thaitool.synth.memory import Memory, load_memory
from thaitool.synth.sources import SourceRow, Span, skeleton
from thaitool.synth.splits import split_rows
from thaitool.synth.translate import MemoryTranslator, Rendering, open_translator, project

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "alpaca.jsonl"
PARTICLES = ("นะครับ", "นะคะ", "ครับ", "ค่ะ", "คะ")
#: Words and their endings that carry politeness, not content.
POLITE = re.compile(r"\s|ครับ|ค่ะ|คะ|นะ$|หน่อย|ขอบคุณ$")
VARIANTS = 10


@pytest.fixture(scope="module")
def rows() -> tuple[SourceRow, ...]:
    source = read_source(EXAMPLE)
    assert source.rejected == ()
    return source.rows


@pytest.fixture(scope="module")
def memory() -> Memory:
    return load_memory()


@pytest.fixture(scope="module")
def rendered(
    rows: tuple[SourceRow, ...], memory: Memory
) -> list[tuple[SourceRow, tuple[Rendering, ...]]]:
    """Every variant of every example row with its renderings; nothing may be rejected."""
    translator = open_translator("embedded:", seed=7)
    pairs = []
    for row in rows:
        for variant in augment(row, VARIANTS, 7, memory):
            result = translator.translate(variant)
            assert not isinstance(result, Rejected), result
            pairs.append((variant, result))
    return pairs


def rendering_of(translator: MemoryTranslator, row: SourceRow) -> tuple[Rendering, ...]:
    result = translator.translate(row)
    assert not isinstance(result, Rejected), result
    return result


def a_row(text: str, *names: tuple[str, str]) -> SourceRow:
    spans = tuple(
        Span(text.index(name), text.index(name) + len(name), kind, name) for kind, name in names
    )
    return SourceRow("r1", "mine", "CC0-1.0", text, "make_call", spans)


def write_lines(path: Path, *records: object) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# The shipped example and memory


def test_the_example_has_eight_intents_of_at_least_twenty_rows(rows: tuple[SourceRow, ...]) -> None:
    per_intent = Counter(row.intent for row in rows)
    assert len(rows) >= 160
    assert len(per_intent) == 8
    assert min(per_intent.values()) >= 20
    assert sum(bool(row.entities) for row in rows) * 2 >= len(rows)
    assert {span.type for row in rows for span in row.entities} == set(ENTITY_TYPES)
    assert {row.licence for row in rows} == {"Apache-2.0"}
    assert all(row.rephrase and row.output for row in rows)


def test_every_intent_of_the_example_has_its_own_thai_name(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    assert {row.intent for row in rows} == set(memory.intents)
    assert len(set(memory.intents.values())) == len(memory.intents)
    assert memory.intents["check_weather"] == "ตรวจสอบสภาพอากาศ"


def test_the_name_tables_are_large_enough_and_speak_one_language_each(memory: Memory) -> None:
    names = list(memory.names.values())
    count = Counter(name.type for name in names)
    assert count["PER"] >= 25
    assert count["LOC"] >= 25
    assert count["ORG"] >= 15
    assert count["OTH"] >= 25
    assert all(re.fullmatch(r"[A-Za-z ]+", name.en) for name in names)
    # One surface with two types would make a label that nobody can learn.
    assert len({name.th for name in names}) == len(names)
    kinds = Counter((name.type, name.kind) for name in names)
    assert min(kinds.values()) >= 5


def test_every_template_is_used_by_exactly_one_example_row(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    keys = [skeleton(row.text, row.entities) for row in rows]
    assert sorted(keys) == sorted(memory.templates)


def test_every_variant_translates_with_exact_labels(
    rendered: list[tuple[SourceRow, tuple[Rendering, ...]]], memory: Memory
) -> None:
    assert len(rendered) == 168 * VARIANTS
    for row, renderings in rendered:
        wanted = Counter(
            (span.type, memory.names[span.type, span.text.casefold()].th) for span in row.entities
        )
        assert len(renderings) >= 2
        for one in renderings:
            assert Counter((e.type, e.surface) for e in one.entities) == wanted
            starts = [one.text_th.index(entity.surface) for entity in one.entities]
            assert starts == sorted(starts)
            assert all(entity.surface in one.rephrase_th for entity in one.entities)
            assert one.text_th != one.rephrase_th


def test_thai_text_holds_nothing_that_the_voice_refuses(
    rendered: list[tuple[SourceRow, tuple[Rendering, ...]]],
) -> None:
    for _, renderings in rendered:
        for one in renderings:
            for text in (one.text_th, one.rephrase_th):
                assert re.fullmatch(r"[\u0e01-\u0e3a\u0e40-\u0e4e0-9๐-๙ ]+", text), text
                assert "  " not in text
                assert text == text.strip()
                assert "\u0e4d\u0e32" not in text  # decomposed sara am


def test_thai_sentences_have_four_to_fourteen_words_around_their_names(memory: Memory) -> None:
    word_tokenize = pytest.importorskip("pythainlp.tokenize").word_tokenize
    for template in memory.templates.values():
        for text in (*template.th, *template.rephrase_th):
            pieces = re.split(r"\[\d\]", text.replace("[me]", "ฉัน"))
            words = [w for piece in pieces for w in word_tokenize(piece) if w.strip()]
            assert 4 <= len(words) + len(template.slots) <= 14, text


def test_polite_particles_fit_the_speaker_and_the_mood(
    rendered: list[tuple[SourceRow, tuple[Rendering, ...]]], memory: Memory
) -> None:
    endings = Counter[str]()
    for row, renderings in rendered:
        found = memory.match(skeleton(row.text, row.entities))
        assert found is not None
        template, frame = found
        mood = template.mood if frame is None or frame.then == "same" else frame.then
        for one in renderings:
            ending = next((p for p in PARTICLES if one.text_th.endswith(p)), "")
            endings[ending] += 1
            assert not re.search("ครับ|ค่ะ|คะ", one.text_th.removesuffix(ending)), one.text_th
            if ending.endswith("ครับ"):
                assert "ฉัน" not in one.text_th
            if ending.endswith(("คะ", "ค่ะ")):
                assert "ผม" not in one.text_th
                assert (mood == "question") == (ending == "คะ")
    assert min(endings[particle] for particle in (*PARTICLES, "")) > 100


def test_no_rendering_of_a_test_row_is_a_rendering_of_a_train_row(
    rows: tuple[SourceRow, ...], rendered: list[tuple[SourceRow, tuple[Rendering, ...]]]
) -> None:
    splits = split_rows(rows)
    texts: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for row, renderings in rendered:
        texts[splits[row.source_id]] |= {POLITE.sub("", one.text_th) for one in renderings}
    assert len(texts["test"]) > 200
    for one, other in itertools.combinations(texts.values(), 2):
        assert not one & other


def test_no_two_templates_share_a_wording(memory: Memory) -> None:
    owner: dict[str, str] = {}
    for key, template in memory.templates.items():
        for thai in (*template.th, *template.rephrase_th):
            typed = thai
            for index, slot in enumerate(template.slots, start=1):
                typed = typed.replace(f"[{index}]", f"[{slot}]")
            bare = POLITE.sub("", typed).replace("[me]", "")
            assert owner.setdefault(bare, key) == key, bare


def test_example_translation_is_what_a_speaker_would_say(rows: tuple[SourceRow, ...]) -> None:
    row = next(row for row in rows if row.source_id == "make_call-01")
    texts = {
        rendering_of(open_translator("embedded:", seed=seed), row)[0].text_th for seed in range(40)
    }
    assert "โทรหา สมชาย หน่อย บอกว่าฉันจะไปสาย" in texts
    assert "โทรหา สมชาย หน่อย บอกว่าผมจะไปสายครับ" in texts


# Translation


def test_translation_depends_on_nothing_but_row_and_seed(rows: tuple[SourceRow, ...]) -> None:
    first, again, other = (open_translator("embedded:", seed=seed) for seed in (3, 3, 4))
    assert first.name == again.name
    assert [first.translate(r) for r in rows] == [again.translate(r) for r in reversed(rows)][::-1]
    assert [first.translate(r) for r in rows] != [other.translate(r) for r in rows]


def test_a_frame_around_a_sentence_is_translated_too(memory: Memory) -> None:
    row = a_row("Please turn on the kitchen light!", ("OTH", "kitchen light"))
    texts = [r.text_th for r in rendering_of(MemoryTranslator(memory, "m"), row)]
    assert all(re.match("(ช่วย|รบกวน|รบกวนช่วย)(เปิด|กดเปิด) ไฟห้องครัว", text) for text in texts)


def test_what_the_memory_lacks_is_rejected_and_never_guessed(memory: Memory) -> None:
    translator = MemoryTranslator(memory, "m")
    unknown = translator.translate(a_row("Sing to the cat."))
    assert isinstance(unknown, Rejected)
    assert (unknown.item, unknown.reason) == ("r1", "no_translation")
    assert "sing to the cat" in unknown.detail
    nobody = translator.translate(a_row("Ring Zebulon for me.", ("PER", "Zebulon")))
    assert isinstance(nobody, Rejected)
    assert nobody.reason == "no_translation"
    assert "PER name 'Zebulon'" in nobody.detail
    # A question cannot stand after "please".
    assert isinstance(translator.translate(a_row("Please who called me this morning?")), Rejected)


def test_names_go_to_their_markers_in_the_order_of_the_thai_sentence(memory: Memory) -> None:
    dish, city = memory.names["OTH", "khao soi"], memory.names["LOC", "chiang mai"]
    text, entities = project("ที่ [2] มี [1] ไหม", [dish, city])
    assert text == "ที่ เชียงใหม่ มี ข้าวซอย ไหม"
    assert entities == (Entity("LOC", "เชียงใหม่"), Entity("OTH", "ข้าวซอย"))
    with pytest.raises(InputError, match=r"markers 1 to 2 exactly once, not \[1, 1\]"):
        project("[1] กับ [1]", [dish, city])


def test_a_memory_of_your_own_replaces_the_shipped_one(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "mine.jsonl",
        {
            "record": "template",
            "mood": "command",
            "en": "Feed [1:PER].",
            "th": ["ให้อาหาร [1] ของ[me]"],
            "rephrase_th": ["กรุณาให้อาหาร [1]"],
        },
        {"record": "entity", "type": "PER", "en": "Rex", "th": "เร็กซ์"},
    )
    translator = open_translator(f"memory:{path}")
    (one,) = rendering_of(translator, a_row("FEED Rex", ("PER", "Rex")))
    assert one == Rendering("ให้อาหาร เร็กซ์ ของฉัน", (Entity("PER", "เร็กซ์"),), "กรุณาให้อาหาร เร็กซ์")
    assert isinstance(translator.translate(a_row("Read me the new messages.")), Rejected)


@pytest.mark.parametrize("url", ["embedded", "embedded:x", "memory:", "nllb:small", ""])
def test_an_unknown_translator_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be 'embedded:' or 'memory:PATH'"):
        open_translator(url)


def test_all_mistakes_of_a_memory_are_reported_with_their_lines(tmp_path: Path) -> None:
    good = {
        "record": "template",
        "mood": "command",
        "en": "Go.",
        "th": ["ไป"],
        "rephrase_th": ["ไป"],
    }
    path = write_lines(
        tmp_path / "bad.jsonl",
        good,
        {**good, "en": "go"},
        {**good, "en": "Call [1:PER]", "th": ["โทรหา [2]"]},
        {**good, "en": "Call [2:PER]", "th": ["โทรหา [1]"], "rephrase_th": ["โทรหา [1]"]},
        {**good, "en": "Open Line", "th": ["เปิด Line"]},
        {**good, "en": "Stop", "mood": "angry"},
        {"record": "entity", "type": "CAT", "en": "Tom", "th": "ทอม"},
        {"record": "song"},
        {"record": "frame", "en": "please", "th": ["ช่วย{}"], "moods": ["command"], "then": "same"},
        "{",
    )
    with pytest.raises(InputError) as caught:
        load_memory(path)
    message = str(caught.value)
    for place, what in (
        (2, "repeats the sentence 'Go.'"),
        (3, "must hold each of its 1 slots exactly once: 'โทรหา [2]'"),
        (4, "must number its slots 1, 2, ... in order"),
        (5, "Thai letters, digits and spaces only: 'เปิด Line'"),
        (6, "field 'mood' must be one of command, question, statement, not angry"),
        (7, "field 'type' must be one of PER, LOC, ORG, OTH, not CAT"),
        (8, "field 'record' must be one of"),
        (9, "must hold {} exactly once: 'please'"),
        (10, "not JSON"),
    ):
        assert re.search(rf"line {place}: .*{re.escape(what)}", message), what
    assert "line 1:" not in message
    with pytest.raises(InputError, match="at least one record of kind 'template'"):
        load_memory(
            write_lines(tmp_path / "empty.jsonl", {"record": "intent", "id": "a", "th": "ก"})
        )
    with pytest.raises(InputError, match="cannot be read"):
        load_memory(tmp_path / "absent.jsonl")


# Variants


def test_ten_variants_are_distinct_and_keep_their_row(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    for row in rows:
        variants = augment(row, VARIANTS, 1, memory)
        assert variants[0] == row
        assert [v.variant for v in variants] == list(range(VARIANTS))
        assert len({v.text for v in variants}) == VARIANTS
        assert {(v.source_id, v.intent) for v in variants} == {(row.source_id, row.intent)}
        for variant in variants:
            assert [s.type for s in variant.entities] == [s.type for s in row.entities]
            assert all(variant.text[s.start : s.end] == s.text for s in variant.entities)
            assert len({s.text for s in variant.entities}) == len(row.entities)


def test_names_are_swapped_for_their_kind_everywhere_in_the_row(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    row = next(row for row in rows if row.source_id == "make_call-16")
    kinds = [(s.type, memory.names[s.type, s.text.casefold()].kind) for s in row.entities]
    assert kinds == [("ORG", "eatery"), ("OTH", "dish")]
    for variant in augment(row, VARIANTS, 0, memory)[1:]:
        names = [memory.names[s.type, s.text.casefold()] for s in variant.entities]
        assert [(n.type, n.kind) for n in names] == kinds
        assert all(n.en in variant.rephrase and n.en in variant.output for n in names)


def test_variants_depend_on_row_seed_and_number_only(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    row = rows[30]
    assert augment(row, 10, 5, memory) == augment(row, 10, 5, memory)
    assert augment(row, 10, 5, memory)[:4] == augment(row, 4, 5, memory)
    assert augment(row, 10, 5, memory) != augment(row, 10, 6, memory)


def test_an_exhausted_row_gives_fewer_variants_and_none_twice(memory: Memory) -> None:
    poor = replace(memory, frames=())
    assert augment(a_row("Read me the new messages."), 10, 0, poor) == (
        a_row("Read me the new messages."),
    )
    framed = augment(a_row("Please read me the new messages."), 10, 0, memory)
    assert len(framed) == 1
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        augment(a_row("Read me the new messages."), 0, 0, memory)


def test_frames_are_written_as_english(memory: Memory) -> None:
    texts = {v.text for v in augment(a_row("Read me the new messages."), 14, 0, memory)}
    assert "Could you read me the new messages?" in texts
    assert "Please read me the new messages." in texts
    assert "Read me the new messages. Thank you." in texts
    texts = {v.text for v in augment(a_row("Who called me this morning?"), 14, 0, memory)}
    assert not any(text.startswith(("Please", "Could")) for text in texts)


# Labels


def test_labels_have_the_published_form() -> None:
    one = Rendering(
        "บอก มาลี กับ มานะ ให้ไป น่าน",
        (Entity("PER", "มาลี"), Entity("PER", "มานะ"), Entity("LOC", "น่าน")),
        "กรุณาแจ้ง มาลี และ มานะ ให้เดินทางไป น่าน",
    )
    assert label_for("ner", one, None) == (
        '{"บุคคล": ["มาลี", "มานะ"], "สถานที่": ["น่าน"], "องค์กร": [], "อื่นๆ": []}'
    )
    assert label_for("ic", one, "ส่งข้อความ") == "ส่งข้อความ"
    assert label_for("ic", one, None) is None
    assert label_for("sr", one, None) == one.rephrase_th
    assert label_for("asr", one, None) == one.text_th
    with pytest.raises(InputError, match="must be one of asr, ic, ner, sr, qa, not 'st'"):
        label_for("st", one, None)


def test_every_ner_label_of_the_example_reads_back_as_substrings(
    rendered: list[tuple[SourceRow, tuple[Rendering, ...]]],
) -> None:
    for row, renderings in rendered:
        for one in renderings:
            label = label_for("ner", one, None)
            assert label is not None
            surfaces = json.loads(label)
            assert list(surfaces) == list(ENTITY_KEYS_TH.values())
            assert sum(map(len, surfaces.values())) == len(row.entities)
            assert all(s in one.text_th for several in surfaces.values() for s in several)


# Splits


def test_every_intent_has_its_share_of_each_split(rows: tuple[SourceRow, ...]) -> None:
    splits = split_rows(rows)
    assert set(splits) == {row.source_id for row in rows}
    for intent in {row.intent for row in rows}:
        count = Counter(splits[row.source_id] for row in rows if row.intent == intent)
        assert count == {"train": 15, "dev": 2, "test": 4}


def test_the_order_of_rows_and_the_names_in_them_do_not_move_a_row(
    rows: tuple[SourceRow, ...], memory: Memory
) -> None:
    splits = split_rows(rows)
    assert split_rows(rows[::-1]) == splits
    swapped = [
        replace(augment(row, 2, 0, replace(memory, frames=()))[-1], variant=0) for row in rows
    ]
    twins = [replace(row, source_id=f"{row.source_id}-twin") for row in swapped]
    together = split_rows([*rows, *twins])
    assert all(together[row.source_id] == together[f"{row.source_id}-twin"] for row in rows)
    assert {row.source_id: together[row.source_id] for row in rows} == splits


def test_impossible_splits_are_refused(rows: tuple[SourceRow, ...], memory: Memory) -> None:
    with pytest.raises(ConfigError, match=r"dev=0\.5 and test=0\.5"):
        split_rows(rows, dev=0.5, test=0.5)
    with pytest.raises(InputError, match=f"'{rows[0].source_id}' must stand for one unchanged row"):
        split_rows([*rows, rows[0]])
    with pytest.raises(InputError, match="Split before augmenting"):
        split_rows(augment(rows[0], 2, 0, memory)[1:])
    assert set(split_rows(rows, dev=0, test=0).values()) == {"train"}
    assert split_rows(rows[:2]) == {rows[0].source_id: "train", rows[1].source_id: "train"}
