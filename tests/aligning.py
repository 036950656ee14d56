"""Clips that say one of a few Thai words, and configurations of `align` over them. Holds no tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import soundfile

from tests import tiny
from thaitool.config import AlignConfig
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("เปิดไฟ", "ปิดไฟ", "ตั้งปลุก", "ฟังเพลง", "เปิดเพลง", "ปิดเพลง")
METHODS = ("dtw", "ctc", "dtw+ctc", "asr")


def utterances(folder: Path, count: int = 24) -> list[Utterance]:
    """The first two thirds are the train split, the others dev; clips of 0.4 to 0.8 s."""
    files = sorted(tiny.clips(folder, count).iterdir())
    return [
        Utterance(
            id=f"u{i}",
            audio=AudioRef(str(file)),
            duration_s=soundfile.info(file).duration,
            sample_rate_hz=16_000,
            text=TEXTS[i % len(TEXTS)],
            task="asr",
            label=TEXTS[i % len(TEXTS)],
            speaker=f"s{i % 4}",
            split="train" if 3 * i < 2 * count else "dev",
        )
        for i, file in enumerate(files)
    ]


def manifest(base: Path) -> Path:
    """A manifest of `utterances` below `base`, made once."""
    file = base / "words.arrow"
    if not file.exists():
        write_manifest(from_utterances(utterances(base / "clips")), file)
    return file


def settings(
    base: Path, out: Path, *, training: dict[str, Any] | None = None, **changes: Any
) -> AlignConfig:
    """Four updates on the data, encoder and LLM in `base`, which are made if they are not there."""
    for name, make in (("encoder", tiny.encoder_directory), ("llm", tiny.llm_directory)):
        if not (base / name).exists():
            make(base / name)
    train = {
        "updates": 4,
        "batch_s": 4.0,
        "learning_rate": 1e-2,
        "eval_every": 2,
        "save_every": 2,
        "device": "cpu",
    }
    values = {
        "data": manifest(base),
        "encoder": base / "encoder",
        "llm": base / "llm",
        "out": out,
        "projector_hidden_size": 24,
        "probe_updates": 5,
        "train": {**train, **(training or {})},
    }
    return tiny.make(AlignConfig, **{**values, **changes})
