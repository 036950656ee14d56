"""Gates that need no judge: sound of clips, tones of voices, script, duplicates, leakage. Each lets good ones live."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.config import SynthConfig
from thaitool.config.synth_gates import Gates
from thaitool.data import shards
from thaitool.data.shards import read_thai_sup
from thaitool.errors import ConfigError, EnvironmentProblem, QuarantineError
from thaitool.metrics.leakage import Line, TestItems
from thaitool.records import Entity
from thaitool.stages import synth
from thaitool.synth.backends.espeak import EspeakTts
from thaitool.synth.backends.protocol import CallFailed, Identity
from thaitool.synth.calls import Endpoint, Limits
from thaitool.synth.espeak import VOICES, Speech, speak
from thaitool.synth.gates.canary import PAIRS, WORDS, compare, hear_voices
from thaitool.synth.gates.clips import fault_of, measure, predicted_s
from thaitool.synth.gates.duplicates import Kept, likeness_of
from thaitool.synth.gates.leaks import leak_fault, read_known
from thaitool.synth.gates.panel import ClipGates
from thaitool.synth.gates.script import script_fault
from thaitool.synth.gates.sentences import SentenceGates
from thaitool.synth.ledger import Ledger
from thaitool.synth.packing import ShardWriter
from thaitool.synth.sources import SourceRow, Span, data_id_of
from thaitool.synth.texts import Sentence, Texts
from thaitool.synth.translate import Rendering
from thaitool.synth.voicing import Booth, voice_row

TEXT = "วันนี้อากาศดีมาก เราไปตลาดกัน"
LIMITS = Gates.model_validate({})


def speech() -> np.ndarray[Any, np.dtype[np.float32]]:
    return speak(TEXT, VOICES[0]).samples


def silence(seconds: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)


def reason(samples: np.ndarray[Any, np.dtype[np.float32]], spoken: str = TEXT) -> str | None:
    seconds = len(samples) / SAMPLE_RATE_HZ
    fault = fault_of(measure(samples, spoken), seconds, predicted_s(spoken), LIMITS)
    return None if fault is None else fault.reason


def test_each_fault_of_a_clip_has_its_reason_and_a_good_clip_has_none() -> None:
    good = speech()
    assert reason(good) is None
    assert reason(np.zeros_like(good)) == "silent"
    assert reason(np.concatenate([good, silence(1.6)])) == "silent"
    assert reason(np.concatenate([silence(1.6), good])) == "silent"
    assert reason(np.concatenate([good, silence(1.4)])) is None
    assert reason(np.tile(good, 4)) == "duration"  # a voice that repeats itself
    assert reason(np.tile(good, 2)) is None
    assert reason(good[: len(good) // 4]) == "speech_rate"  # one that skips
    assert reason(good * 0.03) == "level"
    assert reason(good * 0.001) == "silent"
    assert reason(np.clip(good * 30, -1, 1)) == "clipped"
    steps = np.concatenate([np.pad(part, (0, 40_000)) for part in np.array_split(good, 3)])
    assert reason(steps[:-40_000], TEXT * 3) == "silent"


def test_measures_are_those_of_a_known_signal() -> None:
    tone = np.float32(0.5) * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000, dtype=np.float32)
    tone[:160] = 1.0
    found = measure(np.concatenate([silence(0.2), tone, silence(0.4)]), "กา " * 5)
    assert found.lead_s == 0.2
    assert found.tail_s == 0.4
    assert found.silence_share == pytest.approx(0.6 / 1.6, abs=1e-4)
    assert found.chars_per_s == 10
    assert found.peak_dbfs == 0
    assert found.clipped_share == pytest.approx(160 / (1.6 * 16_000), abs=1e-6)
    assert found.level_dbfs == pytest.approx(10 * np.log10(0.99 * 0.125 + 0.01), abs=0.01)
    assert measure(silence(1.0), "กา").level_dbfs == -120


def test_predicted_length_follows_syllables_also_of_words_without_a_reading() -> None:
    assert predicted_s("มา") == pytest.approx(0.52)
    assert predicted_s("มา มา มา") == pytest.approx(0.3 + 3 * 0.22)
    assert predicted_s("ъыьъыьъ") == pytest.approx(0.3 + 2 * 0.22)
    for voice, text in itertools.product(VOICES, (TEXT, "ปลุกฉันตอนเจ็ดโมงเช้าหน่อย", "มา")):
        spoken_s = speak(text, voice).duration_s
        assert 0.6 < spoken_s / predicted_s(text) < 1.6, (voice.name, text)


class Fake:
    """A voice of a sine, whose pitch `glide` decides, or one that reads letters through espeak-ng's own rules."""

    identity = Identity("command:", "say {seed}", "")
    in_flight = 1
    voices = ("blind",)

    def __init__(self, glide: Any, lengths: Any = lambda _: 1.0) -> None:
        self.glide, self.lengths = glide, lengths
        self.asked: list[int] = []

    async def speak(
        self,
        text: str,
        voice: str,
        *,
        speed: float,  # noqa: ARG002
        pitch_shift: int,  # noqa: ARG002
        seed: int,
    ) -> Speech:
        self.asked.append(seed)
        n = int(SAMPLE_RATE_HZ * self.lengths(len(self.asked)))
        start, end = self.glide(text)
        pitch = np.linspace(start, end, n)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ)
        return Speech(wave.astype(np.float32), SAMPLE_RATE_HZ, voice, "")

    async def close(self) -> None:
        """Nothing is open."""


