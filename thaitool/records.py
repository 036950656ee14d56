"""Values that cross rooms: utterances, predictions, scores. Standard library only, frozen, units in names."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Tasks of the published Thai-SUP: transcription, intent classification, named entities, spoken rephrasing.
PUBLISHED_TASKS = ("asr", "ic", "ner", "sr")
#: Those, and answering a spoken instruction.
TASKS = (*PUBLISHED_TASKS, "qa")
SPLITS = ("train", "dev", "test")
#: Entity types of the paper's tables, in the order in which reports print them.
ENTITY_TYPES = ("PER", "LOC", "ORG", "OTH")
#: Keys of the published NER label, one per entity type (Thai-SUP card).
ENTITY_KEYS_TH = {"PER": "บุคคล", "LOC": "สถานที่", "ORG": "องค์กร", "OTH": "อื่นๆ"}


@dataclass(frozen=True, slots=True)
class Entity:
    """A surface form and its type, one of `ENTITY_TYPES`."""

    type: str
    surface: str


@dataclass(frozen=True, slots=True)
class AudioRef:
    """Where samples live: a sound file, row `row` of a parquet file with embedded audio, or bytes of a file.

    The bytes `offset` to `offset + n_bytes` are a whole sound file (a member of a tar), or int16 samples at 16 kHz if
    the path ends in `.pcm16` (the shard cache).
    """

    path: str
    row: int | None = None
    offset: int | None = None
    n_bytes: int | None = None

    def __str__(self) -> str:
        place = self.offset if self.row is None else self.row
        return self.path if place is None else f"{self.path}#{place}"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech and what is known about it. `end_s` is exclusive; None means to the end."""

    id: str
    audio: AudioRef
    duration_s: float
    sample_rate_hz: int
    start_s: float = 0.0
    end_s: float | None = None
    text: str | None = None
    task: str | None = None
    label: str | None = None
    speaker: str | None = None
    split: str | None = None
    source: str | None = None
    source_id: str | None = None
    licence: str | None = None
    trainable: bool = True
    part: int = 0
    """Which `data` entry of the configuration it came from; sampling weights are by part."""
    prompt: str | None = None
    """The row's own instruction, asked instead of its task's."""
    context: str | None = None
    """What is known beforehand, as JSON; see `text.context`."""

    @property
    def place(self) -> str:
        """What the ledger calls it: where its audio lies, and the stretch in milliseconds if it is not all."""
        if self.start_s == 0 and self.end_s is None:
            return str(self.audio)
        end = "" if self.end_s is None else round(1000 * self.end_s)
        return f"{self.audio}@{round(1000 * self.start_s)}-{end}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """An input that was set aside, and why: a line of `quarantine.jsonl`."""

    item: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model said about one utterance for one task; joined to references by (`id`, `task`), never by position."""

    id: str
    task: str
    text: str
    stopped: bool = True
    """Whether generation ended by itself (end of sequence) rather than at the length limit."""
    audio_s: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What is right for one utterance and task, and the clusters that error bars resample (source item, speaker)."""

    id: str
    task: str
    text: str
    source_id: str
    speaker: str


@dataclass(frozen=True, slots=True)
class Score:
    """A rate as its two sums, so that scores of parts add up to the score of the whole."""

    name: str
    numerator: float
    denominator: float
    low: float | None = None
    """Lower end of the 95 % interval, if one was computed."""
    high: float | None = None
    note: str = ""

    @property
    def value(self) -> float | None:
        """The rate; None when nothing was counted (an empty test set has no accuracy, not an accuracy of 0)."""
        return self.numerator / self.denominator if self.denominator else None


class Advance(Protocol):
    """Reports that `steps` more units are done, with a short note such as the current loss."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """How a stage tells that it is alive; the command line draws a bar, everything else passes `silent`."""

    def __call__(
        self, description: str, total: int, done: int = 0
    ) -> AbstractContextManager[Advance]: ...


@contextmanager
def silent(description: str, total: int, done: int = 0) -> Iterator[Advance]:  # noqa: ARG001
    """A `Progress` that shows nothing."""

    def advance(steps: int = 1, note: str = "") -> None:  # noqa: ARG001
        return

    yield advance
