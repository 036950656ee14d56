"""`infer` on what people have: directories, lists, long recordings, pipes; from the command line and from Python."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import thaitool
from tests import llms, tiny
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import InferConfig
from thaitool.data.manifest import write_manifest
from thaitool.data.scan import scan
from thaitool.data.shards import ThaiSupRow, write_shard
from thaitool.errors import ConfigError, InputError
from thaitool.inference.answering import answers
from thaitool.inference.engine import Request
from thaitool.inference.model import Model
from thaitool.inference.recordings import stretches
from thaitool.inference.sources import Recording, recordings
from thaitool.records import AudioRef, Utterance
from thaitool.stages import infer
from thaitool.text.context import Context, context_text

PAUSED = (0.9, 1.4, 0.7, 1.1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("recordings")
    llm = llms.llm_directory(base / "llm")
    return llms.save(base / "model", *llms.speech_lm(llm), llm)


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return thaitool.load(path, device="cpu", max_new_tokens=6, rows=3)


def speech(seconds: float, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    t = np.arange(round(16_000 * seconds)) / 16_000
    tone = np.sin(2 * np.pi * (150 + 40 * seed) * t) * (1 + np.sin(2 * np.pi * 4 * t)) / 2
    return 0.4 * tone + 0.002 * rng.standard_normal(len(t))


def paused(file: Path) -> list[tuple[float, float]]:
    """Stretches of a tone with 0.6 s of hush between; returns where they are."""
    hush = 0.002 * np.random.default_rng(9).standard_normal(9_600)
    parts, places, at = [], [], 0.0
    for seed, seconds in enumerate(PAUSED):
        parts += [speech(seconds, seed), hush]
        places.append((at, at + seconds))
        at += seconds + 0.6
    soundfile.write(file, np.concatenate(parts[:-1]), 16_000)
    return places


def test_a_long_recording_is_cut_in_its_pauses(model: Model, tmp_path: Path) -> None:
    places = paused(tmp_path / "long.flac")
    answer = model(tmp_path / "long.flac", split_s=1.9)
    assert answer.segments is not None
    assert len(answer.segments) == len(PAUSED)
    for segment, (start_s, end_s) in zip(answer.segments, places, strict=True):
        assert segment.start_s <= start_s + 0.02
        assert segment.end_s >= end_s - 0.02
        assert segment.end_s - segment.start_s <= 1.9
    assert answer.text == " ".join(s.text for s in answer.segments if s.text)
    # Each stretch is heard as if it were a file of its own.
    samples, _ = soundfile.read(tmp_path / "long.flac", dtype="float32")
    for segment in answer.segments:
        part = samples[round(16_000 * segment.start_s) : round(16_000 * segment.end_s)]
        assert model(part).text == segment.text
    whole = model(tmp_path / "long.flac")
    assert whole.segments is None
    assert whole.text == model(samples).text
    # What was understood of a stretch is no answer about the whole for tasks that choose one.
    assert model(tmp_path / "long.flac", task="ic").segments is None


def test_stretches_of_a_stretch_keep_their_times(tmp_path: Path) -> None:
    paused(tmp_path / "long.flac")
    samples, _ = soundfile.read(tmp_path / "long.flac")
    soundfile.write(tmp_path / "end.flac", samples[round(16_000 * 1.2) :], 16_000)
    alone = stretches(str(tmp_path / "end.flac"), "end", 1.9)
    later = stretches(str(tmp_path / "long.flac"), "long", 1.9, start_s=1.2)
    assert len(later) > 2
    np.testing.assert_allclose(later, np.array(alone) + 1.2, atol=1e-6)


def test_every_kind_of_input_gives_its_recordings(tmp_path: Path) -> None:
    folder = tiny.clips(tmp_path / "sounds", 3)
    (folder / "deep").mkdir()
    soundfile.write(folder / "deep" / "d.wav", speech(0.5), 16_000)
    (folder / "notes.txt").write_text("no sound")
    manifest, _ = scan([folder])
    write_manifest(manifest, tmp_path / "m.arrow")
    nemo = tmp_path / "n.jsonl"
    lines = [{"audio_filepath": str(folder / f"clip-0{n}.flac"), "duration": 0} for n in range(3)]
    for line in lines:
        line["duration"] = soundfile.info(line["audio_filepath"]).duration
        line["text"] = "ก"
    nemo.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "text.wav").write_text("this is text")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "hollow").mkdir()
    flac = (folder / "clip-00.flac").read_bytes()
    duration_s = soundfile.info(folder / "clip-00.flac").duration
    tasks = [("a-0", "asr"), ("a-1", "ic"), ("a-2", "ner")]
    sup = [ThaiSupRow(t, "?", i, "ก", "ข", flac, 16_000, 1, duration_s) for i, t in tasks]
    write_shard(tmp_path / "sup" / "part-0.parquet", sup)
    sources = [folder, tmp_path / "m.arrow", nemo, tmp_path / "sup"]
    found = [list(recordings([source])) for source in sources]
    assert [len(f) for f in found[:3]] == [4, 4, 3]
    assert [r.utterance.task for r in found[3] if r.utterance] == ["asr", "ic", "ner"]
    assert all(r.utterance and r.utterance.duration_s > 0 for f in found for r in f)
    assert [r.listed for f in found for r in f[:1]] == [False, True, True, True]
    assert [Path(r.path).name for r in found[0]][-1] == "d.wav"
    bad = [tmp_path / n for n in ("text.wav", "empty.wav", "absent.wav", "hollow")]
    bad.append(folder / "notes.txt")
    problems = [r.problem for r in recordings(bad)]
    assert len(problems) == 5
    for said, reason in zip(
        problems, ("unreadable", "empty", "unreadable", "empty", "unreadable"), strict=True
    ):
        assert said.startswith(reason), said


def test_order_is_kept_and_one_bad_recording_is_one_line(path: Path, tmp_path: Path) -> None:
    folder = tiny.clips(tmp_path / "sounds", 9)
    soundfile.write(folder / "clip-03x.wav", np.zeros(16_000), 16_000)
    soundfile.write(folder / "clip-05x.wav", speech(2.5), 16_000)
    config = {"model": path, "audio": [folder], "max_new_tokens": 5, "device": "cpu"}
    few, many = (
        list(infer.run(tiny.make(InferConfig, **config, rows=rows, split_s=1.0))) for rows in (1, 4)
    )
    assert [a.path for a in many] == sorted(str(p) for p in folder.iterdir())
    assert next(a.error for a in many if a.error).startswith("silent")
    assert sum(a.error is not None for a in many) == 1
    assert [(a.text, a.segments) for a in many] == [(a.text, a.segments) for a in few]


def test_text_comes_as_it_is_made(path: Path, tmp_path: Path) -> None:
    paused(tmp_path / "long.flac")
    folder = tiny.clips(tmp_path / "sounds", 3)
    told: dict[str, list[str]] = {}
    config = tiny.make(
        InferConfig, model=path, audio=[tmp_path / "long.flac", folder], split_s=1.9, rows=2
    )
    answers = list(infer.run(config, told=lambda p, new: told.setdefault(p, []).append(new)))
    assert len(answers) == 4
    for answer in answers:
        assert "".join(told[answer.path]) == answer.text
    assert len(told[answers[0].path]) > 8


def test_python_and_the_command_line_say_the_same(
    model: Model,
    path: Path,
    tmp_path: Path,
    signals: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny.clips(tmp_path / "sounds", 2)
    files = sorted(folder.iterdir())
    (tmp_path / "words.txt").write_text("สมชาย\nเชียงใหม่\n", "utf-8")

    def said(*options: str, stdin: bytes = b"") -> str:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        shared = ["infer", "--model", str(path), "--device", "cpu", "--max-new-tokens", "6"]
        assert guarded(lambda: app([*shared, *options], standalone_mode=False)) == 0
        return capsys.readouterr().out

    hints = ("--hotwords", str(tmp_path / "words.txt"), "--scene", "โทรศัพท์")
    lines = [json.loads(line) for line in said(*hints, str(folder)).splitlines()]
    asked = {"hotwords": ["สมชาย", "เชียงใหม่"], "scene": "โทรศัพท์"}
    assert [a.text for a in model([folder], **asked)] == [line["text"] for line in lines]
    assert [line["path"] for line in lines] == [str(f) for f in files]
    plain = said("--stream", "--text", "-", stdin=files[1].read_bytes())
    assert (
        plain.rstrip("\n")
        == model(files[1]).text
        == thaitool.load(path)(files[1], max_new_tokens=6).text
    )
    sampled = ("--temperature", "1.2", "--top-p", "0.9", "--seed", "3", "--stream")
    *deltas, last = map(json.loads, said(*sampled, stdin=f"{files[0]}\n".encode()).splitlines())
    assert "".join(d["delta"] for d in deltas) == last["text"]
    assert last["text"] == model(files[0], temperature=1.2, top_p=0.9, seed=3).text


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"task": "weather"}, InputError, "A task must be one of asr"),
        ({"tempreature": 1.0}, ConfigError, "tempreature: Extra inputs"),
        ({"labels": ["a"]}, ConfigError, "labels are for form: labels"),
        ({"rows": 2, "device": "cuda"}, ConfigError, "device, rows must be given to load"),
    ],
)
def test_mistakes_from_python_are_sentences(
    model: Model, tmp_path: Path, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    soundfile.write(tmp_path / "a.wav", speech(0.5), 16_000)
    with pytest.raises(error, match=message):
        model(tmp_path / "a.wav", **asked)
    with pytest.raises(InputError, match="must be one sound file, but has 2 recordings"):
        model(tiny.clips(tmp_path / "two", 2))
    assert model(tmp_path / "gone.wav").error == "unreadable: No such file or directory"


def test_what_is_said_of_all_recordings_replaces_only_those_fields_of_a_row(
    model: Model, tmp_path: Path
) -> None:
    file = tiny.clips(tmp_path / "sounds", 1) / "clip-00.flac"
    known = Context(("สมชาย",), "โทรศัพท์", draft="สวัสดี")
    duration_s = soundfile.info(file).duration
    row = Utterance("a", AudioRef(str(file)), duration_s, 16_000, context=context_text(known))
    asked: list[Context | None] = []
    real = model.engine.submit

    def submit(request: Request) -> Any:
        asked.append(request.context)
        return real(request)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model.engine, "submit", submit)
        for given in ({}, {"scene": "ร้าน"}):
            config = tiny.make(InferConfig, model="m", audio=["-"], max_new_tokens=2, **given)
            recording = Recording(str(file), row, listed=True)
            (answer,) = answers(model.engine, config, iter([recording]))
            assert answer.error is None
    assert asked == [known, replace(known, scene="ร้าน")]


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, thaitool, thaitool.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_three_hours_take_little_more_memory_than_ten_minutes(path: Path, tmp_path: Path) -> None:
    """The recording alone would be 690 MB of float32 samples."""
    minute = np.concatenate([speech(9.0, n % 3) * (n % 4 > 0) for n in range(7)])[: 60 * 16_000]
    peaks = []
    for minutes in (10, 180):
        file = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(file, "w", 16_000, 1) as out:
            for _ in range(minutes):
                out.write(minute + 0.002 * np.random.default_rng(0).standard_normal(len(minute)))
        code = (
            "import sys, resource, thaitool; m = thaitool.load(sys.argv[1], max_new_tokens=4);"
            " a = m(sys.argv[2]); assert a.segments and not a.error, a;"
            " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, str(path), str(file)]
        peaks.append(int(subprocess.check_output(command, text=True)))
    # Levels of its frames, and what decides the cuts between them, grow with the length all the same.
    assert peaks[1] - peaks[0] < 150_000  # kB