def hear(tts: Any, voices: tuple[str, ...] = ("blind",)) -> Any:
    booth = Booth(tts, Endpoint("c", Limits()), None)
    return asyncio.run(hear_voices(booth, voices, LIMITS.min_semitones))


def test_a_voice_that_ignores_tone_marks_is_refused_by_name_and_pair() -> None:
    with pytest.raises(
        ConfigError, match=r"'blind'.*ขาว and ข่าว are the same samples.*leave it out"
    ):
        hear(Fake(lambda _: (120, 120)))
    # Other samples and other lengths, but the same pitch, within half a semitone.
    seen = iter(range(100))
    wavering = Fake(lambda _: (120 + next(seen) % 3, 121), lambda n: 0.5 + 0.01 * n)
    with pytest.raises(ConfigError, match=r"are 0(\.\d+)? semitones apart"):
        hear(wavering)


def test_a_voice_that_cannot_be_reached_is_not_called_tone_blind() -> None:
    class Absent(Fake):
        async def speak(self, *_: Any, **__: Any) -> Speech:
            raise CallFailed("connection", "refused", again=True)

    booth = Booth(Absent(None), Endpoint("c", Limits(attempts=1)), None)
    with pytest.raises(EnvironmentProblem, match="could not be asked to say 'ขาว': connection"):
        asyncio.run(hear_voices(booth, ("blind",), 1.0))


def test_a_voice_that_says_nothing_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'blind'.*must say 'ขาว'.*silent.*[Ll]eave it out"):
        hear(Fake(lambda _: (0, 0)))


def test_a_voice_that_reads_letters_as_espeak_does_is_refused() -> None:
    # What espeak-ng makes of Thai letters: the tone mark is dropped, ข and ห raise nothing.
    letters = str.maketrans("", "", "่้๊๋")

    class Letters(EspeakTts):
        async def speak(self, text: str, voice: str, **how: Any) -> Speech:
            return await super().speak(text.translate(letters), voice, **how)

    with pytest.raises(ConfigError, match="the same samples"):
        hear(Letters(("chai",)), ("chai",))
    (found,) = hear(EspeakTts(("chai",)), ("chai",))
    assert found.passed
    assert found.semitones > 2


@settings(max_examples=15, deadline=None)
@given(
    st.floats(80, 160),
    st.lists(st.floats(0.7, 1.4), min_size=7, max_size=7, unique=True),
)
def test_semitones_are_those_of_synthetic_glides(start: float, ends: list[float]) -> None:
    contours = {
        w: np.geomspace(start, start * end, 6400) for w, end in zip(WORDS, ends, strict=True)
    }
    takes = {
        word: (0.2 * np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE_HZ)).astype(np.float32)
        for word, hz in contours.items()
    }
    found = compare("v", takes, 1.0)
    # The last of five parts lies at 0.9 of the way; a lag at 220 Hz is a quarter of a semitone.
    apart = {
        pair: 0.9 * abs(12 * np.log2(ends[WORDS.index(pair[0])] / ends[WORDS.index(pair[1])]))
        for pair in PAIRS
    }
    assert found.semitones == pytest.approx(min(apart.values()), abs=0.7)


