"""Rows through a language model: labels, variants, Thai with the names carried over, and answers that are wrong.

The model is scripted, or the stand-in server in this process; nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.stand_in import Faults, application, running
from thaitool.config import Calls
from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.records import Entity, Rejected
from thaitool.synth import llm_augment
from thaitool.synth.asking import Asker
from thaitool.synth.backends import open_llm
from thaitool.synth.backends.chat import REQUESTS, RecordedLlm
from thaitool.synth.backends.protocol import ChatReply, ChatRequest, Identity, NotYetAnswered
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Budget, Endpoint, Limits, Price
from thaitool.synth.llm_translate import LlmTranslator
from thaitool.synth.sources import SourceRow, Span
from thaitool.synth.texts import Texts, make_texts

ROW = SourceRow(
    "r1", "c", "CC0", "Call Ann in Nan.", "make_call",
    (Span(5, 8, "PER", "Ann"), Span(12, 15, "LOC", "Nan")), "Please telephone Ann.", "Done.",
)  # fmt: skip


class Script:
    """A model that says what it is told, one after the other, and keeps what it was asked."""

    identity = Identity("script:", "m", "")

    def __init__(self, *said: Any) -> None:
        self.said = [s if isinstance(s, str) else json.dumps(s, ensure_ascii=False) for s in said]
        self.asked: list[ChatRequest] = []

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        return ChatReply(self.said.pop(0), 100, 10)

    async def close(self) -> None:
        return


def asker(llm: Any, folder: Path, **changes: Any) -> Asker:
    cache = Cache(folder / "cache.sqlite", "run")
    values = {
        "endpoint": Endpoint("m", Limits(base_s=0.001)),
        "budget": Budget(None),
        "price": Price(1.0, 1.0),
        "temperature": 0.7,
    }
    return Asker(llm, cache=cache, **{**values, **changes})


def translated(folder: Path, *said: Any, row: SourceRow = ROW) -> tuple[Any, Script]:
    script = Script(*said)
    return asyncio.run(LlmTranslator(asker(script, folder)).translate(row)), script


GOOD = {"spoken": "ที่[2|น่าน]ช่วยโทรหา[1|แอน]หน่อย", "written": "โปรดโทรศัพท์หา[1|แอน]ที่น่าน"}
LOST = {"spoken": "ช่วยโทรหา[1|แอน]หน่อย", "written": "โปรดโทรศัพท์หาแอน"}


def test_labels_follow_their_brackets_and_answers_are_asked_for_once(tmp_path: Path) -> None:
    found, script = translated(tmp_path, GOOD)
    (rendering,) = found
    assert rendering.text_th == "ที่น่านช่วยโทรหาแอนหน่อย"
    assert rendering.entities == (Entity("LOC", "น่าน"), Entity("PER", "แอน"))
    assert rendering.rephrase_th == "โปรดโทรศัพท์หาแอนที่น่าน"
    assert "[1|Ann]" in script.asked[0].messages[1].content
    again, unused = translated(tmp_path)
    assert again == found
    assert unused.asked == []


def test_one_repair_turn_tells_the_model_what_was_wrong(tmp_path: Path) -> None:
    for number, wrong in enumerate(
        (
            "{no json",
            '{"spoken": 3, "written": "x"}',
            LOST,
            GOOD | {"spoken": "Call [1|a] [2|b]"},
            GOOD | {"written": "Please call Ann in Nan."},
            GOOD | {"written": "โปรดโทรศัพท์หา [แอน"},
        )
    ):
        found, script = translated(
            tmp_path / str(number), wrong, f"```json\n{json.dumps(GOOD)}\n```"
        )
        assert found[0].text_th == "ที่น่านช่วยโทรหาแอนหน่อย"
        roles = [m.role for m in script.asked[1].messages]
        assert roles == ["system", "user", "assistant", "user"]
        assert "cannot be used" in script.asked[1].messages[3].content


def test_lost_brackets_fall_back_to_exact_names_or_reject_the_row(tmp_path: Path) -> None:
    plain = {"spoken": "โทรหาแอนที่น่าน", "written": "โทรหา", "names": {"1": "แอน", "2": "น่าน"}}
    found, script = translated(tmp_path / "a", LOST, LOST, plain)
    assert found[0].entities == (Entity("PER", "แอน"), Entity("LOC", "น่าน"))
    assert "[1|" not in script.asked[2].messages[1].content
    guessed = plain | {"names": {"1": "แอนน์", "2": "น่าน"}}
    found, _ = translated(tmp_path / "b", LOST, LOST, guessed, guessed)
    assert isinstance(found, Rejected)
    assert (found.item, found.reason) == ("r1", "translate_span_not_found")
    assert "แอนน์" in found.detail
    bracketed = plain | {"spoken": "โทรหา[1|แอน]ที่น่าน"}
    found, _ = translated(tmp_path / "c", LOST, LOST, bracketed, bracketed)
    assert isinstance(found, Rejected)
    assert found.reason == "translate_markers_broken"
    # Nothing that was rejected is stored.
    found, script = translated(tmp_path / "b", GOOD)
    assert len(script.asked) == 1


def test_blanks_are_asked_again_and_never_stored(tmp_path: Path) -> None:
    found, script = translated(tmp_path, "  \n", "", GOOD)
    assert found[0].text_th.startswith("ที่น่าน")
    assert len(script.asked) == 3
    cache = Cache(tmp_path / "cache.sqlite", "run")
    assert cache.outcomes() == {"blank": 2, "ok": 1}
    assert cache.spending().usd == pytest.approx(3 * 110 / 1e6)  # blanks are billed too
    found, _ = translated(tmp_path / "b", *[" "] * 6)
    assert found.reason == "translate_blank"


def test_the_budget_stops_before_a_call_could_pass_it(tmp_path: Path) -> None:
    script = Script(GOOD)
    limited = asker(script, tmp_path, budget=Budget(1e-4))
    with pytest.raises(ConfigError, match=r"more than max_cost_usd 0\.0001"):
        asyncio.run(LlmTranslator(limited).translate(ROW))
    assert script.asked == []


def test_variants_keep_the_names_or_are_counted_with_a_reason(tmp_path: Path) -> None:
    said = {
        "variants": [
            "In [2|Phrae], please call [1|Bob].",
            "Reach [1|Ann] in [2|Nan]",
            "Phone [1|Ann].",
            "call [1|Ann] in [2|Nan]!",  # the sentence itself
            "Ring [1|Ann] up in [2|Nan].",
            "โทรหา[1|แอน]ที่[2|น่าน]",
            "Give [1|Joe] a call in [2|Nan]",
            "Get me [1|Joe] in [2|Nan]",
        ]
    }
    script = Script(said)
    rows, rejected = asyncio.run(llm_augment.augment(ROW, 10, asker(script, tmp_path)))
    assert [row.variant for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0] == ROW
    assert rows[1].text == "In Phrae, please call Bob."
    assert rows[1].entities == (Span(3, 8, "LOC", "Phrae"), Span(22, 25, "PER", "Bob"))
    assert (rows[1].rephrase, rows[1].output, rows[1].intent) == ("", "", "make_call")
    assert Counter(r.reason for r in rejected) == {
        "augment_repeated": 1,
        "augment_markers_lost": 1,
        "augment_not_english": 1,
        "augment_too_few": 1,
    }
    # Every variant that was asked for is a row or a rejection.
    assert len(rows) + len(rejected) == 10


def test_labels_come_from_the_closed_list_and_from_the_sentence(tmp_path: Path) -> None:
    bare = SourceRow("b", "c", "l", "Announce it to Ann.", None, (), has_names=False)
    names = ("make_call", "send_message")
    wrong = {"intent": "shout", "entities": []}
    inside = {"intent": None, "entities": [{"type": "PER", "text": "Anna"}]}
    right = {"intent": "send_message", "entities": [{"type": "PER", "text": "Ann"}]}

    def annotated(folder: str, *said: Any, row: SourceRow = bare) -> tuple[Any, Script]:
        script = Script(*said)
        return asyncio.run(
            llm_augment.annotate(row, asker(script, tmp_path / folder), names)
        ), script

    row, _ = annotated("a", wrong, right)
    assert (row.intent, row.entities) == ("send_message", (Span(15, 18, "PER", "Ann"),))
    lost, _ = annotated("b", wrong, wrong)
    assert (lost.item, lost.reason) == ("b", "annotate_intent_unknown")
    lost, _ = annotated("c", inside, inside)
    assert lost.reason == "annotate_span_not_found"
    kept, script = annotated("d", row=ROW)
    assert kept == ROW
    assert script.asked == []


def test_every_variant_through_a_faulty_server_is_done_or_rejected(tmp_path: Path) -> None:
    faults = Faults(busy=0.05, error=0.03, malformed=0.03, blank=0.02, markers=0.3)
    rows = [
        SourceRow(f"r{n}", "c", "l", f"Call Ann about item {n}.", "i", (Span(5, 8, "PER", "Ann"),))
        for n in range(12)
    ]

    async def main() -> tuple[list[Texts], dict[str, int]]:
        async with running(application(in_flight=8, faults=faults)) as url:
            calls = Calls.model_validate({"in_flight": 8})
            llm = await open_llm(f"openai:{url}/v1", calls, "llm")  # the server has one model
            shared = asker(llm, tmp_path, endpoint=Endpoint(url, Limits(8, base_s=0.01)))
            try:
                made = await asyncio.gather(
                    *(
                        make_texts(
                            row,
                            5,
                            lambda row: llm_augment.annotate(row, shared, ("i",)),
                            lambda row: llm_augment.augment(row, 5, shared),
                            LlmTranslator(shared).translate,
                        )
                        for row in rows
                    )
                )
            finally:
                await llm.close()
            return made, shared.cache.outcomes()

    made, outcomes = asyncio.run(main())
    assert all(len(texts.sentences) + len(texts.rejected) == 5 for texts in made)
    assert all(Texts.from_json(json.loads(json.dumps(t.to_json()))) == t for t in made)
    done = [s for texts in made for s in texts.sentences]
    assert len(done) > 40
    for sentence in done:
        (rendering,) = sentence.renderings
        assert [e.type for e in rendering.entities] == ["PER"]
        assert rendering.entities[0].surface in rendering.text_th
        assert "[" not in rendering.text_th
    assert {"http_429", "http_500", "invalid_json", "markers_lost", "ok"} <= outcomes.keys()


def test_a_key_that_is_refused_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(url: str, **calls: Any) -> None:
        llm = await open_llm(url, Calls.model_validate(calls), "llm")
        try:
            await LlmTranslator(asker(llm, tmp_path)).translate(ROW)
        finally:
            await llm.close()

    async def against_the_server() -> None:
        async with running(application()) as url:
            await main(f"openai:{url}/nothing/here#m")

    with pytest.raises(EnvironmentProblem, match="answered 404"):
        asyncio.run(against_the_server())
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY, which must hold the key"):
        asyncio.run(main("openai:http://127.0.0.1:9/v1#m", key_variable="NO_SUCH_KEY"))
    with pytest.raises(ConfigError, match="must be an http:// or https:// URL"):
        asyncio.run(main("openai:localhost#m"))
    with pytest.raises(ConfigError, match="llm backend must be embedded:, openai:"):
        asyncio.run(main("cloud:x"))


def test_a_batch_is_written_down_answered_and_replayed(tmp_path: Path) -> None:
    folder = tmp_path / "batch"

    def translator(*files: Path, waiting: Path | None) -> tuple[LlmTranslator, RecordedLlm]:
        llm = RecordedLlm("batch:", "m", files, waiting)
        return LlmTranslator(asker(llm, tmp_path / f"cache-{len(files)}-{waiting}")), llm

    ask, llm = translator(waiting=folder / REQUESTS)
    with pytest.raises(NotYetAnswered):
        asyncio.run(ask.translate(ROW))
    asyncio.run(llm.close())
    (line,) = map(json.loads, (folder / REQUESTS).read_text("utf-8").splitlines())
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"]["model"] == "m"
    said = {"choices": [{"message": {"content": json.dumps(GOOD)}}], "usage": {}}
    answer = {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": said}}
    (folder / "out.jsonl").write_text(json.dumps(answer) + "\n")

    async def both(row: SourceRow) -> tuple[tuple[SourceRow, ...], tuple[Rejected, ...]]:
        return (
            replace(row, text="Sing.", entities=()),
            replace(row, text="Hum.", entities=()),
        ), ()

    async def itself(row: SourceRow) -> SourceRow:
        return row

    ask, llm = translator(waiting=folder / "two.jsonl")
    with pytest.raises(NotYetAnswered):
        asyncio.run(make_texts(ROW, 2, itself, both, ask.translate))
    asyncio.run(llm.close())
    assert len((folder / "two.jsonl").read_text("utf-8").splitlines()) == 2

    ask, llm = translator(folder / "out.jsonl", waiting=folder / REQUESTS)
    assert isinstance(asyncio.run(ask.translate(ROW)), tuple)
    asyncio.run(llm.close())
    assert (folder / REQUESTS).read_text() == ""
    ask, _ = translator(folder / "out.jsonl", waiting=None)
    assert isinstance(asyncio.run(ask.translate(ROW)), tuple)
    other = SourceRow("o", "c", "l", "Sing.", None, ())
    found = asyncio.run(ask.translate(other))
    assert isinstance(found, Rejected)
    assert found.reason == "translate_not_recorded"
