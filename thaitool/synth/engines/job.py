"""One clip as a job that can be sent to another process or machine, and the function that does it there.

Which clips there are, and what becomes of them, is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from thaitool.data.shards import Provenance, ThaiSupRow
from thaitool.records import Rejected
from thaitool.synth.ledger import Place
from thaitool.synth.texts import Sentence
from thaitool.synth.voicing import voice_row

if TYPE_CHECKING:
    from thaitool.config import SynthConfig
    from thaitool.synth.voicing import Booth

Made: TypeAlias = tuple[ThaiSupRow, Provenance] | Rejected


@dataclass(frozen=True, slots=True)
class ClipJob:
    """What to say for one task, and who may say it. Holds plain values only: it is pickled."""

    place: Place
    sentence: Sentence
    split: str
    intent_th: str | None
    voices: tuple[str, ...]


async def make_clip(job: ClipJob, config: SynthConfig, booth: Booth) -> Made:
    """The row and its provenance, or why there is none; depends on nothing but the arguments."""
    number, sentence = job.place.number, job.sentence
    return await voice_row(
        config.tasks[number],
        sentence.row,
        # Another wording for each task: the tasks of one sentence are not four copies of one clip.
        sentence.renderings[number % len(sentence.renderings)],
        booth,
        intent_th=job.intent_th,
        split=job.split,
        voices=job.voices,
        speed=config.speed,
        seed=config.seed,
        trainable=config.trainable,
    )


def share_of(config: SynthConfig) -> SynthConfig:
    """The configuration of one of `config.workers` processes: a server counts all of them together."""
    calls, n = config.calls, config.workers
    rate, tokens = calls.requests_per_s, calls.tokens_per_minute
    divided = {
        "in_flight": max(1, calls.in_flight // n),
        "requests_per_s": None if rate is None else rate / n,
        "tokens_per_minute": None if tokens is None else tokens / n,
    }
    return config.model_copy(update={"calls": calls.model_copy(update=divided)})