def row_of(tts: Fake, gates: dict[str, Any]) -> Any:
    row = SourceRow("r", "c", "l", "Go", "go", (Span(0, 2, "LOC", "Go"),))
    booth = Booth(tts, Endpoint("c", Limits()), None, None, ClipGates(Gates.model_validate(gates)))
    rendering = Rendering(
        "ไปเชียงใหม่กับเชียงใหม่", (Entity("LOC", "เชียงใหม่"), Entity("LOC", "เชียงใหม่")), ""
    )
    return asyncio.run(
        voice_row(
            "asr", row, rendering, booth, intent_th=None, split="train", voices=("blind",),
            speed=1.0, seed=0, trainable=False,
        )
    )  # fmt: skip


def test_a_refused_clip_is_asked_again_with_another_seed_and_measures_go_with_the_row() -> None:
    never = Fake(lambda _: (120, 120), lambda _: 30.0)
    rejected = row_of(never, {})
    assert rejected.reason == "duration"
    assert len(set(never.asked)) == len(never.asked) == 3
    third = Fake(lambda _: (120, 120), lambda n: 2.0 if n == 3 else 30.0)
    _, provenance = row_of(third, {})
    assert len(third.asked) == 3
    values = json.loads(provenance.gates)
    assert set(values) == {
        "chars_per_s", "level_dbfs", "peak_dbfs", "clipped_share", "silence_share", "lead_s", "tail_s",
    }  # fmt: skip
    assert json.loads(provenance.entities) == [
        {"type": "LOC", "surface": "เชียงใหม่", "start": 2, "end": 11},
        {"type": "LOC", "surface": "เชียงใหม่", "start": 14, "end": 23},
    ]
    deaf = Fake(lambda _: (120, 120), lambda _: 30.0)
    deaf.identity = Identity("command:", "say", "")  # heeds no seed
    assert row_of(deaf, {}).reason == "duration"
    assert len(deaf.asked) == 1


@pytest.mark.parametrize(
    ("text", "names", "lives"),
    [
        ("เปิดเพลงของ Taylor Swift หน่อย 😀", ["Taylor Swift"], True),
        ("Hello", ["Hello"], True),
        ("ค่าไฟ 1,250 บาท ๆ ฯ “ดี”", [], True),
        ("please open ประตู", [], False),
        ("打开音乐ให้หน่อย", [], False),
        ("เปิดเพลง привет ให้หน่อย", [], False),
        ("เปิดเพลง\ufffdให้หน่อย", [], False),
        ("เปิดเพลง\x00ให้หน่อย", [], False),
    ],
)
def test_sentences_in_another_script_die(text: str, names: list[str], lives: bool) -> None:
    rendering = Rendering(text, tuple(Entity("PER", name) for name in names), "")
    fault = script_fault(rendering, LIMITS.min_thai_share)
    assert (fault is None) == lives
    assert fault is None or fault.reason == "wrong_script"


