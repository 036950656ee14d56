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
from thaitool.synth.gates.canary import WORDS
from thaitool.synth.gates.filter import planted_share
from thaitool.synth.llm_augment import VARIANTS_PER_CALL, is_bare
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
#: The three answers of the filter, in tokens.
VERDICT_TOKENS = 5
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
    english = [row for row in rows if row.language == "en"]
    counts = {row.source_id: _variants(config, row) for row in rows}
    if config.llm != EMBEDDED:
        bare = [row for row in rows if is_bare(row)]
        listing = "\n".join(f"- {name}" for name in intents)
        values = [{"sentence": row.text, "intents": listing} for row in bare]
        stages.append(
            _stage(config, "annotate", "annotate-1", config.llm, values, [LABEL_TOKENS] * len(bare))
        )
        varied = [row for row in rows if counts[row.source_id] > 1]
        if varied:
            stages.append(_augment(config, varied))
    if not is_memory(config.translator) and english:
        values = [{"sentence": mark(row.text, row.entities)} for row in english]
        # The spoken and the written form.
        said = [int(2 * _thai_letters(row) / THAI_PER_TOKEN) for row in english]
        stage = _stage(config, "translate", "translate-1", config.translator, values, said)
        stages.append(_times(stage, config.variants))
        if "qa" in config.tasks:
            stages.append(_answers(config, english))
    stages += _rephrasings(config, rows, counts)
    stages += _verdicts(config, rows, counts)
    letters = sum(_thai_letters(row) * counts[row.source_id] for row in rows)
    seconds = letters / THAI_PER_S / config.speed * len(config.tasks)
    clips = sum(counts.values()) * len(config.tasks)
    if config.tts.startswith("speech:"):
        canaries = len(config.voices) * len(WORDS) if config.gates.tone_canary else 0
        model = config.tts.partition("#")[2]
        stages.append(StageEstimate("tts", model, clips + canaries, 0, 0, 0.0))
    return Estimate(tuple(stages), clips, seconds / 3600, seconds * FLAC_BYTES_PER_S / 1e9)


def _variants(config: SynthConfig, row: SourceRow) -> int:
    """How many sentences come of a row; the embedded augmentation has none for Thai, and a recording is one."""
    is_fixed = row.audio or (row.language == "th" and config.llm == EMBEDDED)
    return 1 if is_fixed else config.variants


def _thai_letters(row: SourceRow) -> float:
    return len(row.text) * (THAI_PER_ENGLISH if row.language == "en" else 1.0)


def _answers(config: SynthConfig, rows: Sequence[SourceRow]) -> StageEstimate:
    """Answers are translated for the rows as they are; what the answer to a variant is, nobody has said."""
    asked = [row for row in rows if row.output]
    values = [{"sentence": row.text, "answer": row.output, "spoken": row.text} for row in asked]
    said = [int(THAI_PER_ENGLISH * len(row.output) / THAI_PER_TOKEN) for row in asked]
    return _stage(config, "translate_answer", "translate-answer-1", config.translator, values, said)


def _rephrasings(
    config: SynthConfig, rows: Sequence[SourceRow], counts: Mapping[str, int]
) -> list[StageEstimate]:
    """The written form of Thai sentences, where a model can be asked for it."""
    url = config.llm if is_memory(config.translator) else config.translator
    asked = [row for row in rows if row.language == "th" and not row.rephrase]
    if url == EMBEDDED or "sr" not in config.tasks or not asked:
        return []
    asked = [row for row in asked for _ in range(counts[row.source_id])]
    values = [{"sentence": row.text} for row in asked]
    said = [int(len(row.text) / THAI_PER_TOKEN) for row in asked]
    return [_stage(config, "rephrase", "rephrase-th-1", url, values, said)]


def _verdicts(
    config: SynthConfig, rows: Sequence[SourceRow], counts: Mapping[str, int]
) -> list[StageEstimate]:
    """The filter of the gates: every sentence, and those that are planted."""
    gates = config.gates
    url = config.llm if gates.filter == "llm" else gates.filter
    if url is None:
        return []
    asked = [row for row in rows for _ in range(counts[row.source_id])]
    asked += asked[: round(planted_share(gates, len(asked)) * len(asked))]
    values = [
        {
            "original": mark(row.text, row.entities),
            "thai": "ก" * int(_thai_letters(row)),
            "intent": row.intent or "(none)",
            "names": "; ".join(span.text for span in row.entities),
        }
        for row in asked
    ]
    said = [VERDICT_TOKENS] * len(asked)
    return [_stage(config, "filter", "filter-1", url, values, said)]


def _augment(config: SynthConfig, rows: Sequence[SourceRow]) -> StageEstimate:
    counts = [
        min(VARIANTS_PER_CALL, config.variants - first)
        for first in range(1, config.variants, VARIANTS_PER_CALL)
    ]
    asked = [(row, count) for row in rows for count in counts]
    values = [
        {
            "sentence": mark(row.text, row.entities),
            "intent": row.intent or "(none)",
            "count": str(count),
        }
        for row, count in asked
    ]
    said = [count * estimated_tokens(row.text) for row, count in asked]
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
