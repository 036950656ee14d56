"""The section of configuration of `thaitool infer`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from thaitool.config.sections import Count, Decoding, LoosePath, Positive, Share


class Answering(Decoding):
    """Which model answers, and in which form it is held; for files and for a server."""

    model: LoosePath = Field(description="Model directory.")
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    llm_dtype: Literal["float32", "bfloat16", "int8"] = Field(
        "float32",
        description="Form of the LLM's weights in memory; int8 is for the CPU and changes answers a little.",
    )
    drafter: LoosePath | None = Field(
        None,
        description="Where the recogniser lies now whose drafts the model was trained with, if not where it was.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"


class InferConfig(Answering):
    """`thaitool infer`: one JSON object a line for each recording."""

    task: str | None = Field(
        None,
        description="What to ask: a task that the model was trained on; null takes that of a list's row, else asr.",
    )
    prompt: str | None = Field(None, description="Ask this instead of the task's own prompt.")
    audio: list[LoosePath] = Field(
        description="Sound files, directories of them, and lists of every form that `scan` reads.",
        min_length=1,
    )
    split: Literal["train", "dev", "test"] | None = Field(
        None, description="Of lists that have splits, this one; null takes all."
    )
    split_s: Positive | None = Field(
        None,
        description="Longer recordings are cut at silence into stretches of at most this; null cuts at 30 s for tasks"
        " that write down speech (asr, sr), and nothing for others.",
    )
    hotwords: list[str] = Field([], description="Words that may be said.")
    scene: str = Field("", description="Who speaks, where, about what.")
    history: list[str] = Field([], description="Earlier turns of the dialogue, oldest first.")
    form: Literal["free", "labels", "json"] = Field(
        "free",
        description="free: any answer; labels: one of the task's closed set (or of labels); json: an object of named"
        " entities that can be read.",
    )
    labels: list[str] = Field(
        [], description="The closed set of form: labels, if the model knows none."
    )
    temperature: float = Field(0.0, ge=0, le=100, description="0 takes the best token every time.")
    top_p: Share = Field(
        1.0, gt=0, description="Share of the probability that tokens are drawn from."
    )
    seed: int = Field(0, ge=0, description="Decides the draws at a temperature above 0.")
    rows: Count = Field(32, description="Answers on their way at the same time.")
    max_new_tokens: Count = Field(128, description="Length limit of an answer.")

    @model_validator(mode="after")
    def _forms_fit(self) -> Self:
        if self.labels and self.form != "labels":
            raise ValueError("labels are for form: labels, so set that too, or leave labels out")
        return self