def sentence(rng: random.Random) -> str:
    words = ["เปิด", "เพลง", "ไฟ", "ช่วย", "หน่อย", "บ้าน", "นี้", "ครับ", "ห้องครัว", "พรุ่งนี้เช้า", "นานา"]
    return "".join(rng.choices(words, k=rng.randint(1, 11)))


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_are_those_of_brute_force(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    texts = [sentence(rng) for _ in range(150)]
    for text in list(texts):
        letters = list(text)
        for _ in range(rng.randint(1, 3)):
            letters[rng.randrange(len(letters))] = rng.choice("กขคงนม")
        texts.append("".join(letters))
    rng.shuffle(texts)
    tasks = [rng.randint(1, 7) for _ in texts]
    kept = Kept(near=True)
    for text in texts:
        kept.count(text)
    alive: list[tuple[str, int]] = []
    died = 0
    for number, (text, bits) in enumerate(zip(texts, tasks, strict=True)):
        rendering = Rendering(text, (), "")
        like = [mask for known, mask in alive if likeness_of(known, text) is not None]
        wanted = 0
        for mask in like:
            wanted |= mask & bits
        twin = kept.twins_of(rendering, "i", bits)
        assert (0 if twin is None else twin.tasks) == wanted, text
        left = bits & ~wanted
        died += bits != left
        if left:
            alive.append((text, left))
            kept.keep(rendering, "i", left, number)
    assert 30 < died < 300


def twins(first: Rendering, second: Rendering, intents: tuple[str, str] = ("i", "i")) -> Any:
    kept = Kept(near=True)
    for rendering in (first, second):
        kept.count(rendering.text_th)
    kept.keep(first, intents[0], 1, 4)
    return kept.twins_of(second, intents[1], 1)


def test_only_sentences_of_one_label_are_duplicates() -> None:
    first, second = Rendering("ช่วยเปิดไฟในห้องนอน", (), ""), Rendering("ช่วยเปิดไฟในห้องนอนที", (), "")
    twin = twins(first, second)
    assert (twin.position, twin.tasks) == (4, 1)
    assert 0.85 <= twin.likeness < 1
    assert twins(first, second, ("on", "off")) is None
    named = Rendering(first.text_th, (Entity("LOC", "ห้องนอน"),), "")
    assert twins(named, second) is None
    assert (
        twins(Rendering("ปลุกตอน 7 โมงเช้านะ", (), ""), Rendering("ปลุกตอน 8 โมงเช้านะ", (), ""))
        is None
    )
    assert twins(first, Rendering("ช่วยปิดไฟห้องนอน", (), "")) is None
    assert twins(first, Rendering("ช่วยเปิดไฟ ในห้องนอน!", (), "")).likeness == 1


class Pages:
    """Stands for a ledger with one sentence a source row."""

    def __init__(self, *pages: tuple[str, str]) -> None:
        self.sentences = [
            Sentence(
                SourceRow(f"r{n}", "c", "l", text, "i", (), audio=audio), (Rendering(text, (), ""),)
            )
            for n, (text, audio) in enumerate(pages)
        ]
        self.rejected: list[tuple[int, str, str]] = []

    def texts(self, position: int) -> Texts:
        return Texts((self.sentences[position],), ())

    def settled(self, position: int) -> frozenset[Any]:  # noqa: ARG002
        return frozenset()

    def reject(self, place: Any, rejected: Any) -> None:
        self.rejected.append((place.position, rejected.item, rejected.reason))


@pytest.mark.parametrize("duplicates", ["near", "equal"])
def test_a_second_recording_of_a_sentence_is_no_duplicate_of_the_first(duplicates: str) -> None:
    text = "ช่วยเปิดไฟในห้องนอน"
    other = "ปิดประตู"
    pages: Any = Pages(
        (text, ""), (text, "a.wav"), (text, "b.wav"), (text, ""), (other, "c.wav"), (other, "")
    )
    limits = Gates.model_validate({"duplicates": duplicates})
    gates = SentenceGates(
        limits, pages, rows=6, tasks=["asr"], known=TestItems([]), asker=None, intents=(), seed=0, width=1,
        tick=lambda: None,
    )  # fmt: skip
    asyncio.run(gates.run())
    ids = [data_id_of("asr", pages.sentences[position].row) for position in (3, 5)]
    assert pages.rejected == [(3, ids[0], "duplicate_text"), (5, ids[1], "duplicate_text")]


def test_sentences_of_an_evaluation_set_are_not_made_again(tmp_path: Path) -> None:
    known = TestItems(
        [
            Line("common_voice_th_123.mp3", "เขาไปตลาดเมื่อวานนี้ตอนเช้ากับแม่"),
            Line("b", "เปิดไฟ"),
        ]
    )
    for source_id, text, kind in (
        ("clips/common_voice_th_123.mp3", "อย่างอื่น", "leaked_id"),
        ("r", "เปิด ไฟ!", "leaked_text"),
        ("r", "เขาไปตลาดเมื่อวานนี้ตอนเช้ากับแม่ค่ะ", "leaked_near"),
    ):
        fault = leak_fault(known, source_id, text)
        assert fault is not None
        assert fault.reason == kind
    assert leak_fault(known, "r", "ปิดไฟห้องน้ำ") is None
    # Of two that are as near, always the same one is named: rejections are part of the output.
    fault = leak_fault(TestItems([Line("b", "เปิดไฟ"), Line("a", "เปิดไฟ")]), "r", "เปิดไฟ")
    assert fault is not None
    assert fault.detail == "'เปิดไฟ' is a (1.00)"
    (tmp_path / "eval.txt").write_text("เปิดไฟ\n\nปิดประตู\n", "utf-8")
    items, digest = read_known([tmp_path / "eval.txt"])
    assert [line.text for line in items.lines] == ["เปิดไฟ", "ปิดประตู"]
    (tmp_path / "eval.txt").write_text("เปิดไฟ\n\nปิดประตูบ้าน\n", "utf-8")
    assert read_known([tmp_path / "eval.txt"])[1] != digest


def test_the_stage_counts_each_reason_and_reads_its_own_set_as_leakage(tmp_path: Path) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "source.jsonl", intents=2)
    values = {
        "source": source,
        "variants": 5,
        "tasks": ["ic", "asr"],
        "voices": ["chai", "fah", "jan"],
    }
    values |= {"dev_voices": 1, "test_voices": 1}
    first = synth.make(SynthConfig.model_validate(values | {"out": tmp_path / "a"})).result
    card = json.loads((tmp_path / "a" / "dataset_card.json").read_text("utf-8"))
    assert {c["voice"] for c in card["gates"]["canary"]} == {"chai", "fah", "jan"}
    assert card["gates"]["settings"]["max_cer"] == 0.3
    made = sum(n for _, _, n, _ in first.counts)
    assert made > 10
    against = values | {"gates": {"against": [tmp_path / "a"]}, "out": tmp_path / "b"}
    with pytest.raises(QuarantineError, match="leaked_text"):
        synth.make(SynthConfig.model_validate(against))
    lines = [
        json.loads(line) for line in (tmp_path / "a" / "rejected.jsonl").read_text().splitlines()
    ]
    assert Counter(line["reason"] for line in lines) == dict(first.rejected)
    assert dict(first.rejected)["duplicate_near"] > 0


