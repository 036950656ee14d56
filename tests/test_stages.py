"""All stages in a chain on twelve sentences, what each of them refuses, and what it leaves when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from tests import tiny
from thaitool.config import (
    AlignConfig,
    EvalConfig,
    FinetuneConfig,
    InferConfig,
    PretrainConfig,
    SynthConfig,
)
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.data.scan import scan
from thaitool.data.shards import read_audio, read_thai_sup
from thaitool.errors import ConfigError, InputError, QuarantineError
from thaitool.models.checkpoint import load_speech_lm
from thaitool.records import PUBLISHED_TASKS, Utterance
from thaitool.stages import align, evaluate, finetune, infer, pretrain, synth
from thaitool.training.run_dir import RunDir, resolve


def training(updates: int, **changes: Any) -> dict[str, Any]:
    values = {
        "updates": updates,
        "batch_s": 20.0,
        "learning_rate": 1e-3,
        "eval_every": updates,
        "save_every": updates,
        "device": "cpu",
    }
    return {**values, **changes}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def sup(base: Path) -> Path:
    return tiny.thai_sup(base)


@pytest.fixture(scope="module")
def llm(base: Path) -> Path:
    return tiny.llm_directory(base / "llm")


@pytest.fixture(scope="module")
def encoder(base: Path) -> Path:
    return tiny.encoder_directory(base / "encoder")


def rows(sup: Path, split: str) -> list[Utterance]:
    return read_thai_sup(sup, split=split)


def aligning(sup: Path, encoder: Path, llm: Path, out: Path, **changes: Any) -> AlignConfig:
    values = {"data": sup, "encoder": encoder, "llm": llm, "out": out, "train": training(4)}
    return tiny.make(AlignConfig, **{**values, "projector_hidden_size": 24, **changes})


def assert_done_is_planned(result: Any, updates: int) -> None:
    assert result.planned["updates"] == result.done["updates"] == updates
    assert result.planned["batches"] == result.done["batches"]
    assert result.done["rejected"] == 0


def test_the_whole_chain(sup: Path, llm: Path, tmp_path: Path) -> None:
    pretrained = pretrain.run(
        tiny.make(
            PretrainConfig,
            data=[sup],
            out=tmp_path / "encoder",
            encoder=tiny.SHAPE,
            crop_s=2.0,
            train=training(3, save_every=1),
        )
    )
    assert_done_is_planned(pretrained.training, 3)
    train_hours = sum(u.duration_s for u in rows(sup, "train")) / 3600
    assert pretrained.hours == pytest.approx(train_hours)  # and nothing of dev and test

    config = aligning(
        sup,
        pretrained.out,
        llm,
        tmp_path / "aligned",
        train=training(16, learning_rate=1e-2, batch_s=40.0),
    )
    aligned = align.run(config)
    assert aligned.training is not None
    assert_done_is_planned(aligned.training, 16)
    dtw = [row["dtw"] for row in RunDir(aligned.out).metrics()]
    assert np.mean(dtw[-4:]) < 0.97 * np.mean(dtw[:4])
    assert aligned.verdict == align.verdict(aligned.training.metrics)
    trained = load_file(resolve(aligned.out) / "front_end.safetensors")
    before = load_file(pretrained.out / "last" / "model.safetensors")
    for name, value in before.items():  # the encoder is frozen
        if name.startswith("wav2vec2."):
            assert torch.equal(trained[f"audio_tower.{name.removeprefix('wav2vec2.')}"], value)

    tuned = finetune.run(
        tiny.make(
            FinetuneConfig,
            data=sup,
            model=aligned.out,
            out=tmp_path / "slm",
            lora_rank=4,
            judge_items=2,
            max_new_tokens=2,
            train=training(8, learning_rate=1e-2, batch_s=30.0),
        )
    )
    assert_done_is_planned(tuned.training, 8)
    assert 0 < tuned.trained_parameters < tuned.parameters
    nats = [row["answer_nats"] for row in RunDir(tuned.out).metrics()]
    assert np.mean(nats[-2:]) < 0.9 * np.mean(nats[:2])
    assert (resolve(tuned.out) / "adapter" / "adapter_model.safetensors").is_file()

    result = evaluate.run(
        tiny.make(
            EvalConfig,
            data=sup,
            model=tuned.out,
            out=tmp_path / "report",
            draws=50,
            max_new_tokens=6,
        )
    )
    check_report(result.out, sup)

    sounds = [tmp_path / f"{n}.flac" for n in range(3)]
    spoken = [u for u in rows(sup, "test") if u.task == "ic"][:3]
    for path, row in zip(sounds, spoken, strict=True):
        path.write_bytes(read_audio(row.audio))
    sounds[1].write_bytes(b"no sound")
    answers = list(
        infer.run(
            tiny.make(InferConfig, model=tuned.out, task="ic", audio=sounds, max_new_tokens=6)
        )
    )
    assert [a.path for a in answers] == [str(p) for p in sounds]
    assert [a.error is None for a in answers] == [True, False, True]
    lines = (result.out / "predictions.jsonl").read_text("utf-8").splitlines()
    told = {p["id"]: p["text"] for p in map(json.loads, lines)}
    assert [answers[n].text for n in (0, 2)] == [told[spoken[n].id] for n in (0, 2)]


def check_report(out: Path, sup: Path) -> None:
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert [t["task"] for t in report["tasks"]] == list(PUBLISHED_TASKS)
    assert [t["task"] for t in report["shuffled"]] == list(PUBLISHED_TASKS)
    assert {t["count"] for t in report["tasks"]} == {4}
    assert report["accounting"]["utterances"] == 16
    assert report["accounting"]["unusable recordings"] == 0
    assert {"answer_nats", "learning_rate", "eval_answer_nats"} <= report["curves"].keys()
    assert len(report["curves"]["answer_nats"]) == 8
    assert report["notes"] == []
    for task in report["tasks"]:
        head = task["scores"][0]
        assert head["denominator"] > 0
        assert head["value"] == pytest.approx(head["numerator"] / head["denominator"])
        assert head["low"] <= head["value"] <= head["high"]
    for name in ("predictions.jsonl", "predictions.shuffled.jsonl"):
        lines = [json.loads(line) for line in (out / name).read_text("utf-8").splitlines()]
        expected = {(u.id, u.task) for u in rows(sup, "test")}
        assert {(line["id"], line["task"]) for line in lines} == expected
        assert len(lines) == len(expected)
    assert "<audio" in (out / "report.html").read_text("utf-8")


def test_plain_alignment_is_another_run(
    sup: Path, encoder: Path, llm: Path, tmp_path: Path
) -> None:
    plain = align.run(aligning(sup, encoder, llm, tmp_path / "plain", plain=True))
    default = align.run(aligning(sup, encoder, llm, tmp_path / "default"))
    assert plain.training is not None
    assert default.training is not None
    plain_row, default_row = (RunDir(r.out).metrics()[0] for r in (plain, default))
    assert plain_row["loss"] == pytest.approx(plain_row["dtw"])
    # Before the ramp the DTW term has no weight: what is left are the two contrasts.
    contrasts = 0.5 * default_row["pool"] + default_row["transcript"]
    assert default_row["loss"] == pytest.approx(contrasts)
    means = [load_file(resolve(r.out) / "front_end.safetensors") for r in (plain, default)]
    key = "multi_modal_projector.speech_mean"
    assert not means[0][key].any()
    assert bool(means[1][key].any())
    with pytest.raises(InputError, match=r"config\.plain: the run has True, now False"):
        align.run(aligning(sup, encoder, llm, tmp_path / "plain"))


def test_an_utterance_alone_does_not_train_the_dtw_term(
    sup: Path, encoder: Path, llm: Path, tmp_path: Path
) -> None:
    """Without another transcript nothing keeps it from collapsing."""
    config = aligning(sup, encoder, llm, tmp_path / "alone", ramp_start=0.0, ramp_end=0.0)
    alone = config.model_copy(update={"train": config.train.model_copy(update={"batch_s": 0.5})})
    result = align.run(alone)
    assert result.training is not None
    rows_of_run = RunDir(result.out).metrics()
    assert any(row["dtw"] > 0 for row in rows_of_run if "dtw" in row)
    assert all(row["loss"] == 0 for row in rows_of_run if "dtw" in row)


def test_no_alignment_is_an_untrained_projector_in_the_llms_space(
    sup: Path, encoder: Path, llm: Path, tmp_path: Path
) -> None:
    config = aligning(sup, encoder, llm, tmp_path / "none", method="none")
    first = align.run(config)
    assert first.training is None
    assert "untrained" in first.verdict
    file = resolve(first.out) / "front_end.safetensors"
    stamp = file.stat().st_mtime_ns
    assert align.run(config) == first
    assert file.stat().st_mtime_ns == stamp
    projector = load_speech_lm(resolve(first.out))[0].multi_modal_projector
    assert float(projector.gain) == 1.0
    assert not projector.text_mean.any()


def test_an_unfrozen_encoder_moves(sup: Path, encoder: Path, llm: Path, tmp_path: Path) -> None:
    config = aligning(sup, encoder, llm, tmp_path / "run", unfreeze_encoder=True)
    out = align.run(config).out
    before, after = (
        load_file(p)
        for p in (encoder / "model.safetensors", resolve(out) / "front_end.safetensors")
    )
    moved = {
        n.removeprefix("wav2vec2.").split(".")[0]
        for n, value in before.items()
        if n.startswith("wav2vec2.")
        and not torch.equal(after[f"audio_tower.{n.removeprefix('wav2vec2.')}"], value)
    }
    # The convolutions stay, and so does the mask embedding, which nothing uses here.
    assert moved == {"encoder", "feature_projection"}


def test_frozen_llm_and_chosen_tasks(sup: Path, encoder: Path, llm: Path, tmp_path: Path) -> None:
    start = align.run(aligning(sup, encoder, llm, tmp_path / "none", method="none")).out
    config = tiny.make(
        FinetuneConfig,
        data=sup,
        model=start,
        out=tmp_path / "slm",
        tasks=["ic"],
        lora_rank=0,
        judge_items=2,
        max_new_tokens=2,
        train=training(2, batch_s=100.0),
    )
    result = finetune.run(config)
    assert not (resolve(result.out) / "adapter").exists()
    assert result.training.done["utterances"] == 2 * 4  # the intents only, both epochs
    asked = json.loads((tmp_path / "slm" / "run.json").read_text())["fingerprint"]["config"]
    assert asked["tasks"] == ["ic"]
    only_ic = sup / "IC"
    with pytest.raises(InputError, match="has none for asr, ner"):
        finetune.run(
            config.model_copy(
                update={"tasks": ["asr", "ic", "ner"], "data": [only_ic], "out": tmp_path / "x"}
            )
        )


def test_speech_of_smoke_quality_is_not_trained_on_by_accident(
    encoder: Path, llm: Path, tmp_path: Path
) -> None:
    source = tiny.alpaca_excerpt(tmp_path / "source.jsonl", intents=1)
    config = tiny.make(SynthConfig, source=source, out=tmp_path / "sup", variants=1, tasks=["ic"])
    synth.run(config)
    with pytest.raises(InputError, match=r"trainable: false .*--set allow_untrainable=true"):
        align.run(aligning(config.out, encoder, llm, tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    allowed = aligning(
        config.out, encoder, llm, tmp_path / "b", allow_untrainable=True, train=training(1)
    )
    assert align.run(allowed).training is not None


def test_synth_is_whole_or_absent_and_the_same_again(sup: Path, base: Path, tmp_path: Path) -> None:
    source = base / "tiny-alpaca.jsonl"
    config = tiny.make(SynthConfig, source=source, out=tmp_path / "sup", variants=1, trainable=True)
    made = synth.run(config)
    for file in sorted(sup.rglob("*.parquet")):
        assert (config.out / file.relative_to(sup)).read_bytes() == file.read_bytes()
    speakers = [{u.speaker for u in rows(sup, split)} for split in ("train", "dev", "test")]
    sentences = [{u.source_id for u in rows(sup, split)} for split in ("train", "dev", "test")]
    for groups in (speakers, sentences):
        assert sum(map(len, groups)) == len(set().union(*groups))
    assert synth.run(config) == made
    with pytest.raises(InputError, match="made with another source or other settings"):
        synth.run(config.model_copy(update={"seed": 1}))
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists and holds no data set of thaitool"):
        synth.run(config.model_copy(update={"out": tmp_path / "mine"}))
    with pytest.raises(ConfigError, match=r"tts backend must be espeak: .* 'cloud:'"):
        synth.run(config.model_copy(update={"tts": "cloud:", "out": tmp_path / "x"}))
    unknown = tmp_path / "unknown.jsonl"
    sentences_en = ("Fold the blue paper twice.", "Count the seven swans.", "Paint it green.")
    lines = [json.dumps({"instruction": s, "output": "Yes."}) for s in sentences_en]
    unknown.write_text(source.read_text("utf-8") + "\n".join(lines) + "\n", "utf-8")
    few = config.model_copy(
        update={"source": unknown, "out": tmp_path / "x", "max_rejected_share": 0.01}
    )
    with pytest.raises(QuarantineError, match="no_translation"):
        synth.run(few)
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_synth_that_is_stopped_leaves_only_what_it_can_go_on_with(
    tmp_path: Path, number: int
) -> None:
    source = tiny.ROOT / "examples" / "alpaca.jsonl"
    command = [
        sys.executable,
        "-m",
        "thaitool",
        "synth",
        "--source",
        str(source),
        "--out",
        str(tmp_path / "x"),
    ]
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / ".x.work").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1)  # into the speaking, where the signal may strike inside a C library
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert f"Stopped by signal {int(number)} during synth" in stderr
    assert "Traceback" not in stderr
    assert [p.name for p in tmp_path.iterdir()] == [".x.work"]


def test_a_split_of_a_manifest_is_that_split(sup: Path, tmp_path: Path) -> None:
    everything = [*rows(sup, "train"), *rows(sup, "test")]
    write_manifest(from_utterances(everything), tmp_path / "m.arrow")
    found = scan([tmp_path / "m.arrow"], split="test")[0]
    assert len(found) == len(rows(sup, "test")) < len(everything)


def test_synth_that_can_make_nothing_says_why(tmp_path: Path) -> None:
    source = tmp_path / "foreign.jsonl"
    source.write_text(
        '{"instruction": "Fold my shirts.", "input": "", "output": "Done."}\n', "utf-8"
    )
    with pytest.raises(QuarantineError) as caught:
        synth.run(tiny.make(SynthConfig, source=source, out=tmp_path / "x", max_rejected_share=1.0))
    assert "6 no_translation, e.g. " in str(caught.value)
    assert "--translator memory:FILE" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_pretrain_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    """Nothing to hold out, no audio, no encoder, another model."""
    one = tmp_path / "one"
    one.mkdir()
    soundfile.write(one / "a.wav", np.sin(np.arange(16_000) / 20), 16_000)
    base = tiny.make(PretrainConfig, data=[one], out=tmp_path / "out", train=training(1))
    with pytest.raises(InputError, match=r"two speakers or recordings at least, .* has 1"):
        pretrain.run(base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must hold audio"):
        pretrain.run(base.model_copy(update={"data": [tmp_path / "empty"]}))
    with pytest.raises(InputError, match="empty must"):
        pretrain.run(base.model_copy(update={"init": tmp_path / "empty", "dev_share": 0.0}))
    with pytest.raises(InputError, match="model_type is 'llama'"):
        other = tiny.llm_directory(tmp_path / "llm")
        pretrain.run(base.model_copy(update={"init": other, "dev_share": 0.0}))
    assert not (tmp_path / "out" / "checkpoint-1").exists()
