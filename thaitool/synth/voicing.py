"""Labelled Thai sentences to rows with speech: who speaks, how, and the gates to pass. Writes no files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ, encode_flac
from thaitool.data.shards import Provenance, ThaiSupRow
from thaitool.errors import ConfigError, InputError
from thaitool.records import Rejected
from thaitool.synth.draws import draw, pick
from thaitool.synth.espeak import VOICES, Voice, speak
from thaitool.synth.labels import label_for
from thaitool.text.prompts import task_prompt
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.synth.sources import SourceRow
    from thaitool.synth.translate import Rendering

#: Written characters per second that speech can have; outside, a voice has skipped or repeated.
MIN_CHARS_PER_S, MAX_CHARS_PER_S = 3.0, 30.0


@dataclass(frozen=True)
class Cast:
    """Speakers of each split; no speaker is in two."""

    train: tuple[Voice, ...]
    dev: tuple[Voice, ...]
    test: tuple[Voice, ...]

    def of(self, split: str) -> tuple[Voice, ...]:
        """Speakers of a split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]


def cast_voices(*, dev: int, test: int, seed: int) -> Cast:
    """Draws the speakers that training never hears.

    Raises:
        ConfigError: no speaker would be left for training.
    """
    if dev + test >= len(VOICES):
        raise ConfigError(
            f"There are {len(VOICES)} voices; dev_voices + test_voices must leave one for training."
        )
    order = sorted(VOICES, key=lambda v: draw(seed, "voice", v.name))
    return Cast(tuple(order[dev + test :]), tuple(order[test : dev + test]), tuple(order[:test]))


def voice_row(
    task: str,
    row: SourceRow,
    rendering: Rendering,
    *,
    intent_th: str | None,
    split: str,
    voices: Sequence[Voice],
    speed: float,
    seed: int,
    trainable: bool,
) -> tuple[ThaiSupRow, Provenance] | Rejected:
    """Speaks one rendering for one task, or says why not (no label, unspeakable, a gate)."""
    data_id = _data_id(task, row)
    label = label_for(task, rendering, intent_th)
    if label is None:
        return Rejected(data_id, "no_label", f"the source row has no {task} label")
    lost = [e.surface for e in rendering.entities if e.surface not in rendering.text_th]
    if lost:
        return Rejected(data_id, "label_lost", f"{lost[0]!r} is not in {rendering.text_th!r}")
    voice = pick(voices, seed, data_id, "voice")
    varied = speed * (0.9 + 0.2 * (draw(seed, data_id, "speed") % 1000) / 1000)
    pitch_shift = draw(seed, data_id, "pitch") % 4 - 2
    spoken = spoken_form(rendering.text_th)
    try:
        speech = speak(spoken, voice, speed=varied, pitch_shift=pitch_shift)
    except InputError as error:
        return Rejected(data_id, "unspeakable", str(error))
    rate = len(spoken.replace(" ", "")) / speech.duration_s
    if not MIN_CHARS_PER_S <= rate <= MAX_CHARS_PER_S:
        return Rejected(
            data_id, "speech_rate", f"{rate:.1f} characters per second in {rendering.text_th!r}"
        )
    public = ThaiSupRow(
        task_id=task.upper(),
        task_prompt=task_prompt(task),
        data_id=data_id,
        text=rendering.text_th,
        label=label,
        audio_flac=encode_flac(speech.samples),
        sampling_rate=SAMPLE_RATE_HZ,
        num_channels=1,
        duration_s=speech.duration_s,
    )
    provenance = Provenance(
        data_id=data_id,
        source_id=row.source_id,
        source_corpus=row.corpus,
        source_licence=row.licence,
        split=split,
        variant=row.variant,
        intent=row.intent or "",
        text_en=row.text_en,
        text_spoken=spoken,
        voice=voice.name,
        phonemes=speech.phonemes,
        trainable=trainable,
    )
    return public, provenance


def _data_id(task: str, row: SourceRow) -> str:
    source = f"{row.corpus}/{row.source_id}".encode()
    digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()[:12]
    return f"{task.upper()}-{digest}-{row.variant:02d}"
