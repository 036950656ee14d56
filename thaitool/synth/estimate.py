"""What a run of `synth` would cost, from the prompts it would send. Asks nothing and opens no backend.

Estimates, not promises: every row is taken to go through, and the constants below are averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thaitool.synth.asking import estimated_tokens, load_prompt
from thaitool.synth.assembly import EMBEDDED, is_memory
from thaitool.synth.calls import Price
from thaitool.synth.llm_augment import VARIANTS_PER_CALL
from thaitool.synth.markers import mark

if TYPE_CHECKING:
    from thaitool.config import SynthConfig
    from thaitool.synth.sources import SourceRow

#: Thai letters for each English one, and Thai letters a second at speed 1: the example source, 3,360 clips.
THAI_PER_ENGLISH, THAI_PER_S = 0.91, 10.7
#: Thai letters per token; tokenizers made for English need more tokens.
THAI_PER_TOKEN = 2.0
#: Labels of a row, and the JSON around any answer, in tokens.
LABEL_TOKENS, FRAME_TOKENS = 40, 15
#: FLAC at 16 kHz, mono, bytes a second.
FLAC_BYTES_PER_S = 19_900


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Calls of one stage and what they are billed for."""

    stage: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    """None where the model has no price in `calls.prices`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """All stages, and the data set they lead to."""

    stages: tuple[StageEstimate, ...]
    rows: int
    hours: float
    gigabytes: float

    @property
    def calls(self) -> int:
        """Of all stages."""
        return sum(stage.calls for stage in self.stages)

    @property
    def usd(self) -> float | None:
        """Of all stages; None if one has no price."""
        costs = [stage.usd for stage in self.stages]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


def estimate(
    config: SynthConfig, rows: Sequence[SourceRow], intents: Mapping[str, str]
) -> Estimate:
    """What the whole of a configuration would take, as if nothing were in the cache yet."""
    stages: list[StageEstimate] = []
    if config.llm != EMBEDDED:
        bare = [row for row in rows if not row.intent and not row.entities]
        listing = "\n".join(f"- {name}" for name in intents)
        values = [{"sentence": row.text_en, "intents": listing} for row in bare]
        stages.append(
            _stage(config, "annotate", "annotate-1", config.llm, values, [LABEL_TOKENS] * len(bare))
        )
        if config.variants > 1:
            stages.append(_augment(config, rows))
    if not is_memory(config.translator):
        values = [{"sentence": mark(row.text_en, row.entities)} for row in rows]
        # The spoken and the written form.
        said = [int(2 * THAI_PER_ENGLISH * len(row.text_en) / THAI_PER_TOKEN) for row in rows]
        stage = _stage(config, "translate", "translate-1", config.translator, values, said)
        stages.append(_times(stage, config.variants))
    letters = THAI_PER_ENGLISH * sum(len(row.text_en) for row in rows) * config.variants
    seconds = letters / THAI_PER_S / config.speed * len(config.tasks)
    clips = len(rows) * config.variants * len(config.tasks)
    if config.tts.startswith("speech:"):
        stages.append(StageEstimate("tts", config.tts.partition("#")[2], clips, 0, 0, 0.0))
    return Estimate(tuple(stages), clips, seconds / 3600, seconds * FLAC_BYTES_PER_S / 1e9)


def _augment(config: SynthConfig, rows: Sequence[SourceRow]) -> StageEstimate:
    counts = [
        min(VARIANTS_PER_CALL, config.variants - first)
        for first in range(1, config.variants, VARIANTS_PER_CALL)
    ]
    asked = [(row, count) for row in rows for count in counts]
    values = [
        {
            "sentence": mark(row.text_en, row.entities),
            "intent": row.intent or "(none)",
            "count": str(count),
        }
        for row, count in asked
    ]
    said = [count * estimated_tokens(row.text_en) for row, count in asked]
    return _stage(config, "augment", "augment-1", config.llm, values, said)


def _stage(
    config: SynthConfig,
    stage: str,
    prompt: str,
    url: str,
    values: Sequence[dict[str, str]],
    said_tokens: Sequence[int],
) -> StageEstimate:
    wording = load_prompt(prompt)
    sent = sum(estimated_tokens(message.content) for v in values for message in wording.messages(v))
    came = sum(said_tokens) + FRAME_TOKENS * len(values)
    model = url.partition("#")[2]
    given = config.calls.prices.get(model)
    is_local = url.startswith(("hf:", "replay:"))
    price = Price(0, 0) if given is None else Price(given.prompt, given.completion)
    usd = None if given is None and not is_local else price.of(sent, came)
    return StageEstimate(stage, model or url, len(values), sent, came, usd)


def _times(stage: StageEstimate, factor: int) -> StageEstimate:
    usd = None if stage.usd is None else stage.usd * factor
    return StageEstimate(
        stage.stage,
        stage.model,
        stage.calls * factor,
        stage.prompt_tokens * factor,
        stage.completion_tokens * factor,
        usd,
    )