def test_a_run_that_dies_among_the_gates_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "source.jsonl", intents=2)
    values = {"source": source, "variants": 3, "tasks": ["ic"], "voices": ["chai", "fah"]}
    values |= {"dev_voices": 0, "test_voices": 0, "shard_rows": 10}
    synth.make(SynthConfig.model_validate(values | {"out": tmp_path / "first"}))
    texts = sorted({u.text or "" for u in read_thai_sup(tmp_path / "first")})
    (tmp_path / "known.txt").write_text("\n".join(texts[:8]), "utf-8")
    values |= {"gates": {"against": [tmp_path / "known.txt"]}}
    synth.make(SynthConfig.model_validate(values | {"out": tmp_path / "whole"}))
    config = SynthConfig.model_validate(values | {"out": tmp_path / "died"})
    for owner, name, calls in ((Ledger, "reject", 3), (ShardWriter, "_write", 2)):
        real, left = getattr(owner, name), iter(range(calls))

        def dying(*args: Any, real: Any = real, left: Any = left) -> None:
            if next(left, None) is None:
                raise RuntimeError("killed")
            real(*args)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, dying)
            with pytest.raises(RuntimeError, match="killed"):
                synth.make(config)
    resumed = synth.make(config)
    assert resumed.resumed_rows > 0
    assert dict(resumed.result.rejected)["leaked_text"] >= 8
    names = [str(p.relative_to(tmp_path / "whole")) for p in (tmp_path / "whole").rglob("*.*")]
    assert any(name.endswith(".parquet") for name in names)
    for name in names:
        assert (tmp_path / "died" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes(), name


def test_provenance_of_older_data_sets_is_still_read(tmp_path: Path) -> None:
    old: dict[str, Any] = {
        "data_id": "IC-1-00", "source_id": "s", "source_corpus": "c", "source_licence": "l", "split": "train",
        "variant": 0, "intent": "i", "text_en": "t", "text_spoken": "t", "voice": "v", "phonemes": "",
        "trainable": True,
    }  # fmt: skip
    shards.write_provenance(
        tmp_path / "provenance" / "part-00000.parquet", [shards.Provenance(**old)]
    )
    file = tmp_path / "provenance" / "part-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["entities", "gates", "effects"]), file)
    (read,) = shards._read_provenance(tmp_path).values()
    assert read == shards.Provenance(**old)
    assert read.gates == ""
