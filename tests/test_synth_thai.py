"""Rows that are Thai from the start, spoken or recorded: labels, splits and provenance; and what a model adds to them.

Reading them is in `test_synth_readers`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests import tiny
from tests.test_synth_llm import ROW, Script, asker
from thaitool.audio.decode import decode
from thaitool.cli.main import app
from thaitool.config import SynthConfig
from thaitool.errors import ConfigError
from thaitool.records import Rejected
from thaitool.stages import synth
from thaitool.synth.assembly import Lexicon, _text_functions, open_lexicon
from thaitool.synth.estimate import estimate
from thaitool.synth.labels import intent_labels, label_for
from thaitool.synth.recordings import reference
from thaitool.synth.sources import SourceRow, Span
from thaitool.synth.splits import split_rows
from thaitool.synth.texts import Sentence, Texts
from thaitool.synth.translate import Rendering, as_it_stands
from thaitool.synth.voicing import _speaker, label_of

MODEL = "openai:http://127.0.0.1:9/v1#m"
THAI = SourceRow(
    "t1", "c", "CC0", "นาโทรหานาหน่อยนะ", "weather/find",
    (Span(7, 9, "PER", "นา"),), language="th",
)  # fmt: skip


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records), "utf-8")
    return path


def test_thai_rows_are_spoken_as_they_stand(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(32000) / 8) * (1 + np.sin(np.arange(32000) / 900))
    soundfile.write(tmp_path / "a.wav", tone, 16000)
    call = {"type": "PER", "start": 7, "end": 9}
    source = written(
        tmp_path / "rows.jsonl",
        {"id": "said", "text": "นาโทรหานาหน่อยนะ", "entities": [call], "intent": "โทรออก",
         "rephrase": "โปรดโทรศัพท์หานา", "answer": "กำลังโทรค่ะ", "split": "train", "licence": "CC0"},
        {"id": "bare", "text": "พรุ่งนี้ฝนจะตกไหม", "split": "test", "entities": []},
        {"id": "kept", "text": "เมื่อวานไปตลาดมา", "audio": "a.wav", "split": "dev"},
    )  # fmt: skip
    config = tiny.make(
        SynthConfig,
        source=source,
        out=tmp_path / "sup",
        language="th",
        tasks=["asr", "ic", "ner", "sr", "qa"],
        variants=3,
        max_rejected_share=1.0,
    )
    result = synth.run(config)
    rows = {
        r["data_id"]: r
        for p in result.out.glob("*/*/*.parquet")
        for r in pq.read_table(p).to_pylist()
    }
    about = pq.read_table(result.out / "provenance").to_pylist()
    by_task = {(a["source_id"], rows[a["data_id"]]["task_id"]): a for a in about}
    # Nobody said the intent, the written form and the answer of two of them.
    assert by_task.keys() == {
        *(("said", task) for task in ("ASR", "IC", "NER", "SR", "QA")),
        *(("bare", task) for task in ("ASR", "NER")),
        ("kept", "ASR"),  # nobody has looked for names
    }
    assert dict(result.rejected) == {"no_label": 7}
    labels = {
        task: rows[a["data_id"]]["label"] for (name, task), a in by_task.items() if name == "said"
    }
    assert labels.pop("NER") == '{"บุคคล": ["นา"], "สถานที่": [], "องค์กร": [], "อื่นๆ": []}'
    assert labels == {
        "ASR": "นาโทรหานาหน่อยนะ",
        "IC": "โทรออก",
        "SR": "โปรดโทรศัพท์หานา",
        "QA": "กำลังโทรค่ะ",
    }
    said, kept = by_task["said", "NER"], by_task["kept", "ASR"]
    # The second of the two, as the source says.
    assert [(e["start"], e["end"]) for e in json.loads(said["entities"])] == [(7, 9)]
    assert {(a["text_en"], a["variant"]) for a in about} == {("", 0)}
    assert {a["split"] for a in about if a["source_id"] == "bare"} == {"test"}
    assert (kept["split"], kept["voice"], kept["effects"]) == ("dev", "recording", "")
    heard = decode(rows[kept["data_id"]]["audio_flac"], "kept")
    assert np.abs(heard - tone).max() < 1e-4
    assert synth.run(config) == result


def test_a_speaker_is_in_one_split_and_named() -> None:
    rows = [
        replace(
            THAI,
            source_id=f"r{n}",
            text=f"ประโยคที่{n}",
            entities=(),
            audio="[]",
            speaker=f"s{n % 10}",
        )
        for n in range(200)
    ]
    splits = split_rows(rows)
    speakers = {(row.speaker, splits[row.source_id]) for row in rows}
    assert Counter(split for _, split in speakers) == {"test": 2, "dev": 1, "train": 7}
    assert _speaker(rows[3]) == "recording:s3"


def test_the_command_line_says_form_and_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "sentences.md"
    source.write_text("สวัสดีตอนเช้า\nไปตลาดไหม\n", "utf-8")
    options = ["--source", str(source), "--out", str(tmp_path / "x"), "--dry-run", "--json"]
    app(["synth", *options, "--format", "text", "--lang", "th"], standalone_mode=False)
    # A Thai row has no variants without a model.
    assert json.loads(capsys.readouterr().out)["rows"] == 2 * 4
    with pytest.raises(ConfigError, match="--format: alpaca"):
        app(["synth", *options, "--lang", "th"], standalone_mode=False)


def test_intents_without_a_thai_name_are_refused_or_taken_by_their_own() -> None:
    english = replace(THAI, intent="make_call", language="en")
    named = replace(THAI, intent="โทรออก")
    assert intent_labels([named, english], {"a": "ก"}) == {"โทรออก": "โทรออก", "a": "ก"}
    with pytest.raises(ConfigError, match=r"^1 intents .* no Thai name: weather/find\. .*own"):
        intent_labels([THAI, english], {})
    with pytest.raises(ConfigError, match="weather/find"):  # an English row with it changes nothing
        intent_labels([THAI, replace(THAI, language="en")], {})
    assert intent_labels([THAI], {"weather/find": "อากาศ"}) == {"weather/find": "อากาศ"}
    assert intent_labels([THAI], {}, own=True) == {"weather/find": "weather/find"}
    config = tiny.make(SynthConfig, source=Path("x"), out=Path("y"), tasks=["asr"])
    assert "weather/find" not in open_lexicon(config, [THAI]).intents  # nor asked for


def test_what_nobody_said_is_no_label() -> None:
    rendering = as_it_stands(replace(THAI, output="ครับ"))
    assert label_for("qa", rendering, None) == "ครับ"
    assert label_for("sr", rendering, None) is None
    assert label_for("qa", Rendering("ก", (), "ข"), None) is None
    texts = Texts((Sentence(THAI, (rendering,)),), ())
    assert Texts.from_json(json.loads(json.dumps(texts.to_json()))) == texts


def functions(folder: Path, script: Script, **changes: Any) -> Any:
    """What makes texts of rows with one scripted model for everything."""
    config = tiny.make(
        SynthConfig,
        source=Path("x"),
        out=Path("y"),
        llm=MODEL,
        translator=MODEL,
        variants=3,
        **changes,
    )
    lexicon: Lexicon = open_lexicon(config, [])
    return _text_functions(config, [THAI], lexicon, {MODEL: asker(script, folder)})


def test_a_model_varies_and_labels_thai_in_thai(tmp_path: Path) -> None:
    good, english = "ช่วยโทรหา[1|มานะ]ที", "Please call [1|Mana] now"
    script = Script({"variants": [good, english]})
    _, vary, _ = functions(tmp_path, script)
    (row, variant), rejected = asyncio.run(vary(THAI))
    assert row is THAI
    assert (variant.text, variant.variant, variant.language) == ("ช่วยโทรหามานะที", 1, "th")
    assert variant.entities == (Span(9, 13, "PER", "มานะ"),)
    assert [r.reason for r in rejected] == ["augment_not_thai"]
    assert "[1|นา]หน่อย" in script.asked[0].messages[1].content
    bare = replace(THAI, intent=None, entities=(), has_names=False)
    names = {"intent": "weather/find", "entities": [{"type": "PER", "text": "นา"}]}
    annotate, _, _ = functions(tmp_path / "b", Script(names))
    found = asyncio.run(annotate(bare))
    # The first place that is a syllable of its own.
    assert (found.intent, found.entities) == ("weather/find", (Span(0, 2, "PER", "นา"),))
    assert found.has_names
    annotate, *_ = functions(tmp_path / "c", Script(names | {"intent": None}))
    found = asyncio.run(annotate(replace(bare, intent="play")))
    assert (found.intent, len(found.entities)) == ("play", 1)  # theirs is kept
    assert asyncio.run(annotate(replace(bare, intent="play", has_names=True))).entities == ()
    annotate, *_ = functions(tmp_path / "d", Script(names))
    found = asyncio.run(annotate(replace(bare, has_names=True)))
    assert (found.intent, found.entities) == ("weather/find", ())


def test_a_model_picks_what_lends_itself_to_rephrasing(tmp_path: Path) -> None:
    yes = {"suitable": True, "written": "โปรดโทรศัพท์หานา"}
    no = {"suitable": False, "written": ""}
    script = Script(yes)
    *_, translate = functions(tmp_path / "a", script)
    assert asyncio.run(translate(THAI))[0].rephrase_th == "โปรดโทรศัพท์หานา"
    given = replace(THAI, rephrase="โทรหานา")
    assert asyncio.run(translate(given))[0].rephrase_th == "โทรหานา"
    assert len(script.asked) == 1
    *_, translate = functions(tmp_path / "b", Script(no))
    assert asyncio.run(translate(THAI)) == (as_it_stands(THAI),)
    *_, translate = functions(tmp_path / "c", Script(no), tasks=["sr"])
    assert asyncio.run(translate(THAI)) == Rejected("t1", "not_rephrasable", repr(THAI.text))
    same, foreign = yes | {"written": THAI.text}, yes | {"written": "Call Na."}
    for folder, wrong, reason in (("d", same, "unchanged"), ("e", foreign, "not_thai")):
        *_, translate = functions(tmp_path / folder, Script(wrong, wrong))
        (kept,) = asyncio.run(translate(THAI))
        # The sentence stands for the other tasks, and through the ledger.
        assert (kept.text_th, kept.rephrase_th) == (THAI.text, "")
        assert [lost[:2] for lost in kept.lost] == [("sr", f"rephrase_{reason}")]
        texts = Texts((Sentence(THAI, (kept,)),), ())
        assert Texts.from_json(json.loads(json.dumps(texts.to_json()))) == texts
        found = {task: label_of(task, THAI, kept, "โทร", "X") for task in ("asr", "sr", "qa")}
        assert found["asr"] == THAI.text
        lacks = {task: said.reason for task, said in found.items() if isinstance(said, Rejected)}
        assert lacks == {"sr": f"rephrase_{reason}", "qa": "no_label"}


def test_answers_are_translated_for_qa_alone(tmp_path: Path) -> None:
    spoken = {"spoken": "โทรหา[1|แอน]ที่[2|น่าน]ที", "written": "โปรดโทร"}
    script = Script(spoken, {"answer": "เรียบร้อยค่ะ"})
    *_, translate = functions(tmp_path / "a", script, tasks=["qa", "asr"])
    (rendering,) = asyncio.run(translate(ROW))
    assert rendering.answer_th == "เรียบร้อยค่ะ"
    assert [rendering.text_th[s : s + 2] for s in rendering.starts] == ["แอ", "น่"]
    asked = script.asked[1].messages[1].content
    assert "Done." in asked
    assert rendering.text_th in asked
    *_, translate = functions(tmp_path / "b", Script(spoken), tasks=["asr"])
    assert asyncio.run(translate(ROW))[0].answer_th == ""
    english = {"answer": "Done."}
    *_, translate = functions(tmp_path / "c", Script(spoken, english, english), tasks=["qa"])
    (kept,) = asyncio.run(translate(ROW))
    assert [lost[:2] for lost in kept.lost] == [("qa", "translate_answer_not_thai")]


def test_a_recording_has_no_variants_and_a_plan_knows_it(tmp_path: Path) -> None:
    from thaitool.records import AudioRef, Utterance

    kept = replace(THAI, audio=reference(Utterance("u", AudioRef("a.wav"), 1.0, 16000)))
    script = Script()
    _, vary, _ = functions(tmp_path, script)
    assert asyncio.run(vary(kept)) == ((kept,), ())
    assert script.asked == []
    config = tiny.make(
        SynthConfig, source=Path("x"), out=Path("y"), llm=MODEL, translator=MODEL, variants=4,
        tasks=["sr", "qa"],
    )  # fmt: skip
    plan = estimate(config, [replace(THAI, source_id="t2"), kept, ROW], {})
    calls = {stage.stage: stage.calls for stage in plan.stages}
    assert calls == {
        "annotate": 0,
        "augment": 2,
        "translate": 4,
        "translate_answer": 1,
        "rephrase": 5,
    }
    assert plan.rows == (4 + 1 + 4) * 2
