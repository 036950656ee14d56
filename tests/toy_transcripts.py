"""Recordings in which every unit of the transcript is a tone of its own, and recognisers small enough for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests import tiny
from thaitool.config import RecogniseConfig

#: Pitch of each unit. A consonant with marks is one unit: กี่ is not ก.
TONES_HZ = {"ก": 300, "กี่": 600, "ข": 1_000, "น้": 1_600, "ำ": 2_400}
SMALL: dict[str, Any] = {
    "family": "wav2vec2",
    "hidden_size": 64,
    "layers": 1,
    "heads": 2,
    "intermediate_size": 128,
    "dropout": 0.0,
}


def spoken(units: list[str], rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A tone of 100 to 140 ms for each unit, 60 ms of pause after it, and a little noise."""
    parts = []
    for unit in units:
        t = np.arange(int(rng.integers(1_600, 2_240))) / 16_000
        parts += [0.3 * np.sin(2 * np.pi * TONES_HZ[unit] * t) * np.hanning(len(t)), np.zeros(960)]
    samples = np.concatenate(parts)
    return samples + 0.005 * rng.standard_normal(len(samples))


def recordings(folder: Path, count: int = 80, speakers: int = 10, **more: Any) -> Path:
    """FLAC files and the NeMo manifest that lists them, its path. `more` goes into every row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        units = [str(u) for u in rng.choice(list(TONES_HZ), size=int(rng.integers(3, 7)))]
        samples = spoken(units, rng)
        name = f"clip-{number:02d}.flac"
        soundfile.write(folder / name, samples, 16_000)
        speaker = f"s{number % speakers}"
        row = {"audio_filepath": name, "duration": len(samples) / 16_000, "speaker": speaker}
        rows.append(row | {"text": "".join(units)} | more)
    listed = folder / "list.jsonl"
    listed.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return listed


def config(listed: Path, out: Path, updates: int, **changes: Any) -> RecogniseConfig:
    """A small recogniser on these recordings; `train` in the changes adds to what is set here."""
    train = {
        "updates": updates,
        "batch_s": 8.0,
        "learning_rate": 1e-2,
        "eval_every": updates,
        "save_every": updates,
        "device": "cpu",
        "trackers": [],
    }
    values = {
        "data": [listed],
        "out": out,
        "dev_share": 0.2,
        "encoder_shape": SMALL,
        "mask_prob": 0.0,
        **changes,
    }
    return tiny.make(RecogniseConfig, **{**values, "train": {**train, **changes.get("train", {})}})
