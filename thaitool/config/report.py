"""The section of `thaitool report`: a data set beside real text, or runs beside each other. Opens nothing."""

from __future__ import annotations

from pydantic import Field, model_validator

from thaitool.config.sections import Count, LoosePath, Section


class ReportConfig(Section):
    """`thaitool report`: what a finished data set holds, or what runs of `align` reached and cost."""

    data: LoosePath | None = Field(
        None, description="Directory that synth wrote, or a published Thai-SUP one."
    )
    runs: list[LoosePath] = Field(
        [],
        description="Run directories of align, and of finetune after them, to compare, instead of data.",
    )
    scores: list[str] = Field(
        [],
        description="RUN=DIR: reports of `eval` by the name of the run that they are of; their CER is drawn by FLOPs.",
    )
    against: list[LoosePath] = Field(
        [], description="Files of real Thai text, one sentence a line, to compare the sounds with."
    )
    out: LoosePath | None = Field(
        None,
        description="Directory for report.json and report.html; null: that of the data set, or of the only run.",
    )
    examples: Count = Field(
        2, le=24, description="Rows of each task and split to listen to, 24 at most."
    )
    seed: int = Field(
        0, ge=0, description="Decides which rows those are, and the samples; of runs, the map."
    )

    @model_validator(mode="after")
    def _one_subject(self) -> ReportConfig:
        if (self.data is None) == (not self.runs):
            raise ValueError("data or runs must be given, and not both")
        if self.data is not None and self.scores:
            raise ValueError("scores belong to runs, but data is given")
        if self.runs and self.against:
            raise ValueError("against belongs to data, but runs are given")
        if len(self.runs) > 1 and self.out is None:
            raise ValueError("out must be given for more than one run")
        return self
