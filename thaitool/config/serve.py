"""The section of `thaitool infer --serve`: which model, for whom, and how much of it at once. Opens nothing."""

from __future__ import annotations

from pydantic import Field

from thaitool.config.infer import Answering
from thaitool.config.sections import Count, Positive


class ServeConfig(Answering):
    """`thaitool infer --serve`: a model behind HTTP, until it is stopped."""

    name: str | None = Field(
        None, description="What clients call the model; null: the name of its directory."
    )
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
