"""The examples of a report with their sounds, each one whole file for a player. Changes no sample without need."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.audio.headers import BadAudio
from thaitool.data.shards import read_audio
from thaitool.errors import InputError
from thaitool.reports.report import Example, random_examples, worst_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.data.manifest import Manifest
    from thaitool.metrics.tasks import TaskScores
    from thaitool.records import Utterance

#: Wrong answers, and answers by chance, of each task that a report shows.
WORST = 4
RANDOM = 3
#: A page holds a few dozen players; longer recordings are cut to this.
LONGEST_S = 30.0
_TYPES = ((b"fLaC", "audio/flac"), (b"RIFF", "audio/wav"), (b"OggS", "audio/ogg"))


def shown_examples(items: Manifest, tasks: Sequence[TaskScores], seed: int) -> tuple[Example, ...]:
    """The worst answers of each task and some by chance, with their audio where it can be had."""
    shown = [*worst_examples(tasks, WORST), *random_examples(tasks, RANDOM, seed)]
    ids = items.column("id")
    wanted = pc.is_in(ids, value_set=pa.array({example.id for example in shown}, pa.string()))
    rows = {ids[k].as_py(): k for k in np.flatnonzero(wanted.to_numpy()).tolist()}
    found = []
    for example in shown:
        sound = sound_file(items[rows[example.id]])
        kind = media_type(sound) or "audio/flac"
        found.append(replace(example, audio=sound, audio_type=kind))
    return tuple(found)


def sound_file(utterance: Utterance) -> bytes:
    """A sound file that a browser plays; empty where the audio is missing or broken, as a report must not fail on that.

    FLAC, WAV and Ogg that hold just this utterance come as they are; everything else as 16 kHz FLAC.
    """
    ref = utterance.audio
    whole = not utterance.start_s and utterance.end_s is None and utterance.duration_s <= LONGEST_S
    try:
        if whole and ref.offset is None:
            content = read_audio(ref) if ref.row is not None else Path(ref.path).read_bytes()
            if media_type(content):
                return content
        return _as_flac(utterance)
    except (BadAudio, InputError, OSError):
        return b""


def media_type(content: bytes) -> str:
    """What a browser calls a sound file; empty if it may not know the format."""
    return next((name for mark, name in _TYPES if content.startswith(mark)), "")


def _as_flac(utterance: Utterance) -> bytes:
    import soundfile

    from thaitool.data.loader import load_audio  # brings torch, which most reports do without

    samples = load_audio(utterance)[: int(LONGEST_S * SAMPLE_RATE_HZ)]
    target = io.BytesIO()
    soundfile.write(target, samples, SAMPLE_RATE_HZ, format="FLAC")
    return target.getvalue()
