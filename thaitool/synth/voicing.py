"""Labelled Thai sentences to rows with speech: who speaks, how, and the gates to pass. Writes no files."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ, decode, encode_flac
from thaitool.audio.headers import BadAudio
from thaitool.config.synth_gates import Gates
from thaitool.data.shards import Provenance, ThaiSupRow
from thaitool.errors import ConfigError, InputError
from thaitool.records import Rejected
from thaitool.synth.backends.protocol import CallFailed, Tts
from thaitool.synth.cache import Answers, Attempt, Question, canonical_json
from thaitool.synth.draws import draw, pick
from thaitool.synth.gates.clips import measure
from thaitool.synth.gates.panel import ClipGates, Judged
from thaitool.synth.labels import label_for
from thaitool.synth.recordings import samples
from thaitool.synth.sources import SourceRow, data_id_of
from thaitool.text.prompts import task_prompt
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.synth.calls import Endpoint
    from thaitool.synth.effects import Acoustics
    from thaitool.synth.translate import Rendering


#: What provenance names as the voice of a row that keeps its recording.
RECORDED = "recording"


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
    cache: Answers | None
    """None for voices that are as fast as a cache."""
    acoustics: Acoustics | None = None
    """Room and noise; None where clips stay as they are spoken."""
    gates: ClipGates = field(default_factory=lambda: ClipGates(Gates.model_validate({})))
    """What each clip must pass."""

    @property
    def clips_at_once(self) -> int:
        """Twice as many as are called: one that takes long does not leave the others without work."""
        return 1 if self.tts.in_flight == 1 else 2 * self.tts.in_flight

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
    data_id = data_id_of(task, row)
    label = label_of(task, row, rendering, intent_th, data_id)
    if isinstance(label, Rejected):
        return label
    voice = _speaker(row) if row.audio else pick(voices, seed, data_id, "voice")
    spoken = spoken_form(rendering.text_th)
    if row.audio:
        taken = await _kept(data_id, row.audio, rendering, booth)
    else:
        taken = await _take(data_id, rendering, spoken, booth, voice=voice, speed=speed, seed=seed)
    if isinstance(taken, Rejected):
        return taken
    clip, judged = taken
    # Labels and sound were judged on what was spoken; the room comes after, and a recording has its own.
    heard = (clip, "") if row.audio else _heard(clip, booth, data_id)
    if isinstance(heard, Rejected):
        return heard
    clip, effects = heard
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
    return public, Provenance(
        data_id=data_id,
        source_id=row.source_id,
        source_corpus=row.corpus,
        source_licence=row.licence,
        split=split,
        variant=row.variant,
        intent=row.intent or "",
        text_en=row.text if row.language == "en" else "",
        text_spoken=spoken,
        voice=voice,
        phonemes=clip.phonemes,
        trainable=trainable,
        entities=_entities_json(rendering),
        gates=judged.as_json,
        effects=effects,
    )


async def _take(
    data_id: str,
    rendering: Rendering,
    spoken: str,
    booth: Booth,
    *,
    voice: str,
    speed: float,
    seed: int,
) -> tuple[Clip, Judged] | Rejected:
    """The first clip that passes the gates, and what they measured; else why the last one did not."""
    varied = speed * (0.9 + 0.2 * (draw(seed, data_id, "speed") % 1000) / 1000)
    pitch_shift = draw(seed, data_id, "pitch") % 4 - 2

    async def take(*number: int) -> tuple[Clip, Judged] | Rejected:
        drawn = draw(seed, data_id, "tts", *number)
        try:
            clip = await booth.record(
                spoken, voice, speed=varied, pitch_shift=pitch_shift, seed=drawn
            )
        except InputError as error:
            return Rejected(data_id, "unspeakable", str(error))
        except CallFailed as error:
            return Rejected(data_id, f"tts_{error.reason}", error.detail)
        text = rendering.text_th
        judged = await booth.gates.judge(clip.flac, text, _spans(rendering), speed=varied)
        if judged.fault is None:
            return clip, judged
        return Rejected(data_id, judged.fault.reason, f"{judged.fault.detail} in {text!r}")

    taken = await take()
    for number in range(1, booth.gates.tries(booth.tts.identity)):
        # A text that cannot be spoken, or a server that fails, is not helped by another seed.
        if not isinstance(taken, Rejected) or taken.reason.startswith(("unspeakable", "tts_")):
            break
        taken = await take(number)
    return taken


def _speaker(row: SourceRow) -> str:
    return f"{RECORDED}:{row.speaker}" if row.speaker else RECORDED


async def _kept(
    data_id: str, audio: str, rendering: Rendering, booth: Booth
) -> tuple[Clip, Judged] | Rejected:
    """The recording of a row and what the gates measured, or why it cannot be used."""
    try:
        heard = samples(audio)
    except BadAudio as bad:
        return Rejected(data_id, f"recording_{bad.reason}", f"{bad.item}: {bad.detail}")
    clip = Clip(encode_flac(heard), len(heard) / SAMPLE_RATE_HZ, "")
    judged = await booth.gates.judge(clip.flac, rendering.text_th, _spans(rendering), speed=1.0)
    if judged.fault is None:
        return clip, judged
    return Rejected(data_id, judged.fault.reason, f"{judged.fault.detail} in {audio}")


def _spans(rendering: Rendering) -> list[tuple[int, int]]:
    """Where the entities stand in the text: as the rendering says, else each after the one before it."""
    found: list[tuple[int, int]] = []
    for number, entity in enumerate(rendering.entities):
        if rendering.starts:
            start = rendering.starts[number]
        else:
            start = rendering.text_th.find(entity.surface, found[-1][1] if found else 0)
        if start < 0:  # out of order
            start = rendering.text_th.index(entity.surface)
        found.append((start, start + len(entity.surface)))
    return found


def _entities_json(rendering: Rendering) -> str:
    listed = [
        {"type": entity.type, "surface": entity.surface, "start": start, "end": end}
        for entity, (start, end) in zip(rendering.entities, _spans(rendering), strict=True)
    ]
    return json.dumps(listed, ensure_ascii=False)


def _heard(clip: Clip, booth: Booth, data_id: str) -> tuple[Clip, str] | Rejected:
    """The clip with its room and noise, and what was done as JSON; the same clip and "" if nothing was.

    A clip whose peaks in the room leave it too quiet is refused.
    """
    if booth.acoustics is None:
        return clip, ""
    heard, done = booth.acoustics.applied(decode(clip.flac, data_id), data_id)
    if not done:
        return clip, ""
    level, limits = measure(heard, "").level_dbfs, booth.gates.limits
    if not limits.min_level_dbfs <= level <= limits.max_level_dbfs:
        return Rejected(data_id, "level", f"{level:.1f} dBFS after {done}")
    return replace(clip, flac=encode_flac(heard)), done


def label_of(
    task: str, row: SourceRow, rendering: Rendering, intent_th: str | None, data_id: str
) -> str | Rejected:
    """The label of a row for a task, or why it has none."""
    if task == "ner" and not row.has_names:
        return Rejected(data_id, "no_label", "nobody has looked for names in the source row")
    label = label_for(task, rendering, intent_th)
    if label is None:
        found = ((reason, detail) for of, reason, detail in rendering.lost if of == task)
        why = next(found, ("no_label", f"the source row has no {task} label"))
        return Rejected(data_id, *why)
    lost = [e.surface for e in rendering.entities if e.surface not in rendering.text_th]
    if lost:
        return Rejected(data_id, "label_lost", f"{lost[0]!r} is not in {rendering.text_th!r}")
    return label


def _duration_s(flac: bytes) -> float:
    import soundfile

    info = soundfile.info(io.BytesIO(flac))
    return float(info.frames / info.samplerate)
