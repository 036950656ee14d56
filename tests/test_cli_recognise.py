"""Recognisers through the commands that people type: `infer` and `eval --task asr`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile
import torch

from tests import tiny
from tests.conftest import Program
from tests.test_models_recogniser import recogniser
from thaitool.config import EvalConfig, InferConfig
from thaitool.data.loader import collate
from thaitool.data.shards import read_thai_sup
from thaitool.errors import InputError
from thaitool.models.decoding import transcribe
from thaitool.models.recogniser import load_recogniser, save_recogniser
from thaitool.records import AudioRef, Utterance
from thaitool.stages import evaluate, infer


def run_directory(path: Path, *, aed: bool = False) -> Path:
    """A finished run whose best checkpoint is the second of three; the others are other models."""
    for number in range(3):
        model = recogniser("wav2vec2-bert", aed=aed, seed=number)
        save_recogniser(path / f"checkpoint-{number}", model)
    (path / "best").symlink_to("checkpoint-1")
    (path / "last").symlink_to("checkpoint-2")
    (path / "run.json").write_text("{}")
    (path / "result.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_directory(tmp_path_factory.mktemp("recognise") / "ctc")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(tiny.clips(tmp_path_factory.mktemp("sounds"), 4).iterdir())


@pytest.fixture(scope="module")
def sup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.thai_sup(tmp_path_factory.mktemp("sup"))


def expected(model: Path, sounds: list[Path]) -> list[str]:
    """Texts of the best checkpoint for each file by itself, from parts that have their own tests."""
    loaded = load_recogniser(model / "checkpoint-1")
    texts = []
    for path in sounds:
        header = soundfile.info(path)
        utterance = Utterance("a", AudioRef(str(path)), header.duration, header.samplerate)
        batch = collate(0, 0, [utterance], normalised=False)
        texts += transcribe(loaded, batch.audio, batch.audio_lengths)
    return texts


def test_infer_on_a_run_gives_the_texts_of_its_best_checkpoint(
    program: Program, run: Path, sounds: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    files = [*sounds[:2], broken, *sounds[2:]]
    done = program("infer", "--model", str(run), "--device", "cpu", "--speed", *map(str, files))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["path"] for a in answers] == [str(f) for f in files]
    assert answers[2]["error"].startswith("unreadable")
    good = [*answers[:2], *answers[3:]]
    assert [a["text"] for a in good] == expected(run, sounds)
    assert len({a["text"] for a in good}) > 1
    assert done.returncode == 3
    audio_s = sum(soundfile.info(path).duration for path in sounds)
    said = re.search(rb"([\d.]+) s of audio in ([\d.]+) s, real-time factor ([\d.]+)", done.stderr)
    assert said
    assert float(said[1]) == pytest.approx(audio_s, abs=0.06)
    assert (
        0
        < float(said[3])
        == pytest.approx(sum(a["seconds"] for a in good) / audio_s, rel=0.05, abs=1e-4)
    )


@pytest.mark.parametrize("method", ["greedy", "beam", "joint"])
def test_every_search_is_reached_by_a_setting(
    run: Path, sounds: list[Path], tmp_path: Path, method: str
) -> None:
    if method == "beam" and not tiny.installed("flashlight.lib.text"):
        pytest.skip("flashlight-text is not installed")
    path = run_directory(tmp_path / "aed", aed=True)
    config = tiny.make(InferConfig, model=path, audio=sounds, decoding=method, beam=2, device="cpu")
    texts = [answer.text for answer in infer.run(config)]
    assert all(text is not None for text in texts)
    # The CTC head alone decides for greedy; what the others find has its own tests.
    assert method != "greedy" or texts == expected(path, sounds)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "ner"}, "only transcribes, but task ner was asked for"),
        ({"prompt": "what?"}, "only transcribes, but a prompt was asked for"),
        ({"decoding": "joint"}, "joint needs an attention decoder"),
        ({"llm": "l"}, "is a recogniser .* and has no LLM"),
    ],
)
def test_what_a_recogniser_cannot_do_is_a_sentence(
    run: Path, sounds: list[Path], wrong: dict[str, str], message: str
) -> None:
    config = tiny.make(InferConfig, model=run, audio=sounds, device="cpu", **wrong)
    with pytest.raises(InputError, match=message):
        list(infer.run(config))


def test_a_search_is_refused_for_what_cannot_do_it(sounds: list[Path], tmp_path: Path) -> None:
    """A speech LLM does not search, and an n-gram model is of the prefix beam alone: neither is left out quietly."""
    (tmp_path / "config.json").write_text('{"model_type": "thaitool_speech"}')
    config = tiny.make(InferConfig, model=tmp_path, audio=sounds, decoding="beam", device="cpu")
    with pytest.raises(InputError, match="decoding: beam is for recognisers"):
        list(infer.run(config))
    with pytest.raises(ValueError, match="lm is for decoding: beam"):
        tiny.make(InferConfig, model=tmp_path, audio=sounds, lm=tmp_path / "units.arpa")


def test_eval_scores_a_recogniser_and_goes_on_where_it_stopped(
    run: Path, sup: Path, tmp_path: Path
) -> None:
    settings = {"data": sup, "model": run, "out": tmp_path / "out", "draws": 50, "device": "cpu"}
    config = tiny.make(EvalConfig, task="asr", shuffled=False, **settings)
    report = evaluate.run(config).report
    rows = [u for u in read_thai_sup(sup, split="test") if u.task == "asr"]
    kept = (tmp_path / "out" / "predictions.jsonl").read_text("utf-8")
    said = {p["id"]: p for p in map(json.loads, kept.splitlines())}
    assert said.keys() == {u.id for u in rows}
    model = load_recogniser(run / "checkpoint-1")
    batch = collate(0, 0, rows, normalised=False)
    texts = transcribe(model, batch.audio, batch.audio_lengths)
    assert [said[u.id]["text"] for u in rows] == texts
    assert all(p["seconds"] > 0 and p["audio_s"] > 0 for p in said.values())
    (task,) = report.tasks
    cer = next(score for score in task.scores if score.name == "cer")
    assert cer.denominator > 0
    assert cer.value is not None and cer.value > 0.5  # nothing was trained
    evaluate.run(config)
    assert (tmp_path / "out" / "predictions.jsonl").read_text("utf-8") == kept
    with pytest.raises(InputError, match="another model, data set or setting"):
        evaluate.run(config.model_copy(update={"decoding": "beam"}))


def test_eval_of_all_tasks_is_refused_before_the_directory_is_made(
    run: Path, sup: Path, tmp_path: Path
) -> None:
    config = tiny.make(EvalConfig, data=sup, model=run, out=tmp_path / "out")
    with pytest.raises(InputError, match="only transcribes, but task slu was asked for"):
        evaluate.run(config)
    assert not (tmp_path / "out").exists()


def test_a_clip_that_whisper_cannot_hear_at_once_is_cut(sounds: list[Path], tmp_path: Path) -> None:
    save_recogniser(tmp_path / "model", recogniser("whisper"))
    long = tmp_path / "long.wav"
    soundfile.write(long, torch.randn(31 * 16_000).mul(0.1).numpy(), 16_000)
    audio = [sounds[0], long, sounds[1]]
    config = tiny.make(InferConfig, model=tmp_path / "model", audio=audio, device="cpu", beam=2)
    answers = list(infer.run(config))
    assert [a.error for a in answers] == [None, None, None]
    assert [a.segments is None for a in answers] == [True, False, True]
    (first, last) = answers[1].segments or ()
    assert (first.start_s, last.end_s) == (0, 31)
    assert first.end_s == last.start_s
    assert answers[1].text == f"{first.text} {last.text}".strip()
