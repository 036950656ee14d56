"""Labelled Thai sentences to rows with speech: who speaks, how, and the gates to pass. Writes no files."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ, encode_flac
from thaitool.data.shards import Provenance, ThaiSupRow
from thaitool.errors import ConfigError, InputError
from thaitool.records import Rejected
from thaitool.synth.backends.protocol import CallFailed, Tts
from thaitool.synth.cache import Attempt, Cache, Question, canonical_json
from thaitool.synth.draws import draw, pick
from thaitool.synth.labels import label_for
from thaitool.text.prompts import task_prompt
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.synth.calls import Endpoint
    from thaitool.synth.sources import SourceRow
    from thaitool.synth.translate import Rendering

#: Written characters per second that speech can have; outside, a voice has skipped or repeated.
MIN_CHARS_PER_S, MAX_CHARS_PER_S = 3.0, 30.0


@dataclass(frozen=True)
class Cast:
    """Voices of each split, each as often as its weight; without own ones dev and test have those of training."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, split: str) -> tuple[str, ...]:
        """Voices of a split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split] or self.train


def cast_voices(voices: Sequence[str], *, dev: int, test: int, seed: int) -> Cast:
    """Draws the speakers that training never hears; a name that stands in `voices` twice is drawn twice as often.

    Raises:
        ConfigError: no speaker would be left for training.
    """
    order = sorted(set(voices), key=lambda name: draw(seed, "voice", name))
    if dev + test >= len(order):
        raise ConfigError(
            f"There are {len(order)} voices, but dev_voices {dev} and test_voices {test} would leave none for training;"
            " name more voices, or set these to 0, which lets dev and test be spoken by the voices of training."
        )
    parts = order[dev + test :], order[test : dev + test], order[:test]
    return Cast(*(tuple(n for n in part for _ in range(voices.count(n))) for part in parts))


@dataclass(frozen=True, slots=True)
class Clip:
    """Speech as shards hold it: 16-bit FLAC, mono, `SAMPLE_RATE_HZ`."""

    flac: bytes
    duration_s: float
    phonemes: str


@dataclass(frozen=True)
class Booth:
    """Voices, and where what they said is kept."""

    tts: Tts
    endpoint: Endpoint
    cache: Cache | None
    """None for voices that are as fast as a cache."""

    async def record(
        self, text: str, voice: str, *, speed: float, pitch_shift: int, seed: int
    ) -> Clip:
        """The stored clip, or a new one, which is stored.

        Raises:
            CallFailed: no audio came.
            InputError: the text cannot be spoken.
            EnvironmentProblem: the endpoint is down, or refuses.
        """
        question = self._question(text, voice, speed, pitch_shift, seed)
        stored = None if self.cache is None else self.cache.get(question)
        if stored is not None:
            return Clip(stored, _duration_s(stored), "")
        began = time.monotonic()
        speech = await self.endpoint.call(
            lambda: self.tts.speak(text, voice, speed=speed, pitch_shift=pitch_shift, seed=seed),
            failed=self._failed,
        )
        flac = encode_flac(speech.samples)
        if self.cache is not None:
            self.cache.put(question, flac, Attempt("tts", "ok", seconds=time.monotonic() - began))
        return Clip(flac, speech.duration_s, speech.phonemes)

    def _failed(self, error: CallFailed) -> None:
        if self.cache is not None:
            self.cache.note(Attempt("tts", error.reason))

    def _question(
        self, text: str, voice: str, speed: float, pitch_shift: int, seed: int
    ) -> Question:
        identity = self.tts.identity
        parameters = {"voice": voice, "speed": speed, "semitones": pitch_shift, "seed": seed}
        return Question(
            stage="tts",
            backend=identity.backend,
            model=identity.model,
            revision=identity.revision,
            prompt="",
            schema="",
            parameters=canonical_json(parameters),
            input=text,
            sample=0,
        )


async def voice_row(
    task: str,
    row: SourceRow,
    rendering: Rendering,
    booth: Booth,
    *,
    intent_th: str | None,
    split: str,
    voices: Sequence[str],
    speed: float,
    seed: int,
    trainable: bool,
) -> tuple[ThaiSupRow, Provenance] | Rejected:
    """Speaks one rendering for one task, or says why not (no label, unspeakable, a gate)."""
    data_id = _data_id(task, row)
    label = _label(task, rendering, intent_th, data_id)
    if isinstance(label, Rejected):
        return label
    voice = pick(voices, seed, data_id, "voice")
    varied = speed * (0.9 + 0.2 * (draw(seed, data_id, "speed") % 1000) / 1000)
    pitch_shift = draw(seed, data_id, "pitch") % 4 - 2
    spoken = spoken_form(rendering.text_th)
    try:
        clip = await booth.record(
            spoken, voice, speed=varied, pitch_shift=pitch_shift, seed=draw(seed, data_id, "tts")
        )
    except InputError as error:
        return Rejected(data_id, "unspeakable", str(error))
    except CallFailed as error:
        return Rejected(data_id, f"tts_{error.reason}", error.detail)
    rate = len(spoken.replace(" ", "")) / clip.duration_s
    if not MIN_CHARS_PER_S <= rate <= MAX_CHARS_PER_S:
        detail = f"{rate:.1f} characters per second in {rendering.text_th!r}"
        return Rejected(data_id, "speech_rate", detail)
    public = ThaiSupRow(
        task_id=task.upper(),
        task_prompt=task_prompt(task),
        data_id=data_id,
        text=rendering.text_th,
        label=label,
        audio_flac=clip.flac,
        sampling_rate=SAMPLE_RATE_HZ,
        num_channels=1,
        duration_s=clip.duration_s,
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
        voice=voice,
        phonemes=clip.phonemes,
        trainable=trainable,
    )
    return public, provenance


def _label(task: str, rendering: Rendering, intent_th: str | None, data_id: str) -> str | Rejected:
    label = label_for(task, rendering, intent_th)
    if label is None:
        return Rejected(data_id, "no_label", f"the source row has no {task} label")
    lost = [e.surface for e in rendering.entities if e.surface not in rendering.text_th]
    if lost:
        return Rejected(data_id, "label_lost", f"{lost[0]!r} is not in {rendering.text_th!r}")
    return label


def _data_id(task: str, row: SourceRow) -> str:
    source = f"{row.corpus}/{row.source_id}".encode()
    digest = hashlib.sha1(source, usedforsecurity=False).hexdigest()[:12]
    return f"{task.upper()}-{digest}-{row.variant:02d}"


def _duration_s(flac: bytes) -> float:
    import soundfile

    info = soundfile.info(io.BytesIO(flac))
    return float(info.frames / info.samplerate)
