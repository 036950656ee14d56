"""The section of `synth` that says which sentences and clips are good enough, and who judges them. Opens nothing."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from thaitool.config.sections import Count, LoosePath, Positive, Section, Share


class Gates(Section):
    """What sentences and clips must pass. The sound of the embedded voices passes the defaults."""

    tone_canary: bool = Field(
        True,
        description="Refuse voices that say minimal pairs of tones (ขาว, ข่าว, ข้าว) alike, before any row is made.",
    )
    min_semitones: Positive = Field(
        1.0, description="How far F0 of the two words of a pair must be apart somewhere."
    )
    min_chars_per_s: Positive = Field(
        3.0, description="Letters of the spoken form a second, at least; below, a voice repeats."
    )
    max_chars_per_s: Positive = Field(
        30.0, description="Letters of the spoken form a second, at most; above, a voice skips."
    )
    max_duration_ratio: Positive = Field(
        3.0, description="Length of a clip over the one that its syllables predict, at most."
    )
    max_clipped_share: Share = Field(
        0.002, description="Share of samples within 1 % of full scale."
    )
    max_silence_share: Share = Field(0.6, description="Share of the clip without speech.")
    max_edge_s: Positive = Field(
        1.5, description="Silence before the first and after the last sound, each, at most."
    )
    min_level_dbfs: float = Field(-45.0, description="Mean power of the speech, at least.")
    max_level_dbfs: float = Field(-6.0, description="Mean power of the speech, at most.")
    retries: int = Field(
        2, ge=0, description="Times a voice that heeds its seed is asked again for a refused clip."
    )
    duplicates: Literal["near", "equal", "keep"] = Field(
        "near",
        description="Which sentences of one task and label are set aside: also nearly equal ones, equal ones, or none.",
    )
    against: list[LoosePath] = Field(
        [], description="Evaluation sets, or text files, whose sentences must not be made."
    )
    min_thai_share: Share = Field(
        0.5, description="Share of Thai among the letters outside entities."
    )
    filter: str | None = Field(
        None,
        description="Language model that judges each sentence, in a form of llm (llm: the same one); null: none.",
    )
    planted_share: Share = Field(
        0.02,
        description="Bad sentences that the filter is given too, as a share of all; more in a small data set, so that"
        " min_planted are reached.",
    )
    min_caught: Share = Field(0.8, description="Share of the planted ones that it must refuse.")
    max_passed: Share = Field(
        1.0,
        description="Share of the real sentences that it may let pass; 1: all, as good data may deserve.",
    )
    min_planted: Count = Field(20, description="Planted sentences from which it is judged.")
    asr: str | None = Field(
        None,
        description="Recogniser that clips are read back by: recogniser:DIR or speech:URL#MODEL; null: none.",
    )
    asr_not: LoosePath | None = Field(
        None, description="Model that will be evaluated on the data, which asr must not be."
    )
    max_cer: Positive = Field(0.3, description="Character error rate of the spoken form, at most.")
    max_entity_cer: Positive = Field(
        0.5, description="Character error rate within the entities of a clip, at most."
    )
    mos: str | None = Field(
        None,
        description="Predictor of naturalness, command:PROGRAM: the path of a WAV after its arguments, a number on its"
        " output. Recorded; refuses nothing.",
    )

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        pairs = (("min_chars_per_s", "max_chars_per_s"), ("min_level_dbfs", "max_level_dbfs"))
        for low, high in pairs:
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} must be below {high}")
        return self
