"""The section of `thaitool report`: which data set, beside which real text. Opens nothing."""

from __future__ import annotations

from pydantic import Field

from thaitool.config.sections import Count, LoosePath, Section


class ReportConfig(Section):
    """`thaitool report`: what a finished data set holds."""

    data: LoosePath = Field(description="Directory that synth wrote, or a published Thai-SUP one.")
    against: list[LoosePath] = Field(
        [], description="Files of real Thai text, one sentence a line, to compare the sounds with."
    )
    out: LoosePath | None = Field(
        None, description="Directory for report.json and report.html; null: that of the data set."
    )
    examples: Count = Field(
        2, le=24, description="Rows of each task and split to listen to, 24 at most."
    )
    seed: int = Field(0, ge=0, description="Decides which rows those are, and the samples.")
