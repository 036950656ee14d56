"""`align` by every method: what it reads of the LLM, resumes, keeps, refuses and reports; tiny models, real code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from tests import aligning, tiny
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.errors import InputError, QuarantineError
from thaitool.models.align_judge import BASELINES, COMPARED, alarms
from thaitool.models.encoder import feature_extractor, new_config
from thaitool.models.encoders.interface import SpeechEncoder, new_speech_encoder
from thaitool.models.recogniser import Recogniser, save_recogniser
from thaitool.stages import align
from thaitool.text.units import build_vocabulary
from thaitool.training.cost import MEASURED
from thaitool.training.run_dir import RunDir, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from thaitool.records import Advance

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("align")


def rows(out: Path) -> list[dict[str, Any]]:
    """Metrics of a run without what a repetition gives differently."""
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in RunDir(out).metrics()]


@pytest.mark.parametrize("method", aligning.METHODS)
def test_a_method_is_judged_and_resumes_exactly(method: str, base: Path, tmp_path: Path) -> None:
    config = aligning.settings(base, tmp_path / "whole", method=method)
    whole = align.run(config)
    assert whole.training is not None
    first, last = (r for r in rows(whole.out) if "eval_transcripts" in r)
    assert {f"eval_{name}" for name in whole.training.metrics} == {n for n in last if "eval_" in n}
    for name in COMPARED:
        for suffix in ("", *(f"_{b}" for b in BASELINES)):
            # The probe is run at the end only.
            assert (f"eval_{name}{suffix}" in first) == (name != "probe_cer")
            assert f"eval_{name}{suffix}" in last
    assert ("eval_ctc_cer" in last) == ("ctc" in method)
    stored = json.loads((whole.out / "result.json").read_text("utf-8"))
    assert stored["metrics"] == whole.training.metrics
    assert stored["notes"] == list(whole.alarms) == alarms(whole.training.metrics)

    @contextmanager
    def pulled(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        made = []

        def advance(steps: int = 1, note: str = "") -> None:
            made.append(steps)
            if len(made) == 3:  # one update after the checkpoint
                raise KeyboardInterrupt

        yield advance

    again = aligning.settings(base, tmp_path / "again", method=method)
    with pytest.raises(KeyboardInterrupt):
        align.run(again, pulled)
    resumed = align.run(again)
    assert resumed.training is not None
    assert resumed.training.resumed_from == 2
    assert rows(again.out) == rows(config.out)
    weights = [(resolve(r.out) / "front_end.safetensors").read_bytes() for r in (whole, resumed)]
    assert weights[0] == weights[1]
    # Once more is nothing to do.
    assert align.run(again).verdict == whole.verdict


@pytest.mark.parametrize("method", ["ctc", "dtw+ctc", "asr"])
def test_kept_frames_serve_every_method(
    method: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "frames"
    filling = aligning.settings(base, tmp_path / "a", method=method, feature_cache=cache)
    align.run(filling)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("The encoder was asked, but the frames were there.")

    monkeypatch.setattr(SpeechEncoder, "forward", refuse)
    reading = aligning.settings(base, tmp_path / "b", method=method, feature_cache=cache)
    align.run(reading)
    read, filled = rows(reading.out), rows(filling.out)
    costs = [[row.pop("flops") for row in found if "flops" in row] for found in (read, filled)]
    assert read == filled
    assert costs[0][-1] < costs[1][-1]  # the encoder is not asked


@pytest.mark.parametrize("method", ["dtw", "ctc"])
def test_of_the_llm_only_the_token_table_is_read(method: str, base: Path, tmp_path: Path) -> None:
    """The other shards are made unreadable: what opens one fails. Their bytes are only hashed."""
    config = aligning.settings(base, tmp_path / "run", method=method)
    llm = tiny.llm_directory(tmp_path / "llm")
    LlamaForCausalLM.from_pretrained(llm).save_pretrained(tmp_path / "cut", max_shard_size="30KB")
    (llm / "model.safetensors").unlink()
    for file in (tmp_path / "cut").glob("model*"):
        file.rename(llm / file.name)
    index = json.loads((llm / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    others = {*index.values()} - {index["model.embed_tokens.weight"]}
    assert len(others) >= 1
    for name in others:
        (llm / name).write_bytes(b"not a tensor in sight")
    result = align.run(config.model_copy(update={"llm": llm}))
    assert result.training is not None
    assert result.training.done["updates"] == 4
    with pytest.raises(InputError):
        align.run(config.model_copy(update={"llm": llm, "method": "asr", "out": tmp_path / "asr"}))


def test_the_uppermost_layers_alone_move(base: Path, tmp_path: Path) -> None:
    config = aligning.settings(base, tmp_path / "run", method="ctc", unfreeze_layers=1)
    before = load_file(config.encoder / "model.safetensors")
    after = load_file(resolve(align.run(config).out) / "front_end.safetensors")
    moved = {
        n.removeprefix("wav2vec2.").rsplit(".", 2)[0][:16]
        for n, value in before.items()
        if n.startswith("wav2vec2.")
        and not bool((after[f"audio_tower.{n.removeprefix('wav2vec2.')}"] == value).all())
    }
    assert moved == {"encoder.layers.1"}
    with pytest.raises(InputError, match="unfreeze_layers is 3, but the encoder has 2 layers"):
        align.run(aligning.settings(base, tmp_path / "x", unfreeze_layers=3))


def test_the_probe_can_choose_the_checkpoint(base: Path, tmp_path: Path) -> None:
    config = aligning.settings(
        base, tmp_path / "run", select="probe_cer", probe_every=1, probe_updates=30
    )
    out = align.run(config).out
    judged = {r["update"]: r["eval_probe_cer"] for r in rows(out) if "eval_probe_cer" in r}
    assert sorted(judged) == [2, 4]
    best = min(judged, key=lambda update: (judged[update], update))
    assert (out / "best").resolve().name == f"checkpoint-{best}"


def test_the_llm_in_the_loop_may_be_half_as_large(base: Path, tmp_path: Path) -> None:
    config = aligning.settings(base, tmp_path / "run", method="asr", llm_dtype="bfloat16")
    exact = aligning.settings(base, tmp_path / "exact", method="asr")
    found, wanted = align.run(config), align.run(exact)
    assert found.training is not None
    assert wanted.training is not None
    for name, value in wanted.training.metrics.items():
        if name.startswith(("path_cost", "diagonal_drift", "one_frame_share")):
            assert found.training.metrics[name] == pytest.approx(value, abs=0.05)
    assert rows(found.out)[0]["loss"] == pytest.approx(rows(wanted.out)[0]["loss"], rel=0.02)
    assert rows(found.out)[0]["loss"] != rows(wanted.out)[0]["loss"]


def test_what_cannot_be_judged_is_refused_before_training(base: Path, tmp_path: Path) -> None:
    """Not after it: a checkpoint of a run that ends so would never get its figures."""
    made = [u for u in aligning.utterances(base / "clips") if u.split == "train"]
    write_manifest(from_utterances(made), tmp_path / "train.arrow")
    config = aligning.settings(base, tmp_path / "run", data=tmp_path / "train.arrow")
    with pytest.raises(InputError, match="has no row of it that can be heard and has text"):
        align.run(config)
    few = aligning.settings(base, tmp_path / "few", projector_factor=25, method="asr")
    with pytest.raises(InputError, match="none of 16 has that many; use a smaller"):
        align.run(few)
    assert not list(RunDir(few.out).metrics())


def test_an_encoder_of_any_width_fits(base: Path, tmp_path: Path) -> None:
    model = tiny.pretraining_model(hidden_size=48)
    model.save_pretrained(tmp_path / "wide")
    feature_extractor(model.config).save_pretrained(tmp_path / "wide")
    config = aligning.settings(
        base, tmp_path / "run", encoder=tmp_path / "wide", projector="stack", projector_layers=1
    )
    assert align.run(config).training is not None


def test_rows_that_cannot_be_aligned_are_listed_before_training(base: Path, tmp_path: Path) -> None:
    made = aligning.utterances(base / "clips")
    made[0] = replace(made[0], text="ก" * 60)
    made[1] = replace(made[1], text=" ")
    made[-1] = replace(made[-1], text=None)
    write_manifest(from_utterances(made), tmp_path / "some.arrow")
    config = aligning.settings(
        base, tmp_path / "run", data=tmp_path / "some.arrow", method="ctc", judge_items=5
    )
    with pytest.raises(QuarantineError, match=r"2 of 16 recordings are unusable"):
        align.run(config)
    lenient = config.train.model_copy(update={"max_rejected_share": 0.2})
    result = align.run(config.model_copy(update={"train": lenient}))
    lines = RunDir(result.out).quarantine.read_text("utf-8").splitlines()
    reasons = {row["item"]: row["reason"] for row in map(json.loads, lines)}
    assert reasons == {
        made[0].place: "too_long_for_audio",
        made[1].place: "empty_text",
        made[-1].place: "no_text",
    }
    assert "need 119 projected frames" in lines[0]
    assert result.training is not None
    assert result.training.done["unused"] == 0


def test_what_cannot_be_aligned_is_refused(base: Path, tmp_path: Path) -> None:
    bare = tiny.llm_directory(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(InputError, match="must hold"):
        align.run(aligning.settings(base, tmp_path / "x", llm=bare))
    for method in ("ctc", "asr"):
        with pytest.raises(ValueError, match="method must be dtw, not"):
            aligning.settings(base, tmp_path / "x", method=method, plain=True)
    with pytest.raises(ValueError, match="set probe_every: 1"):
        aligning.settings(base, tmp_path / "x", select="probe_cer")
    with pytest.raises(ValueError, match="llm_dtype must be float32 with method: dtw"):
        aligning.settings(base, tmp_path / "x", llm_dtype="bfloat16")
    with pytest.raises(ValueError, match="unfreeze_layers must be null with unfreeze_encoder"):
        aligning.settings(base, tmp_path / "x", unfreeze_layers=1, unfreeze_encoder=True)
    with pytest.raises(ValueError, match="feature_cache must be null"):
        aligning.settings(base, tmp_path / "x", unfreeze_layers=1, feature_cache=tmp_path)
    with pytest.raises(ValueError, match="unfreeze_convolutions must be false without"):
        aligning.settings(base, tmp_path / "x", unfreeze_convolutions=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("method", ["dtw+ctc", "asr"])
def test_two_processes_align_what_one_does(method: str, base: Path, tmp_path: Path) -> None:
    one = aligning.settings(base, tmp_path / "one", method=method, training={"accumulation": 2})
    align.run(one)
    two = tmp_path / "two"
    settings = [
        *("train.batch_s=4", "train.eval_every=2", "train.learning_rate=1e-2"),
        *("train.save_every=2", "projector_hidden_size=24", "probe_updates=5"),
    ]
    arguments = [
        *("--data", str(one.data), "--encoder", str(one.encoder), "--llm", str(one.llm)),
        *("--out", str(two), "--method", method, "--updates", "4", "--device", "cpu"),
        *(a for s in settings for a in ("--set", s)),
    ]
    done = subprocess.run(
        [*LAUNCH, "--multi_gpu", "--main_process_port", "0", "-m", "thaitool", "align", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)},
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for a, b in zip(rows(two), rows(one.out), strict=True):
        assert a.keys() == b.keys()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        for name in ("eval_retrieval_mrr", "eval_path_cost", "eval_one_frame_share"):
            assert name not in a or a[name] == pytest.approx(b[name], rel=1e-3)
    projectors = [load_file(resolve(run) / "front_end.safetensors") for run in (one.out, two)]
    for name in ("speech_mean", "gain"):
        key = f"multi_modal_projector.{name}"
        assert projectors[0][key].tolist() == pytest.approx(projectors[1][key].tolist(), abs=1e-3)
    assert "retrieval_mrr" in done.stdout
    assert "(random pair 0." in done.stdout
    assert "shuffled audio" in done.stdout


def test_the_encoder_of_a_recogniser_can_be_aligned(base: Path, tmp_path: Path) -> None:
    """`finetune --head` makes an encoder that hears; `align` and `finetune` go on with it."""
    torch.manual_seed(0)
    encoder = new_speech_encoder(new_config(**tiny.SHAPE), layer="last")
    model = Recogniser(encoder, build_vocabulary(["เปิดไฟ ปิดไฟ", "ตั้งปลุก"]))
    save_recogniser(tmp_path / "heard", model.eval())
    config = aligning.settings(base, tmp_path / "aligned", encoder=tmp_path / "heard")
    align.run(config)
    weights = load_file(tmp_path / "aligned" / "best" / "front_end.safetensors")
    for name, tensor in model.encoder.model.state_dict().items():
        assert torch.equal(weights[f"audio_tower.{name}"], tensor)
