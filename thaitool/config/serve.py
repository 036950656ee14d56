"""The section of `thaitool infer --serve`: which model, for whom, and how much of it at once. Opens nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thaitool.config.sections import Count, Decoding, LoosePath, Positive


class ServeConfig(Decoding):
    """`thaitool infer --serve`: a model behind HTTP, until it is stopped."""

    model: LoosePath = Field(description="Model directory.")
    name: str | None = Field(
        None, description="What clients call the model; null: the name of its directory."
    )
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
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is all of them.")
    port: int = Field(8000, ge=0, le=65_535, description="Port; 0 takes a free one.")
    api_key_variable: str = Field(
        "THAITOOL_API_KEY",
        description="Environment variable with the key that clients must send; none is asked for if it is not set.",
    )
    open: bool = Field(False, description="Listen beyond this machine without a key all the same.")
    rows: Count = Field(32, description="Answers on their way at the same time; more clips wait.")
    max_requests: Count = Field(
        64, description="Requests in hand, uploads and waiting ones included; more get 429."
    )
    max_upload_mb: Positive = Field(100.0, description="Size of a request, in megabytes of 10^6.")
    max_audio_s: Positive = Field(3600.0, description="Length of an uploaded recording.")
    split_s: Positive = Field(
        30.0,
        description="Longer recordings are cut at silence, for tasks that write down speech; others refuse.",
    )
    max_new_tokens: Count = Field(128, description="Length limit of the answer about a piece.")
    timeout_s: Positive = Field(
        600.0, description="Time for an answer, from the end of the upload on."
    )
    body_s: Positive = Field(
        20.0, description="Time for an upload, and as much more as it takes at 10 kB/s."
    )
    grace_s: Positive = Field(
        30.0, description="Time that requests in hand have to end when the server is stopped."
    )
