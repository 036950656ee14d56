"""Gates that ask somebody: the filter and its planted rows, a recogniser that reads clips back, a MOS program."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from tests.judging import judging, lenient
from tests.stand_in import running, serving
from tests.test_models_recogniser import recogniser
from thaitool.audio.decode import encode_flac
from thaitool.config import Calls, SynthConfig
from thaitool.config.synth_gates import Gates
from thaitool.errors import ConfigError, EnvironmentProblem, InputError
from thaitool.models.recogniser import save_recogniser
from thaitool.records import Entity, Rejected
from thaitool.stages import synth
from thaitool.synth.backends.protocol import Identity
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Endpoint, Limits
from thaitool.synth.espeak import VOICES, speak
from thaitool.synth.gates.filter import KINDS, Item, Tally, plant, planted_share, require_trust
from thaitool.synth.gates.naturalness import CommandPredictor
from thaitool.synth.gates.panel import ClipGates
from thaitool.synth.gates.readback import open_listener, read_back, recogniser_sha256
from thaitool.synth.sources import SourceRow, Span
from thaitool.synth.translate import Rendering
from thaitool.text.spoken import spoken_form

THINGS = ("radio", "lamp", "door", "window", "kettle", "heater", "fan", "oven")


def write_source(path: Path, wrong: int) -> Path:
    rows = []
    for n in range(16):
        name = [{"type": "PER", "text": "Ann"}] if n % 2 else []
        text = f"Ring my friend Ann now {n}." if n % 2 else f"Turn the {THINGS[n // 2]} on {n}."
        # The first `wrong` rows have the other intent.
        intent = ("call", "switch")[(n % 2 == 0) != (n < wrong)]
        rows.append(
            {"id": f"r{n}", "instruction": text, "output": "", "intent": intent, "entities": name}
        )
    for row in rows:
        row["output"] = "Done."
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def settings_of(url: str, source: Path, out: Path, **gates: Any) -> SynthConfig:
    return SynthConfig.model_validate(
        {
            "source": source,
            "out": out,
            "llm": f"openai:{url}/v1#stand-in",
            "translator": f"openai:{url}/v1#stand-in",
            "voices": ["chai", "fah", "jan"],
            "dev_voices": 0,
            "test_voices": 0,
            "variants": 3,
            "tasks": ["asr"],
            "max_rejected_share": 1.0,
            "gates": {
                "filter": "llm",
                "duplicates": "keep",
                "planted_share": 0.5,
                "min_planted": 10,
                **gates,
            },
        }
    )


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_filter_refuses_bad_rows_and_planted_ones_never_come_out(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jsonl", wrong=4)
    with serving(answering=judging) as url:
        made = synth.make(settings_of(url, source, tmp_path / "a")).result
        again = synth.make(settings_of(url, source, tmp_path / "b"))
    card = json.loads((tmp_path / "a" / "dataset_card.json").read_text("utf-8"))
    tally = card["gates"]["filter"]
    assert tally["judged"] == 16 * 3
    assert tally["caught"] == tally["planted"] > 10
    assert dict(made.rejected) == {"filtered": 4 * 3}
    assert tally["passed"] == 12 * 3 == sum(n for _, _, n, _ in made.counts)
    assert "label of" in (tmp_path / "a" / "rejected.jsonl").read_text("utf-8")
    # Another cache, another order of answers: the same rows.
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert again.spending is not None


def test_a_filter_that_passes_planted_rows_stops_the_run(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.jsonl", wrong=0)
    with serving(answering=lenient) as url:
        with pytest.raises(InputError, match=r"caught 0 of \d+ bad sentences that were planted"):
            synth.make(settings_of(url, source, tmp_path / "a"))
        relaxed = settings_of(url, source, tmp_path / "b", min_caught=0.0, max_passed=0.98)
        with pytest.raises(
            InputError, match=r"let 48 of 48 sentences pass, more than 0\.98 of them"
        ):
            synth.make(relaxed)
    with pytest.raises(ConfigError, match="must name a language model that can judge Thai"):
        values = relaxed.model_dump() | {"llm": "embedded:", "out": tmp_path / "c"}
        synth.make(SynthConfig.model_validate(values))


def test_a_small_data_set_plants_enough_to_judge_its_filter(tmp_path: Path) -> None:
    """48 sentences with the default share would plant one, and a filter that passes anything would do."""
    limits = Gates.model_validate({})
    assert planted_share(limits, 100_000) == limits.planted_share
    assert planted_share(limits, 100) == 0.3
    assert planted_share(limits, 10) == planted_share(limits, 0) == 1
    source = write_source(tmp_path / "source.jsonl", wrong=0)
    with (
        serving(answering=lenient) as url,
        pytest.raises(InputError, match=r"caught 0 of \d+ bad sentences that were planted"),
    ):
        synth.make(settings_of(url, source, tmp_path / "a", planted_share=0.02))


def test_trust_is_judged_from_enough_planted_rows_on() -> None:
    limits = Gates.model_validate({"min_planted": 20})
    require_trust(Tally(900, 900, 19, 0), limits, is_whole=True)
    with pytest.raises(InputError, match="caught 15 of 20"):
        require_trust(Tally(900, 700, 20, 15), limits, is_whole=True)
    require_trust(Tally(900, 700, 20, 15), limits, is_whole=False)  # may be bad luck
    with pytest.raises(InputError, match="caught 9 of 20"):
        require_trust(Tally(900, 700, 20, 9), limits, is_whole=False)
    # Good data: a filter that catches all that is planted may pass all the rest.
    require_trust(Tally(9800, 9800, 200, 200), limits, is_whole=True)
    strict = Gates.model_validate({"max_passed": 0.98})
    require_trust(Tally(900, 880, 20, 18), strict, is_whole=True)
    with pytest.raises(InputError, match="let 883 of 900 sentences pass"):
        require_trust(Tally(900, 883, 20, 20), strict, is_whole=True)


def test_a_call_that_failed_catches_nothing() -> None:
    row, rendering = SourceRow("r", "c", "l", "A", "call", ()), Rendering("มา", (), "")
    failed, refused = (Rejected("r", reason, "") for reason in ("filter_timeout", "filtered"))
    tally = Tally()
    for planted in ("intent", ""):
        item = Item(row, rendering, planted)
        for rejected in (failed, refused, None):
            tally.add(item, rejected)
    assert tally == Tally(judged=2, passed=1, planted=2, caught=1)


def test_planted_rows_are_wrong_in_the_way_that_they_say() -> None:
    def item(n: int, names: bool) -> Item:
        text = f"โทรหาคุณที่{n}" + ("สมชาย" if n % 2 else "มาลี")
        entities = (Entity("PER", "สมชาย" if n % 2 else "มาลี"),) if names else ()
        spans = (Span(0, 1, "PER", "A"),) if names else ()
        return Item(SourceRow(f"r{n}", "c", "l", "A", "call", spans), Rendering(text, entities, ""))

    items = [item(n, names=True) for n in range(60)]
    seen = set()
    for one in items:
        bad = plant(one, lambda drawn: items[drawn % 60], ("call", "stop"), seed=3)
        assert bad is not None
        assert bad == plant(one, lambda drawn: items[drawn % 60], ("call", "stop"), seed=3)
        seen.add(bad.planted)
        if bad.planted == "intent":
            assert (bad.row.intent, bad.rendering) == ("stop", one.rendering)
        elif bad.planted == "name":
            assert bad.rendering.entities[0].surface not in bad.rendering.text_th
        elif bad.planted == "translation":
            assert bad.rendering.text_th != one.rendering.text_th
            assert any(bad.rendering == other.rendering for other in items)
        else:
            assert sorted(bad.rendering.text_th) == sorted(one.rendering.text_th)
            assert bad.rendering.text_th != one.rendering.text_th
    assert seen == set(KINDS)
    bare = item(1, names=False)
    kinds = {plant(bare, lambda _: bare, ("call",), seed=n).planted for n in range(9)}  # type: ignore[union-attr]
    assert kinds == {"gibberish"}
    # A variant of the same row may mean the same, and one letter has one order: these are not bad.
    variant = Item(bare.row, Rendering("มา", (), ""))
    kinds = {plant(bare, lambda _: variant, (), seed=n).planted for n in range(9)}  # type: ignore[union-attr]
    assert kinds == {"gibberish"}
    assert plant(Item(bare.row, Rendering("ก", (), "")), lambda _: bare, ("call",), seed=0) is None


@settings(max_examples=60, deadline=None)
@given(st.text("กขคงาิน", min_size=1, max_size=12), st.text("กขคงาิน", max_size=12))
def test_error_rates_are_those_of_levenshtein(spoken: str, heard: str) -> None:
    # Both are brought to what is said: กก is read as the abbreviation of a kilogram.
    assume(spoken_form(spoken) == spoken and spoken_form(heard) == heard)
    found = read_back(spoken, [(0, len(spoken))], heard)
    edits = Levenshtein.distance(spoken, heard)
    assert found.cer == pytest.approx(edits / len(spoken), abs=1e-4)
    assert found.entity_cer is not None
    assert found.entity_cer <= found.cer + 1e-9


def test_errors_in_a_name_are_counted_apart() -> None:
    spoken = "โทรหาสมชายตอนเช้า"
    span = (5, 10)
    assert read_back(spoken, [span], spoken).entity_cer == 0
    other = read_back(spoken, [span], "โทรหาสมศรีตอนเช้า")
    assert other.entity_cer == pytest.approx(3 / 5)
    assert other.cer == pytest.approx(3 / 17, abs=1e-4)
    around = read_back(spoken, [span], "โทหาสมชายตอนเช้าๆ")
    assert around.entity_cer == 0
    assert around.cer > 0
    assert read_back(spoken, [], "").entity_cer is None
    assert read_back("ห้า โมง", [], "5 โมง").cer == 0


class Parrot:
    """Hears the same in every clip."""

    identity = Identity("recogniser:", "parrot", "1")

    def __init__(self, says: str) -> None:
        self.says, self.asked = says, 0

    async def hear(self, flac: bytes) -> str:  # noqa: ARG002
        self.asked += 1
        return self.says

    async def close(self) -> None:
        """Nothing is open."""


def test_what_is_heard_decides_and_is_asked_once(tmp_path: Path) -> None:
    text = "โทรหาสมชายตอนเช้า"
    flac = encode_flac(speak(text, VOICES[0]).samples)
    cache = Cache(tmp_path / "cache.sqlite", "run")

    def judged(says: str, **limits: float) -> Any:
        parrot = Parrot(says)
        parrot.identity = Identity("recogniser:", f"{says}{limits}", "1")
        gates = ClipGates(Gates.model_validate(limits), parrot, None, cache)
        first, second = (asyncio.run(gates.judge(flac, text, [(5, 10)], 1.0)) for _ in range(2))
        assert first == second
        assert parrot.asked == 1
        return first

    good = judged(text)
    assert good.fault is None
    assert (good.values["asr_cer"], good.values["asr_entity_cer"]) == (0, 0)
    assert judged("โทรหาสมศรีตอนเช้า").fault.reason == "asr_entity_cer"
    assert judged("โทรหาสมศรีตอนเช้า", max_entity_cer=0.7).fault is None
    assert judged("หาสมชาย").fault.reason == "asr_cer"
    cache.close()


def test_a_recogniser_of_our_own_reads_back_and_is_not_the_one_under_evaluation(
    tmp_path: Path,
) -> None:
    save_recogniser(tmp_path / "asr", recogniser())
    listener = open_listener(
        f"recogniser:{tmp_path / 'asr'}",
        Calls.model_validate({"device": "cpu"}),
        Endpoint("a", Limits()),
    )
    flac = encode_flac(speak("มาหา", VOICES[0]).samples)
    first, second = (asyncio.run(listener.hear(flac)) for _ in range(2))
    assert first == second
    gates = {"asr": f"recogniser:{tmp_path / 'asr'}"}
    assert recogniser_sha256(Gates.model_validate(gates)) == listener.identity.revision
    with pytest.raises(ConfigError, match="hold the same weights"):
        recogniser_sha256(Gates.model_validate(gates | {"asr_not": tmp_path / "asr"}))
    with pytest.raises(ConfigError, match=r"which gates\.asr speech:http://h/v1#m does not show"):
        recogniser_sha256(
            Gates.model_validate({"asr": "speech:http://h/v1#m", "asr_not": tmp_path / "asr"})
        )
    with pytest.raises(ConfigError, match=r"gates\.asr must be recogniser:DIR"):
        open_listener("whisper:x", Calls.model_validate({}), Endpoint("a", Limits()))


def test_any_server_of_transcriptions_reads_back() -> None:
    seen: list[tuple[str, bytes]] = []

    async def transcribe(request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        seen.append((str(form["model"]), file.file.read()))
        return web.json_response({"text": "มาหา"} if len(seen) > 1 else {"words": []})

    app = web.Application()
    app.router.add_post("/v1/audio/transcriptions", transcribe)

    async def main() -> str:
        async with running(app) as url:
            endpoint = Endpoint("a", Limits(base_s=0.01))
            listener = open_listener(f"speech:{url}/v1#w", Calls.model_validate({}), endpoint)
            heard = await listener.hear(b"fLaC-like")
            await listener.close()
            return heard

    assert asyncio.run(main()) == "มาหา"  # the first answer had no text, and was asked for again
    assert seen == [("w", b"fLaC-like")] * 2


def test_a_program_predicts_naturalness_and_refuses_nothing(tmp_path: Path) -> None:
    script = tmp_path / "mos.py"
    script.write_text("import sys, soundfile; print(soundfile.info(sys.argv[-1]).frames / 1000)")
    flac = encode_flac(speak("มาหา", VOICES[0]).samples)
    program = shlex.join([sys.executable, str(script)])
    limits = Gates.model_validate({})
    gates = ClipGates(limits, None, CommandPredictor(f"command:{program}", 60.0))
    judged = asyncio.run(gates.judge(flac, "มาหา", [], 1.0))
    assert judged.fault is None
    frames = len(speak("มาหา", VOICES[0]).samples)
    assert judged.values["mos"] == pytest.approx(frames / 1000)
    script.write_text("print('good')")
    with pytest.raises(EnvironmentProblem, match="must print one number, but printed 'good'"):
        asyncio.run(gates.judge(flac, "มาหา", [], 1.0))
    script.write_text("raise SystemExit('no weights')")
    with pytest.raises(EnvironmentProblem, match="ended with 1: no weights"):
        asyncio.run(gates.judge(flac, "มาหา", [], 1.0))
    with pytest.raises(ConfigError, match="must be command:PROGRAM"):
        CommandPredictor("utmos:", 60.0)
    script.write_text("import time; time.sleep(60)")
    hung = CommandPredictor(f"command:{program}", 0.2)
    with pytest.raises(EnvironmentProblem, match=r"must end within calls\.timeout_s, 0\.2 s"):
        asyncio.run(ClipGates(limits, None, hung).judge(flac, "มาหา", [], 1.0))
