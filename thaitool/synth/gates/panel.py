"""All gates of a clip in their order: its sound, then what a recogniser hears. Asks nothing twice, changes no clip."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.config.synth_gates import Gates
from thaitool.synth.backends.protocol import CallFailed, Identity
from thaitool.synth.cache import Answers, Attempt, Question
from thaitool.synth.gates.clips import Fault, fault_of, measure, predicted_s
from thaitool.synth.gates.naturalness import CommandPredictor
from thaitool.synth.gates.readback import Listener, read_back
from thaitool.text.spoken import Spoken, spoken_spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Voices for which another seed is another take.
_HEED_SEEDS = ("hf-vits:", "piper:", "speech:")


@dataclass(frozen=True, slots=True)
class Judged:
    """What was measured, by name, and the first gate that the clip fails."""

    values: Mapping[str, float]
    fault: Fault | None

    @property
    def as_json(self) -> str:
        """What provenance holds."""
        return json.dumps(dict(self.values), sort_keys=True)


@dataclass(frozen=True)
class ClipGates:
    """The limits, and who measures what numbers alone cannot."""

    limits: Gates
    listener: Listener | None = None
    predictor: CommandPredictor | None = None
    cache: Answers | None = None
    """Where what the listener and the predictor said is kept; None asks every time."""

    def tries(self, voice: Identity) -> int:
        """How often a voice may be asked for one clip."""
        heeds = voice.backend.startswith(_HEED_SEEDS) or (
            voice.backend == "command:" and "{seed}" in voice.model
        )
        return 1 + self.limits.retries if heeds else 1

    async def judge(
        self, flac: bytes, text: str, entities: Sequence[tuple[int, int]], speed: float
    ) -> Judged:
        """Measures one clip.

        Args:
            flac: As `encode_flac` gives it; measured as it is packed, whether it comes from a cache or not.
            text: Its text as it is written.
            entities: Half-open stretches of `text`.
            speed: The factor that the voice was asked for.

        Raises:
            EnvironmentProblem: who measures is down, or refuses.
        """
        samples = _samples(flac)
        if len(samples) == 0:
            return Judged({}, Fault("silent", "the clip has no samples"))
        spoken = spoken_spans(text, entities)
        measures = measure(samples, spoken.text)
        values: dict[str, float] = asdict(measures)
        duration_s = len(samples) / SAMPLE_RATE_HZ
        fault = fault_of(measures, duration_s, predicted_s(spoken.text) / speed, self.limits)
        if fault is None and self.listener is not None:
            fault = await self._read_back(self.listener, flac, spoken, values)
        if fault is None and self.predictor is not None:
            predictor = self.predictor

            async def predict() -> bytes:
                return repr(await predictor.predict(flac)).encode()

            said = await self._kept("mos", predictor.identity, flac, predict)
            values["mos"] = round(float(said), 4)
        return Judged(values, fault)

    async def _read_back(
        self, listener: Listener, flac: bytes, spoken: Spoken, values: dict[str, float]
    ) -> Fault | None:
        async def hear() -> bytes:
            return (await listener.hear(flac)).encode()

        try:
            heard = (await self._kept("asr", listener.identity, flac, hear)).decode()
        except CallFailed as error:
            return Fault(f"asr_{error.reason}", error.detail)
        found = read_back(spoken.text, spoken.spans, heard)
        values["asr_cer"] = found.cer
        if found.entity_cer is not None:
            values["asr_entity_cer"] = found.entity_cer
            if found.entity_cer > self.limits.max_entity_cer:
                return Fault("asr_entity_cer", f"{found.entity_cer:.2f}: heard {heard!r}")
        if found.cer > self.limits.max_cer:
            return Fault("asr_cer", f"{found.cer:.2f}: heard {heard!r}")
        return None

    async def _kept(
        self, stage: str, who: Identity, flac: bytes, ask: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        question = Question(
            stage=stage,
            backend=who.backend,
            model=who.model,
            revision=who.revision,
            prompt="",
            schema="",
            parameters="",
            input=hashlib.sha256(flac).hexdigest(),
            sample=0,
        )
        stored = None if self.cache is None else self.cache.get(question)
        if stored is not None:
            return stored
        began = time.monotonic()
        answer = await ask()
        if self.cache is not None:
            attempt = Attempt(stage, "ok", seconds=time.monotonic() - began)
            self.cache.put(question, answer, attempt)
        return answer


def _samples(flac: bytes) -> NDArray[np.float32]:
    """Samples of a clip, shape (N,). Not `decode`, which refuses silence: that is for a gate to say."""
    import io

    import soundfile

    samples: NDArray[np.float32] = soundfile.read(io.BytesIO(flac), dtype="float32")[0]
    return samples
