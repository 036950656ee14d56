"""Voices of piper: which phonemes reach the model, speakers, speed, and what is refused. The model is built here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thaitool.config import Calls
from thaitool.errors import ConfigError, InputError
from thaitool.synth.backends import open_tts
from thaitool.synth.backends.piper import thai_symbols
from thaitool.synth.backends.protocol import Tts
from thaitool.synth.espeak import Speech

CALLS = Calls.model_validate({})
#: The model says each id as a tone of its own, this long at length_scale 1.
RATE_HZ, SAMPLES = 16_000, 1600
LOWEST_HZ, STEP_HZ, SPEAKER_HZ = 200, 40, 20
SYMBOLS = "_^$ abcdefhijklmnoprstuwŋɔɛɤɯʔʰː12345"
IDS = {symbol: [n] for n, symbol in enumerate(SYMBOLS)}


def test_thai_is_written_as_thai_voices_of_piper_know_it() -> None:
    # From the table of piper1-gpl's pull request 293, and TLTK's tables for c and diphthongs.
    known = {
        "ปา": "paː1", "ป่า": "paː2", "ป้า": "paː3", "ป๊า": "paː4", "ป๋า": "paː5",
        "ข่าว": "kʰaːw2", "ข้าว": "kʰaːw3", "เขา": "kʰaw5",
        "จาน": "caːn1", "ช้าง": "cʰaːŋ4", "ออก": "ʔɔːk2", "เกาะ": "kɔ2", "เรียน": "riːan1", "เรือ": "rɯːa1",
        "วัว": "wuːa1", "ความ": "kʰwaːm1",
    }  # fmt: skip
    assert {word: "".join(thai_symbols(word)) for word in known} == known
    assert "".join(thai_symbols("ข่าว ข้าว")) == "kʰaːw2 kʰaːw3"
    assert "".join(thai_symbols("มาลี")).count(" ") == 0
    with pytest.raises(InputError, match="has no Thai syllable"):
        thai_symbols("  ")


def write_voice(folder: Path, phoneme_type: str = "thai", speakers: int = 2) -> Path:
    """An ONNX file with the inputs and output of piper's: a tone for each id, higher for the second speaker."""
    onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra dev)")
    pytest.importorskip("piper", reason="needs the package piper-tts (extra piper)")
    from onnx import TensorProto, helper, numpy_helper

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], **attributes)

    def constant(name: str, value: Any, kind: type) -> Any:
        return numpy_helper.from_array(np.array(value, kind), name)

    nodes = [
        node("Gather", ["scales", "one"], "length"),
        node("Mul", ["length", "samples"], "long"),
        node("Floor", ["long"], "whole"),
        node("Range", ["zero", "whole", "step"], "t"),
        node("Cast", ["input"], "ids", to=TensorProto.FLOAT),
        node("Cast", ["sid"], "speaker", to=TensorProto.FLOAT),
        node("Mul", ["ids", "per_id"], "above"),
        node("Mul", ["speaker", "per_speaker"], "higher"),
        node("Add", ["above", "higher"], "tone"),
        node("Add", ["tone", "lowest"], "hz"),
        node("Transpose", ["hz"], "column", perm=[1, 0]),
        node("Mul", ["column", "t"], "cycles"),
        node("Mul", ["cycles", "turn"], "angle"),
        node("Sin", ["angle"], "wave"),
        node("Reshape", ["wave", "shape"], "output"),
    ]
    constants = [
        constant("one", 1, np.int64), constant("samples", SAMPLES, np.float32),
        constant("zero", 0, np.float32), constant("step", 1, np.float32),
        constant("per_id", STEP_HZ, np.float32), constant("per_speaker", SPEAKER_HZ, np.float32),
        constant("lowest", LOWEST_HZ, np.float32), constant("turn", 2 * np.pi / RATE_HZ, np.float32),
        constant("shape", [1, 1, 1, -1], np.int64),
    ]  # fmt: skip
    inputs = [("input", TensorProto.INT64, [1, "T"]), ("input_lengths", TensorProto.INT64, [1]),
              ("scales", TensorProto.FLOAT, [3]), ("sid", TensorProto.INT64, [1])]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "voice",
        [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, "N"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "voice.onnx"
    onnx.save(model, str(path))
    settings = {
        "num_symbols": len(SYMBOLS), "num_speakers": speakers, "audio": {"sample_rate": RATE_HZ},
        "espeak": {"voice": "th"}, "phoneme_type": phoneme_type, "phoneme_id_map": IDS,
        "speaker_id_map": {"malee": 0, "somchai": 1}, "inference": {"length_scale": 1.0},
    }  # fmt: skip
    path.with_name("voice.onnx.json").write_text(json.dumps(settings), "utf-8")
    return path


def said(tts: Tts, text: str, voice: str, speed: float = 1.0) -> Speech:
    return asyncio.run(tts.speak(text, voice, speed=speed, pitch_shift=0, seed=1))


def heard_ids(speech: Speech, speaker: int, samples: int = SAMPLES) -> list[int]:
    """Reads the ids back from the tones."""
    windows = speech.samples.reshape(-1, samples)
    hz = np.abs(np.fft.rfft(windows, axis=1)).argmax(1) * RATE_HZ / samples
    return [round((float(f) - LOWEST_HZ - SPEAKER_HZ * speaker) / STEP_HZ) for f in hz]


def test_the_model_hears_its_phonemes_with_tones_and_the_speaker(tmp_path: Path) -> None:
    tts = open_tts(f"piper:{write_voice(tmp_path)}", (), CALLS)
    assert tts.voices == ("malee", "somchai")
    assert (tts.identity.backend, tts.identity.model) == ("piper:", "voice.onnx")
    # piper puts a padding between all, a beginning before and an end behind.
    wanted = [IDS["^"][0], 0]
    for symbol in "kʰaːw2 kʰaːw3":
        wanted += [IDS[symbol][0], 0]
    wanted.append(IDS["$"][0])
    for speaker, voice in enumerate(tts.voices):
        speech = said(tts, "ข่าว ข้าว", voice)
        assert speech.sample_rate_hz == 16_000
        assert speech.phonemes == "kʰaːw2 kʰaːw3"
        assert heard_ids(speech, speaker) == wanted
    fast = said(tts, "ข่าว ข้าว", "malee", speed=2.0)
    assert heard_ids(fast, 0, SAMPLES // 2) == wanted
    asyncio.run(tts.close())


def test_voices_without_thai_tones_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = write_voice(tmp_path, "espeak")
    with pytest.raises(ConfigError, match="but is of espeak, which has no Thai tones"):
        open_tts(f"piper:{path}", (), CALLS)
    write_voice(tmp_path)
    with pytest.raises(InputError, match="has the voices malee, somchai, but 'nobody'"):
        open_tts(f"piper:{path}", ("nobody",), CALLS)
    with pytest.raises(InputError, match=r"other\.onnx is no file"):
        open_tts(f"piper:{tmp_path / 'other.onnx'}", (), CALLS)
    before = open_tts(f"piper:{path}", (), CALLS).identity.revision
    settings = path.with_name("voice.onnx.json")
    settings.write_text(
        settings.read_text("utf-8").replace('"length_scale": 1.0', '"length_scale": 2.0')
    )
    slow = open_tts(f"piper:{path}", (), CALLS)
    assert slow.identity.revision != before
    assert len(said(slow, "มา", "malee").samples) == 2 * SAMPLES * len("^_m_a_ː_1_$")
    settings.write_text("{}")
    with pytest.raises(InputError, match="must be the JSON of a piper voice"):
        open_tts(f"piper:{path}", (), CALLS)
    write_voice(tmp_path)
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match="cannot be loaded as an ONNX model"):
        open_tts(f"piper:{path}", (), CALLS)


def test_a_voice_of_letters_says_what_it_knows(tmp_path: Path) -> None:
    tts = open_tts(f"piper:{write_voice(tmp_path, 'text')}", ("malee",), CALLS)
    assert said(tts, "kan", "malee").phonemes == "kan"
    with pytest.raises(InputError, match="knows no symbol 'ก'"):
        said(tts, "กา", "malee")
