"""Encoders other than wav2vec 2.0 through the stages, and alignment from kept frames: tiny models, the real code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration

from tests import encoders, tiny
from tests.test_stages import aligning, training
from thaitool.config import FinetuneConfig, InferConfig
from thaitool.errors import InputError, QuarantineError
from thaitool.models.checkpoint import load_speech_lm
from thaitool.models.encoders.interface import SpeechEncoder
from thaitool.models.encoders.whisper import pads_to_window
from thaitool.stages import align, finetune, infer
from thaitool.training.run_dir import RunDir, resolve

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def sup(base: Path) -> Path:
    return tiny.thai_sup(base)


@pytest.fixture(scope="module")
def llm(base: Path) -> Path:
    return tiny.llm_directory(base / "llm")


def whisper_directory(path: Path, window_s: float = 8.0) -> Path:
    """A whole tiny Whisper as transformers saves it, decoder included."""
    torch.manual_seed(1)
    config = encoders.config("whisper")
    config.max_source_positions = round(50 * window_s)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # an initialisation of 0.02 would hardly hear anything
        for p in model.model.encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def whisper(base: Path) -> Path:
    return whisper_directory(base / "whisper")


@pytest.mark.parametrize(("layer", "pads"), [("last", True), ("mix", False)])
def test_whisper_through_all_stages(
    layer: Any, pads: bool, sup: Path, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    config = aligning(
        sup,
        whisper,
        llm,
        tmp_path / "aligned",
        layer=layer,
        pad_to_window=pads,
        train=training(3, learning_rate=1e-2),
    )
    aligned = align.run(config)
    assert aligned.training is not None
    assert aligned.training.done["updates"] == 3
    before = load_file(whisper / "model.safetensors")
    after = load_file(resolve(aligned.out) / "front_end.safetensors")
    kept = [n.removeprefix("audio_tower.") for n in after if n.startswith("audio_tower.")]
    assert {n.split(".")[1] for n in kept if n.startswith("layers.")} == {*("0", "1", "2")}
    assert all(torch.equal(after[f"audio_tower.{n}"], before[f"model.encoder.{n}"]) for n in kept)
    assert ("audio_mix" in after) == (layer == "mix")
    assert layer != "mix" or bool(after["audio_mix"].any())

    tuned = finetune.run(
        tiny.make(
            FinetuneConfig,
            data=sup,
            model=aligned.out,
            out=tmp_path / "slm",
            lora_rank=2,
            judge_items=2,
            max_new_tokens=2,
            train=training(2),
        )
    )
    model, processor = load_speech_lm(resolve(tuned.out))
    assert model.audio_tower.layer == layer
    assert pads_to_window(model.audio_tower.config) == pads
    assert processor.audio_tokens(16_000) == 25  # 50 frames a second, two to an embedding
    assert not processor.feature_extractor.do_normalize

    sounds = tiny.clips(tmp_path / "clips", 2)
    files = sorted(sounds.iterdir())
    long = tmp_path / "long.flac"
    soundfile.write(long, np.random.default_rng(0).uniform(-0.3, 0.3, 9 * 16_000), 16_000)
    asked = tiny.make(InferConfig, model=tuned.out, audio=[*files, long], max_new_tokens=4)
    answers = list(infer.run(asked))
    assert [a.error for a in answers] == [None, None, None]
    assert answers[0].text != answers[1].text
    # What it cannot hear at once it hears in stretches.
    assert answers[2].segments is not None
    assert all(segment.end_s - segment.start_s <= 8 for segment in answers[2].segments)


def test_an_encoder_that_is_trained_moves(
    sup: Path, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    config = aligning(
        sup, whisper, llm, tmp_path / "run", unfreeze_encoder=True, pad_to_window=False
    )
    before = load_file(whisper / "model.safetensors")
    after = load_file(resolve(align.run(config).out) / "front_end.safetensors")
    moved = {
        n.split(".")[1]
        for n, value in after.items()
        if n.startswith("audio_tower.")
        and not torch.equal(before[n.replace("audio_tower", "model.encoder")], value)
    }
    assert moved == {"layers", "layer_norm"}


def test_recordings_beyond_the_window_are_set_aside(sup: Path, llm: Path, tmp_path: Path) -> None:
    short = whisper_directory(tmp_path / "short", window_s=3.3)
    config = aligning(sup, short, llm, tmp_path / "run")
    with pytest.raises(QuarantineError, match="too_long"):
        align.run(config)
    lenient = config.train.model_copy(update={"max_rejected_share": 1.0})
    out = RunDir(align.run(config.model_copy(update={"train": lenient})).out)
    ledger = out.quarantine.read_text("utf-8")
    assert '"too_long"' in ledger
    assert "hears at most 3.3 s at once" in ledger


def losses(config: Any) -> list[float]:
    result = align.run(config)
    rows = RunDir(result.out).metrics()
    return [row["loss"] for row in rows] + [rows[-1]["eval_path_cost"]]


def test_kept_frames_train_the_same(
    sup: Path, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny.encoder_directory(tmp_path / "encoder")
    kept = tmp_path / "frames"
    plain = losses(aligning(sup, encoder, llm, tmp_path / "plain"))
    filling = losses(aligning(sup, encoder, llm, tmp_path / "filling", feature_cache=kept))
    assert filling == pytest.approx(plain, rel=2e-3)
    assert filling != plain  # rounded to float16

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("The encoder was asked, but the frames were there.")

    monkeypatch.setattr(SpeechEncoder, "forward", refuse)
    config = aligning(sup, encoder, llm, tmp_path / "reading", feature_cache=kept)
    assert losses(config) == filling
    # The same run must not go on with frames that are rounded otherwise, but the directory may lie elsewhere.
    with pytest.raises(InputError, match=r"frames: the run has 'torch.float16', now None"):
        align.run(config.model_copy(update={"feature_cache": None}))
    again = align.run(config.model_copy(update={"feature_cache": tmp_path / "moved"}))
    assert again.training is not None
    assert again.training.resumed_from == 4

    def tuning(name: str, cache: Path | None) -> FinetuneConfig:
        return tiny.make(
            FinetuneConfig,
            data=sup,
            model=config.out,
            out=tmp_path / name,
            tasks=["asr"],
            lora_rank=2,
            judge_items=2,
            max_new_tokens=2,
            feature_cache=cache,
            train=training(2, learning_rate=1e-2),
        )

    def nats(wanted: FinetuneConfig) -> list[float]:
        finetune.run(wanted)
        return [row["answer_nats"] for row in RunDir(wanted.out).metrics()]

    # The aligned model has the same encoder, so its frames are there, too. What it answers is heard anew, as in use.
    monkeypatch.setattr(finetune, "evaluate", lambda *_, **__: {"answer_nats": 0.0})
    read = nats(tuning("tuned", kept))
    monkeypatch.undo()
    assert read == pytest.approx(nats(tuning("plainly", None)), rel=2e-3)


def test_kept_frames_need_a_frozen_encoder(tmp_path: Path) -> None:
    for changes in ({"unfreeze_encoder": True}, {"layer": "mix"}):
        with pytest.raises(ValueError, match="feature_cache must be null"):
            aligning(tmp_path, tmp_path, tmp_path, tmp_path, feature_cache=tmp_path, **changes)
    with pytest.raises(ValueError, match="layer must be 1 or more"):
        aligning(tmp_path, tmp_path, tmp_path, tmp_path, layer=0)
