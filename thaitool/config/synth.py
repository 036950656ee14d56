"""The section of `thaitool synth`: backends, how they are called, and what is made. Opens nothing.

Field descriptions are the documentation of the recipes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thaitool.config.sections import Count, LoosePath, Positive, Section, Share, Task


class ModelPrice(Section):
    """What a model costs, in USD per million tokens."""

    prompt: float = Field(ge=0, description="Tokens that are sent.")
    completion: float = Field(ge=0, description="Tokens that come back.")


class Calls(Section):
    """How language models and voices are called. Nothing here changes what is made."""

    in_flight: Count = Field(32, description="Calls to one server at once.")
    requests_per_s: Positive | None = Field(
        None, description="Calls to one server; null: no limit."
    )
    tokens_per_minute: Positive | None = Field(
        None, description="Tokens to and from one server, as estimated; null: no limit."
    )
    timeout_s: Positive = Field(120.0, description="A call that takes longer has failed.")
    attempts: Count = Field(6, description="Calls for one answer before its row is rejected.")
    prices: dict[str, ModelPrice] = Field(
        {}, description="Price of each model by name; one that is not here counts as free."
    )
    max_cost_usd: Positive | None = Field(
        None, description="Stops before the calls of this data set could cost more; needs prices."
    )
    key_variable: str = Field(
        "", description="Environment variable with the key of the servers; empty sends none."
    )
    record: LoosePath | None = Field(
        None, description="File to which answers of openai: are appended, for replay:."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Of hf: and hf-vits:.")


class SynthConfig(Section):
    """`thaitool synth`: English text to Thai speech with labels."""

    source: LoosePath = Field(description="alpaca JSONL or JSON, or SNIPS JSON.")
    out: LoosePath = Field(description="Directory of the Thai-SUP shards.")
    llm: str = Field(
        "embedded:",
        description="Labels and varies the rows: embedded: (no network, no key), openai:URL#MODEL, hf:PATH,"
        " batch:DIR#MODEL or replay:FILE#MODEL.",
    )
    translator: str = Field(
        "embedded:",
        description="embedded:, memory:PATH (JSONL translation memory), or a language model as for llm.",
    )
    tts: str = Field(
        "espeak:",
        description="espeak: (phonemes with tones), speech:URL#MODEL, hf-vits:PATH or command:PROGRAM ARGUMENTS.",
    )
    voices: list[str] = Field(
        [], description="Voices to cast, NAME or NAME:WEIGHT; empty: all that the backend knows of."
    )
    intents: LoosePath | None = Field(
        None,
        description='Closed list of intents with their Thai names, JSONL of {"record": "intent", "id", "th"};'
        " null: that of the translation memory.",
    )
    temperature: float = Field(0.7, ge=0, description="Of the language models.")
    cache: LoosePath | None = Field(
        None,
        description="File of answers, shared by any number of data sets; null: OUT.cache.sqlite, beside OUT.",
    )
    tasks: list[Task] = Field(
        ["asr", "ic", "ner", "sr"], description="Tasks to make rows for.", min_length=1
    )
    variants: Count = Field(6, description="Variants per source row, the row itself included.")
    test_share: Share = Field(0.2, description="Share of source rows in test, within each intent.")
    dev_share: Share = Field(0.1, description="Share of source rows in dev, within each intent.")
    speed: Positive = Field(1.0, description="Factor on the speaking rate of every voice.")
    dev_voices: int = Field(
        2, ge=0, description="Speakers that are heard in dev only; 0: those of training."
    )
    test_voices: int = Field(
        3, ge=0, description="Speakers that are heard in test only; 0: those of training."
    )
    shard_rows: Count = Field(2000, description="Rows of one parquet shard.")
    seed: int = Field(0, ge=0, description="Decides variants, voices and their speed.")
    max_rejected_share: Share = Field(0.5, description="Share of rejected rows that stops the run.")
    trainable: bool = Field(
        False, description="Mark rows as fit for real training; embedded voices are smoke quality."
    )
    calls: Calls = Field(
        default_factory=lambda: Calls.model_validate({}),
        description="How servers and local models are called; changes nothing that is made.",
    )
