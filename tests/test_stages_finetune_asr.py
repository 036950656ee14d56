"""`finetune --head`: tones learned to the last one, what is left out, resume to the bit, wrong options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests import toy_transcripts as toy
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import dump
from thaitool.data.loader import in_order
from thaitool.data.manifest import open_manifest
from thaitool.errors import InputError, QuarantineError, TrainingFailed
from thaitool.metrics.transcripts import cer
from thaitool.models.decoding import transcribe
from thaitool.models.recogniser import load_recogniser
from thaitool.stages import finetune_asr
from thaitool.training.asr import BlankWatch
from thaitool.training.cost import MEASURED
from thaitool.training.run_dir import RunDir, resolve
from thaitool.training.watch import Limits


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.recordings(tmp_path_factory.mktemp("asr") / "audio")


@pytest.mark.parametrize("head", ["ctc", "aed"])
def test_tones_are_learned_to_the_last_one(listed: Path, head: str) -> None:
    """Held-out speakers, and units of several code points: encoder, lengths, units, decoding all have to fit."""
    # A rate at which both learn from any seed; twice of it is too much for attention.
    rate = {"learning_rate": 5e-3}
    config = toy.config(listed, listed.parent.with_name(head), 60, head=head, train=rate)
    result = finetune_asr.run(config)
    assert result.training.done["updates"] == 60
    assert result.training.metrics["cer"] == 0
    assert result.verdict == (
        f"character error rate 0.0% on {result.training.metrics['cer_characters']:,.0f} held-out characters"
    )
    assert result.account["training"] == {"rows": 64, "used": 64} | dict.fromkeys(
        ("with_unknown_units", "unknown_units", "not_at_every_speed"), 0
    ) | {"commonest_unknown_units": {}}
    sets = open_manifest(config.out / "manifest.arrow")
    speakers = {
        split: {u.speaker for u in (sets[k] for k in range(len(sets))) if u.split == split}
        for split in ("train", "dev")
    }
    assert (len(speakers["train"]), len(speakers["dev"])) == (8, 2)
    assert not speakers["train"] & speakers["dev"]
    # The checkpoint alone says the same.
    model = load_recogniser(resolve(config.out))
    assert model.head == head
    assert set(model.vocabulary.units) == set(toy.TONES_HZ)
    assert model.vocabulary.normalizer == "thai-v1"
    for batch in in_order(sets, batch_s=20.0):
        said = transcribe(model, batch.audio, batch.audio_lengths)
        assert said == [u.text for u in batch.utterances]


@pytest.mark.parametrize("family", ["wav2vec2-bert", "whisper"])
def test_every_family_trains_and_its_checkpoint_answers(
    listed: Path, family: str, tmp_path: Path
) -> None:
    """Also those that hear audio at its own level, with all that can be masked, and a mix of layers."""
    shape = toy.SMALL | {"family": family, "hidden_size": 32, "depthwise_kernel": 7, "mel_bins": 20}
    config = toy.config(
        *(listed, tmp_path / "run", 3),
        encoder_shape=shape,
        layer="mix",
        mask_prob=0.2,
        channel_mask_prob=0.2,
        channel_mask_span=5,
        speeds=[0.9, 1.1],
    )
    result = finetune_asr.run(config)
    losses = [row["ctc_nats"] for row in RunDir(config.out).metrics()]
    assert losses[-1] < losses[0]
    model = load_recogniser(resolve(config.out))
    dev_set = open_manifest(config.out / "manifest.arrow")
    is_dev = [u == "dev" for u in dev_set.column("split").to_pylist()]
    texts = [
        (u.text, said)
        for batch in in_order(
            dev_set.select(is_dev), batch_s=20.0, normalised=model.encoder.normalises
        )
        for u, said in zip(
            batch.utterances, transcribe(model, batch.audio, batch.audio_lengths), strict=True
        )
    ]
    score = cer([str(text) for text, _ in texts], [said for _, said in texts])
    assert score.numerator / score.denominator == pytest.approx(result.training.metrics["cer"])
    assert score.denominator == result.training.metrics["cer_characters"]


def spoiled(listed: Path, name: str, **texts: str | None) -> Path:
    """The list with other texts, by number of the row; `all` shifts every text by one row."""
    rows = [json.loads(line) for line in listed.read_text("utf-8").splitlines()]
    if "all" in texts:
        shifted = [row["text"] for row in rows[7:] + rows[:7]]
        rows = [row | {"text": text} for row, text in zip(rows, shifted, strict=True)]
    for number, text in texts.items():
        if number != "all":
            rows[int(number.removeprefix("row"))]["text"] = text
    path = listed.with_name(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_nothing_is_left_out_in_silence(listed: Path, tmp_path: Path) -> None:
    bad = spoiled(
        listed,
        "bad",
        row0=None,
        row1="!!",
        row2="ก" * 500,
        row3="ก😀ข",
        row4="น\u0e4d\u0e49า",
    )
    config = toy.config(bad, tmp_path / "run", 1, min_unit_frequency=2)
    told: list[tuple[str, str]] = []
    result = finetune_asr.run(config, announce=told.extend)
    account = result.account
    used = account["training"]["used"] + account["held_out"]["used"]
    ledger = [
        json.loads(s) for s in (config.out / "quarantine.jsonl").read_text("utf-8").splitlines()
    ]
    assert used + len(ledger) == 80
    # Rows 0 to 4 are of five speakers, some of whom are held out; those are scored whatever they say.
    reasons = [line["reason"] for line in ledger]
    assert {"no_text", "empty_text"} <= set(reasons)
    assert set(reasons) <= {"no_text", "empty_text", "too_long_for_audio"}
    unknown = [
        json.loads(s) for s in (config.out / "unknown_units.jsonl").read_text("utf-8").splitlines()
    ]
    assert [(line["unknown"], line["units"]) for line in unknown] == [(["😀"], 3)]
    assert account["vocabulary"]["units"] == 5
    lines = dict(told)
    assert lines["vocabulary"].startswith("5 units (thai, thai-v1)")
    assert "rows:" in lines["training"]
    assert "1 no text" in lines["training"] + lines["held out"]


def test_a_dev_split_dev_data_and_the_test_split(listed: Path, tmp_path: Path) -> None:
    names = ("train", "dev", "test")
    clips = listed.parent
    rows = [json.loads(line) for line in listed.read_text("utf-8").splitlines()]
    for number, name in enumerate(names):
        folder = tmp_path / "cv"
        folder.mkdir(exist_ok=True)
        body = [f"{r['speaker']}\t{clips / r['audio_filepath']}\t{r['text']}" for r in rows]
        text = "\n".join(["client_id\tpath\tsentence", *body[number::3]]) + "\n"
        (folder / f"{name}.tsv").write_text(text, "utf-8")
    files = [tmp_path / "cv" / f"{name}.tsv" for name in names]
    result = finetune_asr.run(toy.config(listed, tmp_path / "a", 1, data=files))
    assert (result.account["training"]["rows"], result.account["held_out"]["rows"]) == (27, 27)
    assert result.account["of_other_splits"] == 26
    named = toy.config(listed, tmp_path / "b", 1, data=files[:1], dev_data=files[2:])
    result = finetune_asr.run(named)
    assert (result.account["training"]["rows"], result.account["held_out"]["rows"]) == (27, 26)


def test_data_without_use_is_refused(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="recogniser is trained on transcripts, but the 64 training"
    ):
        silent = spoiled(listed, "silent", **{f"row{k}": None for k in range(80)})
        finetune_asr.run(toy.config(silent, tmp_path / "a", 1))
    half = spoiled(listed, "half", **{f"row{k}": "ก" * 900 for k in range(40)})
    with pytest.raises(QuarantineError, match="of 80 rows cannot be used, more than") as caught:
        finetune_asr.run(toy.config(half, tmp_path / "b", 1))
    message = str(caught.value)
    assert "32 too_long_for_audio, e.g. " in message
    assert "900 units with 899 repeats need 1799 frames, and" in message
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_run_that_stays_blank_stops_with_a_sentence(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffled = spoiled(listed, "shuffled", all="")
    monkeypatch.setattr(
        finetune_asr, "blank_watch", lambda _: BlankWatch(Limits(), patience=4, after=2)
    )
    with pytest.raises(TrainingFailed, match="the model emits blanks only") as caught:
        finetune_asr.run(toy.config(shuffled, tmp_path / "run", 60))
    assert "Check that transcripts belong to their audio" in str(caught.value)


AUGMENTED: dict[str, Any] = {
    "head": "aed",
    "mask_prob": 0.2,
    "mask_span": 4,
    "channel_mask_prob": 0.1,
    "channel_mask_span": 8,
    "speeds": [0.9, 1.0, 1.1],
    "freeze_updates": 3,
    "train": {"schedule": "tristage", "eval_every": 5, "save_every": 3},
}


def weights(out: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(out / "last" / "model.safetensors")
    return loaded


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.encoder_directory(tmp_path_factory.mktemp("encoder") / "encoder")


def test_a_run_that_is_killed_ends_as_if_nothing_had_happened(
    listed: Path, encoder: Path, tmp_path: Path
) -> None:
    whole, killed = (
        toy.config(listed, tmp_path / name, 12, encoder=encoder, **AUGMENTED)
        for name in ("whole", "killed")
    )
    finetune_asr.run(whole)
    recipe = tmp_path / "killed.yaml"
    recipe.write_text(dump(killed, "recognise"), "utf-8")
    command = [sys.executable, "-m", "thaitool", "finetune", "--head", "aed"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(tiny.ROOT)}
    process = subprocess.Popen([*command, "--config", str(recipe)], env={**os.environ, **threads})
    run = RunDir(killed.out)
    deadline = time.monotonic() + 240
    while len(run.metrics()) < 4 and process.poll() is None:
        assert time.monotonic() < deadline, "the run made no progress in 240 s"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    kept = run.last_update
    assert 3 <= kept < 12
    resumed = finetune_asr.run(killed)
    assert resumed.training.resumed_from == kept
    a, b = weights(whole.out), weights(killed.out)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    untimed = [
        [{k: v for k, v in row.items() if k not in MEASURED} for row in RunDir(c.out).metrics()]
        for c in (whole, killed)
    ]
    assert untimed[0] == untimed[1]


def test_two_processes_train_what_one_does(listed: Path, encoder: Path, tmp_path: Path) -> None:
    """The same batches, masks and speeds; a frozen encoder, whose processes wait for its gradients all the same."""
    one, two = (
        toy.config(
            *(listed, tmp_path / name, 5),
            encoder=encoder,
            **{**AUGMENTED, "train": {"batch_s": 4.0, "accumulation": accumulation}},
        )
        for name, accumulation in (("one", 2), ("two", 1))
    )
    finetune_asr.run(one)
    recipe = tmp_path / "two.yaml"
    recipe.write_text(dump(two, "recognise"), "utf-8")
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    command = ["--main_process_port", "0", "-m", "thaitool", "finetune", "--head", "aed"]
    done = subprocess.run(
        [sys.executable, *launch, *command, "--config", str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)},
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for a, b in zip(RunDir(one.out).metrics(), RunDir(two.out).metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    a, b = weights(one.out), weights(two.out)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5


def test_what_is_frozen_stays_as_it_was(listed: Path, encoder: Path, tmp_path: Path) -> None:
    config = toy.config(
        listed,
        tmp_path / "run",
        4,
        encoder=encoder,
        freeze_updates=3,
        train={"save_every": 1, "keep": 9},
    )
    result = finetune_asr.run(config)
    assert 0 < result.trained_parameters < result.parameters
    given = load_file(encoder / "model.safetensors")
    for update, moved in ((3, False), (4, True)):
        now = load_file(config.out / f"checkpoint-{update}" / "model.safetensors")
        changed = {
            name
            for name, value in now.items()
            if name.startswith("encoder.model.")
            and not torch.equal(value, given[name.replace("encoder.model.", "wav2vec2.", 1)])
        }
        assert bool(changed) == moved
        assert not any("feature_extractor" in name for name in changed)
    first, third = (
        load_file(config.out / f"checkpoint-{u}" / "model.safetensors")["ctc.weight"]
        for u in (1, 3)
    )
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--encoder", "e"], "--encoder can only be given with --head ctc or --head aed"),
        (
            ["--head", "ctc", "--model", "m", "--tasks", "ic"],
            "--model, --tasks cannot be given with",
        ),
        (["--head", "rnnt"], "option --head: 'head': Input should be 'ctc' or 'aed'"),
        (
            ["--head", "ctc", "--set", "freeze_updates=3"],
            "freeze_updates must be 0 for a new encoder",
        ),
        (["--head", "ctc", "--set", "speeds=[0.2]"], "speeds must be 0.5 to 2 in steps of 0.01"),
    ],
)
def test_wrong_combinations_are_sentences(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = ["--out", "o", "--config", "tiny"] + (
        ["--data", "d"] if "--data" not in arguments else []
    )
    code = guarded(lambda: app(["finetune", *arguments, *rest], standalone_mode=False))
    message = capsys.readouterr().err
    assert code == 2
    assert sentence in message
    assert "Traceback" not in message
    assert len(message) < 400


def test_the_recipe_in_the_run_directory_is_the_run(listed: Path, tmp_path: Path) -> None:
    config = toy.config(listed, tmp_path / "run", 1)
    finetune_asr.run(config)
    again = finetune_asr.run(config)
    assert again.training.resumed_from == 1
    with pytest.raises(InputError, match=r"config\.units: the run has 'thai', now 'characters'"):
        finetune_asr.run(toy.config(listed, tmp_path / "run", 1, units="characters"))
